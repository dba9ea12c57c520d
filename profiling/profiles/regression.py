"""Is B slower than A? Two profiles of the same networks, compared by ratios with intervals; for checks after a change.

The interval of a ratio is made of the two 95 % intervals, lowest over highest and highest over lowest, so it holds the true ratio
at least as often as both hold theirs. On a CPU every time is first divided by that of the reference network of its own profile: a
shared machine is some per cent faster or slower from hour to hour, and the reference with it. A regression is significant if the
whole interval lies above 1 + the permitted part, and all of it was measured VALID, the reference included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoformer.errors import MeasurementError
from autoformer.profiling.measuring.measure import Measurement, device_name
from autoformer.profiling.measuring.order_statistics import interval_of
from autoformer.profiling.measuring.verdict import INCONCLUSIVE, VALID
from autoformer.profiling.profiles.latency import Profile
from autoformer.records import fields_to_json

FORMAT = "autoformer/regressions/1"
STATISTICS = ("p50", "p99")
SLOWER, FASTER, SAME = "slower", "faster", "no regression"  # or INCONCLUSIVE


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One statistic of one network, B over A."""

    name: str
    backend: str
    precision: str
    batch: int
    statistic: str
    before_ms: float
    after_ms: float
    ratio: float  # of the times, on a CPU relative to the reference network
    low: float | None  # None where there are too few runs for an interval
    high: float | None
    verdict: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Regressions:
    """The answer: ratios, and what stands in one profile alone."""

    ratios: tuple[Ratio, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    permitted: float  # by how much B may be slower, relative

    @property
    def regressions(self) -> tuple[Ratio, ...]:
        """Those that are significantly slower than permitted."""
        return tuple(ratio for ratio in self.ratios if ratio.verdict == SLOWER)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "format": FORMAT,
            "regressions": len(self.regressions),
            **fields_to_json(self),
        }


def compare_profiles(
    before: Sequence[Profile], after: Sequence[Profile], *, permitted: float = 0.05, other_device: bool = False
) -> Regressions:
    """How much slower `after` is. Networks are matched by name, backend, precision and batch; each side is one profile, or one
    per batch, and each measurement goes with the reference network of its own.

    Raises `MeasurementError` when nothing matches, or they were measured on other devices or with other threads or settings and
    `other_device` does not permit it.
    """
    if permitted < 0:
        raise MeasurementError(f"a regression of {permitted} cannot be permitted; expected 0 or more")
    old, new = ({_key(taken): (profile, taken) for profile in side for taken in profile.measurements} for side in (before, after))
    both = [key for key in old if key in new]
    if not both:
        have = "; ".join(", ".join(map(str, key)) for key in old) or "nothing"
        raise MeasurementError(f"the profiles have no network in common by name, backend, precision and batch; A has {have}")
    if not other_device:
        for key in both:
            _refuse_others(old[key][1], new[key][1])
    ratios = []
    for key in both:
        for statistic in STATISTICS:
            if all(getattr(taken.stats, f"{statistic}_ms") is not None for _, taken in (old[key], new[key])):
                ratios.append(_ratio(*old[key], *new[key], statistic, permitted, other_device))
    return Regressions(
        ratios=tuple(ratios),
        only_before=tuple(_words(key) for key in old if key not in new),
        only_after=tuple(_words(key) for key in new if key not in old),
        permitted=permitted,
    )


def _key(taken: Measurement) -> tuple[str, str, str, int]:
    return (taken.name, taken.backend, taken.precision, taken.batch)


def _words(key: Sequence[object]) -> str:
    name, backend, precision, batch = key
    return f"{name}, {backend}, {precision}, batch {batch}"


def _refuse_others(old: Measurement, new: Measurement) -> None:
    devices = [device_name(one.device, one.backend, one.threads) for one in (old, new)]
    if devices[0] != devices[1]:
        raise MeasurementError(
            f"{old.name} was measured on {devices[0]!r} and on {devices[1]!r}, whose times cannot be compared; measure both on "
            "one, or say --other-device"
        )
    if dict(old.settings) != dict(new.settings):
        raise MeasurementError(
            f"{old.name} was measured with {dict(old.settings)} and with {dict(new.settings)}; measure both alike, or say "
            "--other-device"
        )


def _ratio(
    before: Profile, old: Measurement, after: Profile, new: Measurement, statistic: str, permitted: float, other_device: bool
) -> Ratio:
    old_ms, new_ms = old.stats.value(statistic), new.stats.value(statistic)
    intervals = [interval_of(taken.samples_ms, statistic) for taken in (old, new)]
    ratio, low, high = new_ms / old_ms, None, None
    parts: list[tuple[float, float] | None] = list(intervals)
    if old.backend.endswith("-cpu") and not other_device:
        ratio *= before.reference.stats.p50_ms / after.reference.stats.p50_ms
        parts += [interval_of(profile.reference.samples_ms, "p50") for profile in (after, before)]
    if all(part is not None for part in parts):
        low = high = 1.0
        for (least, most), upward in zip((part for part in parts if part), (False, True, False, True), strict=False):
            low *= least if upward else 1 / most
            high *= most if upward else 1 / least
    judged = [("A", old), ("B", new)]
    if len(parts) > 2:
        judged += [("the reference network of A", before.reference), ("the reference network of B", after.reference)]
    verdict, reason = _judged(judged, low, high, permitted)
    return Ratio(
        name=old.name, backend=old.backend, precision=old.precision, batch=old.batch, statistic=statistic, before_ms=old_ms,
        after_ms=new_ms, ratio=ratio, low=low, high=high, verdict=verdict, reason=reason,
    )  # fmt: skip


def _judged(
    measured: Sequence[tuple[str, Measurement]], low: float | None, high: float | None, permitted: float
) -> tuple[str, str]:
    for which, taken in measured:
        if taken.verdict.level != VALID:
            return INCONCLUSIVE, f"{which} is {taken.verdict}"
    if low is None or high is None:
        return INCONCLUSIVE, "too few runs for an interval"
    if low > 1 + permitted:
        return SLOWER, f"the whole interval lies above {1 + permitted:g}"
    if high < 1:
        return FASTER, "the whole interval lies below 1"
    if high > 1 + permitted:
        return INCONCLUSIVE, f"{1 + permitted:g} lies inside the interval; measure longer"
    return SAME, f"the whole interval lies below {1 + permitted:g}"
