"""What is open in the graph of a family of networks: sizes of the whole, and of each block."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from autoformer.errors import ExportError

BLOCK = re.compile(r"(^|\.)blocks\.(\d+)(?=\.|$)")  # in the name of a module or weight
Size = Literal["width", "heads", "hidden"]


class OddGraphError(ExportError):
    """A network that is not what it seems, or a graph that does not come apart into blocks."""


@dataclass(frozen=True)
class Sizes:
    """The width of a network; of a block its heads, hidden channels and the factor of attention's logits."""

    width: int
    heads: int = 0
    hidden: int = 0
    scale: float = 0.0

    def of(self, name: Size) -> int:
        """One of them by its name."""
        return int(getattr(self, name))


@dataclass(frozen=True)
class BlockSizes:
    """One block of a network: its kind, which says what it consists of (empty: of nothing), and its sizes."""

    kind: str
    sizes: Sizes
