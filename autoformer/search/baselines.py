"""What a sceptic would evaluate without any search: the most expensive network in the budget, and homogeneous networks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from autoformer.architecture import Architecture
from autoformer.drawing.budgeted import Candidates
from autoformer.space import SearchSpace


def baselines(candidates: Candidates, uniform_shapes: int, seed: int) -> list[Architecture]:
    """The most expensive network in the budget, then up to so many of the largest homogeneous ones; each once.

    A homogeneous network has the same heads, MLP ratio and kernel in every block. Of those inside the budget only such matter
    that no choice can be raised in without leaving it, and of these the ones with the most FLOPs come first.
    """
    space, costs, budget = candidates.space, candidates.costs, candidates.budget
    found = [candidates.most_expensive(random.Random(f"{seed}/dearest"))]
    if uniform_shapes:
        inside = {shape for shape in uniform_choices(space) if budget.allows(costs(shape_of(shape, space)))}
        largest = [shape_of(shape, space) for shape in inside if not any(larger in inside for larger in _raised(shape))]
        largest.sort(key=lambda network: (-costs(network).flops, -costs(network).params, network.slug))
        found += [network for network in largest[:uniform_shapes] if network not in found]
    return found


def is_homogeneous(architecture: Architecture) -> bool:
    """Whether all blocks are alike."""
    return len(set(architecture.num_heads)) == len(set(architecture.mlp_ratio)) == len(set(architecture.kernels)) == 1


def uniform_choices(space: SearchSpace) -> Iterator[tuple[int, ...]]:
    """Every homogeneous shape as indices into the choices, each from the cheapest up: of the article, then of the space."""
    return itertools.product(*(range(len(values)) for values in (*_article_choices(space), *space.asked_choices.values())))


def _article_choices(space: SearchSpace) -> tuple[tuple[int, ...] | tuple[float, ...], ...]:
    return space.embed_dims, space.depths, space.whole_heads, space.whole_mlp_ratios, space.image_sizes


def shape_of(indices: tuple[int, ...], space: SearchSpace) -> Architecture:
    """The architecture with these choices."""
    width, depth, heads, ratio, size = (values[index] for values, index in zip(_article_choices(space), indices, strict=False))
    plain = space.uniform(int(width), int(depth), int(heads), ratio, int(size))
    places = zip(space.asked_choices.items(), indices[5:], strict=True)
    asked: dict[str, Any] = {name: values[index] for (name, values), index in places}
    return replace(plain, **space.asked({**asked, "mlp_kernel": (asked["mlp_kernel"],) * plain.depth}))


def _raised(indices: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The shapes that are one choice larger."""
    for place, index in enumerate(indices):
        yield (*indices[:place], index + 1, *indices[place + 1 :])
