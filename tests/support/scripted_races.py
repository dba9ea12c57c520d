"""Races whose learning curves are known beforehand: entrants, what training them gives, and a record made by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autoformer.cost import Budget
from autoformer.profiling.race.entrant import Entrant
from autoformer.profiling.race.halving import Leg, Outcome, Race
from autoformer.profiling.race.record import RaceRecord, Refused, raced
from autoformer.profiling.race.schedule import Rung, Schedule
from autoformer.search.candidate import packed

LABELS = np.arange(400) % 10
HELD_OUT = np.arange(100) % 10
FOUR = Schedule((Rung(4, 4), Rung(2, 12)), 20, (1.0, 4.0))  # four start, two go on, one or two finish

Curve = Callable[[float, int], float | str]  # of the factor and the epochs: the share that is right, or why there is none


def entrant(name: str, *, fresh: bool = False, latency_ms: float | None = None) -> Entrant:
    return Entrant(
        name=name, kind="rival" if fresh else "finalist", network=f"the network {name}", image_size=8, fresh=fresh, params=1000,
        flops=2000, predicted_ms=latency_ms,
    )  # fmt: skip


def right_on(share: float, labels: NDArray[np.int64] = LABELS, first: int = 0) -> NDArray[np.int64]:
    """Predictions that are right on this share of the images: those from number `first` on, round the end."""
    right = np.roll(np.arange(len(labels)) < round(share * len(labels)), first)
    return np.where(right, labels, (labels + 1) % 10)


class Script:
    """Trains by known curves, and keeps what it was asked, call by call."""

    def __init__(self, schedule: Schedule, curves: Mapping[str, Curve], firsts: Mapping[str, int] | None = None) -> None:
        self.schedule, self.curves, self.firsts = schedule, curves, firsts or {}
        self.asked: list[list[Leg]] = []

    def __call__(self, legs: Sequence[Leg]) -> dict[Leg, Outcome]:
        self.asked.append(list(legs))
        return {leg: self.outcome(leg) for leg in legs}

    def outcome(self, leg: Leg) -> Outcome:
        found, first = self.curves[leg.entrant](leg.rate, leg.epochs), self.firsts.get(leg.entrant, 0)
        if isinstance(found, str):
            return Outcome(seconds=0.5, failed=found)
        held_out = right_on(found, HELD_OUT, first) if leg.epochs == self.schedule.epochs else None
        return Outcome(seconds=float(leg.epochs), predictions=right_on(found, LABELS, first), held_out=held_out)

    def trained(self, name: str) -> list[tuple[float, int]]:
        """Factor and epochs of every leg of this entrant, in order."""
        return [(leg.rate, leg.epochs) for legs in self.asked for leg in legs if leg.entrant == name]


def recorded(
    curves: Mapping[str, Curve], entrants: Sequence[Entrant], schedule: Schedule = FOUR, limits: Budget | None = None
) -> RaceRecord:
    """The record of a scripted race; one network did not start."""
    finish = Race(entrants, schedule, Script(schedule, curves), LABELS).finish()
    assert finish is not None
    return RaceRecord(
        metric="top1", limits=limits or Budget(), measurement_conditions=None, schedule=schedule,
        entrants=raced(finish, LABELS, HELD_OUT, "top1"),
        refused=(Refused(name="giant", kind="rival", network="timm:giant", reason="3 ms against the limit of 1 ms"),),
        winner=finish.winner, runner_up=finish.runner_up, tied=finish.tied, labels=packed(LABELS), images=len(LABELS),
        held_out_images=len(HELD_OUT), agreement=None, seconds={"measuring": 7.0},
    )  # fmt: skip
