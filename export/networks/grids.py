"""`Grid`: what the graph of a network holds about its patches, so that one trace serves all image sizes.

A graph says how many patches and tokens there are and where the columns of attention that hold relative position lie, and stores
which row of a table each pair of rows or columns takes. All of it follows from the grid; in a probe each of these numbers occurs
for no other reason, as `probe_sides` sees to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from autoformer.architecture import SubnetGeometry
from autoformer.networks.relative_position import geometry

ALIGNED = 8  # the width of attention's operands is filled up to a multiple of it (`relative_position`)
LEAST_SIDE, MOST_SIDES = 8, 140  # patches of a probe: of a side, and of both together
COMMON = 3  # sizes and places up to this one stand in every graph


@dataclass(frozen=True)
class Grid:
    """The patches of a network's images behind `prefix` other tokens. `channels` are those of a head."""

    rows: int
    columns: int
    prefix: int
    channels: int
    reach: int  # rows and columns farther apart share a row of the tables
    step: int = 1  # 2 where the grid was halved

    @property
    def halved(self) -> Grid:
        """The same grid after its halving."""
        return replace(self, rows=self.rows // 2, columns=self.columns // 2, step=2)

    @property
    def stored(self) -> int:
        """The numbers in the largest table of a graph."""
        return (self.prefix + self.rows * self.columns) * self.numbers["filled"]

    @property
    def numbers(self) -> Mapping[str, int]:
        """The numbers that a graph may hold for this grid, by what they are."""
        return _numbers(self)

    def name_of(self, value: int) -> str | None:
        """What a number is in the graph of a probe; None for one that is no number of the grid."""
        return _names(self).get(value)

    @property
    def tables(self) -> Mapping[str, NDArray[np.float64]]:
        """What a graph stores for this grid by names: rows of the tables of relative position, each token's row and column."""
        return _tables(self)


@cache
def _numbers(grid: Grid) -> dict[str, int]:
    both = grid.rows + grid.columns
    patches, used = grid.rows * grid.columns, grid.channels + both
    found = {
        "rows": grid.rows,
        "columns": grid.columns,
        "patches": patches,
        "tokens": grid.prefix + patches,
        "rows and columns": both,
        "end of rows": grid.channels + grid.rows,
        "end of columns": used,
        "filling": -used % ALIGNED,
        "filled": both + -used % ALIGNED,
    }
    if not grid.prefix:
        del found["tokens"]
    return found


@cache
def _names(grid: Grid) -> dict[int, str]:
    return {value: name for name, value in _numbers(grid).items()}


@cache
def _tables(grid: Grid) -> dict[str, NDArray[np.float64]]:
    where = geometry(grid.rows, grid.columns, grid.reach, torch.device("cpu"), torch.float64, prefix=grid.prefix, step=grid.step)
    filled = F.pad(where.indicators, (0, _numbers(grid)["filling"]))
    found = {"rows apart": where.row_index, "columns apart": where.column_index, "places": filled}
    return {name: values.double().numpy() for name, values in found.items()}


@cache
def probe_sides(own: SubnetGeometry) -> tuple[int, int] | None:
    """Rows and columns of pixels of a probe for networks of all image sizes; None where no grid's numbers differ from all others.

    `own` is the geometry of these networks, of any size.
    """
    others = {own.num_classes, own.head_dim, own.stem_dim, own.in_chans, own.patch_size, own.prefix_tokens}
    for both in range(2 * LEAST_SIDE + 2, MOST_SIDES, 2):
        for rows in range(LEAST_SIDE, both // 2, 2):
            columns = both - rows
            whole = Grid(rows, columns, own.prefix_tokens, own.head_dim, own.max_relative_position)
            if _is_told_apart(whole, others) and _is_told_apart(whole.halved, others):
                return rows * own.patch_size, columns * own.patch_size
    return None


def _is_told_apart(grid: Grid, others: Collection[int]) -> bool:
    values = list(grid.numbers.values())
    no_less = min(values) > COMMON and len(set(values)) == len(values)
    return no_less and not any(value in others for value in values)
