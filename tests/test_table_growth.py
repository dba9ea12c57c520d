"""How many networks a table gets: the design that is extended, and when that ends."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from autoformer.architecture import Architecture
from autoformer.cost import count_flops
from autoformer.profiling.latency_table import LatencyTable
from autoformer.profiling.table_growth import FIRST, MOST, STEP, extended_design, grown_table
from autoformer.profiling.table_measurement import designed_architectures
from autoformer.space import SearchSpace
from tests.kits import FACTS
from tests.test_profiling_latency_table import MEANING

SPACE = SearchSpace.preset("edge")


def flops(architecture: Architecture) -> int:
    return count_flops(architecture, SPACE)


class Measured:
    """Tables whose left-out errors are `errors`, one after the other."""

    def __init__(self, *errors: float) -> None:
        self.errors, self.asked = list(errors), list[int]()

    def __call__(self, architectures: Sequence[Architecture]) -> LatencyTable:
        self.asked.append(len(architectures))
        error = self.errors[len(self.asked) - 1]
        times = [(one, 1 + count_flops(one, SPACE) / 1e9) for one in architectures]
        table = LatencyTable.fit(SPACE, MEANING, times, device=FACTS)
        return replace(table, networks=tuple(replace(one, left_out_ms=one.measured_ms * (1 + error)) for one in table.networks))


def test_an_extension_keeps_what_was_measured_and_fills_the_widest_gaps() -> None:
    chosen = designed_architectures(SPACE, FIRST)
    wider = extended_design(SPACE, chosen, STEP)
    assert set(chosen) < set(wider)
    assert len(wider) == FIRST + STEP
    assert wider == sorted(wider, key=flops)

    rng = random.Random(999)
    drawn = [flops(SPACE.sample(rng)) for _ in range(2000)]

    def widest(networks: Sequence[Architecture]) -> int:
        counts = sorted(map(flops, networks))
        return max(sum(low < count < high for count in drawn) for low, high in pairwise(counts))

    assert widest(wider) < widest(chosen)
    assert extended_design(SPACE, chosen, STEP) == wider  # nothing but the seed decides


def test_an_extension_ends_with_the_space() -> None:
    few = SearchSpace(name="few", embed_dims=(32, 64), depths=(1, 2, 3), num_heads=(2,), mlp_ratios=(2.0,), head_dim=16)
    chosen = designed_architectures(few, 4)
    assert set(extended_design(few, chosen, 6)) == {few.uniform(e, d, 2, 2.0) for e in (32, 64) for d in (1, 2, 3)}


def test_it_stops_when_the_error_falls_no_more() -> None:
    measured = Measured(0.04, 0.03, 0.029)
    table = grown_table(SPACE, measured)
    assert measured.asked == [FIRST, FIRST + STEP, FIRST + 2 * STEP]
    assert len(table.networks) == FIRST + 2 * STEP
    assert table.stopped == (
        "the left-out error fell no more by a tenth (12 networks 4.00 %, 18 networks 3.00 %, 24 networks 2.90 %)"
    )


def test_it_stops_at_once_when_the_error_is_small_and_at_last_with_the_most_networks() -> None:
    small = Measured(0.0005)
    assert "below 0.1 %" in grown_table(SPACE, small).stopped
    assert small.asked == [FIRST]
    long = Measured(0.2, 0.15, 0.1, 0.05, 0.03)
    assert f"{MOST} networks are the most" in grown_table(SPACE, long).stopped
    assert long.asked[-1] == MOST
