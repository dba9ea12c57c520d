"""`MachineState`: the machine while one network ran, put together for the verdict from what the sensors said around its visits.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from autoformer.errors import CheckpointError
from autoformer.profiling.measuring.sensors import Reading
from autoformer.records import fields_to_json, from_json

SHORTEST_S = 0.5  # of all visits, to tell who was busy: the system counts in hundredths of a second, on every core
LATER = {"visits_s", "locked_clock_mhz"}  # files of earlier versions do not have them
LOCKED_MHZ = 15  # one step of an NVIDIA GPU's clock: a clock that moves by no more is held
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """The state of the machine while one network ran; None where it does not say.

    `readings` were taken before the first visit and after each. Clock and temperature are the
    GPU's for a network on the GPU, else the CPU's.
    """

    load_average: float | None = None  # over the minute before
    clock_change: float | None = None  # of the clock after each visit: 1 - lowest / highest
    clocks_locked: bool | None = None  # whether the clock could not move
    locked_clock_mhz: float | None = None  # of a GPU: where it was held, if it was
    temperature_rise_c: float | None = None  # from before the first visit to after the last
    throttle: tuple[str, ...] = ()  # every reason seen for running slower than asked
    other_gpu_processes: int | None = None
    other_cores: float | None = None  # cores kept busy by other programs during its visits, on average
    visits_s: float = SHORTEST_S  # how long its visits took together; below `SHORTEST_S` the average says nothing
    cores: int = 1  # those this process may use
    threads: int | None = None  # of these, in use by the network
    readings: tuple[Reading, ...] = ()

    @classmethod
    def of(
        cls,
        visits: Sequence[tuple[Reading, Reading]],
        *,
        on_gpu: bool,
        cores: int,
        threads: int | None,
        load_average: float | None = None,
        clocks_locked: bool | None = None,
        at_rest: Reading | None = None,
    ) -> MachineState:
        """From the readings before and after each visit.

        The GPU's clock decides `clocks_locked`: it is held when it is the same after every visit. Where nobody says that it was
        locked (None), it must have been the same `at_rest` too, before anything ran.
        """
        if not visits:
            return cls(load_average=load_average, cores=cores, threads=threads, clocks_locked=clocks_locked)
        first, last = visits[0][0], visits[-1][1]
        clocks = [clock for _, after in visits if (clock := _clock(after, on_gpu)) is not None]
        start, end = _temperature(first, on_gpu), _temperature(last, on_gpu)
        if on_gpu and clocks_locked is not False and len(clocks) > 1:
            idle = None if at_rest is None or clocks_locked else _clock(at_rest, on_gpu)
            clocks_locked = max(clocks) - min([*clocks, *([] if idle is None else [idle])]) <= LOCKED_MHZ
        return cls(
            load_average=load_average,
            clock_change=1 - min(clocks) / max(clocks) if clocks and max(clocks) > 0 else None,
            clocks_locked=clocks_locked,
            locked_clock_mhz=max(clocks) if on_gpu and clocks_locked and clocks else None,
            temperature_rise_c=None if start is None or end is None else end - start,
            throttle=_throttle(visits, on_gpu),
            other_gpu_processes=_others(visits) if on_gpu else None,
            other_cores=_other_cores(visits),
            visits_s=sum(after.seconds - before.seconds for before, after in visits),
            cores=cores,
            threads=threads,
            readings=(first, *(after for _, after in visits)),
        )

    @property
    def known_other_cores(self) -> float | None:
        """Cores that other programs kept busy; None where the system does not say it, or the visits were too short to tell."""
        return self.other_cores if self.visits_s >= SHORTEST_S else None

    def joined(self, other: MachineState) -> MachineState:
        """What samples from both were taken under: the worse of both, other programs on average, and all readings."""
        clocks = [locked for locked in (self.clocks_locked, other.clocks_locked) if locked is not None]
        return MachineState(
            load_average=_larger(self.load_average, other.load_average),
            clock_change=_larger(self.clock_change, other.clock_change),
            clocks_locked=all(clocks) if clocks else None,
            locked_clock_mhz=_larger(self.locked_clock_mhz, other.locked_clock_mhz) if all(clocks) else None,
            temperature_rise_c=_larger(self.temperature_rise_c, other.temperature_rise_c),
            throttle=tuple(dict.fromkeys((*self.throttle, *other.throttle))),
            other_gpu_processes=_larger(self.other_gpu_processes, other.other_gpu_processes),
            other_cores=self._average_with(other),
            visits_s=self.visits_s + other.visits_s,
            cores=self.cores,
            threads=self.threads,
            readings=self.readings + other.readings,
        )

    def _average_with(self, other: MachineState) -> float | None:
        known = [(one.other_cores, one.visits_s) for one in (self, other) if one.other_cores is not None]
        passed = sum(seconds for _, seconds in known)
        return sum(cores * seconds for cores, seconds in known) / passed if passed else None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return fields_to_json(self)

    @classmethod
    def from_dict(cls, values: object) -> MachineState:
        """Reads the JSON form, of earlier versions too. Raises `CheckpointError` for what conditions do not hold."""
        if isinstance(values, Mapping) and (missing := {item.name for item in fields(cls)} - LATER - set(values)):
            raise CheckpointError(f"conditions lack {', '.join(sorted(missing))}; they were edited or damaged")
        return from_json(cls, values, "conditions")


def _larger(first: Number | None, second: Number | None) -> Number | None:
    known = [value for value in (first, second) if value is not None]
    return max(known) if known else None


def _clock(reading: Reading, on_gpu: bool) -> float | None:
    if not on_gpu:
        return reading.cpu_clock_mhz
    return None if reading.gpu is None else reading.gpu.clock_mhz


def _temperature(reading: Reading, on_gpu: bool) -> float | None:
    if not on_gpu:
        return reading.cpu_temperature_c
    return None if reading.gpu is None else reading.gpu.temperature_c


def _throttle(visits: Sequence[tuple[Reading, Reading]], on_gpu: bool) -> tuple[str, ...]:
    if on_gpu:
        return tuple(dict.fromkeys(reason for _, after in visits if after.gpu is not None for reason in after.gpu.throttle))
    rose = any((_spent(before.cpu_throttles, after.cpu_throttles) or 0) > 0 for before, after in visits)
    return ("heat (processor)",) if rose else ()


def _others(visits: Sequence[tuple[Reading, Reading]]) -> int | None:
    """Other processes on the GPU. One of those listed is this one, whatever its number is inside a container."""
    seen = [after.gpu.processes for _, after in visits if after.gpu is not None and after.gpu.processes is not None]
    return max(0, max(seen) - 1) if seen else None


def _other_cores(visits: Sequence[tuple[Reading, Reading]]) -> float | None:
    """CPU time of everybody less that of this process, over the time that passed."""
    others = passed = 0.0
    for before, after in visits:
        busy, own = _spent(before.busy_cpu_s, after.busy_cpu_s), _spent(before.own_cpu_s, after.own_cpu_s)
        if busy is None or own is None:
            return None
        others += busy - own
        passed += after.seconds - before.seconds
    return max(0.0, others / passed) if passed > 0 else None


def _spent(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
