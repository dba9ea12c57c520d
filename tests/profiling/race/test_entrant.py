"""Who may start in a race, limit by limit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from autoformer.cost import Budget, Cost
from autoformer.profiling.measuring.verdict import UNSTABLE, Verdict
from autoformer.profiling.race.config import RaceConfig
from tests.support.latency_loops import timing
from tests.support.scripted_races import entrant

MEASURED = replace(entrant("a", latency_ms=9.0), timing=timing(2.0, width=0.1))  # 1.9 to 2.1 ms; 1000 weights, 2000 FLOPs


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(), None),
        (Budget(max_params=1000, max_flops=2000, max_latency_ms=2.1), None),
        (Budget(max_params=999), "1k parameters against the limit of 999"),
        (Budget(max_flops=1500), "2k FLOPs against the limit of 1.5k"),
        (Budget(max_latency_ms=1.8), "2.1 ms against the limit of 1.8 ms"),
        (Budget(min_params=1001), "1k parameters against the limit of 1.001k"),
        (Budget(max_params=900, max_flops=500), "2k FLOPs against the limit of 500"),  # the one that is broken most
    ],
)
def test_a_network_may_start_when_it_keeps_every_limit(budget: Budget, reason: str | None) -> None:
    assert MEASURED.why_not(budget) == reason


def test_an_interval_that_holds_the_limit_is_refused_as_inconclusive() -> None:
    reason = MEASURED.why_not(Budget(max_latency_ms=2.05)) or ""
    assert reason.startswith("2.1 ms against the limit of 2.05 ms (the 95 % interval 1.9 to 2.1 ms holds the limit of 2.05 ms")
    assert "interval" not in (MEASURED.why_not(Budget(max_latency_ms=1.8)) or "")


def test_an_unsteady_measurement_is_said_to_be_one() -> None:
    unsteady = replace(MEASURED, timing=timing(2.0, width=0.1, verdict=Verdict(UNSTABLE, ("drift 9 %",))))
    assert "UNSTABLE: drift 9 %" in (unsteady.why_not(Budget(max_latency_ms=2.05)) or "")


def test_a_measured_time_counts_by_the_upper_end_of_its_interval_and_a_prediction_as_it_is() -> None:
    assert MEASURED.latency_ms == 2.0
    assert MEASURED.cost() == Cost(params=1000, flops=2000, latency_ms=pytest.approx(2.1))  # type: ignore[arg-type]
    few_runs = replace(MEASURED, timing=replace(timing(2.0), low_ms=None, high_ms=None))
    assert few_runs.cost().latency_ms == 2.0
    assert entrant("b", latency_ms=9.0).cost().latency_ms == 9.0
    assert entrant("b", latency_ms=9.0).why_not(Budget(max_latency_ms=9.0)) is None


def test_what_could_not_be_measured_or_counted_keeps_no_limit_on_it() -> None:
    unmeasured = entrant("a")
    assert unmeasured.latency_ms is None
    assert unmeasured.why_not(Budget(max_latency_ms=100)) == "its latency could not be measured"
    assert unmeasured.why_not(Budget(max_params=1000)) is None
    uncounted = replace(unmeasured, flops=None)
    assert uncounted.why_not(Budget(max_params=1000)) is None
    for limit in (Budget(max_flops=1e12), Budget(min_flops=1)):
        assert uncounted.why_not(limit) == "its FLOPs could not be counted"


@pytest.mark.parametrize("rates", [(), (0.0,), (-1.0, 1.0), (1.0, 1.0)])
def test_factors_of_the_learning_rate_are_positive_and_differ(rates: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        RaceConfig(learning_rates=rates)


@pytest.mark.parametrize("settings", [{"finalists": 0}, {"homogeneous": -1}, {"cost": 0}])
def test_an_impossible_race_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        RaceConfig.model_validate(settings)
