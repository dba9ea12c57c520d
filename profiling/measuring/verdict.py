"""Whether a measurement can be trusted, with every reason why not, and what it says of a limit.

One function judges all measurements (`judge`), one says what becomes of a limit (`limit_status`); what shows or stores an answer
asks these. Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoformer.errors import MeasurementError, short
from autoformer.profiling.measuring.order_statistics import LatencyStats

if TYPE_CHECKING:
    from autoformer.profiling.measuring.machine_state import MachineState

LEVELS = VALID, UNSTABLE, INVALID = "VALID", "UNSTABLE", "INVALID"  # of a verdict, from good to bad
WITHIN_BUDGET, OVER_BUDGET, INCONCLUSIVE = "within budget", "over budget", "inconclusive"  # what a measurement says of a limit
WAITED, WIDE = "share of time without a CPU (other programs run)", "width of the median's 95 % interval"
OTHERS, LOAD, SHARED = "other programs kept", "load average", "processes on the GPU beside this one"
SLOWED = (WAITED, OTHERS, LOAD, SHARED)  # begin the reasons with which a time is too long, and never too short


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

    @property
    def at_most_slowed(self) -> bool:
        """Whether nothing but other programs speaks against the times: they make them longer, and their interval wider."""
        kinds = [(one.startswith(SLOWED), one.startswith((*SLOWED, WIDE))) for one in self.reasons]
        return self.level == VALID or (self.level == UNSTABLE and any(slow for slow, _ in kinds) and all(so for _, so in kinds))


def limit_status(limit_ms: float, verdict: Verdict, low_ms: float | None, high_ms: float | None) -> str:
    """What a measurement of this verdict, with this 95 % interval, says about a limit: within it, over it, or inconclusive."""
    if low_ms is None or high_ms is None or not verdict.at_most_slowed:
        return INCONCLUSIVE
    if high_ms <= limit_ms:
        return WITHIN_BUDGET
    return OVER_BUDGET if low_ms > limit_ms and verdict.level == VALID else INCONCLUSIVE  # slowed, it may be within


def count_status(name: str, limit: float, count: float) -> str:
    """What an exact count, which is its own interval, says of the limit `name`, like max_params or min_flops."""
    sign = 1 if name.startswith("max_") else -1
    return limit_status(sign * limit, Verdict(VALID), sign * count, sign * count)


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
        (WIDE, stats.interval_width, gates.max_interval_width),
        ("coefficient of variation", stats.cv, gates.max_cv),
        (WAITED, wait, gates.max_wait),
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
        reasons.append(f"{SHARED}: {conditions.other_gpu_processes}")
    if gates.max_other_cores is None:
        return reasons
    free = max(0, conditions.cores - (conditions.threads or 1))
    if others is not None and others > free + gates.max_other_cores:
        reasons.append(f"{OTHERS} {others:.2g} cores busy, {free} of {conditions.cores} were free for them")
    elif others is None and conditions.load_average is not None and conditions.load_average > conditions.cores:
        reasons.append(f"{LOAD} {conditions.load_average:.3g} before the measurement, {conditions.cores} cores")
    return reasons
