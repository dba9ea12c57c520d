"""What becomes of a limit: one function for measured times, one for counts, everywhere."""

from __future__ import annotations

import pytest

from autoformer.profiling.measuring.machine_state import MachineState
from autoformer.profiling.measuring.order_statistics import LatencyStats
from autoformer.profiling.measuring.verdict import (
    INCONCLUSIVE,
    INVALID,
    OVER_BUDGET,
    UNSTABLE,
    VALID,
    WITHIN_BUDGET,
    Gates,
    Verdict,
    count_status,
    judge,
    limit_status,
)

WAITED = "share of time without a CPU (other programs run) 22 %, limit 10 %"
BUSY = "other programs kept 1.2 cores busy, 1 of 2 were free for them"
WIDE = "width of the median's 95 % interval 7 %, limit 5 %"
DRIFT = "drift of the median from first to last third 9 %, limit 5 %"


@pytest.mark.parametrize(
    ("verdict", "low_ms", "high_ms", "status"),
    [
        (Verdict(VALID), 1.8, 2.0, WITHIN_BUDGET),  # the end of the interval may be the limit
        (Verdict(VALID), 1.8, 2.1, INCONCLUSIVE),
        (Verdict(VALID), 2.0, 2.1, INCONCLUSIVE),
        (Verdict(VALID), 2.01, 2.1, OVER_BUDGET),
        (Verdict(UNSTABLE, (DRIFT,)), 1.0, 1.1, INCONCLUSIVE),
        (Verdict(UNSTABLE, (DRIFT,)), 9.0, 9.1, INCONCLUSIVE),
        (Verdict(INVALID, ("3 runs, 20 needed",)), 1.0, 1.1, INCONCLUSIVE),
        (Verdict(INVALID, ("3 runs, 20 needed",)), 9.0, 9.1, INCONCLUSIVE),
        (Verdict(INVALID, (WIDE,)), 1.0, 1.1, INCONCLUSIVE),
        (Verdict(VALID), None, None, INCONCLUSIVE),
        (Verdict(UNSTABLE, (BUSY,)), 1.0, 1.1, WITHIN_BUDGET),  # other programs never make a time shorter
        (Verdict(UNSTABLE, (WIDE, WAITED, BUSY)), 1.8, 2.0, WITHIN_BUDGET),
        (Verdict(UNSTABLE, (BUSY,)), 1.8, 2.1, INCONCLUSIVE),
        (Verdict(UNSTABLE, (BUSY,)), 9.0, 9.1, INCONCLUSIVE),  # alone it may be within
        (Verdict(UNSTABLE, (WIDE,)), 1.0, 1.1, INCONCLUSIVE),
        (Verdict(UNSTABLE), 1.0, 1.1, INCONCLUSIVE),  # nobody says why
        (Verdict(UNSTABLE, (BUSY, DRIFT)), 1.0, 1.1, INCONCLUSIVE),
        (Verdict(UNSTABLE, (BUSY,)), None, None, INCONCLUSIVE),
    ],
)
def test_a_limit_of_2_ms_is_kept_by_valid_times_and_by_those_that_are_at_most_too_long(
    verdict: Verdict, low_ms: float | None, high_ms: float | None, status: str
) -> None:
    assert limit_status(2.0, verdict, low_ms, high_ms) == status


@pytest.mark.parametrize(
    ("conditions", "cpu_share", "at_most_slowed"),
    [
        (MachineState(cores=2, threads=1, other_cores=1.8), 1.0, True),
        (MachineState(cores=2, threads=1, load_average=3.0), 1.0, True),
        (MachineState(cores=2, threads=1, other_cores=1.8), 0.7, True),
        (MachineState(other_gpu_processes=2), 1.0, True),
        (MachineState(throttle=("heat (processor)",)), 1.0, False),  # which a device does when it is alone, too
    ],
)
def test_what_the_judge_says_of_other_programs_counts_as_at_most_too_long(
    conditions: MachineState, cpu_share: float, at_most_slowed: bool
) -> None:
    wall = [1.0 + 0.001 * (number % 7) for number in range(700)]
    cpu = LatencyStats.from_samples([cpu_share * time for time in wall])
    verdict = judge(LatencyStats.from_samples(wall), Gates(), cpu=cpu, conditions=conditions)
    assert verdict.level == UNSTABLE
    assert verdict.at_most_slowed is at_most_slowed


@pytest.mark.parametrize(
    ("name", "count", "status"),
    [
        ("max_params", 99, WITHIN_BUDGET),
        ("max_params", 100, WITHIN_BUDGET),
        ("max_flops", 101, OVER_BUDGET),
        ("min_params", 101, WITHIN_BUDGET),
        ("min_flops", 100, WITHIN_BUDGET),
        ("min_params", 99, OVER_BUDGET),
    ],
)
def test_a_count_keeps_an_upper_or_a_lower_limit_of_100_up_to_the_limit_itself(name: str, count: int, status: str) -> None:
    assert count_status(name, 100, count) == status
