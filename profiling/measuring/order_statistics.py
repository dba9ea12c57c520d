"""What a list of timed runs says: order statistics, how sure the median is, drift, spikes, and a verdict with reasons.

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
from typing import TYPE_CHECKING, Any

from autoformer.errors import MeasurementError, short
from autoformer.records import fields_to_json

if TYPE_CHECKING:
    from autoformer.profiling.measuring.machine_state import MachineState

MIN_SAMPLES_P90 = 64  # MLPerf LoadGen's early-stopping floor for a 90th percentile
MIN_SAMPLES_P95 = 130  # the same for a 95th percentile
MIN_SAMPLES_P99 = 662
MIN_SAMPLES_P999 = 6636
PERCENTS = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}
CONFIDENCE = 0.95
SPIKE = 2.0  # a run slower than this many medians is counted as a spike

LEVELS = VALID, UNSTABLE, INVALID = "VALID", "UNSTABLE", "INVALID"  # of a verdict, from good to bad
WITHIN_BUDGET, OVER_BUDGET, INCONCLUSIVE = "within budget", "over budget", "inconclusive"  # what a measurement says of a limit
_EARLIER = {"met": WITHIN_BUDGET, "not met": OVER_BUDGET, "not shown": INCONCLUSIVE}  # as earlier versions wrote them


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


FLOORS = {"p90": MIN_SAMPLES_P90, "p95": MIN_SAMPLES_P95, "p99": MIN_SAMPLES_P99, "p999": MIN_SAMPLES_P999}  # runs


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


@dataclass(frozen=True)
class Gates:
    """Limits between a number to trust and one to repeat: UNSTABLE beyond a limit, INVALID beyond `invalid_factor` times it."""

    min_samples: int = 20
    max_drift: float = 0.05  # relative, either way
    max_interval_width: float = 0.05  # of the median, relative
    max_cv: float | None = None  # not on CPUs: there single runs scatter by several per cent while the median stands still
    max_wait: float | None = 0.10  # share of the wall time in which the process had no CPU
    max_other_cores: float | None = 0.1  # busy with other programs, beyond those that the network leaves free
    max_clock_change: float | None = None  # not on CPUs, whose clock follows every pause
    max_temperature_rise_c: float | None = None  # not on CPUs, which are hot within a second
    max_enqueue: float | None = None  # share of the GPU's time that handing the work over takes; more, and the host is timed
    invalid_factor: float = 4.0

    @classmethod
    def for_backend(cls, backend: str) -> Gates:
        """The gates of a backend: on a GPU drift and scatter are judged as trtexec does, and waiting for it is normal."""
        if backend.endswith("-cpu"):
            return cls()
        return cls(
            max_drift=0.02, max_cv=0.025, max_wait=None, max_other_cores=None, max_clock_change=0.05,
            max_temperature_rise_c=10, max_enqueue=0.8,
        )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Whether a measurement can be used, and every reason why not."""

    level: str  # VALID, UNSTABLE or INVALID
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise MeasurementError(f"no verdict: {short(self.level, 40)}; expected {', '.join(LEVELS)}")

    def __str__(self) -> str:
        return f"{self.level}: {'; '.join(self.reasons)}" if self.reasons else self.level

    def is_worse_than(self, other: Verdict) -> bool:
        """Whether its level is further from VALID."""
        return LEVELS.index(self.level) > LEVELS.index(other.level)


def limit_status(limit_ms: float, level: str, low_ms: float | None, high_ms: float | None) -> str:
    """What a measurement of this verdict, with this 95 % interval, says about a limit: within it, over it, or inconclusive."""
    if level != VALID or low_ms is None or high_ms is None:
        return INCONCLUSIVE
    return WITHIN_BUDGET if high_ms <= limit_ms else OVER_BUDGET if low_ms > limit_ms else INCONCLUSIVE


def status_from(label: object) -> str:
    """The status that a file names, by its present or its earlier label. Raises `MeasurementError` for any other."""
    status = _EARLIER.get(str(label), str(label))
    if status not in _EARLIER.values():
        raise MeasurementError(f"status {short(label, 40)!r}; expected {', '.join(_EARLIER.values())}")
    return status


def judge(
    stats: LatencyStats,
    gates: Gates,
    *,
    cpu: LatencyStats | None = None,
    gpu: LatencyStats | None = None,
    enqueue: LatencyStats | None = None,
    conditions: MachineState | None = None,
) -> Verdict:
    """The verdict on wall times.

    Of the same runs, `cpu` are the process's CPU times, `gpu` those by the GPU's clock and `enqueue` the host's for handing the
    work over; `conditions` is what the sensors said. What is not known is not judged.
    """
    if stats.n < gates.min_samples:
        return Verdict(INVALID, (f"{stats.n} runs, {gates.min_samples} needed",))
    wait = None if cpu is None else max(0.0, 1 - cpu.mean_ms / stats.mean_ms)
    checks = (
        ("drift of the median from first to last third", stats.drift and abs(stats.drift), gates.max_drift),
        ("width of the median's 95 % interval", stats.interval_width, gates.max_interval_width),
        ("coefficient of variation", stats.cv, gates.max_cv),
        ("share of time without a CPU (other programs run)", wait, gates.max_wait),
    )
    reasons, invalid = [], False
    for what, value, limit in checks:
        if value is not None and limit is not None and value > limit:
            reasons.append(f"{what} {100 * value:.3g} %, limit {100 * limit:g} %")
            invalid |= value > gates.invalid_factor * limit and value is not wait  # the median may well stand through waits
    handing = None if gpu is None or enqueue is None else enqueue.p50_ms / gpu.p50_ms
    if handing is not None and gates.max_enqueue is not None and handing > gates.max_enqueue:
        most = f"limit {100 * gates.max_enqueue:g} %"
        reasons.append(f"host bound: handing the work over takes {100 * handing:.3g} % of the GPU's time, {most}")
    if conditions is not None:
        reasons += _disturbed(conditions, gates)
    return Verdict(INVALID if invalid else UNSTABLE if reasons else VALID, tuple(reasons))


def _disturbed(conditions: MachineState, gates: Gates) -> list[str]:
    """What the sensors say against a measurement; none of it alone makes it INVALID, since the times may stand all the same."""
    reasons = [f"throttled: {reason}" for reason in conditions.throttle]
    change, rise, others = conditions.clock_change, conditions.temperature_rise_c, conditions.known_other_cores
    if change is not None and gates.max_clock_change is not None and change > gates.max_clock_change:
        reasons.append(f"the clock changed by {100 * change:.3g} %, limit {100 * gates.max_clock_change:g} %")
    if rise is not None and gates.max_temperature_rise_c is not None and rise > gates.max_temperature_rise_c:
        reasons.append(f"the temperature rose by {rise:.3g} °C, limit {gates.max_temperature_rise_c:g} °C")
    if conditions.other_gpu_processes:
        reasons.append(f"processes on the GPU beside this one: {conditions.other_gpu_processes}")
    if gates.max_other_cores is None:
        return reasons
    free = max(0, conditions.cores - (conditions.threads or 1))
    if others is not None and others > free + gates.max_other_cores:
        reasons.append(f"other programs kept {others:.2g} cores busy, {free} of {conditions.cores} were free for them")
    elif others is None and conditions.load_average is not None and conditions.load_average > conditions.cores:
        reasons.append(f"load average {conditions.load_average:.3g} before the measurement, {conditions.cores} cores")
    return reasons
