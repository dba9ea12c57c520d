"""Progress in a pipe: few lines, none twice, and a time left that begins anew with the work."""

from __future__ import annotations

import pytest

from autoformer.cli.progress_display import Paces, lines, time_left


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_first_now_and_then_and_at_the_end() -> None:
    clock, shown = Clock(), list[str]()
    report = lines(shown.append, clock)
    for done in range(101):
        clock.now = 100 + done
        report("train", done, 100)
    assert shown == [
        "train: 0/100",
        "train: 10/100 00:01:30 left",
        "train: 30/100 00:01:10 left",
        "train: 70/100 00:00:30 left",
        "train: 100/100",
    ]


def test_long_work_says_something_every_minute() -> None:
    """After 10, 30 and 70 seconds once a minute: 58 more in 3600 s, and the last."""
    clock, shown = Clock(), list[str]()
    report = lines(shown.append, clock)
    for done in range(3601):
        clock.now = 100 + done
        report("train", done, 3600)
    assert len(shown) == 1 + 3 + (3600 - 70) // 60 + 1
    assert shown[4].startswith("train: 130/3600 ")


def test_work_that_begins_anew_is_told_of_as_soon_as_at_first() -> None:
    """For 200 s, then from the start again: a line after 10 s, not after the 60 that had been reached; at the same pace the one
    at 10 is there already, so the next."""
    clock, shown = Clock(), list[str]()
    report = lines(shown.append, clock)
    for second in range(231):
        clock.now = 100 + second
        report("measure", second if second < 200 else second - 200, 1000)
    assert [line.split(" ")[1] for line in shown[-2:]] == ["190/1000", "11/1000"]


def test_work_that_comes_again_and_again_says_nothing_twice() -> None:
    clock, shown = Clock(), list[str]()
    report = lines(shown.append, clock)
    for _ in range(11):
        for done in (64, 148):
            clock.now += 1
            report("evaluate", done, 148)
    assert shown == ["evaluate: 64/148", "evaluate: 148/148"]


def test_the_time_that_is_left_is_of_the_work_since_it_last_began() -> None:
    """Eleven slow seconds of an earlier turn do not count: two of ten done in two seconds leave eight."""
    clock = Clock()
    paces = Paces(clock)
    paces.report("search", 0)
    clock.now += 11
    assert not paces.report("search", 10)[1]
    clock.now += 60
    assert paces.report("search", 0)[1]
    clock.now += 2
    pace, _ = paces.report("search", 2)
    assert pace.left_s(clock.now, 10) == 8


def test_the_time_that_work_waited_for_others_does_not_count() -> None:
    """Ten of a hundred in ten seconds, then twenty of another's: the next ten take ten again, so eighty seconds are left."""
    clock = Clock()
    paces = Paces(clock)
    for work, done, seconds in (("a", 0, 0), ("a", 10, 10), ("b", 0, 0), ("b", 20, 20), ("a", 10, 1), ("a", 20, 10)):
        clock.now += seconds
        pace, _ = paces.report(work, done)
    assert pace.left_s(clock.now, 100) == 80


def test_a_first_that_waited_for_a_trace_does_not_stand_for_the_others() -> None:
    """Eight seconds for the first of ten networks, one for each of the others: after the second eight are left."""
    clock = Clock()
    paces, left = Paces(clock), []
    for done, after in ((0, 0.0), (1, 8.0), (2, 1.0), (3, 1.0)):
        clock.now += after
        pace, _ = paces.report("measure", done)
        left.append(pace.left_s(clock.now, 10))
    assert left == [0, 72, 8, 7]


def test_the_time_in_which_work_gets_ready_is_no_pace() -> None:
    clock = Clock()
    paces, left = Paces(clock), []
    for done, after in ((0, 0.0), (0, 30.0), (1, 2.0), (2, 2.0)):
        clock.now += after
        pace, _ = paces.report("measure", done)
        left.append(pace.left_s(clock.now, 10))
    assert left == [0, 0, 18, 16]


@pytest.mark.parametrize(("seconds", "words"), [(0.5, ""), (90, "00:01:30 left"), (90_000, "1 days 01:00:00 left")])
def test_time_is_written_as_people_read_it(seconds: float, words: str) -> None:
    assert time_left(seconds) == words
