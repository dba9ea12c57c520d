"""Sensors that read what a test scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autoformer.profiling.measuring.sensors import Reading


class ScriptedSensors:
    """Sensors whose k-th reading (from 0) is `readings(k)`, at the time it is asked for."""

    def __init__(self, readings: Callable[[int], Reading]) -> None:
        self.readings, self.count = readings, 0

    def read(self, seconds: float) -> Reading:
        self.count += 1
        return replace(self.readings(self.count - 1), seconds=seconds)
