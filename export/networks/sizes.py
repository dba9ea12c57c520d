"""What is open in the graph of a family of networks: sizes of the whole, and of each block."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoformer.errors import ExportError

if TYPE_CHECKING:
    from autoformer.export.networks.grids import Grid

BLOCK = re.compile(r"(^|\.)blocks\.(\d+)(?=\.|$)")  # in the name of a module or weight
OWN = ("width", "heads", "hidden")  # names of the sizes beside those of the grid


class OddGraphError(ExportError):
    """A network that is not what it seems, or a graph that does not come apart into blocks."""


@dataclass(frozen=True)
class Sizes:
    """The width of a network; of a block its heads, hidden channels, the factor of attention's logits, and the grid it sees.

    Where the grid is None, all networks of the family have the same.
    """

    width: int
    heads: int = 0
    hidden: int = 0
    scale: float = 0.0
    grid: Grid | None = None

    @property
    def outside(self) -> Sizes:
        """Those of what stands outside of the blocks, beside this block."""
        return replace(self, heads=0, hidden=0, scale=0.0)

    def of(self, name: str) -> int:
        """One of them by its name."""
        if name in OWN:
            return int(getattr(self, name))
        assert self.grid is not None, "read in a probe that has one"
        return self.grid.numbers[name]


@dataclass(frozen=True)
class BlockSizes:
    """One block of a network: its kind, which says what it consists of (empty: of nothing), and its sizes."""

    kind: str
    sizes: Sizes
