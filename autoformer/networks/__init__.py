"""Networks: the supernet, the subnets cut from it, and the folders both are kept in.

In: a `SearchSpace`, or an `Architecture` and its geometry. Out: `nn.Module`s whose weights have timm's names. `supernet` (of
`super_layers`) and `subnet` (of `block`) are the networks; `stem`, `ends`, `grid`, `relative_position`, `rotary` and
`tiled_attention` what they compute; `positions` changes the image size of one; `folders` saves, loads and cuts, with the `card`
that the Hub reads; `unfilled` makes one without initial weights. Importing this room registers `autoformer_subnet` with timm.
"""

import autoformer.networks.subnet  # noqa: F401
