"""Small spaces that ask for all four: patch sizes, a stem of several depths, kernels in the MLPs, a place of halving."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from autoformer.architecture import Architecture
from autoformer.space import SearchSpace

KINDS: dict[str, dict[str, Any]] = {
    "patch": {},
    "patch, token": {"pooling": "token", "max_relative_position": 2, "in_chans": 1},
    "patch, no class token": {"class_token": False, "patch_size": 2},
    "conv": {"stem": "conv", "scale_by_width": True, "num_heads": (2,)},
    "conv, token": {"stem": "conv", "pooling": "token", "absolute_position": False, "super_embed_dim": 40},
    "conv, no class token": {"stem": "conv", "class_token": False, "in_chans": 1},
    "patch, cut": {"head_dims": (3, 8), "num_heads": (0, 1, 3), "mlp_ratios": (0, 1, 2), "mean_shift": True},
    "conv, cut, no class token": {
        "stem": "conv",
        "class_token": False,
        "head_dims": (4, 8),
        "num_heads": (0, 2),
        "mlp_ratios": (0, 1.5),
        "mean_shift": True,
    },
    "conv, no relative position": {"stem": "conv", "class_token": False, "relative_position": False},
}


def asking(kind: str = "patch", **changes: Any) -> SearchSpace:
    """The space of one of `KINDS`: images of 16, 24 or 32 px in patches of 2 or 4 px."""
    space = SearchSpace(
        name="asking", embed_dims=(16, 24, 32), depths=(3, 4, 5), num_heads=(1, 2, 3), mlp_ratios=(1, 1.5, 2), head_dim=8,
        image_sizes=(16, 24, 32), patch_size=4, patch_sizes=(2, 4), num_classes=5, max_relative_position=6,
        mlp_kernels=(0, 3, 5), pool_after=(0, 1, 2),
    )  # fmt: skip
    given = {**KINDS[kind], **changes}
    if given.get("stem") == "conv":
        given = {"stem_dim": 12, "stem_depths": (0, 1, 2), **given}
    return replace(space, **given)


Stem = Literal["patch", "conv"]


def network_asked_for(stem: Stem = "conv", *, pool_after: int = 2, **changes: Any) -> Architecture:
    """A network of `asking(stem)` with patches of 4 px on images of 16 px, three blocks and every kernel."""
    choices: dict[str, Any] = {
        "embed_dim": 24, "num_heads": (2, 2, 2), "mlp_ratio": (1.5, 2.0, 1.0), "image_size": 16, "patch_size": 4,
        "mlp_kernel": (3, 0, 5), "pool_after": pool_after,
    }  # fmt: skip
    return Architecture(**{**choices, **({"stem_depth": 1} if stem == "conv" else {}), **changes})
