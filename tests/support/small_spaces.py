"""The preset spaces at an eighth of their width and with few patches: the same choices, quick to compute; designs of spaces."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from autoformer.architecture import Architecture
from autoformer.profiling.tables.design import designed_architectures
from autoformer.space import SearchSpace

NAMES = ("micro", "tiny", "small", "base", "edge")


def shrunk(name: str, *, num_classes: int = 5) -> SearchSpace:
    """Preset `name` with head width 8 and patch 4 on 8 px images (`edge`: 8 to 20 px); `micro` as it is."""
    space = SearchSpace.preset(name, num_classes=num_classes)
    if name == "micro":
        return space
    return replace(
        space,
        embed_dims=tuple(width // 8 for width in space.embed_dims),
        super_embed_dim=space.super_embed_dim and space.super_embed_dim // 8,
        head_dim=8,
        image_sizes=(8, 12, 16, 20) if name == "edge" else (8,),
        patch_size=4,
    )


@lru_cache
def designed(space: SearchSpace, count: int) -> tuple[Architecture, ...]:
    """The networks that a table of `count` measures, chosen once in a process: many tables are fitted on the same ones."""
    return tuple(designed_architectures(space, count))
