"""Profiles of several batches whose throughput is known."""

from __future__ import annotations

from autoformer.profiling.measuring.measure import MeasureConfig, measure
from autoformer.profiling.profiles.latency import Profile
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.measurements import FACTS

CONFIG = MeasureConfig(warmup_s=0, warmup_max_s=1, warmup_window=2, rounds=1, min_runs=20, min_s=0, max_s=10)


def profile(batch: int, run_ms: float, name: str = "a", samples: tuple[float, ...] | None = None) -> Profile:
    """One network whose runs take `run_ms`, and the reference, which takes 1 ms."""
    clock = ScriptedClock()
    times = samples or (run_ms,)
    backend = ScriptedBackend(clock, lambda run: times[run % len(times)])
    backend.batch = batch
    taken = measure(
        {name: backend, "reference": ScriptedBackend(clock, lambda run: 1.0)}, CONFIG, clock=clock, cpu_clock=clock, device=FACTS
    )
    return Profile((taken[name],), taken["reference"], (), CONFIG, "2026-01-01T00:00:00+00:00")
