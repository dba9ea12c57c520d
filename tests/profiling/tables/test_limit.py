"""What a timing says of a limit where other programs ran, and what earlier versions wrote of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoformer.errors import MeasurementError
from autoformer.profiling.measuring.verdict import INCONCLUSIVE, OVER_BUDGET, UNSTABLE, VALID, WITHIN_BUDGET, Verdict
from autoformer.profiling.tables.limit import agrees
from tests.support.latency_loops import timing

BUSY = Verdict(UNSTABLE, ("other programs kept 1.2 cores busy, 1 of 2 were free for them",))


def test_a_time_of_a_busy_machine_keeps_a_limit_by_the_clock_and_not_once_it_is_divided_by_the_machines_speed() -> None:
    """The table's own networks may have been slowed more than this one: divided by that, the time is too short."""
    slowed = replace(timing(1.0), verdict=BUSY, speed_factor=1.0)
    assert slowed.status(2.0) == WITHIN_BUDGET
    assert slowed.why(2.0) == (
        "the 95 % interval 0.998 to 1.002 ms lies inside the limit of 2 ms, though other programs made the time longer "
        "(UNSTABLE: other programs kept 1.2 cores busy, 1 of 2 were free for them)"
    )
    assert slowed.status(0.5) == INCONCLUSIVE
    assert "measure on a quiet machine" in slowed.why(0.5)
    assert replace(slowed, speed_factor=1.3).status(2.0) == INCONCLUSIVE
    assert replace(slowed, verdict=Verdict(VALID), speed_factor=1.3).status(2.0) == WITHIN_BUDGET


def test_what_earlier_versions_called_inconclusive_on_a_busy_machine_is_believed_and_nothing_else() -> None:
    assert agrees("inconclusive", WITHIN_BUDGET, BUSY)
    assert agrees("not shown", WITHIN_BUDGET, BUSY)
    assert agrees("met", WITHIN_BUDGET, BUSY)
    assert not agrees("inconclusive", WITHIN_BUDGET, Verdict(VALID))
    assert not agrees("within budget", INCONCLUSIVE, BUSY)
    assert not agrees("within budget", OVER_BUDGET, Verdict(VALID))
    with pytest.raises(MeasurementError, match="status 'perhaps'"):
        agrees("perhaps", WITHIN_BUDGET, BUSY)
