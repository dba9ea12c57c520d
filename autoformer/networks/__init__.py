"""Networks: the supernet, the subnets cut from it, and the folders both are kept in.

In: a `SearchSpace` or an `Architecture`. Out: `nn.Module`s whose weights have timm's names. `supernet` and `subnet` are the
networks, `block`, `relative_position`, `tiled_attention` and `positions` what they are made of, `folders` how they are saved,
loaded and cut.

Importing this room registers `autoformer_subnet` with timm.
"""

import autoformer.networks.subnet  # noqa: F401
