"""What becomes of a limit: one function for measured times, one for counts, everywhere."""

from __future__ import annotations

import pytest

from autoformer.profiling.measuring.verdict import (
    INCONCLUSIVE,
    INVALID,
    OVER_BUDGET,
    UNSTABLE,
    VALID,
    WITHIN_BUDGET,
    count_status,
    limit_status,
)


@pytest.mark.parametrize(
    ("level", "low_ms", "high_ms", "status"),
    [
        (VALID, 1.8, 2.0, WITHIN_BUDGET),  # the end of the interval may be the limit
        (VALID, 1.8, 2.1, INCONCLUSIVE),
        (VALID, 2.0, 2.1, INCONCLUSIVE),
        (VALID, 2.01, 2.1, OVER_BUDGET),
        (UNSTABLE, 1.0, 1.1, INCONCLUSIVE),
        (UNSTABLE, 9.0, 9.1, INCONCLUSIVE),
        (INVALID, 1.0, 1.1, INCONCLUSIVE),
        (INVALID, 9.0, 9.1, INCONCLUSIVE),
        (VALID, None, None, INCONCLUSIVE),
    ],
)
def test_only_a_valid_measurement_decides_a_limit_of_2_ms(
    level: str, low_ms: float | None, high_ms: float | None, status: str
) -> None:
    assert limit_status(2.0, level, low_ms, high_ms) == status


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
