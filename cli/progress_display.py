"""How far the work is, for a person to see: bars in a terminal, few lines in a pipe. All of it on stderr.

A kind of work may come again (one network is scored, then the next): where fewer things are done than before it began anew, and
with it the time that is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from autoformer.escaping import visible
from autoformer.progress import Progress

TURN_S = 5.0  # without a report while other work had some: time that does not count
FIRST_S, MOST_S = 10.0, 60.0  # between lines of one kind of work in a pipe: twice as long each time
DAY_S = 86400
WORK_LETTERS, BAR_LETTERS, NUMBERS_LETTERS = 21, 20, 32  # of a bar's line; numbers are counts and two times, with what is between


@dataclass
class Pace:
    """One kind of work since it last began."""

    began: float  # seconds, by the clock of whoever asks
    behind: int  # done when it began
    done: int
    seen: float  # when it last reported
    warm: tuple[float, int] | None = None  # when the first was done, which often waited for a library or a trace, and how many

    def left_s(self, now: float, total: int) -> float:
        """Seconds that are left at the pace so far, without the first where others are done; 0 while there is none."""
        began, behind = (self.began, self.behind) if self.warm is None or self.done <= self.warm[1] else self.warm
        gained = self.done - behind
        return (now - began) / gained * (total - self.done) if gained > 0 else 0.0


class Paces:
    """Every kind of work that has reported."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.of: dict[str, Pace] = {}
        self.latest = ""  # that reported

    def report(self, work: str, done: int) -> tuple[Pace, bool]:
        """The pace of a kind of work, and whether it begins now."""
        pace, now, others = self.of.get(work), self.clock(), self.latest != work
        self.latest = work
        if pace is None or done < pace.done:
            self.of[work] = pace = Pace(now, done, done, now)
            return pace, True
        if others and now - pace.seen > TURN_S:  # it waited for others, as trainings of a race that take turns
            pace.began, pace.behind, pace.warm = now, pace.done, None
        pace.done, pace.seen = done, now
        if done == pace.behind:  # it still gets ready
            pace.began = now
        elif pace.warm is None:
            pace.warm = now, done
        return pace, False


@contextmanager
def bars() -> Iterator[Progress]:
    """Bars on a terminal, one per kind of work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn(f"{{task.description:<{WORK_LETTERS}}}", markup=False),
        BarColumn(BAR_LETTERS),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    console = Console(stderr=True)
    room = max(0, console.width - WORK_LETTERS - BAR_LETTERS - NUMBERS_LETTERS)  # else rich takes it from the numbers
    with Bars(*columns, console=console) as shown:
        tasks, paces = dict[str, Any](), Paces()

        def report(work: str, done: int, total: int, note: str = "") -> None:
            _, begins = paces.report(work, done)
            if work not in tasks:
                tasks[work] = shown.add_task(visible(work), total=total, note="")
            elif begins:
                shown.reset(tasks[work], total=total)
            said = visible(note)
            said = said if len(said) <= room else f"{said[: max(0, room - 1)]}…"
            shown.update(tasks[work], completed=done, total=total, note=said)

        yield report


def lines(say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Progress:
    """Progress as plain lines: a kind of work's first, then ever fewer, and one at an end; no line is there twice.

    Between two of them are `FIRST_S`, then twice as long each time up to `MOST_S`.
    """
    paces, shown, waits, printed = Paces(clock), dict[str, float](), dict[str, float](), set[str]()
    ended: dict[str, int] = {}  # kinds of work whose end was said, with how much that was

    def report(work: str, done: int, total: int, note: str = "") -> None:
        now, known = clock(), work in shown
        if done == total and ended.get(work) == total:
            return
        ended[work] = total if done == total else 0
        pace, begins = paces.report(work, done)
        if known and begins and done != total:
            shown[work], waits[work] = now, FIRST_S
        wait = waits.setdefault(work, FIRST_S)
        if known and done != total and now - shown[work] < wait:
            return
        line = f"{work}: {done}/{total} {time_left(pace.left_s(now, total))} {note}".replace("  ", " ").rstrip()
        if line in printed:
            return
        if known and done != total:
            waits[work] = min(MOST_S, 2 * wait)
        shown[work] = now
        printed.add(line)
        say(line)

    return report


def time_left(seconds: float) -> str:
    """`00:02:10 left`, with days where there are some; nothing below a second."""
    if seconds < 1:
        return ""
    days = f"{int(seconds // DAY_S)} days " if seconds >= DAY_S else ""
    return f"{days}{time.strftime('%H:%M:%S', time.gmtime(seconds % DAY_S))} left"
