"""What the sensors say flips the verdict: scripted sensors and clocks, where every number is known by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from autoformer.profiling.measuring.backend import LatencyBackend, WithCopies
from autoformer.profiling.measuring.gpu_sensors import GpuReading
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure, warm_up
from autoformer.profiling.measuring.sensors import Reading
from tests.support.conditions import ScriptedSensors
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.measurements import FACTS

# Three visits of ten runs of 1 ms each, one before each visit not kept; sensors are read before and after each visit.
CONFIG = MeasureConfig(
    warmup_s=0, warmup_max_s=1, warmup_window=2, settle=0.5, rounds=3, lead_in_runs=0, min_runs=30, min_s=0, max_s=10
)
STEADY = GpuReading(clock_mhz=1500, temperature_c=50, power_w=30, processes=1)


def taken(
    readings: Callable[[int], Reading], name: str = "onnxruntime-cpu", backend: ScriptedBackend | None = None
) -> Measurement:
    backend = backend or ScriptedBackend(ScriptedClock(), lambda run: 1.0, name=name, device_ms=1.0)
    clock, sensors = backend.clock, ScriptedSensors(lambda index: readings(index - 1))  # the first is taken at rest
    return measure({"a": backend}, CONFIG, clock=clock, cpu_clock=clock, device=FACTS, sensors=sensors)["a"]


def on_gpu(gpu: Callable[[int], GpuReading]) -> Measurement:
    """A measurement on a GPU; the reading at rest is number -4, those of the warm-up -3 to -1."""
    return taken(lambda index: Reading(0, gpu=gpu(index - 3)), "torch-cuda")


def test_steady_sensors_leave_a_steady_measurement_valid() -> None:
    found = on_gpu(lambda index: STEADY)
    assert (found.verdict.level, found.verdict.reasons) == ("VALID", ())
    assert found.conditions is not None
    assert (found.conditions.clock_change, found.conditions.temperature_rise_c) == (0, 0)
    assert (found.conditions.clocks_locked, found.conditions.other_gpu_processes) == (True, 0)
    assert len(found.conditions.readings) == 4  # before the first visit, and after each of three


def test_a_throttle_bit_seen_once_flips_the_verdict() -> None:
    found = on_gpu(lambda index: replace(STEADY, throttle=("power cap",)) if index == 3 else STEADY)  # after the second visit
    assert (found.verdict.level, found.verdict.reasons) == ("UNSTABLE", ("throttled: power cap",))


@pytest.mark.parametrize(("low", "level"), [(1440, "VALID"), (1410, "UNSTABLE")])  # 4 and 6 % below 1500
def test_a_change_of_the_clock_flips_the_verdict(low: float, level: str) -> None:
    found = on_gpu(lambda index: replace(STEADY, clock_mhz=low) if index == 5 else STEADY)
    assert found.verdict.level == level
    assert found.conditions is not None
    assert found.conditions.clock_change == pytest.approx(1 - low / 1500)
    assert found.conditions.clocks_locked is False
    if level != "VALID":
        assert found.verdict.reasons == ("the clock changed by 6 %, limit 5 %",)


@pytest.mark.parametrize(("degrees", "level"), [(9, "VALID"), (11, "UNSTABLE")])
def test_a_rise_of_the_temperature_flips_the_verdict(degrees: float, level: str) -> None:
    found = on_gpu(lambda index: replace(STEADY, temperature_c=50 + degrees * index / 5))  # reading 5 is the last
    assert found.verdict.level == level
    assert found.verdict.reasons == (() if level == "VALID" else ("the temperature rose by 11 °C, limit 10 °C",))


def test_another_process_on_the_gpu_flips_the_verdict() -> None:
    found = on_gpu(lambda index: replace(STEADY, processes=3))
    assert found.verdict.reasons == ("processes on the GPU beside this one: 2",)
    assert found.verdict.level == "UNSTABLE"


@pytest.mark.parametrize(("enqueue_ms", "level"), [(0.7, "VALID"), (0.9, "UNSTABLE")])
def test_a_host_that_is_slower_than_the_gpu_flips_the_verdict(enqueue_ms: float, level: str) -> None:
    backend = ScriptedBackend(ScriptedClock(), lambda run: 1.0, name="torch-cuda", device_ms=1.0)
    backend.enqueue_ms = enqueue_ms
    found = taken(lambda index: Reading(0, gpu=STEADY), backend=backend)
    assert found.verdict.level == level
    assert found.metrics["enqueue_ms"].p50_ms == enqueue_ms
    assert list(found.metrics) == ["wall_ms", "cpu_ms", "gpu_ms", "enqueue_ms"]
    if level != "VALID":
        assert found.verdict.reasons == ("host bound: handing the work over takes 90 % of the GPU's time, limit 80 %",)


@pytest.mark.parametrize(("others", "level"), [(1.0, "VALID"), (1.3, "UNSTABLE")])
def test_programs_that_need_more_than_the_free_cores_flip_the_verdict(others: float, level: str) -> None:
    # FACTS has 2 cores and the scripted network 1 thread, so one core is free. A visit takes 1 s; in it this process uses one
    # core and the others `others` cores.
    def reading(index: int) -> Reading:
        visits = (index + 1) // 2
        return Reading(0, own_cpu_s=1.0 * visits, busy_cpu_s=5 + (1 + others) * visits)

    found = taken(reading, backend=ScriptedBackend(ScriptedClock(), lambda run: 100.0))
    assert found.conditions is not None
    assert found.conditions.other_cores == pytest.approx(others)
    assert found.verdict.level == level
    if level != "VALID":
        assert found.verdict.reasons == ("other programs kept 1.3 cores busy, 1 of 2 were free for them",)


@pytest.mark.parametrize(("load", "level"), [(1.9, "VALID"), (2.5, "UNSTABLE")])
def test_the_load_average_counts_where_the_system_does_not_say_who_is_busy(load: float, level: str) -> None:
    backend = ScriptedBackend(ScriptedClock(), lambda run: 1.0)
    sensors = ScriptedSensors(lambda index: Reading(0))
    facts = replace(FACTS, load_average=load)
    found = measure({"a": backend}, CONFIG, clock=backend.clock, cpu_clock=backend.clock, device=facts, sensors=sensors)["a"]
    assert found.verdict.level == level
    assert found.verdict.reasons == (() if level == "VALID" else ("load average 2.5 before the measurement, 2 cores",))


def test_a_processor_that_was_slowed_down_for_its_heat_flips_the_verdict() -> None:
    found = taken(lambda index: Reading(0, cpu_throttles=7 if index < 3 else 8))
    assert found.verdict.reasons == ("throttled: heat (processor)",)
    assert taken(lambda index: Reading(0, cpu_throttles=7)).verdict.level == "VALID"


def test_the_clock_of_a_processor_is_recorded_and_not_judged() -> None:
    found = taken(lambda index: Reading(0, cpu_clock_mhz=3000 - 100 * index, cpu_temperature_c=40 + 5 * index))
    assert found.verdict.level == "VALID"
    assert found.conditions is not None
    assert found.conditions.clock_change == pytest.approx(1 - 2500 / 2900)  # readings 1, 3 and 5 follow a visit
    assert found.conditions.temperature_rise_c == 25


def test_a_warm_up_waits_for_the_clock_of_the_gpu() -> None:
    clock, clocks = ScriptedClock(), iter([800, 1200, 1500, 1500, 1500, 1500])
    done = warm_up(ScriptedBackend(clock, lambda run: 1.0), CONFIG, clock, lambda: next(clocks))
    assert (done.runs, done.settled) == (10, True)  # five windows of two: the last three clocks are alike only then


def test_a_clock_that_was_lower_at_rest_is_not_locked() -> None:
    found = on_gpu(lambda index: replace(STEADY, clock_mhz=300 if index == -4 else 1500))
    assert found.verdict.level == "VALID"  # nothing changed while it was measured
    assert found.conditions is not None
    assert (found.conditions.clock_change, found.conditions.clocks_locked) == (0, False)


def test_conditions_survive_json_and_files_of_earlier_versions_are_read() -> None:
    found = on_gpu(lambda index: STEADY)
    values = json.loads(json.dumps(found.to_dict()))
    assert Measurement.from_dict(values) == found
    del values["conditions"], values["enqueue_samples_ms"]
    assert Measurement.from_dict(values) == replace(found, conditions=None)


def test_copies_are_a_row_of_their_own_with_a_name_of_their_own() -> None:
    clock = ScriptedClock()
    inner = ScriptedBackend(clock, lambda run: 1.0, name="tensorrt", device_ms=0.9)
    inner.run_with_copies = lambda: clock.advance_ms(3.0)
    backends: dict[str, LatencyBackend] = {"resident": inner, "copied": WithCopies(inner)}
    found = measure(backends, CONFIG, clock=clock, cpu_clock=clock, device=FACTS)
    assert found["resident"].metrics["wall_ms"].p50_ms == pytest.approx(1.0)
    assert found["copied"].metrics["e2e_ms"].p50_ms == pytest.approx(3.0)
    assert "wall_ms" not in found["copied"].metrics
    assert found["copied"].settings == {"mode": "scripted", "copies": "included"}
