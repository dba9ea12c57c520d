"""A measurement of several rounds whose common drift is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.order_statistics import LatencyStats
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.measurements import one


def taken(own_ms: float, drift: Sequence[float], runs: int = 20, seed: int = 0) -> Measurement:
    """A measurement with these rounds, each run a little off its round."""
    rng, clock = random.Random(seed), ScriptedClock()
    pattern = one(ScriptedBackend(clock, lambda run: 1.0))
    samples = tuple(own_ms * factor * rng.uniform(0.999, 1.001) for factor in drift for _ in range(runs))
    return replace(
        pattern, samples_ms=samples, cpu_samples_ms=samples, device_samples_ms=(), round_runs=(runs,) * len(drift),
        stats=LatencyStats.from_samples(samples),
    )  # fmt: skip
