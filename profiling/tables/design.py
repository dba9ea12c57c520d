"""Which networks to measure, so that a latency table says most about those that a search draws.

With what is known before anything is measured (`prior.py`), every network that is measured narrows what is predicted of
all others (a Bayesian I-optimal design; Chaloner and Verdinelli 1995). Networks are taken one by one, each the one of a few drawn
ones that narrows most, on average over networks as a search draws them. Only a few, because the best of all would be corners of
the space, and cross-validation errors at corners do not tell which formula suits a search. A choice that no network has yet
goes before: a table should have seen every width, depth and size it prices.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from autoformer.architecture import Architecture
from autoformer.cost import count_flops
from autoformer.errors import MeasurementError
from autoformer.profiling.tables.loads import Numbers
from autoformer.profiling.tables.prior import NOISE, prior_covariance
from autoformer.profiling.tables.table import MIN_NETWORKS
from autoformer.space import SearchSpace

DRAWN, LEANING = 1500, 500  # networks that are chosen from and predicted
EVERY = (DRAWN + LEANING) // LEANING  # so often a leaning one is taken
TRIED = 8  # of which one is taken
ONE_EACH = ("width", "depth", "size", "patch", "head", "stem", "pool")  # what a network has one of; of others as many as blocks
Choice = TypeVar("Choice", int, float)


def designed_architectures(space: SearchSpace, count: int = 8, seed: int = 0) -> list[Architecture]:
    """`count` architectures in rising order of FLOPs: the smallest, the largest, and those that tell most of all others.

    Raises `MeasurementError` when `count` is below 4 or the space has not as many.
    """
    if count < MIN_NETWORKS:
        raise MeasurementError(f"a latency table needs at least {MIN_NETWORKS} networks, asked for {count}")
    if space.size < count:
        raise MeasurementError(f"space {space.name!r} has {space.size} architectures, asked for {count} to measure")
    return extended_design(space, [space.smallest, space.largest], count - 2, seed)


def extended_design(space: SearchSpace, chosen: Sequence[Architecture], more: int, seed: int = 0) -> list[Architecture]:
    """`chosen` and up to `more` others, in rising order of FLOPs; fewer where the space has no more.

    The networks of a design are those of a smaller one of the same seed and some more.
    """
    already, found = set(chosen), list(chosen)
    pool, leaning = _pool(space, seed, len(chosen) + more)
    pool = [one for one in pool if one not in already]
    unsure = _Unsure([*chosen, *pool], space)
    for index in range(len(chosen)):
        unsure.measure(index)
    seen = set().union(*map(choices_of, chosen))
    choices = {one: choices_of(one) for one in pool}
    free = {one: len(chosen) + place for place, one in enumerate(pool)}
    for _ in range(min(more, len(pool))):
        wanted = len(found) % EVERY == 0
        near = [one for one in free if (one in leaning) == wanted] or list(free)
        newest = max(_news(choices[one] - seen) for one in near)
        near = [one for one in near if _news(choices[one] - seen) == newest]
        tried = random.Random(f"{seed} {len(found)}").sample(near, min(TRIED, len(near)))
        best = tried[int(np.argmax(unsure.gains([free[one] for one in tried])))]
        unsure.measure(free.pop(best))
        found.append(best)
        seen |= choices[best]
    return sorted(found, key=lambda architecture: count_flops(architecture, space))


def choices_of(architecture: Architecture) -> set[tuple[str, float]]:
    """What a network is made of, each choice once whatever the block."""
    found: set[tuple[str, float]] = {("width", architecture.embed_dim), ("depth", architecture.depth)}
    found |= {("heads", heads) for heads in architecture.num_heads} | {("ratio", ratio) for ratio in architecture.mlp_ratio}
    found |= {("kernel", kernel) for kernel in architecture.mlp_kernel or ()}
    whole = {
        "size": architecture.image_size, "patch": architecture.patch_size, "head": architecture.head_dim,
        "stem": architecture.stem_depth, "pool": architecture.pool_after,
    }  # fmt: skip
    return found | {(name, value) for name, value in whole.items() if value is not None}


def _news(new: set[tuple[str, float]]) -> tuple[int, int]:
    """How many choices are new: first those a network has only one of, which are the hardest to cover."""
    one_each = sum(name in ONE_EACH for name, _ in new)
    return one_each, len(new) - one_each


class _Unsure:
    """The covariance of the logarithms of the latencies of networks, given those that are said to be measured."""

    def __init__(self, networks: Sequence[Architecture], space: SearchSpace) -> None:
        self._covariance = prior_covariance(networks, space)

    def gains(self, networks: Sequence[int]) -> Numbers:
        """By how much measuring one of them lowers the variances of all networks together."""
        columns = self._covariance[:, networks]
        gains: Numbers = (columns**2).sum(axis=0) / (self._covariance[networks, networks] + NOISE**2)
        return gains

    def measure(self, network: int) -> None:
        """What is left when it is measured."""
        column = self._covariance[:, network]
        self._covariance = self._covariance - np.outer(column, column) / (column[network] + NOISE**2)


def _pool(space: SearchSpace, seed: int, least: int) -> tuple[list[Architecture], set[Architecture]]:
    """Networks as a search draws them and some that it seldom draws, and which those are.

    At least so many, where the space has them.
    """
    rng = random.Random(seed)
    found = dict.fromkeys(space.sample(rng) for _ in range(DRAWN))
    leaning = {one for one in (_leaning(space, rng) for _ in range(LEANING)) if one not in found}
    found |= dict.fromkeys(sorted(leaning, key=str))
    while len(found) < min(least, space.size):  # a small space, drawn again and again: every member turns up
        found[space.sample(rng)] = None
    return list(found), leaning


def _leaning(space: SearchSpace, rng: random.Random) -> Architecture:
    """An architecture whose blocks all lean to one level, small or large: independent draws seldom reach the ends."""
    level = rng.random()

    def pick(choices: tuple[Choice, ...]) -> Choice:
        return choices[round(min(1.0, max(0.0, rng.gauss(level, 0.2))) * (len(choices) - 1))]

    drawn = space.sample(rng)
    return replace(
        drawn,
        num_heads=tuple(pick(space.num_heads) for _ in range(drawn.depth)),
        mlp_ratio=tuple(pick(space.mlp_ratios) for _ in range(drawn.depth)),
        mlp_kernel=drawn.mlp_kernel and tuple(pick(space.mlp_kernels) for _ in range(drawn.depth)),
    )
