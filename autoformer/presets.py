"""The named spaces, by the arguments of `SearchSpace`, and the patch that suits small images.

`tiny`, `small`, `base` are the paper's spaces (arXiv 2107.00651, table 1) with the ranges widened where the published
subnets lie outside the released YAML files: MLP ratio 3 in `tiny`, 8 heads in `base`. `edge` spans a real range of
latency; `micro` suits small images, with a patch that gives a grid of 4 to 8 patches a side.

`compact-32`, `compact-64` and `compact-96` are for small images of so many pixels, without pretrained weights: a convolutional
stem, depthwise convolutions in the MLPs, a grid of 8 patches a side (of 96 px 12, or 6 in larger patches) that may be halved,
and no class token. The largest network has 17 (64 px) to 38 times (96 px) the FLOPs of the smallest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoformer.errors import ArchitectureError

COMPACT: dict[str, Any] = {  # what these spaces have in common
    "embed_dims": (96, 128, 160, 192),
    "depths": (4, 5, 6, 7, 8),
    "num_heads": (2, 4, 6),
    "mlp_ratios": (1.0, 2.0, 3.0),
    "mlp_kernels": (0, 3),
    "pool_after": (0, 2, 3),
    "stem": "conv",
    "stem_depths": (0, 1),
    "head_dim": 32,
    "class_token": False,
    "num_classes": 10,
}

PRESETS: dict[str, dict[str, Any]] = {
    "micro": {
        "embed_dims": (48, 64, 80),
        "depths": (3, 4, 5),
        "num_heads": (2, 3, 4),
        "mlp_ratios": (1.0, 1.5, 2.0),
        "head_dim": 16,
        "image_sizes": (8,),
        "patch_size": 2,
        "num_classes": 10,
        "max_relative_position": 7,
    },
    "tiny": {
        "embed_dims": (192, 216, 240),
        "depths": (12, 13, 14),
        "num_heads": (3, 4),
        "mlp_ratios": (3.0, 3.5, 4.0),
        "super_embed_dim": 256,
    },
    "small": {
        "embed_dims": (320, 384, 448),
        "depths": (12, 13, 14),
        "num_heads": (5, 6, 7),
        "mlp_ratios": (3.0, 3.5, 4.0),
        "super_embed_dim": 448,
    },
    "base": {
        "embed_dims": (528, 576, 624),
        "depths": (14, 15, 16),
        "num_heads": (8, 9, 10),
        "mlp_ratios": (3.0, 3.5, 4.0),
        "super_embed_dim": 640,
    },
    "edge": {
        "embed_dims": tuple(range(128, 385, 32)),
        "depths": tuple(range(6, 15)),
        "num_heads": (2, 3, 4, 5, 6),
        "mlp_ratios": (2.0, 2.5, 3.0, 3.5, 4.0),
        "image_sizes": (128, 160, 192, 224),
    },
    "compact-32": {**COMPACT, "image_sizes": (32,), "patch_size": 4, "stem_dim": 48, "max_relative_position": 7},
    "compact-64": {**COMPACT, "image_sizes": (64,), "patch_size": 8, "stem_dim": 32, "max_relative_position": 7},
    "compact-96": {
        **COMPACT,
        "image_sizes": (96,),
        "patch_size": 8,
        "patch_sizes": (8, 16),
        "stem_dim": 32,
        "max_relative_position": 11,
    },
}


def patch_for(image_size: int, grids: Sequence[int] = (8, 7, 6, 5, 4)) -> int:
    """The patch size in pixels, at least 2, that cuts a small image into the finest grid of 4 to 8 patches a side.

    Raises `ArchitectureError` when no such grid divides `image_size`.
    """
    for grid in grids:
        if image_size % grid == 0 and image_size // grid >= 2:
            return image_size // grid
    nearest = max(8, image_size // 8 * 8)
    raise ArchitectureError(f"no grid of 4 to 8 patches divides {image_size} px; set data.image_size to {nearest}, say")
