"""A run of `trtexec` as a `Measurement`: its times, and the state of the machine while it took them.

trtexec is a process of its own, so the sensors are read five times a second while it runs. The readings of its timed part
count: it loads and warms up before, with clocks that still move, and prints how long the timed part was as soon as that is
over; so it is known afterwards which readings fell into it. The CPU time of its process counts as our own, and one of the
processes on the GPU is trtexec.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from autoformer.export.engines.trtexec import Listener, TrtexecTimes
from autoformer.export.engines.trtexec_output import read_trace_s
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.machine_state import MachineState
from autoformer.profiling.measuring.measure import Measurement, Warmup, judged
from autoformer.profiling.measuring.sensors import Reading, Sensors, process_cpu_s, sampled

BACKEND = "trtexec"
INTERVAL_S = 0.2  # a reading takes about a millisecond of another core than the one that waits for the GPU

ProcessTime = Callable[[int], float | None]  # CPU seconds of a process by its number


class _Watch:
    """A `Listener`, and the `Sensors` of the machine with the CPU time of the process that it listens to."""

    def __init__(self, sensors: Sensors, clock: Callable[[], float], process_time: ProcessTime) -> None:
        self._sensors, self._clock, self._process_time = sensors, clock, process_time
        self._process: int | None = None
        self.timed: tuple[float, float] | None = None  # seconds: when the timed part began and when it ended

    def started(self, process: int) -> None:
        """See `Listener`."""
        self._process = process

    def heard(self, line: str) -> None:
        """See `Listener`."""
        if (seconds := read_trace_s(line)) is not None:
            now = self._clock()
            self.timed = (now - seconds, now)

    def read(self, seconds: float) -> Reading:
        """See `Sensors`."""
        process = self._process
        spent = None if process is None else self._process_time(process)
        found = self._sensors.read(seconds)
        if spent is None or found.own_cpu_s is None:
            return found
        return replace(found, own_cpu_s=found.own_cpu_s + spent)


def watched(
    run: Callable[[Listener], TrtexecTimes],
    sensors: Sensors,
    device: DeviceFacts,
    at_rest: Reading,
    *,
    clock: Callable[[], float] = time.monotonic,
    interval_s: float = INTERVAL_S,
    process_time: ProcessTime = process_cpu_s,
) -> tuple[TrtexecTimes, MachineState]:
    """What `run` gives, and the state of the machine while it was timed; `at_rest` is a reading from before anything ran.

    Raises what `run` raises.
    """
    start = clock()

    def now() -> float:
        return clock() - start

    watch = _Watch(sensors, now, process_time)
    with sampled(watch, now, interval_s) as readings:
        times = run(watch)
    begin, end = watch.timed or (0.0, 0.0)
    during = [reading for reading in readings if begin <= reading.seconds <= end]
    conditions = MachineState.of(
        list(pairwise(during)),
        on_gpu=True,
        cores=device.cores,
        threads=None,
        load_average=device.load_average,
        clocks_locked=device.clocks_locked,
        at_rest=at_rest,
    )
    return times, conditions


def trtexec_measurement(
    name: str, times: TrtexecTimes, *, precision: str, device: DeviceFacts | None = None, conditions: MachineState | None = None
) -> Measurement:
    """One visit of trtexec to one engine, under the `conditions` that `watched` gave.

    `device` None collects the facts of this machine. Raises `MeasurementError`.
    """
    samples = {
        "samples_ms": times.latency_ms, "cpu_samples_ms": (), "device_samples_ms": times.gpu_ms,
        "enqueue_samples_ms": times.enqueue_ms,
    }  # fmt: skip
    return Measurement(
        name=name, backend=BACKEND, precision=precision, batch=times.batch, threads=None, settings=times.settings,
        device=device or DeviceFacts.collect(), warmup=Warmup(runs=times.warmup_runs, seconds=times.warmup_s, settled=False),
        round_runs=(len(times.latency_ms),), conditions=conditions, **judged(BACKEND, samples, conditions),
    )  # fmt: skip
