"""How many networks a latency table needs: about a dozen, then more until the left-out error stops falling.

The first are those of the plain design. Each step adds networks where most of what a search draws lies between two measured ones
by FLOPs, of choices that were measured least, and measures all of them anew in common rounds, so that no step lies apart from
the others in time.
It ends when the mean left-out error is below a tenth of a per cent, when a step lowers it by less than a tenth of it, when
the most networks are reached, or when the space has no more.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from autoformer.architecture import Architecture
from autoformer.cost import count_flops
from autoformer.profiling.latency_table import LatencyTable
from autoformer.profiling.table_measurement import POOL, choices_of, designed_architectures
from autoformer.space import SearchSpace

FIRST, STEP, MOST = 12, 6, 36  # networks
SMALL = 0.001  # a mean left-out error that is small enough, relative
FALLING = 0.1  # a step must lower the error by this share of it to be followed by another


def extended_design(space: SearchSpace, chosen: Sequence[Architecture], more: int, seed: int = 0) -> list[Architecture]:
    """`chosen` and up to `more` others, in rising order of FLOPs; fewer where the space has no more.

    Each goes into the gap between two neighbours in FLOPs that holds most of the networks as a search draws them: of those in its
    middle half the one whose choices have been measured least often.
    """
    rng = random.Random(f"extended {seed} {len(chosen)}")
    pool = {architecture: count_flops(architecture, space) for architecture in (space.sample(rng) for _ in range(POOL))}
    found = list(chosen)
    measured = Counter(choice for architecture in found for choice in choices_of(architecture))
    for _ in range(more):
        free = {architecture: flops for architecture, flops in pool.items() if architecture not in found}
        if not free:
            break
        ordered = sorted(free, key=lambda one: free[one])
        flops = sorted(count_flops(architecture, space) for architecture in found)
        between = [[one for one in ordered if low <= free[one] <= high] for low, high in pairwise(flops)]
        widest = max(between, key=len) or ordered
        near = widest[len(widest) // 4 : len(widest) - len(widest) // 4]

        def often(architecture: Architecture) -> float:
            own = choices_of(architecture)
            return sum(measured[choice] for choice in own) / len(own)

        best = min(near, key=lambda one: (often(one), str(one)))
        found.append(best)
        measured.update(choices_of(best))
    return sorted(found, key=lambda architecture: count_flops(architecture, space))


def grown_table(
    space: SearchSpace, measured: Callable[[Sequence[Architecture]], LatencyTable], seed: int = 0, first: int = FIRST
) -> LatencyTable:
    """The table of the last step; `measured` measures and fits the networks it is given. Its `stopped` says how it went.

    Raises `MeasurementError` as `designed_architectures` and `measured` do.
    """
    architectures = designed_architectures(space, min(first, space.size), seed)
    table = measured(architectures)
    steps = [_words(table)]
    while True:
        if table.left_out_mape < SMALL:
            return replace(table, stopped=f"the left-out error is below {100 * SMALL:g} % ({', '.join(steps)})")
        if len(architectures) >= MOST:
            return replace(table, stopped=f"{MOST} networks are the most ({', '.join(steps)})")
        wider = extended_design(space, architectures, min(STEP, MOST - len(architectures)), seed)
        if len(wider) == len(architectures):
            return replace(table, stopped=f"the space has no more networks ({', '.join(steps)})")
        before, architectures = table.left_out_mape, wider
        table = measured(architectures)
        steps.append(_words(table))
        if table.left_out_mape >= SMALL and table.left_out_mape > (1 - FALLING) * before:
            return replace(table, stopped=f"the left-out error fell no more by a tenth ({', '.join(steps)})")


def _words(table: LatencyTable) -> str:
    return f"{len(table.networks)} networks {100 * table.left_out_mape:.2f} %"
