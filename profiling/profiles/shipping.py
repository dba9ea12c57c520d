"""Which of a network's files to ship, and why: one rule for terminal, report and `describe`.

Of the files that count as exported, keep every limit and were measured VALID, the fastest whose score is not significantly
below that of fp32 (a paired test on the same images). The fastest is the one of the least median; files whose 95 % intervals
come within `SAME_SPEED` of that of the fastest are as fast, and of these the most exact is shipped. A file that other programs
slowed, and that is within a limit on latency even so, counts too: how fast it would be alone is open, so it is as fast as any.
Where no file fulfils all of it none is named, every file says what stands against it, and where that is only how surely it was
measured, which it would be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoformer.cost import use_words
from autoformer.metric import Difference
from autoformer.profiling.measuring.verdict import INCONCLUSIVE, OVER_BUDGET, VALID, WITHIN_BUDGET, Verdict
from autoformer.profiling.profiles.int8_speed import SAME_SPEED

EXACTNESS = ("fp32", "tf32", "fp16", "int8")  # the most exact first
SHIP, SLOWER, AS_FAST, LESS_ACCURATE = "ship this", "slower", "as fast, less exact", "less accurate"  # of files that were timed
LESS_EXACT = "less exact"  # where other programs ran, so that which is faster is open
NOT_TESTED, NOT_TIMED = "not tested", "not measured"
JUDGED = (OVER_BUDGET, INCONCLUSIVE, LESS_ACCURATE)  # obstacles of files whose times can be compared


@dataclass(frozen=True, kw_only=True)
class LimitUse:
    """How much of a limit a file uses, and what that says of the limit."""

    share: float | None  # None of a lower limit, and where nothing was measured
    status: str  # within budget, over budget, inconclusive
    reason: str


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """What is known of one file on one backend. Times are of the device that the limits are about."""

    name: str  # ONNX int8
    precision: str
    against: tuple[str, str] | None = None  # why it does not count whatever its numbers, in a word and in a sentence
    tested: bool = True  # whether there is a score
    difference: Difference | None = None  # of its score to that of fp32, image by image; None: it is the fp32 file
    p50_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    verdict: Verdict | None = None
    limits: Mapping[str, LimitUse] = field(default_factory=dict)  # by the limit's name

    def obstacle(self) -> tuple[str, str] | None:
        """What stands against shipping it, in a word and in a sentence; None: nothing."""
        if self.against is not None:
            return self.against
        if self.p50_ms is None or self.verdict is None:
            return NOT_TIMED, "its time was not measured"
        if self.verdict.level != VALID and not self.keeps_latency_all_the_same:
            return self.verdict.level, f"its time is {self.verdict}; measure again on a quiet machine, or on the device"
        for status in (OVER_BUDGET, None):  # what is known to be broken before what is open
            for name, use in self.limits.items():
                if use.status == status or (status is None and use.status != WITHIN_BUDGET):
                    share = "" if use.share is None else f"{use_words(name, use.share)}: "
                    return use.status, f"{share}{use.reason}"
        if not self.tested:
            return NOT_TESTED, "it has no score on the test part"
        if self._is_less_accurate():
            return LESS_ACCURATE, f"significantly less accurate than fp32: {self.difference} points"
        return None

    def may_do(self) -> bool:
        """Whether nothing stands against it but how surely it was measured."""
        if self.against is not None or self.p50_ms is None or not self.tested or self._is_less_accurate():
            return False
        return all(use.status != OVER_BUDGET and (use.share or 0) <= 1 for use in self.limits.values())

    @property
    def keeps_latency_all_the_same(self) -> bool:
        """Whether other programs made its time longer, and it is within a limit on latency even so."""
        latency, verdict = self.limits.get("max_latency_ms"), self.verdict
        if latency is None or verdict is None or verdict.level == VALID:
            return False
        return verdict.at_most_slowed and latency.status == WITHIN_BUDGET

    def _is_less_accurate(self) -> bool:
        return self.difference is not None and self.difference.value < 0 and not self.difference.tied

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of its median; without end where the runs carry none, from 0 where other programs slowed it."""
        low_ms = None if self.keeps_latency_all_the_same else self.low_ms
        return low_ms or 0.0, self.high_ms or math.inf


@dataclass(frozen=True, kw_only=True)
class Shipping:
    """The answer: the place of the file to ship among those asked about, None where there is none; and why, of every file."""

    place: int | None
    likely: int | None  # where there is none: the one that it would be if the times stand
    reason: str
    words: tuple[str, ...]  # a word for each file, in their order
    reasons: tuple[str, ...]  # a sentence for each


def file_to_ship(files: Sequence[ExportedFile], device: str) -> Shipping:
    """Which of the files to ship, by the rule above. `device` names in words where they were timed: "this CPU"."""
    obstacles = [file.obstacle() for file in files]
    left = [place for place, against in enumerate(obstacles) if against is None]
    may_do = [place for place, file in enumerate(files) if file.may_do()]
    best = _fastest(files, left) if left else None
    told = []
    for place, (file, against) in enumerate(zip(files, obstacles, strict=True)):
        slower = _slower_than_exact(file, files, device)
        if against is not None:
            told.append((against[0], f"{against[1]}; {slower}" if slower and against[0] in JUDGED else against[1]))
        elif best is None or place == best:
            told.append((SHIP, _why(file, [files[other] for other in left])))
        else:
            told.append((SLOWER, slower) if slower else _behind(file, files[best], device))
    words, reasons = tuple(word for word, _ in told), tuple(sentence for _, sentence in told)
    if best is not None:
        return Shipping(place=best, likely=None, reason=reasons[best], words=words, reasons=reasons)
    likely = _fastest(files, may_do) if may_do else None
    return Shipping(place=None, likely=likely, reason=_nothing(files, reasons), words=words, reasons=reasons)


def _fastest(files: Sequence[ExportedFile], places: Sequence[int]) -> int:
    """The fastest of them; of those that are as fast, the most exact."""
    fastest = min(places, key=lambda place: files[place].p50_ms or math.inf)
    as_fast = [place for place in places if not _is_slower(files[place], files[fastest])]
    return min(as_fast, key=lambda place: (_exactness(files[place]), files[place].p50_ms or math.inf))


def _is_slower(file: ExportedFile, other: ExportedFile) -> bool:
    return file.interval[0] > other.interval[1] * (1 + SAME_SPEED)


def _exactness(file: ExportedFile) -> int:
    return EXACTNESS.index(file.precision) if file.precision in EXACTNESS else len(EXACTNESS)


def _nothing(files: Sequence[ExportedFile], said: Sequence[str]) -> str:
    """Why none can be shipped: what stands against the most exact file that was exported."""
    if not files:
        return "nothing was exported"
    place = min(range(len(files)), key=lambda index: (files[index].against is not None, _exactness(files[index])))
    return f"{files[place].name}: {said[place]}"


def _why(file: ExportedFile, left: Sequence[ExportedFile]) -> str:
    """Why it is the one of those that could be shipped."""
    kept = "keeps every limit" if file.limits else "was measured VALID"
    kept += ", although other programs made its time longer" if file.keeps_latency_all_the_same else ""
    first = "the only file that could be shipped"
    if len(left) > 1:
        is_fastest = file.p50_ms == min(one.p50_ms or math.inf for one in left)
        is_open = any(one.keeps_latency_all_the_same for one in left)
        which = "the fastest" if is_fastest else "the most exact" if is_open else "as fast as any"
        first = f"the {file.precision} file is {which} of the {len(left)} files that could be shipped"
    if file.difference is None:
        return f"{first}, and it {kept}"
    return f"{first}; it {kept}, and its score is not significantly below that of fp32 ({file.difference} points)"


def _behind(file: ExportedFile, chosen: ExportedFile, device: str) -> tuple[str, str]:
    """Why a file that could be shipped is not the one."""
    if _is_slower(file, chosen):
        return SLOWER, f"slower than {chosen.name} on {device}: {_times(file, chosen)}"
    if file.keeps_latency_all_the_same or chosen.keeps_latency_all_the_same:
        return (
            LESS_EXACT,
            f"which is faster is open, since other programs ran ({_times(file, chosen)}), and {chosen.name} is more exact",
        )
    return AS_FAST, f"as fast as {chosen.name} on {device} ({_times(file, chosen)}), and less exact"


def _slower_than_exact(file: ExportedFile, files: Sequence[ExportedFile], device: str) -> str:
    """That a file is slower than fp32, where the whole interval of its median lies above; else nothing."""
    exact = next((one for one in files if one.precision == "fp32" and one.p50_ms is not None), None)
    if exact is None or file.precision == "fp32" or file.p50_ms is None or not _is_slower(file, exact):
        return ""
    return f"slower than fp32 on {device}: {_times(file, exact)}"


def _times(one: ExportedFile, other: ExportedFile) -> str:
    return f"{one.p50_ms:.3g} against {other.p50_ms:.3g} ms"
