"""What stands around the blocks: tokens before the patches, activations, pooled features and the classifier that reads them.

What a network has of it is its `Anatomy` (`autoformer.architecture`); by default a class token and the exact GELU.

Letters: B images, N tokens, P patches, E width, C classes, T tokens that the classifier reads.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from timm.layers.activations import GELUTanh, QuickGELU
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": GELUTanh,
    "quick_gelu": QuickGELU,
    "silu": nn.SiLU,
}
TOKENS = ("cls_token", "reg_token")  # the weights of the tokens before the patches, in their order; names are timm's


def with_tokens(patches: Tensor, tokens: Iterable[Tensor | None]) -> Tensor:
    """Patches [B, P, E] as tokens [B, N, E], behind those of `tokens`, each [1, n, E], that there are."""
    before = [token.expand(patches.shape[0], -1, -1) for token in tokens if token is not None]
    return torch.cat([*before, patches], 1) if before else patches


def pooled(tokens: Tensor, pooling: str, prefix: int, *, distilled: bool = False) -> Tensor:
    """What of tokens [B, N, E] is classified: the mean over the patches, behind `prefix` others, or the class token, [B, E].

    `distilled`: the class token and the one behind it, [B, 2, E]. Any other pooling leaves the tokens as they are.
    """
    if pooling in ("mean", "avg"):
        return tokens[:, prefix:].mean(1)
    if pooling == "token":
        return tokens[:, :2] if distilled else tokens[:, 0]
    return tokens
