"""Opened networks timed together, in the milliseconds of a latency table where there is one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.errors import MeasurementError
from autoformer.profiling.measuring.backend import LatencyBackend
from autoformer.profiling.measuring.drift import ROUNDS, measure_together
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement
from autoformer.profiling.measuring.order_statistics import MIN_SAMPLES_P99, interval_of
from autoformer.profiling.measuring.verdict import VALID
from autoformer.profiling.tables.limit import Timing
from autoformer.profiling.tables.speed_factor import SpeedFactor, speed_factor_of
from autoformer.profiling.tables.table import LatencyTable
from autoformer.progress import Progress

ATTEMPTS = 3  # at a VALID measurement

Name = TypeVar("Name", bound=Hashable)


def timed(
    opened: Mapping[Name, Sequence[LatencyBackend]],
    config: MeasureConfig,
    *,
    meaning: MeasurementConditions,
    table: LatencyTable | None = None,
    anchors: Sequence[Architecture] = (),
    progress: Progress | None = None,
) -> dict[Name, Timing]:
    """The statistic that `meaning` names of every network, measured in common rounds; sessions of one network count as one.

    `anchors` are networks of `table` among the opened ones: all times are divided by the machine speed factor that these tell
    (`speed_factor.py`). While a verdict is not VALID all are measured for as long again, at most three times. Raises
    `MeasurementError` where what was measured is not what `meaning` says.
    """
    config = replace(config, rounds=max(config.rounds, ROUNDS))
    if meaning.statistic == "p99":
        config = replace(config, min_runs=max(config.min_runs, MIN_SAMPLES_P99))
    steady: dict[str, Measurement] = {}
    for steady in measure_together({str(name): instances for name, instances in opened.items()}, config, ATTEMPTS, progress):
        if all(one.verdict.level == VALID for one in steady.values()):
            break
    for one in steady.values():
        if one.measurement_conditions(meaning.statistic) != meaning:
            raise MeasurementError(f"measured {one.measurement_conditions(meaning.statistic)}, the table means {meaning}")
    now = {anchor: steady[str(anchor)].stats.value(meaning.statistic) for anchor in anchors}
    speed = SpeedFactor() if table is None else speed_factor_of(table, now)
    found = {}
    for name in opened:
        one = steady[str(name)]
        low, high = interval_of(one.samples_ms, meaning.statistic) or (None, None)
        found[name] = Timing(
            measured_ms=one.stats.value(meaning.statistic) / speed.factor,
            low_ms=low and low / speed.factor,
            high_ms=high and high / speed.factor,
            runs=one.stats.n,
            verdict=one.verdict,
            speed_factor=speed.factor,
            speed_factor_error=speed.error,
            instances_ms=one.instances_ms,
        )
    return found
