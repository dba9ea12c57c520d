"""What a machine says of itself while it is measured: clocks, temperatures, power, throttling, and who else runs.

Sensors are read between timed runs, never during one of this process. `MachineSensors` reads this machine: the CPU from the
system's files, the GPU as `gpu_sensors` does. What the machine does not say is None. A test gives its own `Sensors`.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoformer.profiling.measuring.gpu_sensors import GpuReading, GpuSensors, gpu_sensors
from autoformer.profiling.measuring.system_files import cpu_temperature_c, number_of, text_of


@dataclass(frozen=True)
class Reading:
    """One look at the machine, `seconds` after the measurement began."""

    seconds: float
    cpu_clock_mhz: float | None = None  # mean over the cores of this process
    cpu_temperature_c: float | None = None
    cpu_throttles: int | None = None  # times that a core was slowed down for its heat, since the machine was started
    busy_cpu_s: float | None = None  # spent by everybody on the cores of this process
    own_cpu_s: float | None = None  # spent by this process, and by the one that it measures
    gpu: GpuReading | None = None


class Sensors(Protocol):
    """Something that can be asked how the machine is."""

    def read(self, seconds: float) -> Reading:
        """How the machine is now, marked with `seconds`."""


class MachineSensors:
    """The sensors of this machine. `root` is where its /proc and /sys are looked up; `gpu` None finds the GPU by itself."""

    def __init__(self, root: Path = Path("/"), gpu: GpuSensors | None = None) -> None:
        self._root = root
        self._gpu = gpu or gpu_sensors(root)
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
        self._ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

    def read(self, seconds: float) -> Reading:
        """How the machine is now, marked with `seconds`. Takes about a millisecond."""
        times = os.times()
        return Reading(
            seconds=seconds,
            cpu_clock_mhz=self._cpu_clock_mhz(),
            cpu_temperature_c=cpu_temperature_c(self._root),
            cpu_throttles=self._throttles(),
            busy_cpu_s=self._busy_s(),
            own_cpu_s=times.user + times.system,
            gpu=None if self._gpu is None else self._gpu.read(),
        )

    def _cpu_files(self, name: str) -> list[float]:
        found = (number_of(self._root / f"sys/devices/system/cpu/cpu{core}/{name}") for core in self._cores)
        return [number for number in found if number is not None]

    def _cpu_clock_mhz(self) -> float | None:
        clocks = self._cpu_files("cpufreq/scaling_cur_freq")  # kHz
        return sum(clocks) / len(clocks) / 1000 if clocks else None

    def _throttles(self) -> int | None:
        counts = self._cpu_files("thermal_throttle/core_throttle_count")
        return int(sum(counts)) if counts else None

    def _busy_s(self) -> float | None:
        """Time that was not idle, from /proc/stat: user, nice, system, irq and softirq of the cores of this process."""
        wanted, busy = {f"cpu{core}" for core in self._cores}, 0.0
        for line in (text_of(self._root / "proc/stat") or "").splitlines():
            name, *ticks = line.split()
            if name in wanted and len(ticks) >= 7:
                user, nice, system, _, _, irq, softirq = (int(tick) for tick in ticks[:7])
                busy += (user + nice + system + irq + softirq) / self._ticks
        return busy or None


@contextmanager
def sampled(sensors: Sensors, clock: Callable[[], float], interval_s: float) -> Iterator[list[Reading]]:
    """Readings that a thread takes every `interval_s` while the block runs, each marked with what `clock` says."""
    readings: list[Reading] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(interval_s):
            readings.append(sensors.read(clock()))

    thread = threading.Thread(target=sample, name="sensors", daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        ended.set()
        thread.join()


def process_cpu_s(process: int, root: Path = Path("/")) -> float | None:
    """CPU time that a process has spent over all its threads, in seconds; None where the system does not say."""
    said = (text_of(root / f"proc/{process}/stat") or "").rpartition(")")[2].split()  # its name may hold spaces
    if len(said) < 13 or not hasattr(os, "sysconf"):
        return None
    return (int(said[11]) + int(said[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime, the 14th and 15th of proc(5)
