"""Rotary positions of the patches of a grid (RoFormer, arXiv 2104.09864; axial, as EVA-02 and DINOv3 have them).

Channels j and j + K/2 of each query and key are the two coordinates of a point that is turned by an angle: for the first half of
the pairs the row of the patch times a frequency, for the second half the column. Tokens before the patches are not turned. A
logit then depends on the distance between patches alone. There are no weights; frequencies fall geometrically from 1 to nearly
1 / temperature.

What stands for a row is the space's `rope`: its "index", to which an offset may be added and which may be scaled to a reference
grid of another size, or its "centre" in an image from -1 to 1, with full turns for a unit.

Letters: B images, N tokens, H heads, K channels per head, R x C the grid.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoformer.architecture import Anatomy
from autoformer.networks.relative_position import Geometry


def turned(where: Geometry, anatomy: Anatomy, head_dim: int, x: Tensor, step: int = 1) -> Geometry:
    """The geometry with the rotation that the anatomy asks for, for tokens like `x`; itself where it asks for none.

    `step` is 2 where the grid was halved: a patch then stands in the middle of two by two.
    """
    if not anatomy.rope:
        return where
    rule = anatomy.rope, anatomy.rope_temperature, anatomy.rope_offset, anatomy.rope_reference
    table = _rotation((where.rows, where.columns), head_dim, where.prefix, step, rule)
    return where._replace(rotation=table.to(x))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _rotation(grid: tuple[int, int], head_dim: int, prefix: int, step: int, rule: tuple[str, float, float, int]) -> Tensor:
    return torch.from_numpy(_table(grid, head_dim, prefix, step, rule))


@functools.cache
def _table(
    grid: tuple[int, int], head_dim: int, prefix: int, step: int, rule: tuple[str, float, float, int]
) -> NDArray[np.float64]:
    """[2, N, K]: of every token the cosines, and the sines with the sign they take."""
    kind, temperature, offset, reference = rule
    pairs = head_dim // 4  # per direction
    steps = np.arange(pairs, dtype=np.float32) / np.float32(pairs)
    powers = np.float32(temperature) ** steps  # in float32, as networks are trained with
    frequencies = 2 * math.pi / powers.astype(np.float64) if kind == "centre" else (1 / powers).astype(np.float64)
    angles = []
    for side, axis in zip(grid, (0, 1), strict=True):
        places = np.arange(side) * step + (step - 1) / 2
        if kind == "centre":
            places = 2 * (places + 0.5 + offset) / (side * step) - 1
        else:
            places = (places + offset) * (reference / (side * step) if reference else 1.0)
        angle = places[:, None] * frequencies
        angles.append(np.repeat(angle, grid[1], 0) if axis == 0 else np.tile(angle, (grid[0], 1)))  # [P, K / 4]
    both = np.pad(np.concatenate(angles, 1), ((prefix, 0), (0, 0)))  # [N, K / 2]; angle 0 leaves as it is
    return np.stack([np.tile(np.cos(both), (1, 2)), np.concatenate([-np.sin(both), np.sin(both)], 1)])
