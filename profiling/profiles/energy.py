"""Energy of one inference: watts while a network runs again and again, and while the machine rests before it.

The sensors are asked every 100 ms from a thread of its own, after the latencies were taken, so that asking disturbs none of them.
Where the GPU counts its energy itself the counter is used, else the mean of the watts that were seen.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoformer.errors import MeasurementError
from autoformer.profiling.measuring.backend import LatencyBackend
from autoformer.profiling.measuring.sensors import Reading, Sensors, sampled
from autoformer.records import fields_to_json, from_json

INTERVAL_S = 0.1
NO_SENSOR = "no sensor here tells the power: neither NVML nor a Jetson's INA3221"


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What the device of one network drew. On a Jetson it is the whole module, on a PC the GPU alone."""

    name: str
    batch: int
    runs: int
    seconds: float
    idle_w: float  # before, with the network loaded
    load_w: float
    joule_per_run: float  # all of it, what it draws at rest included
    counted: bool  # by the device's own counter; else watts times seconds
    samples: int  # of the watts under load

    @property
    def images_per_joule(self) -> float:
        """Images for a joule."""
        return self.batch / self.joule_per_run

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return {**fields_to_json(self), "images_per_joule": self.images_per_joule}

    @classmethod
    def from_dict(cls, values: object) -> Energy:
        """Reads the JSON form. Raises `CheckpointError` for what it does not hold."""
        return from_json(cls, values, "energy", beside=("images_per_joule",))


def measure_energy(
    name: str,
    backend: LatencyBackend,
    sensors: Sensors,
    *,
    seconds: float = 5.0,
    idle_s: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
    rest: Callable[[float], None] = time.sleep,
    interval_s: float = INTERVAL_S,
) -> Energy:
    """Rests for `idle_s`, then runs `backend` for `seconds`. Raises `MeasurementError` where no sensor tells the power."""
    if _watts([sensors.read(0)]) is None:
        raise MeasurementError(NO_SENSOR)
    resting = []
    end = clock() + idle_s
    while clock() < end:
        resting.append(sensors.read(clock()))
        rest(interval_s)
    with sampled(sensors, clock, interval_s) as loaded:
        before, start, runs = sensors.read(clock()), clock(), 0
        while (passed := clock() - start) < seconds or not runs:
            backend.run()
            runs += 1
        after = sensors.read(clock())
        passed = clock() - start
    idle_w, load_w = _watts(resting), _watts([before, *loaded, after])
    if idle_w is None or load_w is None:
        raise MeasurementError("the sensor of the power fell silent while it was read; measure again")
    counted = _counter(after) is not None and _counter(before) is not None
    joule = (_counter(after) or 0) - (_counter(before) or 0) if counted else load_w * passed
    return Energy(
        name=name, batch=backend.batch, runs=runs, seconds=passed, idle_w=idle_w, load_w=load_w, joule_per_run=joule / runs,
        counted=counted, samples=2 + len(loaded),
    )  # fmt: skip


def _watts(readings: Sequence[Reading]) -> float | None:
    seen = [reading.gpu.power_w for reading in readings if reading.gpu is not None and reading.gpu.power_w is not None]
    return sum(seen) / len(seen) if seen else None


def _counter(reading: Reading) -> float | None:
    return None if reading.gpu is None else reading.gpu.energy_j
