"""Common drift on measurements whose own times and drift are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoformer.architecture import Architecture
from autoformer.errors import CheckpointError
from autoformer.profiling.backends import of_spaces as instances
from autoformer.profiling.measuring import drift
from autoformer.profiling.measuring.drift import as_one, drift_of_rounds, joined, measure_together, without_common_drift
from autoformer.profiling.measuring.machine_state import MachineState
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement
from autoformer.profiling.measuring.verdict import VALID
from autoformer.profiling.tables.limit import LatencyAnswer, Timing
from autoformer.profiling.tables.loop import measure_networks
from autoformer.profiling.tables.speed_factor import anchors_of, speed_factor_of
from autoformer.space import SearchSpace
from tests.support.drifts import taken
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.latency_loops import SPACE, Measurer, answered, table_of, truth
from tests.support.measurements import FACTS

OWN = (1.0, 2.5, 7.0)  # milliseconds
DRIFT = (1.0, 1.3, 0.9, 1.0, 1.6)


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


# --- several sessions of one network ---------------------------------------------------------------------------


def test_two_instances_of_a_network_count_as_their_geometric_mean() -> None:
    both = as_one("a", [taken(1.0, (1, 1, 1)), taken(1.21, (1, 1, 1), seed=1)])
    assert both.stats.p50_ms == pytest.approx(1.1, rel=1e-3)
    assert both.instances_ms == pytest.approx((1.0, 1.21), rel=1e-3)
    assert both.round_runs == (40, 40, 40)
    assert both.stats.n == 120
    assert both.verdict.level == VALID  # which of them was visited when is no drift
    assert both.name == "a"


def test_an_instance_in_a_bad_place_does_not_count() -> None:
    every = as_one("a", [taken(own, (1, 1, 1), seed=index) for index, own in enumerate((1.0, 1.02, 1.4))])
    assert every.stats.p50_ms == pytest.approx(1.02, rel=1e-3)


def test_one_instance_is_left_as_it_is() -> None:
    alone = taken(1.0, (1, 1.01, 1))
    joined_alone = as_one("a", [alone])
    assert joined_alone.samples_ms == pytest.approx(alone.samples_ms)
    assert joined_alone.round_runs == alone.round_runs


def test_a_network_that_drifts_within_its_instances_is_seen() -> None:
    both = as_one("a", [taken(1.0, (1.0, 1.15, 1.3)), taken(1.2, (1.0, 1.15, 1.3))])
    assert "drift" in str(both.verdict)


def test_joined_measurements_keep_the_worst_of_their_conditions() -> None:
    cool = MachineState(clock_change=0.01, temperature_rise_c=2.0, other_cores=0.1)
    hot = MachineState(clock_change=0.3, throttle=("heat (processor)",))
    first, second = (replace(taken(1.0, (1, 1)), conditions=one) for one in (cool, hot))
    for both in (joined(first, second), as_one("a", [first, second]), joined(second, replace(first, conditions=None))):
        assert both.conditions is not None
        assert both.conditions.clock_change == 0.3
        assert both.conditions.throttle == ("heat (processor)",)
        assert both.verdict.level != VALID
    assert joined(first, second).conditions == replace(hot, temperature_rise_c=2.0, other_cores=0.1, visits_s=1.0)


def test_all_instances_of_a_network_are_measured_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MeasureConfig] = []

    def run(backends: Mapping[str, Any], config: MeasureConfig, **options: object) -> dict[str, Measurement]:
        seen.append(config)
        return {name: taken(1.0, DRIFT) for name in backends}

    monkeypatch.setattr(drift, "measure", run)
    backend = ScriptedBackend(ScriptedClock(), lambda run: 1.0)
    config = MeasureConfig(min_runs=100, min_s=3.0, max_s=9.0)
    (found,) = measure_together({"a": [backend] * 3, "b": [backend] * 3}, config, 1)
    assert set(found) == {"a", "b"}
    assert (seen[0].min_runs, seen[0].min_s, seen[0].max_s) == (34, 1.0, 3.0)


def test_large_networks_are_opened_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[Architecture] = []

    def note(space: SearchSpace, architecture: Architecture, *_: object) -> Opened:
        opened.append(architecture)
        return Opened(architecture)

    monkeypatch.setattr(instances, "export_for", lambda *_: None)
    monkeypatch.setattr(instances, "open_network", note)
    base = SearchSpace.preset("base")
    wanted = [base.largest, *(base.sample(random.Random(seed)) for seed in range(3))]
    with instances.opened_networks(base, wanted, instances.Setup(threads=1), instances=3, folder=tmp_path) as found:
        assert {len(one) for one in found.values()} == {1}  # four times about 54 M weights of four bytes are 0.8 GiB
    assert sorted(opened, key=str) == sorted(wanted, key=str)
    with instances.opened_networks(SPACE, [SPACE.largest], instances.Setup(threads=1), instances=3, folder=tmp_path) as found:
        assert len(found[SPACE.largest]) == 3
    assert len(opened) == 4 + 1 + 3  # what a process opens first is not timed


# --- the machine speed factor --------------------------------------------------------------------------------------------


def test_anchors_are_the_tables_networks_nearest_in_time_that_are_not_measured_anyway() -> None:
    table = table_of(truth)
    by_time = [network.architecture for network in table.networks]  # in rising order of FLOPs, so of the true latency
    assert anchors_of(table, 0.0001) == by_time[:6]
    assert anchors_of(table, 0.0001, without=by_time[1:2], count=3) == [by_time[0], *by_time[2:4]]
    assert set(anchors_of(table, 1000)) == set(by_time[-6:])


@pytest.mark.parametrize(
    ("ratios", "speed_factor"),
    [((1.1, 1.05, 0.9), 1.05), ((0.9, 0.9, 0.95), 0.9), ((1.4, 1.5, 1.3), 1.0), ((0.5, 0.6, 0.7), 1.0), ((), 1.0)],
)
def test_the_speed_factor_is_a_median_ratio_unless_the_machine_is_another_one(
    ratios: Sequence[float], speed_factor: float
) -> None:
    table = table_of(truth)
    now = {network.architecture: ratio * network.measured_ms for network, ratio in zip(table.networks, ratios, strict=False)}
    assert speed_factor_of(table, now).factor == pytest.approx(speed_factor)


def test_the_speed_factor_is_known_as_well_as_a_median_of_networks_that_differ() -> None:
    table = table_of(truth)
    now = {
        network.architecture: ratio * network.measured_ms for network, ratio in zip(table.networks, (0.9, 1.0, 1.1), strict=False)
    }
    assert speed_factor_of(table, now).error == pytest.approx(
        1.2533 * 0.1 / 3**0.5, rel=1e-4
    )  # sqrt(pi / 2), and the spread is 0.1
    alone = {table.networks[0].architecture: 1.1 * table.networks[0].measured_ms}
    assert speed_factor_of(table, alone).error == 0
    assert speed_factor_of(table, {}).error == 0


def fake_measure(factor: float, seen: list[Sequence[str]]) -> Callable[..., dict[str, Measurement]]:
    """A machine on which every network takes `factor` times its true time, in rounds that drift."""

    def run(backends: Mapping[str, Any], *_: object, **options: object) -> dict[str, Measurement]:
        seen.append(list(backends))
        pattern = replace(taken(1.0, DRIFT), device=FACTS, backend="onnxruntime-cpu", threads=1, batch=1, precision="fp32")
        found = {}
        for index, (name, architecture) in enumerate(backends.items()):
            sample = taken(factor * truth(architecture.architecture), DRIFT, seed=index)
            found[name] = replace(pattern, name=name, samples_ms=sample.samples_ms, cpu_samples_ms=sample.samples_ms)
        return found

    return run


class Opened(AbstractContextManager["Opened"]):
    """Stands for an exported network; knows its architecture."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def __exit__(self, *error: object) -> None:
        return None


@pytest.mark.parametrize(("factor", "speed_factor"), [(1.0, 1.0), (1.08, 1.08), (0.93, 0.93), (1.5, 1.0)])
def test_finalists_are_measured_at_the_machine_speed_of_the_table(
    factor: float, speed_factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sequence[str]] = []
    monkeypatch.setattr(drift, "measure", fake_measure(factor, seen))
    monkeypatch.setattr(instances, "export_for", lambda *_: None)
    monkeypatch.setattr(instances, "open_network", lambda space, architecture, *_: Opened(architecture))
    table, wanted = table_of(truth), [SPACE.sample(random.Random(seed)) for seed in (5, 6)]
    found = measure_networks(table, wanted)
    assert list(found) == wanted
    beside = anchors_of(table, table.predict(wanted[0]), without=wanted)
    assert sorted(seen[0]) == sorted(f"{network} #{index}" for network in (*wanted, *beside) for index in range(8))
    for network, timing in found.items():
        assert timing.speed_factor == pytest.approx(speed_factor, rel=2e-3)
        assert timing.measured_ms == pytest.approx(factor / speed_factor * truth(network), rel=2e-3)
        assert timing.low_ms is not None
        assert timing.high_ms is not None
        assert timing.low_ms <= timing.measured_ms <= timing.high_ms
        assert timing.verdict.level == VALID


def test_the_speed_factor_stands_in_the_answers_file_and_its_words(tmp_path: Path) -> None:
    class Slow(Measurer):
        def __call__(self, wanted: Sequence[Architecture]) -> Mapping[Architecture, Timing]:
            return {
                network: replace(timing, speed_factor=1.04, speed_factor_error=0.005)
                for network, timing in super().__call__(wanted).items()
            }

    answer = answered(tmp_path, table_of(truth), Slow())
    assert "the machine takes 1.040 times as long just now, known to 0.5 %" in str(answer)
    read = LatencyAnswer.load(tmp_path)
    assert read == answer
    assert {network.timing.speed_factor for taken in read.rounds for network in taken.networks} == {1.04}
    assert {network.timing.speed_factor_error for taken in read.rounds for network in taken.networks} == {0.005}
    for name, impossible in (
        ("pace", 0),
        ("pace", -1),
        ("pace", "fast"),
        ("pace", None),
        ("pace_error", -1),
        ("pace_error", "well"),
    ):
        values = answer.to_dict()
        values["rounds"][0]["networks"][0][name] = impossible
        with pytest.raises(CheckpointError, match=r"a machine speed factor of|pace(_error)? is .*, expected a number"):
            LatencyAnswer.from_dict(values)


def test_progress_of_a_further_pass_is_under_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def run(backends: Mapping[str, Any], config: MeasureConfig, *, progress: Any, **options: object) -> dict[str, Measurement]:
        progress("measure latency", 1, 1)
        return {name: taken(1.0, DRIFT) for name in backends}

    monkeypatch.setattr(drift, "measure", run)
    backend = ScriptedBackend(ScriptedClock(), lambda run: 1.0)
    list(measure_together({"a": [backend]}, MeasureConfig(), 2, lambda work, done, total, note="": seen.append(work)))
    assert seen == ["measure latency", "measure latency again, pass 2, 0 not VALID"]


def test_networks_that_are_exported_already_are_no_work_that_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    monkeypatch.setattr(instances, "open_network", lambda space, architecture, *_: Opened(architecture))

    def tell(work: str, done: int, total: int, note: str = "") -> None:
        seen.append((work, done, total))

    def write(network: object, path: Path) -> None:
        path.touch()

    wanted = list(SPACE.anchors.values())[:2]
    setup = instances.Setup(threads=1)
    for networks in (wanted[:1], wanted):
        with instances.opened_networks(SPACE, networks, setup, instances=1, folder=tmp_path, exporter=write, progress=tell):
            pass
    exported = [(done, total) for work, done, total in seen if work == "export networks"]
    assert exported == [(0, 1), (1, 1), (0, 1), (1, 1)]
    assert [(done, total) for work, done, total in seen if work == "open networks"] == [(1, 1), (1, 2), (2, 2)]
