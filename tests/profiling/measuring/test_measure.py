"""The measurement on scripted clocks, where every number is known, and once on a real runtime."""

from __future__ import annotations

import gc
import json
import math
import sys

import pytest

from autoformer.conditions import MeasurementConditions
from autoformer.errors import CheckpointError, MeasurementError
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure, warm_up
from autoformer.profiling.profiles.latency import REFERENCE_ROWS, reference_network
from autoformer.progress import Progress
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.measurements import FACTS, QUICK, one


def test_rounds_visit_every_network_in_alternating_order_and_keep_no_lead_in() -> None:
    clock, log = ScriptedClock(), list[str]()
    backends = {name: ScriptedBackend(clock, lambda run: 1.0, label=name, log=log) for name in "ab"}
    result = measure(backends, QUICK, clock=clock, cpu_clock=clock, device=FACTS)
    # warm-up: three windows of two runs; a visit: one lead-in and ten kept runs; rounds: a b, b a, a b
    visits = ["a"] * 11 + ["b"] * 22 + ["a"] * 22 + ["b"] * 11
    assert log == ["a"] * 6 + ["b"] * 6 + visits
    assert list(result) == ["a", "b"]
    assert result["a"].round_runs == (10, 10, 10)
    assert result["a"].warmup.runs == 6


def test_statistics_are_those_of_the_scripted_times() -> None:
    clock = ScriptedClock()
    # runs 0-5 warm up; of each visit's 11 the first is not kept, and would show as 500 ms
    backend = ScriptedBackend(clock, lambda run: 500.0 if run >= 6 and (run - 6) % 11 == 0 else 4.0 + (run - 6) % 11 * 0.01)
    taken = one(backend)
    assert taken.stats.n == 30
    assert taken.stats.p50_ms == pytest.approx(4.05)  # each of 4.01 … 4.10 three times; the 15th is 4.05
    assert taken.stats.mean_ms == pytest.approx(4.055)
    assert taken.stats.min_ms == pytest.approx(4.01)
    assert taken.stats.max_ms == pytest.approx(4.10)
    assert taken.images_per_s == pytest.approx(2 * 1000 / 4.05)
    assert taken.verdict.level == "VALID"


def test_linear_drift_of_the_machine_falls_on_all_alike() -> None:
    clock, log = ScriptedClock(), list[str]()
    config = MeasureConfig(
        warmup_s=0, warmup_max_s=1, warmup_window=2, settle=0.5, rounds=4, lead_in_runs=0, min_runs=40, min_s=0, max_s=10
    )
    backends = {name: ScriptedBackend(clock, lambda run: 1 + 0.01 * len(log), label=name, log=log) for name in "ab"}
    result = measure(backends, config, clock=clock, cpu_clock=clock, device=FACTS)
    assert result["a"].stats.mean_ms == pytest.approx(result["b"].stats.mean_ms, rel=1e-9)
    assert result["a"].verdict.level != "VALID"  # and the drift is told


def test_warm_up_ends_when_three_windows_agree() -> None:
    clock = ScriptedClock()
    # windows of two runs with medians (the lower of two) 8, 4, 2, 1, 1, 1: settled after the sixth
    backend = ScriptedBackend(clock, lambda run: [8.0, 4.0, 2.0][run // 2] if run < 6 else 1.0)
    config = MeasureConfig(warmup_s=0, warmup_max_s=1, warmup_window=2, settle=0.01)
    done = warm_up(backend, config, clock)
    assert (done.runs, done.settled) == (12, True)
    assert done.seconds == pytest.approx(0.034)


def test_warm_up_lasts_at_least_its_minimum() -> None:
    clock = ScriptedClock()
    config = MeasureConfig(warmup_s=0.1, warmup_max_s=1, warmup_window=5, settle=0.01)
    assert warm_up(ScriptedBackend(clock, lambda run: 1.0), config, clock).runs == 100


def test_warm_up_that_does_not_settle_ends_at_its_limit() -> None:
    clock = ScriptedClock()
    config = MeasureConfig(warmup_s=0, warmup_max_s=0.5, warmup_window=10, settle=0.01)
    done = warm_up(ScriptedBackend(clock, lambda run: 1.0 + run % 20 // 10), config, clock)
    assert not done.settled
    assert 0.5 <= done.seconds < 0.502


def test_a_slow_network_ends_at_its_time_limit_and_is_called_invalid() -> None:
    config = MeasureConfig(warmup_s=0, warmup_max_s=1, rounds=2, lead_in_runs=0, min_runs=100, min_s=0, max_s=4)
    taken = one(ScriptedBackend(ScriptedClock(), lambda run: 500.0), config)
    assert taken.round_runs == (4, 4)  # 2 s a round
    assert taken.verdict.level == "INVALID"
    assert taken.verdict.reasons == ("8 runs, 20 needed",)


def test_a_fast_network_runs_for_its_minimum_time() -> None:
    config = MeasureConfig(warmup_s=0, warmup_max_s=1, rounds=2, lead_in_runs=0, min_runs=10, min_s=1, max_s=4)
    assert one(ScriptedBackend(ScriptedClock(), lambda run: 1.0), config).stats.n == 1000


def test_cpu_time_stands_beside_wall_time_and_tells_of_other_programs() -> None:
    clock = ScriptedClock()
    taken = one(ScriptedBackend(clock, lambda run: 10.0, cpu_clock=ScriptedClock(), cpu_share=0.7))
    assert taken.cpu_stats is not None
    assert taken.cpu_stats.p50_ms == pytest.approx(7.0)
    assert taken.verdict.level == "UNSTABLE"
    assert "30 %" in taken.verdict.reasons[0]


def test_a_cpu_clock_that_stands_still_gives_no_cpu_time() -> None:
    taken = one(ScriptedBackend(ScriptedClock(), lambda run: 10.0, cpu_clock=ScriptedClock(), cpu_share=0))
    assert taken.cpu_stats is None
    assert taken.verdict.level == "VALID"


def test_device_clock_is_kept_apart_and_a_gpu_names_the_device() -> None:
    taken = one(ScriptedBackend(ScriptedClock(), lambda run: 3.0, name="tensorrt", device_ms=2.5))
    assert taken.device_stats is not None
    assert (taken.stats.p50_ms, taken.device_stats.p50_ms) == (3.0, 2.5)
    assert taken.measurement_conditions().device == "Test GPU"


def test_measurement_conditions_say_what_the_number_means() -> None:
    taken = one(ScriptedBackend(ScriptedClock(), lambda run: 3.0))
    assert taken.measurement_conditions() == MeasurementConditions(
        statistic="p50", batch=2, precision="fp32", backend="torch-cpu", device="Test CPU, 2 cores, 1 thread"
    )
    with pytest.raises(MeasurementError, match="p90 needs 64 runs"):
        taken.measurement_conditions("p90")


def test_measurement_survives_json_with_its_raw_samples() -> None:
    taken = one(ScriptedBackend(ScriptedClock(), lambda run: 3.0 + run % 5, device_ms=1.0))
    read = Measurement.from_dict(json.loads(json.dumps(taken.to_dict())))
    assert read == taken
    assert len(read.samples_ms) == 30
    before = {name: value for name, value in taken.to_dict().items() if name != "instances_ms"}
    assert Measurement.from_dict(json.loads(json.dumps(before))) == taken  # files of version 0.1 lack it
    with pytest.raises(CheckpointError, match="measurement lacks 'backend'"):
        Measurement.from_dict({"name": "a"})


def note_of(seen: list[tuple[str, int, int, str]]) -> Progress:
    def note(work: str, done: int, total: int, note: str = "") -> None:
        seen.append((work, done, total, note))

    return note


def test_progress_counts_visits_to_the_end_and_no_warm_up() -> None:
    """A warm-up that does not settle takes many times a visit, so that the time left would be many times too long."""
    seen: list[tuple[str, int, int, str]] = []
    clock = ScriptedClock()
    backends = {name: ScriptedBackend(clock, lambda run: 1.0) for name in "ab"}
    measure(backends, QUICK, clock=clock, cpu_clock=clock, device=FACTS, progress=note_of(seen))
    assert seen[:2] == [("measure latency", 0, 6, "a warms up"), ("measure latency", 0, 6, "b warms up")]
    assert seen[2:] == [("measure latency", done, 6, "") for done in range(7)]


def test_garbage_collection_is_back_afterwards_even_after_a_failure() -> None:
    def fail(run: int) -> float:
        assert not gc.isenabled()
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        one(ScriptedBackend(ScriptedClock(), fail))
    assert gc.isenabled()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"min_runs": 0},
        {"settle": -1.0},
        {"warmup_s": 5.0, "warmup_max_s": 1.0},
        {"min_s": 9.0, "max_s": 1.0},
        {"min_s": math.nan, "max_s": math.nan},
        {"max_s": math.inf},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MeasurementError):
        MeasureConfig(**wrong)  # type: ignore[arg-type]


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(MeasurementError, match="nothing to measure"):
        measure({}, device=FACTS)


def test_a_real_graph_is_measured_by_onnx_runtime() -> None:
    config = MeasureConfig(warmup_s=0.01, warmup_max_s=0.1, rounds=2, min_runs=70, min_s=0.01, max_s=5)
    with OnnxRuntimeBackend(reference_network(), batch=REFERENCE_ROWS, threads=1) as backend:
        taken = measure({"reference": backend}, config)["reference"]
    assert (taken.backend, taken.batch, taken.threads, taken.settings) == ("onnxruntime-cpu", 64, 1, {"spinning": "off"})
    assert taken.stats.n >= 70
    assert taken.stats.p90_ms is not None
    assert 0 < taken.stats.min_ms <= taken.stats.p50_ms <= taken.stats.p90_ms <= taken.stats.max_ms
    if sys.platform == "linux":
        assert taken.cpu_stats is not None
        assert taken.cpu_stats.min_ms < 1.5 * taken.stats.max_ms  # one thread cannot use more than the wall gave it
