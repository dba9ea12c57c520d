"""Sensors around trtexec: what they say of the timed part flips the verdict, and trtexec itself disturbs nobody.

The scripted program runs until the scripted sensors have been read as often as a test wants, and the clock is scripted: it stands
still while the program loads, jumps by 100 s when it begins, and moves by 0.1 s at each reading from then on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from autoformer.export.engines.trtexec import Listener, PlanInput, Timing, Trtexec, TrtexecTimes
from autoformer.export.engines.trtexec_output import read_trace_s
from autoformer.profiling.measuring.gpu_sensors import GpuReading
from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.sensors import Reading, process_cpu_s
from autoformer.profiling.measuring.trtexec_runs import trtexec_measurement, watched
from tests.support.devices import system
from tests.support.measurements import FACTS
from tests.support.scripted_trtexec import write_trtexec

INPUT = PlanInput("image", (3, 32, 32))
STEADY = GpuReading(clock_mhz=1500, temperature_c=50, power_w=30, processes=1)
IDLE = replace(STEADY, clock_mhz=300, temperature_c=30, throttle=("power cap",), processes=4)  # while it loads: counts nowhere
AT_REST = Reading(0, gpu=IDLE)
READINGS = 8


@dataclass
class ScriptedMachine:
    """Sensors, a clock and the end of trtexec's inference: `reading(k)` is the k-th (from 0) since the inference began."""

    reading: Callable[[int], Reading]
    enough: Path
    begun: bool = False
    taken: int = 0
    now_s: float = 0.0
    process: int | None = None

    def clock(self) -> float:
        return self.now_s

    def read(self, seconds: float) -> Reading:
        if not self.begun or seconds < 100:  # asked for before it began
            return Reading(seconds, gpu=IDLE, own_cpu_s=0.0, busy_cpu_s=0.0)
        found = replace(self.reading(self.taken), seconds=seconds)
        self.taken, self.now_s = self.taken + 1, self.now_s + 0.1
        if self.taken == READINGS:
            self.enough.touch()
        return found

    def around(self, listener: Listener) -> Listener:
        """The listener, after whom this machine hears as well."""
        machine = self

        class Both:
            def started(self, process: int) -> None:
                machine.process = process
                listener.started(process)

            def heard(self, line: str) -> None:
                listener.heard(line)
                if "Starting inference" in line:
                    machine.now_s += 100
                    machine.begun = True

        return Both()


def taken(tmp_path: Path, reading: Callable[[int], Reading], cpu_s: float = 0.0) -> Measurement:
    """A measurement by trtexec 10.3 of 100 runs of 100 ms, whose process has spent `cpu_s` of CPU time at each reading."""
    enough = tmp_path / "enough"
    program = Trtexec.find(write_trtexec(tmp_path / "bin", gpu_ms=(100.0,), until=enough))
    plan, machine = tmp_path / "model.plan", ScriptedMachine(reading, enough)
    plan.write_text('{"graph": "model.onnx", "version": "10.3.0", "flags": {}}')

    def run(listener: Listener) -> TrtexecTimes:
        return program.time(plan, INPUT, Timing(cuda_graph=False, min_runs=100), machine.around(listener))

    def process_time(process: int) -> float:
        assert process == machine.process
        return cpu_s * machine.taken

    times, conditions = watched(run, machine, FACTS, AT_REST, clock=machine.clock, interval_s=0.001, process_time=process_time)
    return trtexec_measurement("model.plan", times, precision="fp16", device=FACTS, conditions=conditions)


def on_gpu(tmp_path: Path, gpu: Callable[[int], GpuReading]) -> Measurement:
    return taken(tmp_path, lambda index: Reading(0, gpu=gpu(index)))


def test_steady_sensors_leave_a_steady_run_of_trtexec_valid(tmp_path: Path) -> None:
    found = on_gpu(tmp_path, lambda index: STEADY)
    assert (found.verdict.level, found.verdict.reasons) == ("VALID", ())
    assert found.conditions is not None
    assert (found.conditions.clock_change, found.conditions.temperature_rise_c) == (0, 0)
    assert found.conditions.other_gpu_processes == 0  # the one that is seen is trtexec
    assert (found.conditions.clocks_locked, found.gpu_clock) == (False, "not locked")  # it was 300 MHz before
    assert found.conditions.load_average == FACTS.load_average
    assert found.conditions.throttle == ()
    assert len(found.conditions.readings) >= READINGS
    assert found.stats.p50_ms == 100.0
    assert Measurement.from_dict(found.to_dict()) == found


def test_a_throttle_bit_seen_while_trtexec_runs_flips_the_verdict(tmp_path: Path) -> None:
    found = on_gpu(tmp_path, lambda index: replace(STEADY, throttle=("heat (driver)",)) if index == 3 else STEADY)
    assert (found.verdict.level, found.verdict.reasons) == ("UNSTABLE", ("throttled: heat (driver)",))


@pytest.mark.parametrize(("low", "level"), [(1440, "VALID"), (1410, "UNSTABLE")])  # 4 and 6 % below 1500
def test_a_clock_that_changes_while_trtexec_runs_flips_the_verdict(tmp_path: Path, low: float, level: str) -> None:
    found = on_gpu(tmp_path, lambda index: replace(STEADY, clock_mhz=low) if index == 4 else STEADY)
    assert found.verdict.level == level
    assert found.conditions is not None
    assert found.conditions.clock_change == pytest.approx(1 - low / 1500)
    if level != "VALID":
        assert found.verdict.reasons == ("the clock changed by 6 %, limit 5 %",)


@pytest.mark.parametrize(("degrees", "level"), [(9, "VALID"), (11, "UNSTABLE")])
def test_a_gpu_that_trtexec_heats_up_flips_the_verdict(tmp_path: Path, degrees: float, level: str) -> None:
    found = on_gpu(tmp_path, lambda index: replace(STEADY, temperature_c=50 + degrees * min(index, 5) / 5))
    assert found.verdict.level == level
    assert found.verdict.reasons == (() if level == "VALID" else ("the temperature rose by 11 °C, limit 10 °C",))


def test_a_process_on_the_gpu_beside_trtexec_flips_the_verdict(tmp_path: Path) -> None:
    found = on_gpu(tmp_path, lambda index: replace(STEADY, processes=2))
    assert (found.verdict.level, found.verdict.reasons) == ("UNSTABLE", ("processes on the GPU beside this one: 1",))


def test_the_cores_that_trtexec_keeps_busy_are_no_other_programs(tmp_path: Path) -> None:
    # From one reading to the next 0.1 s pass: all cores together are busy for 0.17 s, this program for 0.01 s and trtexec, which
    # waits for the GPU in a loop, for 0.1 s. Others: 0.06 s in 0.1 s.
    found = taken(tmp_path, lambda index: Reading(0, gpu=STEADY, own_cpu_s=0.01 * index, busy_cpu_s=0.17 * index), cpu_s=0.1)
    assert found.conditions is not None
    assert found.conditions.other_cores == pytest.approx(0.6)
    assert found.verdict.level == "VALID"  # on a GPU they are recorded and not judged


def test_a_host_slower_than_the_gpu_flips_the_verdict_of_trtexec_too(tmp_path: Path) -> None:
    times = TrtexecTimes(
        latency_ms=(1.0,) * 30, gpu_ms=(1.0,) * 30, enqueue_ms=(0.9,) * 30, batch=1, warmup_runs=5, warmup_s=0.2, gpu="Orin",
        settings={}, command=(),
    )  # fmt: skip
    found = trtexec_measurement("model.plan", times, precision="fp16", device=FACTS)
    assert found.verdict.reasons == ("host bound: handing the work over takes 90 % of the GPU's time, limit 80 %",)
    assert found.metrics["enqueue_ms"].p50_ms == 0.9


def test_a_run_that_fails_says_why_and_leaves_no_thread(tmp_path: Path) -> None:
    program = Trtexec.find(write_trtexec(tmp_path / "bin", fails={"--loadEngine": "[TRT] no memory"}))
    machine = ScriptedMachine(lambda index: Reading(0, gpu=STEADY), tmp_path / "enough")
    with pytest.raises(Exception, match=r"cannot time .*no memory"):
        watched(lambda listener: program.time(tmp_path / "x.plan", INPUT, listener=listener), machine, FACTS, AT_REST)


def test_trtexec_ends_when_whoever_listens_to_it_is_stopped(tmp_path: Path) -> None:
    program = Trtexec.find(write_trtexec(tmp_path / "bin", until=tmp_path / "never"))
    plan, processes = tmp_path / "model.plan", list[int]()
    plan.write_text('{"graph": "model.onnx", "version": "10.3.0", "flags": {}}')

    class Stopped:
        def started(self, process: int) -> None:
            processes.append(process)

        def heard(self, line: str) -> None:
            if "Starting inference" in line:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        program.time(plan, INPUT, listener=Stopped())
    with pytest.raises(ProcessLookupError):  # it was ended and waited for
        os.kill(processes[0], 0)


def test_the_length_of_the_timed_part_is_read_from_the_line_of_a_real_program() -> None:
    assert read_trace_s("[04/11/2025-15:15:52] [I] Timing trace has 101 queries over 3.08403 s\n") == 3.08403
    assert read_trace_s("[04/11/2025-15:15:52] [I] Warmup completed 14 queries over 500 ms\n") is None
    assert read_trace_s("[I] Timing trace has 0 queries over 0 s") is None


def test_the_cpu_time_of_a_process_is_read_from_the_system(tmp_path: Path) -> None:
    # Linux counts 100 ticks a second; 250 in user mode and 50 in the kernel. The name of a program may hold anything.
    root = system(tmp_path, {"proc/77/stat": "77 (trt) exec (x) S 1 77 77 0 -1 4194560 900 0 0 0 250 50 7 9 20 0 3 0 100 0 0"})
    assert process_cpu_s(77, root) == 3.0
    assert process_cpu_s(78, root) is None
    before, own, after = os.times(), process_cpu_s(os.getpid()), os.times()
    assert own is not None
    assert before.user + before.system - 0.05 <= own <= after.user + after.system + 0.05
