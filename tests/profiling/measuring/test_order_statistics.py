"""Figures and verdicts of scripted samples, against hand calculation, numpy and scipy."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from autoformer.errors import CheckpointError, MeasurementError
from autoformer.profiling.measuring.order_statistics import (
    LatencyStats,
    interval_of,
    median_interval_ranks,
    percentile_interval_ranks,
)
from autoformer.profiling.measuring.verdict import (
    INCONCLUSIVE,
    INVALID,
    OVER_BUDGET,
    UNSTABLE,
    VALID,
    WITHIN_BUDGET,
    Gates,
    judge,
)
from autoformer.profiling.tables.limit import status_from
from autoformer.records import from_json


def test_figures_of_ten_runs_by_hand() -> None:
    stats = LatencyStats.from_samples([4.0, 2.0, 3.0, 1.0, 5.0, 6.0, 8.0, 7.0, 30.0, 10.0])
    assert stats.n == 10
    assert stats.mean_ms == pytest.approx(7.6)
    # deviations from 7.6 squared: 12.96 31.36 21.16 43.56 6.76 2.56 0.16 0.36 501.76 5.76, sum 626.4, over 9
    assert stats.std_ms == pytest.approx(math.sqrt(69.6))
    assert stats.cv == pytest.approx(math.sqrt(69.6) / 7.6)
    assert (stats.min_ms, stats.p50_ms, stats.max_ms) == (1.0, 5.0, 30.0)  # the 5th of 1 2 3 4 5 6 7 8 10 30
    assert (stats.p50_low_ms, stats.p50_high_ms) == (2.0, 10.0)  # 2nd and 9th: the textbook's 97.9 % interval of n = 10
    assert stats.interval_width == pytest.approx(1.6)
    assert stats.spikes == 1  # only 30 is above twice the median; 10 is exactly twice
    assert (stats.p90_ms, stats.p99_ms) == (None, None)
    assert stats.drift == pytest.approx(10 / 3 - 1)  # medians of 4 2 3 and 7 30 10 -> 3 and 10


def test_drift_compares_the_medians_of_first_and_last_third() -> None:
    stats = LatencyStats.from_samples([1.0, 2.0, 9.0, 5.0, 5.0, 5.0, 3.0, 3.0, 0.5])
    assert stats.drift == pytest.approx(3 / 2 - 1)
    assert LatencyStats.from_samples([1.0] * 8).drift is None


@pytest.mark.parametrize(("n", "p90", "p99"), [(63, False, False), (64, True, False), (661, True, False), (662, True, True)])
def test_percentiles_are_given_only_where_the_count_carries_them(n: int, p90: bool, p99: bool) -> None:
    stats = LatencyStats.from_samples([float(k) for k in range(1, n + 1)])
    assert (stats.p90_ms is not None, stats.p99_ms is not None) == (p90, p99)


@pytest.mark.parametrize(("name", "percent"), [("p90", 90), ("p95", 95), ("p99", 99), ("p999", 99.9)])
def test_a_percentile_needs_runs_enough_that_two_lie_beyond_it_99_times_in_100(name: str, percent: float) -> None:
    counts = np.arange(2, 7000)
    least = int(counts[binom.cdf(1, counts, 1 - percent / 100) <= 0.01][0])
    carried, not_carried = (LatencyStats.from_samples([float(k) for k in range(1, n + 1)]) for n in (least, least - 1))
    assert getattr(carried, f"{name}_ms") == math.ceil(least * percent / 100)
    assert getattr(not_carried, f"{name}_ms") is None


@pytest.mark.parametrize("percent", [50, 90, 99, 99.9])
@pytest.mark.parametrize("n", [6, 40, 64, 400, 662, 3000])
def test_the_interval_of_a_percentile_is_the_narrowest_with_half_of_five_percent_beyond_each_end(n: int, percent: float) -> None:
    ranks, share = percentile_interval_ranks(n, percent), percent / 100
    lowest = [rank for rank in range(1, n + 1) if binom.cdf(rank - 1, n, share) <= 0.025]  # fewer than `rank` lie below it
    highest = [rank for rank in range(1, n + 1) if binom.sf(rank - 1, n, share) <= 0.025]
    assert ranks == ((lowest[-1], highest[0]) if lowest and highest else None)
    if percent == 50:
        assert ranks == median_interval_ranks(n)


def test_an_interval_is_given_for_percentiles_alone() -> None:
    samples = [float(k) for k in range(1000, 0, -1)]
    assert interval_of(samples, "p50") == (469.0, 532.0)  # 500 ± 1.96 · √250 ≈ 469 and 531
    assert interval_of(samples, "mean") is None
    assert interval_of(samples[:5], "p50") is None


def test_percentiles_are_numpys_inverted_cdf() -> None:
    rng = random.Random(0)
    samples = [rng.lognormvariate(0, 0.5) for _ in range(1003)]
    stats = LatencyStats.from_samples(samples)
    for value, quantile in ((stats.p50_ms, 0.5), (stats.p90_ms, 0.9), (stats.p95_ms, 0.95), (stats.p99_ms, 0.99)):
        assert value == np.quantile(samples, quantile, method="inverted_cdf")


@pytest.mark.parametrize("n", [6, 7, 10, 20, 25, 100, 999, 5000])
def test_interval_of_the_median_is_the_tightest_that_the_binomial_allows(n: int) -> None:
    ranks = median_interval_ranks(n)
    assert ranks is not None
    low, high = ranks
    assert low + high == n + 1
    assert binom.cdf(high - 1, n, 0.5) - binom.cdf(low - 1, n, 0.5) >= 0.95
    assert binom.cdf(high - 2, n, 0.5) - binom.cdf(low, n, 0.5) < 0.95


def test_five_runs_carry_no_interval() -> None:
    assert median_interval_ranks(5) is None  # even all five cover only 93.75 %
    assert LatencyStats.from_samples([1.0] * 5).interval_width is None


def test_statistics_survive_json() -> None:
    stats = LatencyStats.from_samples([1.0, 2.5, 2.0])
    assert from_json(LatencyStats, json.loads(json.dumps(stats.to_dict()))) == stats
    samples = [1.0 + k for k in range(200)]
    stats = LatencyStats.from_samples(samples)
    earlier = {name: value for name, value in stats.to_dict().items() if name not in ("p95_ms", "p999_ms")}
    assert from_json(LatencyStats, earlier).p95_ms is None
    assert from_json(LatencyStats, earlier).with_tails(samples) == stats
    with pytest.raises(CheckpointError, match="LatencyStats lacks 'mean_ms'"):
        from_json(LatencyStats, {"n": 3})


@pytest.mark.parametrize("samples", [[], [1.0, 0.0], [1.0, -2.0], [1.0, math.nan], [math.inf]])
def test_samples_that_cannot_be_times_are_refused(samples: list[float]) -> None:
    with pytest.raises(MeasurementError):
        LatencyStats.from_samples(samples)


def test_statistic_is_asked_for_by_name() -> None:
    stats = LatencyStats.from_samples([1.0, 2.0, 3.0])
    assert (stats.value("p50"), stats.value("mean"), stats.value("max")) == (2.0, 2.0, 3.0)
    with pytest.raises(MeasurementError, match="p99 needs 662 runs, only 3 were made"):
        stats.value("p99")
    with pytest.raises(MeasurementError, match="unknown statistic 'p75'"):
        stats.value("p75")


STEADY = [10.0, 10.1, 9.9] * 20


def test_steady_runs_are_valid() -> None:
    verdict = judge(LatencyStats.from_samples(STEADY), Gates())
    assert (verdict.level, verdict.reasons) == (VALID, ())


def test_too_few_runs_are_invalid() -> None:
    assert judge(LatencyStats.from_samples(STEADY[:19]), Gates()).level == INVALID
    assert judge(LatencyStats.from_samples(STEADY[:20]), Gates()).level == VALID


@pytest.mark.parametrize(("rise", "level"), [(0.04, VALID), (0.07, UNSTABLE), (0.30, INVALID), (-0.07, UNSTABLE)])
def test_drift_flips_the_verdict(rise: float, level: str) -> None:
    samples = [10.0] * 40 + [10.0 * (1 + rise)] * 20
    verdict = judge(LatencyStats.from_samples(samples), Gates())
    assert verdict.level == level
    assert (level == VALID) == (not verdict.reasons)
    assert all("drift" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(("high", "level"), [(10.4, VALID), (11.0, UNSTABLE), (13.0, INVALID)])
def test_a_wide_interval_of_the_median_flips_the_verdict(high: float, level: str) -> None:
    stats = LatencyStats.from_samples([10.0, high] * 30)  # the interval reaches from 10 to `high`
    assert stats.interval_width == pytest.approx(high / 10 - 1)
    assert judge(stats, Gates()).level == level


def test_scatter_counts_on_a_gpu_and_not_on_a_cpu() -> None:
    stats = LatencyStats.from_samples(([10.0] * 9 + [12.0]) * 10)  # cv 5.9 %, median certain
    assert judge(stats, Gates.for_backend("onnxruntime-cpu")).level == VALID
    verdict = judge(stats, Gates.for_backend("tensorrt"))
    assert verdict.level == UNSTABLE
    assert verdict.reasons[0].startswith("coefficient of variation 5.9")


def test_waiting_for_a_cpu_flips_the_verdict_on_a_cpu_only() -> None:
    wall = LatencyStats.from_samples(STEADY)
    busy, waiting = (LatencyStats.from_samples([sample * share for sample in STEADY]) for share in (0.95, 0.8))
    assert judge(wall, Gates(), cpu=busy).level == VALID
    assert judge(wall, Gates(), cpu=waiting).reasons == ("share of time without a CPU (other programs run) 20 %, limit 10 %",)
    starved = LatencyStats.from_samples([sample * 0.2 for sample in STEADY])
    assert judge(wall, Gates(), cpu=starved).level == UNSTABLE  # the median itself stands
    assert judge(wall, Gates.for_backend("torch-cuda"), cpu=waiting).level == VALID


def test_every_reason_is_named() -> None:
    stats = LatencyStats.from_samples([10.0] * 30 + [11.0] * 30)
    verdict = judge(stats, replace(Gates(), max_cv=0.04))
    assert verdict.level == UNSTABLE
    assert [reason.split()[0] for reason in verdict.reasons] == ["drift", "width", "coefficient"]
    assert str(verdict).startswith("UNSTABLE: drift of the median from first to last third 10 %, limit 5 %; width")


def test_a_status_is_read_by_its_present_and_its_earlier_label() -> None:
    assert [status_from(label) for label in ("met", "not met", "not shown")] == [WITHIN_BUDGET, OVER_BUDGET, INCONCLUSIVE]
    assert [status_from(label) for label in (WITHIN_BUDGET, OVER_BUDGET, INCONCLUSIVE)] == [
        WITHIN_BUDGET,
        OVER_BUDGET,
        INCONCLUSIVE,
    ]
    for wrong in ("fine", "", None, ["met"]):
        with pytest.raises(MeasurementError, match="expected within budget, over budget, inconclusive"):
            status_from(wrong)
