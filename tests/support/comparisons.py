"""Comparisons of networks whose times and scores are chosen."""

from __future__ import annotations

import numpy as np

from autoformer.metric import score
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure
from autoformer.profiling.profiles.artefact_costs import Costs
from autoformer.profiling.profiles.comparison import Comparison, Row
from autoformer.profiling.profiles.latency import NotMeasured, Profile
from tests.support.fakes import ScriptedBackend, ScriptedClock

HERE = DeviceFacts.collect()
SHORT = MeasureConfig(warmup_s=0.0, warmup_max_s=0.0, min_runs=20, rounds=2, min_s=0.0, max_s=1.0)


def measured(**times_ms: float) -> dict[str, Measurement]:
    """Measurements whose every run took as long as said."""
    clock = ScriptedClock()

    def scripted(name: str, time: float) -> ScriptedBackend:
        return ScriptedBackend(clock, lambda _: time, name="torch-cuda" if name.startswith("gpu") else "torch-cpu")

    backends = {name: scripted(name, time) for name, time in times_ms.items()}
    return measure(backends, SHORT, clock=clock, cpu_clock=clock, device=HERE)


def rows_of(times_ms: dict[str, float], right: dict[str, int]) -> list[Row]:
    labels = np.zeros(100, np.int64)
    taken = measured(**times_ms)
    return [
        Row(name=name, costs=Costs(), measurement=taken.get(name), score=score((np.arange(100) >= count).astype(int), labels))
        for name, count in right.items()
    ]


def comparison(*rows: Row, missing: tuple[NotMeasured, ...] = ()) -> Comparison:
    taken = tuple(row.measurement for row in rows if row.measurement)
    profile = Profile(taken, taken[0], (), SHORT, "2026-01-01T00:00:00+00:00") if taken else None
    return Comparison(rows=rows, missing=missing, metric="top1", images=100, part="search", split="0" * 64, profile=profile)
