"""Times several loaded networks against each other: warm-up until the median settles, then interleaved rounds.

Interleaving lets drift of the machine fall on all alike: every round visits every network, in one order and then in the
other (A B, B A, …), so that what grows evenly cancels. After each change a few runs refill the caches and are not kept;
every run after them is. Wall time is what the caller of one inference sees, waiting included; the process's CPU time
stands beside it, and the device's own clock where there is one. Input and output stay where the backend has put them, and
preparing images is never included. Garbage collection waits until the end.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import gc
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from autoformer.conditions import MeasurementConditions
from autoformer.errors import MeasurementError, short
from autoformer.profiling.measuring.backend import Enqueues, LatencyBackend
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.machine_state import MachineState
from autoformer.profiling.measuring.order_statistics import LatencyStats, percentile
from autoformer.profiling.measuring.sensors import MachineSensors, Reading, Sensors
from autoformer.profiling.measuring.verdict import LEVELS, Gates, Verdict, judge
from autoformer.progress import Progress, silent
from autoformer.records import fields_to_json, from_json

Clock = Callable[[], int]  # nanoseconds

KINDS_OF_SAMPLES = ("samples_ms", "cpu_samples_ms", "device_samples_ms", "enqueue_samples_ms")  # fields of a `Measurement`
MOST_IMAGES = 10**9  # in one run
WINDOWS = 3  # as many warm-up windows must agree
NOT_LOCKED = "not locked"
STEADY_CLOCK = 0.01  # relative spread of the GPU's clock after them, from highest to lowest


@dataclass(frozen=True)
class MeasureConfig:
    """How long to measure. Times are per network. Raises `MeasurementError` for impossible values."""

    warmup_s: float = 0.3  # at least
    warmup_max_s: float = 3.0  # at most, settled or not
    warmup_window: int = 10  # runs whose median is one reading
    settle: float = 0.03  # relative spread of the last three readings below which the warm-up ends
    rounds: int = 5  # interleaved visits of each network
    lead_in_runs: int = 2  # at each visit, not kept
    min_runs: int = 100  # over all rounds
    min_s: float = 1.0  # over all rounds
    max_s: float = 20.0  # over all rounds; ends a network that is too slow for min_runs

    def __post_init__(self) -> None:
        for name in ("warmup_s", "warmup_max_s", "settle", "min_s", "max_s"):
            if not math.isfinite(getattr(self, name)):
                raise MeasurementError(f"{name} must be a number of finite size, got {getattr(self, name)}")
        for name in ("warmup_window", "rounds", "min_runs", "max_s"):
            if getattr(self, name) <= 0:
                raise MeasurementError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_s", "settle", "lead_in_runs", "min_s"):
            if getattr(self, name) < 0:
                raise MeasurementError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.warmup_max_s < self.warmup_s or self.max_s < self.min_s:
            raise MeasurementError(
                f"a time limit is below its minimum: warm-up {self.warmup_s} to {self.warmup_max_s} s, "
                f"measurement {self.min_s} to {self.max_s} s"
            )

    @classmethod
    def lasting(cls, seconds: float) -> MeasureConfig:
        """So many seconds of measuring per network; four times as many where it is too slow for `min_runs`."""
        return cls(min_s=seconds, max_s=4 * seconds)


@dataclass(frozen=True)
class Warmup:
    """What was run before anything was kept."""

    runs: int
    seconds: float
    settled: bool  # whether the medians agreed before the time limit


@dataclass(frozen=True)
class Measurement:
    """The times of one network on one backend, with everything needed to know what they mean."""

    name: str
    backend: str
    precision: str
    batch: int  # images in one run; times are per run
    threads: int | None
    settings: Mapping[str, str]
    device: DeviceFacts
    warmup: Warmup
    stats: LatencyStats  # wall time, waiting included
    cpu_stats: LatencyStats | None  # process CPU time over all threads; None where its clock is too coarse
    device_stats: LatencyStats | None  # by the device's own clock, where it has one
    verdict: Verdict
    samples_ms: tuple[float, ...] = field(repr=False)  # wall times in the order they were taken
    cpu_samples_ms: tuple[float, ...] = field(repr=False)
    device_samples_ms: tuple[float, ...] = field(repr=False)
    round_runs: tuple[int, ...]  # samples of each round
    instances_ms: tuple[float, ...] = ()  # medians of the sessions that were joined into this, where there were several
    enqueue_samples_ms: tuple[float, ...] = field(default=(), repr=False)  # host time of handing the work to a GPU
    conditions: MachineState | None = field(default=None, repr=False)  # None where no sensors were read

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= MOST_IMAGES:
            raise MeasurementError(f"batch of {short(self.name, 40)!r} is {short(self.batch, 40)}, expected 1 or more images")

    @property
    def metrics(self) -> dict[str, LatencyStats]:
        """The figures by the names that reports and files use: wall_ms (e2e_ms with copies), cpu_ms, gpu_ms, enqueue_ms."""
        wall = "e2e_ms" if self.settings.get("copies") == "included" else "wall_ms"
        enqueue = stats_or_none(self.enqueue_samples_ms)
        found = {wall: self.stats, "cpu_ms": self.cpu_stats, "gpu_ms": self.device_stats, "enqueue_ms": enqueue}
        return {name: stats for name, stats in found.items() if stats is not None}

    @property
    def images_per_s(self) -> float:
        """Images per second, one run after the other, at the median."""
        return 1000 * self.batch / self.stats.p50_ms

    @property
    def gpu_clock(self) -> str | None:
        """How the GPU's clock was, "locked at 1755 MHz" or "not locked"; None on a CPU, and where nothing tells it."""
        said = self.conditions
        if self.backend.endswith("-cpu") or said is None or said.clocks_locked is None:
            return None
        if not said.clocks_locked:
            return NOT_LOCKED
        return "locked" if said.locked_clock_mhz is None else f"locked at {said.locked_clock_mhz:g} MHz"

    def measurement_conditions(self, statistic: str = "p50") -> MeasurementConditions:
        """What a wall latency of this measurement means. Raises `MeasurementError` where the runs do not carry `statistic`."""
        self.stats.value(statistic)
        return MeasurementConditions(
            statistic=statistic,
            batch=self.batch,
            precision=self.precision,
            backend=self.backend,
            device=device_name(self.device, self.backend, self.threads),
        )

    def with_samples(self, **changes: Any) -> Measurement:
        """The same with some fields changed, samples above all: figures and verdict are made anew from what is there then."""
        changed = replace(self, **changes)
        samples = {kind: getattr(changed, kind) for kind in KINDS_OF_SAMPLES}
        return replace(changed, **judged(changed.backend, samples, changed.conditions))

    def believed(self) -> Measurement:
        """For one that came from a file: the same, with the verdict of its samples and conditions where that is worse.

        Raises `MeasurementError` where its figures are not those of its samples.
        """
        again = self.with_samples()
        if (self.stats, self.cpu_stats, self.device_stats) != (again.stats, again.cpu_stats, again.device_stats):
            raise MeasurementError(f"the figures of {short(self.name, 40)!r} are not those of its samples")
        return again if LEVELS.index(again.verdict.level) > LEVELS.index(self.verdict.level) else self

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, raw samples included; `from_dict` reads it back."""
        return fields_to_json(self)

    @classmethod
    def from_dict(cls, values: object) -> Measurement:
        """Reads the JSON form, of earlier versions too.

        Raises `CheckpointError` for what a measurement does not hold, `MeasurementError` for an impossible verdict or batch.
        """
        read = from_json(cls, values, "measurement")
        cpu, gpu = read.cpu_stats, read.device_stats
        return replace(
            read,
            stats=read.stats.with_tails(read.samples_ms),
            cpu_stats=cpu and cpu.with_tails(read.cpu_samples_ms),
            device_stats=gpu and gpu.with_tails(read.device_samples_ms),
        )


def device_name(device: DeviceFacts, backend: str, threads: int | None) -> str:
    """The device as measurement conditions name it: CPU, cores and threads in use, or the GPU."""
    if not backend.endswith("-cpu"):
        return device.gpu_name
    return device.short_name + ("" if threads is None else f", {threads} thread{'' if threads == 1 else 's'}")


def threads_of(measurement_conditions: MeasurementConditions) -> int | None:
    """The CPU threads that `device_name` wrote into measurement conditions; None where it names none."""
    named = re.search(r", (\d+) threads?$", measurement_conditions.device)
    return int(named[1]) if named else None


@dataclass
class _Taken:
    """Samples of one network while they are collected."""

    samples_ms: list[float] = field(default_factory=list)
    cpu_samples_ms: list[float] = field(default_factory=list)
    device_samples_ms: list[float] = field(default_factory=list)
    enqueue_samples_ms: list[float] = field(default_factory=list)
    visits: list[tuple[Reading, Reading]] = field(default_factory=list)
    round_runs: list[int] = field(default_factory=list)


def measure(
    backends: Mapping[str, LatencyBackend],
    config: MeasureConfig = MeasureConfig(),
    *,
    clock: Clock = time.perf_counter_ns,
    cpu_clock: Clock = time.process_time_ns,
    device: DeviceFacts | None = None,
    sensors: Sensors | None = None,
    progress: Progress | None = None,
) -> dict[str, Measurement]:
    """Measures all `backends` interleaved, under the names they are given. They stay open; the caller closes them.

    `device` None collects the facts of this machine before the first run, and reads its sensors unless others are given; with a
    device and no sensors none are read. Raises `MeasurementError` for an empty mapping.
    """
    if not backends:
        raise MeasurementError("nothing to measure; give at least one network")
    facts = device or DeviceFacts.collect()
    if device is None and sensors is None:
        sensors = MachineSensors()
    look = _Look(sensors, clock)
    at_rest = look()
    tell, steps, done = progress or silent, len(backends) * config.rounds, 0
    taken = {name: _Taken() for name in backends}
    warmups = {}
    with _no_garbage_collection():
        for name, backend in backends.items():
            tell("measure latency", 0, steps, f"{name} warms up")  # how long that takes says nothing of the rest
            warmups[name] = warm_up(backend, config, clock, look.gpu_clock_mhz if _on_gpu(backend) else None)
        tell("measure latency", 0, steps)
        for index in range(config.rounds):
            for name in list(backends) if index % 2 == 0 else reversed(list(backends)):
                before = look()
                _visit(backends[name], config, taken[name], clock, cpu_clock)
                if before is not None and (after := look()) is not None:
                    taken[name].visits.append((before, after))
                done += 1
                tell("measure latency", done, steps)
    return {name: _finish(name, backends[name], facts, warmups[name], taken[name], at_rest) for name in backends}


class _Look:
    """Reads the sensors, where there are any, with the seconds since the measurement began."""

    def __init__(self, sensors: Sensors | None, clock: Clock) -> None:
        self._sensors, self._clock, self._start = sensors, clock, clock()

    def __call__(self) -> Reading | None:
        return None if self._sensors is None else self._sensors.read((self._clock() - self._start) / 1e9)

    def gpu_clock_mhz(self) -> float | None:
        """What the GPU's clock is just now."""
        reading = self()
        return None if reading is None or reading.gpu is None else reading.gpu.clock_mhz


def warm_up(
    backend: LatencyBackend,
    config: MeasureConfig,
    clock: Clock = time.perf_counter_ns,
    clock_mhz: Callable[[], float | None] | None = None,
) -> Warmup:
    """Runs until the medians of the last three windows agree within `settle`, or the time limit is reached.

    `clock_mhz` tells the clock of the device after each window, which must have settled too; None where it is not known.
    """
    start, runs = clock(), 0
    medians: list[float] = []
    clocks_mhz: list[float] = []
    while True:
        window = []
        for _ in range(config.warmup_window):
            before = clock()
            backend.run()
            after = clock()
            window.append(float(after - before))
            runs += 1
            if after - start >= config.warmup_max_s * 1e9:
                break
        medians.append(percentile(sorted(window), 50))
        last = medians[-WINDOWS:]
        settled = len(last) == WINDOWS and max(last) - min(last) <= config.settle * min(last)
        if clock_mhz is not None and (now_mhz := clock_mhz()) is not None:
            clocks_mhz.append(now_mhz)
            highest = max(clocks_mhz[-WINDOWS:])
            settled &= len(clocks_mhz) >= WINDOWS and highest - min(clocks_mhz[-WINDOWS:]) <= STEADY_CLOCK * highest
        seconds = (clock() - start) / 1e9
        if seconds >= config.warmup_max_s or (settled and seconds >= config.warmup_s):
            return Warmup(runs, seconds, settled)


def _visit(backend: LatencyBackend, config: MeasureConfig, taken: _Taken, clock: Clock, cpu_clock: Clock) -> None:
    """One network's part of one round."""
    for _ in range(config.lead_in_runs):
        backend.run()
    needed = -(-config.min_runs // config.rounds)
    enqueues = backend if isinstance(backend, Enqueues) else None
    runs, start, elapsed = 0, clock(), 0.0
    while (runs < needed or elapsed < config.min_s / config.rounds) and elapsed < config.max_s / config.rounds:
        cpu_before, before = cpu_clock(), clock()
        device_ms = backend.run()
        after, cpu_after = clock(), cpu_clock()
        taken.samples_ms.append((after - before) / 1e6)
        taken.cpu_samples_ms.append((cpu_after - cpu_before) / 1e6)
        if device_ms is not None:
            taken.device_samples_ms.append(device_ms)
        if enqueues is not None and enqueues.enqueue_ms is not None:
            taken.enqueue_samples_ms.append(enqueues.enqueue_ms)
        runs, elapsed = runs + 1, (after - start) / 1e9
    taken.round_runs.append(runs)


def _finish(
    name: str, backend: LatencyBackend, facts: DeviceFacts, warmup: Warmup, taken: _Taken, at_rest: Reading | None
) -> Measurement:
    conditions = None
    if taken.visits:
        on_gpu = _on_gpu(backend)
        conditions = MachineState.of(
            taken.visits, on_gpu=on_gpu, cores=facts.cores, threads=backend.threads, load_average=facts.load_average,
            # a Jetson's are those of its processor too
            clocks_locked=facts.clocks_locked if on_gpu or facts.jetson else None, at_rest=at_rest,
        )  # fmt: skip
    samples = {kind: tuple(getattr(taken, kind)) for kind in KINDS_OF_SAMPLES}
    return Measurement(
        name=name, backend=backend.name, precision=backend.precision, batch=backend.batch, threads=backend.threads,
        settings=dict(backend.settings), device=facts, warmup=warmup, round_runs=tuple(taken.round_runs), conditions=conditions,
        **judged(backend.name, samples, conditions),
    )  # fmt: skip


def judged(backend: str, samples: Mapping[str, tuple[float, ...]], conditions: MachineState | None) -> dict[str, Any]:
    """Samples by `KINDS_OF_SAMPLES`, and what follows from them, as fields of a `Measurement`: statistics and the verdict."""
    stats = LatencyStats.from_samples(samples["samples_ms"])
    cpu, gpu, enqueue = (stats_or_none(samples[kind]) for kind in KINDS_OF_SAMPLES[1:])
    verdict = judge(stats, Gates.for_backend(backend), cpu=cpu, gpu=gpu, enqueue=enqueue, conditions=conditions)
    return {**samples, "stats": stats, "cpu_stats": cpu, "device_stats": gpu, "verdict": verdict}


def _on_gpu(backend: LatencyBackend) -> bool:
    return not backend.name.endswith("-cpu")


def stats_or_none(samples_ms: Sequence[float]) -> LatencyStats | None:
    """The figures of `samples_ms`; None without samples, or where a clock too coarse gave zeros."""
    return LatencyStats.from_samples(samples_ms) if samples_ms and min(samples_ms) > 0 else None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
