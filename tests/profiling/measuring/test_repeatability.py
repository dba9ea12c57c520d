"""Five measurements on a simulated machine whose speed is known: what drifts falls out of the ratio, and a load is noticed."""

from __future__ import annotations

import random

import pytest

from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.measurements import FACTS

CONFIG = MeasureConfig(warmup_s=0.1, warmup_max_s=1, rounds=5, min_runs=200, min_s=0, max_s=60)


def one(speed_factor: float, seed: int, cpu_share: float = 1.0, drift: float = 0.0) -> tuple[Measurement, Measurement]:
    """A network of 10 ms and the reference of 1 ms on a machine that takes `slowdown` times as long, with noise of 2 %."""
    clock, cpu_clock, rng = ScriptedClock(), ScriptedClock(), random.Random(seed)

    def times(base_ms: float) -> ScriptedBackend:
        def time_ms(run: int) -> float:
            slower = 1 + drift * min(1.0, clock() / 3e9)
            return base_ms * speed_factor * slower * (1 + 0.02 * rng.random()) / cpu_share

        return ScriptedBackend(clock, time_ms, cpu_clock=cpu_clock, cpu_share=cpu_share)

    taken = measure({"a": times(10.0), "reference": times(1.0)}, CONFIG, clock=clock, cpu_clock=cpu_clock, device=FACTS)
    return taken["a"], taken["reference"]


def test_ratios_of_five_measurements_stay_together_though_the_machine_is_twenty_percent_slower_in_some() -> None:
    found = [one(speed_factor, seed) for seed, speed_factor in enumerate((1.0, 1.2, 0.9, 1.1, 1.05))]
    medians = [taken.stats.p50_ms for taken, _ in found]
    ratios = [taken.stats.p50_ms / reference.stats.p50_ms for taken, reference in found]
    assert max(medians) / min(medians) == pytest.approx(1.2 / 0.9, rel=0.01)
    assert max(ratios) / min(ratios) < 1.01
    assert all(taken.verdict.level == "VALID" for taken, _ in found)


def test_a_machine_that_gives_the_process_only_part_of_its_time_is_noticed() -> None:
    taken, _ = one(1.0, 0, cpu_share=0.6)
    assert taken.verdict.level in ("UNSTABLE", "INVALID")
    assert any("without a CPU" in reason for reason in taken.verdict.reasons)


def test_a_machine_that_grows_slower_while_it_is_measured_is_noticed() -> None:
    taken, _ = one(1.0, 0, drift=0.3)
    assert taken.verdict.level in ("UNSTABLE", "INVALID")
    assert any("drift" in reason for reason in taken.verdict.reasons)
