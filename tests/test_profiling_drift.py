"""Common drift on measurements whose own times and drift are known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoformer.cost import count_flops
from autoformer.errors import CheckpointError, MeasurementError
from autoformer.profiling.calibration import anchors_of, calibrated
from autoformer.profiling.drift import drift_of_rounds, joined, without_common_drift
from autoformer.profiling.latency_table import Calibration, LatencyTable, TableCosts
from autoformer.profiling.measure import Measurement
from autoformer.profiling.statistics import UNSTABLE, VALID, Verdict
from autoformer.profiling.table_measurement import designed_architectures
from tests.fakes import ScriptedBackend, ScriptedClock
from tests.test_latency_loop import LIMIT_MS, SPACE, Measurer, answered, table_of, truth
from tests.test_profiling_measure import one

OWN = (1.0, 2.5, 7.0)  # milliseconds
DRIFT = (1.0, 1.3, 0.9, 1.0, 1.6)


def taken(own_ms: float, drift: Sequence[float], runs: int = 20, seed: int = 0) -> Measurement:
    """A measurement with these rounds, each run a little off its round."""
    rng, clock = random.Random(seed), ScriptedClock()
    pattern = one(ScriptedBackend(clock, lambda run: 1.0))
    samples = tuple(own_ms * factor * rng.uniform(0.999, 1.001) for factor in drift for _ in range(runs))
    return replace(pattern, samples_ms=samples, cpu_samples_ms=samples, device_samples_ms=(), round_runs=(runs,) * len(drift))


def test_the_drift_of_rounds_is_found_whatever_the_networks_own_times() -> None:
    found = drift_of_rounds([[own * factor for factor in DRIFT] for own in OWN])
    assert found == pytest.approx(DRIFT)  # its median is 1 already


def test_one_disturbed_visit_is_not_drift() -> None:
    medians = [[own * factor for factor in DRIFT] for own in OWN]
    medians[1][2] *= 3
    assert drift_of_rounds(medians) == pytest.approx(DRIFT)


def test_times_without_drift_are_each_networks_own_and_steady() -> None:
    measured = {str(own): taken(own, DRIFT, seed=index) for index, own in enumerate(OWN)}
    steady = without_common_drift(measured)
    for own in OWN:
        assert steady[str(own)].stats.p50_ms == pytest.approx(own, rel=1e-3)
        assert steady[str(own)].verdict.level == VALID
        assert len(steady[str(own)].samples_ms) == 100


def test_a_network_that_drifts_alone_keeps_its_verdict() -> None:
    measured = {str(own): taken(own, (1, 1, 1, 1, 1), seed=index) for index, own in enumerate((*OWN, 11.0))}
    measured["alone"] = taken(3.0, (1, 1.1, 1.2, 1.3, 1.4))
    steady = without_common_drift(measured)
    assert steady["alone"].verdict.level != VALID
    assert "drift" in str(steady["alone"].verdict)
    assert steady["7.0"].verdict.level == VALID


def test_joined_measurements_are_one_of_more_rounds() -> None:
    both = joined(taken(1.0, (1.0, 1.1)), taken(1.0, (1.5, 1.6, 1.7)))
    assert both.round_runs == (20,) * 5
    assert both.stats.n == 100
    assert both.stats.p50_ms == pytest.approx(1.5, rel=2e-3)


# --- calibration -------------------------------------------------------------------------------------------------


def test_anchors_are_the_networks_nearest_to_the_limit_or_spread_over_the_range() -> None:
    table = table_of(truth)
    by_time = [network.architecture for network in table.networks]  # in rising order of FLOPs, so of the true latency
    assert anchors_of(table, near_ms=0.0001) == by_time[:3]
    assert set(anchors_of(table, near_ms=1000)) == set(by_time[-3:])
    assert anchors_of(table) == [by_time[index] for index in (1, 4, 6)]
    assert set(anchors_of(table, count=50)) == set(by_time)


def test_a_calibrated_table_predicts_by_the_median_factor_and_keeps_what_was_measured() -> None:
    table = table_of(truth)
    slow = dict(zip(anchors_of(table, LIMIT_MS), (1.1, 1.2, 1.7), strict=True))
    found = calibrated(table, Measurer(lambda network: slow[network] * truth(network)), near_ms=LIMIT_MS)
    assert found.factor == pytest.approx(1.2)
    assert found.predict(SPACE.middle) == pytest.approx(1.2 * truth(SPACE.middle))
    costs = TableCosts(SPACE, found)
    assert costs.latency_of(SPACE.middle, count_flops(SPACE.middle, SPACE)) == pytest.approx(1.2 * truth(SPACE.middle))
    assert [network.measured_ms for network in found.networks] == [network.measured_ms for network in table.networks]
    assert found.margin == table.margin
    assert found.model.startswith("1.2 × (")
    again = calibrated(found, Measurer(lambda network: 0.9 * truth(network)))
    assert again.factor == pytest.approx(0.9)  # of the table as it was measured, not on top


def test_unsteady_anchors_say_nothing() -> None:
    table = table_of(truth)
    assert calibrated(table, Measurer(verdict=Verdict(UNSTABLE, ("drift",)))) is table


def test_a_calibrated_table_survives_its_file_and_damage_is_refused(tmp_path: Path) -> None:
    table = calibrated(table_of(truth), Measurer(lambda network: 1.1 * truth(network)))
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table
    damages: list[dict[str, Any]] = [{"factor": -1}, {"ratios": []}, {"factor": "fast"}, {"created": 3}, {"more": 1}]
    for damage in damages:
        values = table.to_dict()
        values["calibration"] |= damage
        with pytest.raises(CheckpointError, match="damaged"):
            LatencyTable.from_dict(values)
    with pytest.raises(MeasurementError, match="positive ratios"):
        Calibration(factor=1.0, ratios=(), created="")


def test_the_loop_calibrates_before_it_chooses(tmp_path: Path) -> None:
    """On a machine 8 % slower than when the table was made the first network measured keeps the limit."""
    measurer = Measurer(lambda network: 1.08 * truth(network))
    table = table_of(truth)
    answer = answered(tmp_path, table, measurer, anchors=3)
    assert set(measurer.asked[0]) <= set(designed_architectures(SPACE, 8))
    assert answer.calibration is not None
    assert answer.calibration.factor == pytest.approx(1.08)
    assert answer.rounds[0].chosen.timing.status(LIMIT_MS) == "met"
    assert answer.rounds[0].chosen.error == pytest.approx(0, abs=1e-6)
    assert len(answer.rounds) == 1
    read = type(answer).load(tmp_path)
    assert read.calibration == answer.calibration
    assert answered(tmp_path, table, measurer, anchors=3) == read  # nothing was measured again
    assert len(measurer.asked) == 2
