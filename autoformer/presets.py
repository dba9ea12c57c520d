"""The named spaces, by the arguments of `SearchSpace`, and the patch that suits small images.

`tiny`, `small`, `base` are the paper's spaces (arXiv 2107.00651, table 1) with the ranges widened where the published
subnets lie outside the released YAML files: MLP ratio 3 in `tiny`, 8 heads in `base`. `edge` spans a real range of
latency; `micro` suits small images, with a patch that gives a grid of 4 to 8 patches a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoformer.errors import ArchitectureError

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
