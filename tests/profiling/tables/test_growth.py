"""How many networks a table gets: the design that is extended, and when that ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from autoformer.architecture import Architecture
from autoformer.cost import count_flops
from autoformer.profiling.tables.measuring import FIRST, MOST, STEP, grown_table
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace
from tests.support.kits import FACTS
from tests.support.tables import MEANING

SPACE = SearchSpace.preset("edge")


def flops(architecture: Architecture) -> int:
    return count_flops(architecture, SPACE)


class Measured:
    """Tables whose cross-validation errors are `errors`, one after the other."""

    def __init__(self, *errors: float) -> None:
        self.errors, self.asked = list(errors), list[int]()

    def __call__(self, architectures: Sequence[Architecture]) -> LatencyTable:
        self.asked.append(len(architectures))
        error = self.errors[len(self.asked) - 1]
        times = [(one, 1 + count_flops(one, SPACE) / 1e9) for one in architectures]
        table = LatencyTable.fit(SPACE, MEANING, times, device=FACTS)
        return replace(table, networks=tuple(replace(one, left_out_ms=one.measured_ms * (1 + error)) for one in table.networks))


@pytest.mark.slow
def test_it_stops_when_the_error_falls_no_more() -> None:
    measured = Measured(0.04, 0.03, 0.029)
    table = grown_table(SPACE, measured)
    assert measured.asked == [FIRST, FIRST + STEP, FIRST + 2 * STEP]
    assert len(table.networks) == FIRST + 2 * STEP
    assert table.stopped == (
        "the cross-validation error fell no more by a tenth (12 networks 4.00 %, 24 networks 3.00 %, 36 networks 2.90 %)"
    )


@pytest.mark.slow
def test_it_stops_at_once_when_the_error_is_small_and_at_last_with_the_most_networks() -> None:
    small = Measured(0.0005)
    assert "below 0.1 %" in grown_table(SPACE, small).stopped
    assert small.asked == [FIRST]
    long = Measured(0.2, 0.15, 0.1, 0.05, 0.03)
    assert f"{MOST} networks are the most" in grown_table(SPACE, long).stopped
    assert long.asked[-1] == MOST
