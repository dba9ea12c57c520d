"""The outlines of a space, and architectures made from an outline and the choices of its blocks."""

from __future__ import annotations

from autoformer.architecture import Architecture
from autoformer.cost import Outline
from autoformer.space import SearchSpace


def outlines_of(space: SearchSpace) -> list[Outline]:
    """Every outline, in the order of the space's choices; all are equally likely under `SearchSpace.sample`."""
    return [
        Outline(embed, depth, size, patch, head, stem, pool)
        for size in space.image_sizes
        for patch in space.patch_choices
        for head in space.head_dim_choices
        for stem in space.stem_depths
        for pool in space.pool_after
        for embed in space.embed_dims
        for depth in space.depths
    ]


def made(
    space: SearchSpace,
    outline: Outline,
    heads: tuple[int, ...],
    ratios: tuple[float, ...],
    kernels: tuple[int, ...] | None = None,
) -> Architecture:
    """The architecture of these, which names what the space asks for; `kernels` None: the only ones there are."""
    asked = {
        "patch_size": outline.patch_size,
        "head_dim": outline.head_dim,
        "stem_depth": outline.stem_depth,
        "mlp_kernel": (space.mlp_kernels[0],) * outline.depth if kernels is None else kernels,
        "pool_after": outline.pool_after,
    }
    return Architecture(
        embed_dim=outline.embed_dim,
        num_heads=heads,
        mlp_ratio=ratios,
        image_size=outline.image_size if len(space.image_sizes) > 1 else None,
        **space.asked(asked),
    )
