"""What a network learned of one image size, carried to another: relative tables, and weights stored in a folder.

Rows of the tables that no grid of patches was large enough for hold noise; they start as copies of the farthest that some was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from autoformer.networks.relative_position import Tables, spread_edge

Grid = tuple[int, int]  # rows and columns of patches


def resample_positions(positions: Tensor, old: Grid, new: Grid, prefix: int = 1) -> Tensor:
    """Absolute positions [1, prefix + R·C, E] of the grid `old` (R, C) for the grid `new`: bicubic, antialiased.

    Those of the `prefix` tokens before the patches (the class token, or none) are kept. Half precision is resampled in float32.
    """
    stored = positions.shape[1]
    assert stored == prefix + old[0] * old[1], f"{stored} positions, expected {prefix} + {old[0]} · {old[1]}"
    if old == new:
        return positions
    image = positions[:, prefix:].unflatten(1, old).permute(0, 3, 1, 2)  # [1, E, R, C]
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    image = F.interpolate(image, size=new, mode="bicubic", antialias=True, align_corners=False).to(positions.dtype)
    return torch.cat([positions[:, :prefix], image.flatten(2).transpose(1, 2)], 1)


def farther(trained: Grid | None, grid: Grid) -> Grid:
    """The farther rows and columns of two grids."""
    return grid if trained is None else (max(trained[0], grid[0]), max(trained[1], grid[1]))


def spread_untrained(name: str, table: Tensor, trained: Grid) -> None:
    """Fills, in place, the rows of the table `name` (one of `Tables`) that lie beyond the grid it was trained on."""
    spread_edge(table, trained[0 if name.endswith("rows") else 1] - 1)


def fitted_weights(
    stored: Mapping[str, Tensor], grid: Grid, *, trained: Grid | None, absolute_position: bool, prefix: int = 1
) -> dict[str, Tensor]:
    """Stored weights for a network of the grid `grid`, as `Subnet.set_input_size` would leave them.

    What is stored is of square images; folders refuse others. `trained` is None for a folder from before it was stored: then
    the positions say it, and without these nothing does, and the tables stay.
    """
    fitted, positions = dict(stored), stored.get("pos_embed")
    if positions is not None:
        side = math.isqrt(positions.shape[1] - prefix)
        trained = trained or (side, side)
        if absolute_position:
            fitted["pos_embed"] = resample_positions(positions, (side, side), grid, prefix)
    if trained is not None and farther(trained, grid) != trained:
        for name, tensor in stored.items():
            if name.rpartition(".")[2] in Tables._fields:
                fitted[name] = tensor.clone()
                spread_untrained(name, fitted[name], trained)
    return fitted
