"""What a list of timed runs says: order statistics, how sure the median is, drift and spikes.

Nothing is removed from the samples. The p-th percentile is the ceil(p/100 · n)-th smallest sample (numpy's
"inverted_cdf"), always a time that was really seen, and is given only where the count carries it: p90 from 64 runs, p95 from
130, p99 from 662 and p99.9 (called p999) from 6636. These are the floors of MLPerf's early stopping: that fewer than two runs
lie beyond the percentile happens once in a hundred times at most. The interval of the median comes from order statistics and
the binomial distribution and assumes nothing about the shape; runs that follow each other are not independent, so drift is
judged beside it.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from autoformer.errors import MeasurementError
from autoformer.records import fields_to_json

MIN_SAMPLES_P90 = 64  # MLPerf LoadGen's early-stopping floor for a 90th percentile
MIN_SAMPLES_P95 = 130  # the same for a 95th percentile
MIN_SAMPLES_P99 = 662
MIN_SAMPLES_P999 = 6636
PERCENTS = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}
CONFIDENCE = 0.95
SPIKE = 2.0  # a run slower than this many medians is counted as a spike
FLOORS = {"p90": MIN_SAMPLES_P90, "p95": MIN_SAMPLES_P95, "p99": MIN_SAMPLES_P99, "p999": MIN_SAMPLES_P999}  # runs


@dataclass(frozen=True, kw_only=True)
class LatencyStats:
    """Figures of one list of times in milliseconds; None where the count does not carry the figure."""

    n: int
    mean_ms: float
    std_ms: float  # of the sample (n − 1); 0 for one run
    min_ms: float
    p50_ms: float
    p90_ms: float | None  # from 64 runs
    p95_ms: float | None = None  # from 130 runs
    p99_ms: float | None  # from 662 runs
    p999_ms: float | None = None  # from 6636 runs
    max_ms: float
    p50_low_ms: float | None  # 95 % interval of the median; from 6 runs
    p50_high_ms: float | None
    drift: float | None  # median of the last third against the first third, relative; from 9 runs
    spikes: int  # runs slower than twice the median

    @property
    def cv(self) -> float:
        """Coefficient of variation: standard deviation over mean."""
        return self.std_ms / self.mean_ms

    @property
    def interval_width(self) -> float | None:
        """Width of the median's interval relative to the median."""
        if self.p50_low_ms is None or self.p50_high_ms is None:
            return None
        return (self.p50_high_ms - self.p50_low_ms) / self.p50_ms

    def value(self, statistic: str) -> float:
        """The figure called `statistic` ("p50", "p90", "p95", "p99", "p999", "mean", "min", "max") in milliseconds.

        Raises `MeasurementError` for an unknown name, or where too few runs were made for it.
        """
        known = {field.name[:-3] for field in fields(self) if field.name.endswith("_ms")} - {"std", "p50_low", "p50_high"}
        if statistic not in known:
            raise MeasurementError(f"unknown statistic {statistic!r}; known are {', '.join(sorted(known))}")
        value: float | None = getattr(self, f"{statistic}_ms")
        if value is None:
            raise MeasurementError(f"{statistic} needs {FLOORS[statistic]} runs, only {self.n} were made; measure longer")
        return value

    @classmethod
    def from_samples(cls, samples_ms: Sequence[float]) -> LatencyStats:
        """The figures of `samples_ms`, given in the order they were taken.

        Raises `MeasurementError` when there are none, or one is not a positive number.
        """
        n = len(samples_ms)
        if n == 0:
            raise MeasurementError("no run was timed; expected at least one")
        if not all(0 < sample < math.inf for sample in samples_ms):
            bad = next(sample for sample in samples_ms if not 0 < sample < math.inf)
            raise MeasurementError(f"a timed run took {bad} ms; expected a positive number (is the clock too coarse?)")
        ordered = sorted(samples_ms)
        mean = math.fsum(ordered) / n
        median = percentile(ordered, 50)
        ranks = median_interval_ranks(n)
        return cls(
            n=n,
            mean_ms=mean,
            std_ms=math.sqrt(math.fsum((sample - mean) ** 2 for sample in ordered) / (n - 1)) if n > 1 else 0.0,
            min_ms=ordered[0],
            p50_ms=median,
            **{f"{name}_ms": percentile(ordered, PERCENTS[name]) if n >= least else None for name, least in FLOORS.items()},
            max_ms=ordered[-1],
            p50_low_ms=ordered[ranks[0] - 1] if ranks else None,
            p50_high_ms=ordered[ranks[1] - 1] if ranks else None,
            drift=drift(samples_ms),
            spikes=sum(sample > SPIKE * median for sample in ordered),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return fields_to_json(self)

    def with_tails(self, samples_ms: Sequence[float]) -> LatencyStats:
        """The same with p95 and p999 of the runs, which files of earlier versions lack."""
        if None not in (self.p95_ms, self.p999_ms) or not samples_ms:
            return self
        whole = LatencyStats.from_samples(samples_ms)
        return replace(self, p95_ms=whole.p95_ms, p999_ms=whole.p999_ms)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The ceil(percent/100 · n)-th smallest of values sorted in rising order; `percent` counts in tenths."""
    return ordered[max(1, -(-round(10 * percent) * len(ordered) // 1000)) - 1]


@lru_cache(maxsize=256)
def median_interval_ranks(n: int) -> tuple[int, int] | None:
    """The ranks (from 1) of two of `n` ordered samples that hold the median between them with at least 95 % probability.

    The number of samples below the median is binomial(n, 1/2); the ranks are the innermost symmetric pair. None below 6.
    """
    tail, rank = 0.0, 0  # tail = P(fewer than `rank` + 1 samples lie below the median)
    while rank < n:
        log_probability = math.lgamma(n + 1) - math.lgamma(rank + 1) - math.lgamma(n - rank + 1) - n * math.log(2)
        tail += math.exp(log_probability)
        if tail > (1 - CONFIDENCE) / 2:
            break
        rank += 1
    return (rank, n + 1 - rank) if rank else None


@lru_cache(maxsize=256)
def percentile_interval_ranks(n: int, percent: float) -> tuple[int, int] | None:
    """The ranks (from 1) of two of `n` ordered samples that hold the percentile between them with at least 95 % probability.

    The number of samples below it is binomial(n, percent/100), and each tail holds 2.5 % at most. None where `n` is too small.
    """
    share, below = percent / 100, 0.0  # below = P(fewer than `rank` samples lie below the percentile)
    low, high = 0, None
    for rank in range(1, n + 1):
        below += _binomial(rank - 1, n, share)
        if below <= (1 - CONFIDENCE) / 2:
            low = rank
        if 1 - below <= (1 - CONFIDENCE) / 2:
            high = rank
            break
    return (low, high) if low and high else None


def _binomial(k: int, n: int, share: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(share) + (n - k) * math.log(1 - share))


def interval_of(samples_ms: Sequence[float], statistic: str) -> tuple[float, float] | None:
    """The 95 % interval of a percentile of `PERCENTS` of the runs; None for other statistics and for too few runs."""
    if statistic not in PERCENTS:
        return None
    ranks = percentile_interval_ranks(len(samples_ms), PERCENTS[statistic])
    ordered = sorted(samples_ms)
    return None if ranks is None else (ordered[ranks[0] - 1], ordered[ranks[1] - 1])


def drift(samples: Sequence[float]) -> float | None:
    """By how much the median of the last third lies above that of the first third, relative; None below 9 samples."""
    third = len(samples) // 3
    if third < 3:
        return None
    first, last = percentile(sorted(samples[:third]), 50), percentile(sorted(samples[-third:]), 50)
    return last / first - 1
