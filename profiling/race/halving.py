"""The decisions of a race, over any training: who goes on, who finishes, who wins. Pure of files, networks and clocks.

Entrants are compared on common images that decide. One that starts from random weights learns longer than one that inherits, so
the best of either kind stays in until two are left, and of these one from scratch finishes also where it is behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autoformer.metric import Metric, Score, score, tied
from autoformer.profiling.race.entrant import Entrant
from autoformer.profiling.race.schedule import Schedule


@dataclass(frozen=True, order=True)
class Leg:
    """A part of the training of one entrant: with this factor of the learning rate to the end of this epoch."""

    entrant: str
    rate: float
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a leg gave: predictions for the images that decide, or why there are none."""

    seconds: float  # of this leg's training
    predictions: NDArray[np.int64] | None = None  # [n]
    held_out: NDArray[np.int64] | None = None  # of a finished network, for images that decide nothing
    failed: str | None = None


Run = Callable[[Sequence[Leg]], Mapping[Leg, Outcome]]


@dataclass(kw_only=True)
class Standing:
    """Where an entrant stands."""

    entrant: Entrant
    rate: float | None = None  # the better one, once it is known
    outcomes: dict[Leg, Outcome] = field(default_factory=dict)
    out: str | None = None  # why it did not go on

    def predictions(self, epochs: int) -> NDArray[np.int64] | None:
        """By the better learning rate after so many epochs."""
        if self.rate is None or (found := self.outcomes.get(Leg(self.entrant.name, self.rate, epochs))) is None:
            return None
        return found.predictions

    @property
    def scored(self) -> set[int]:
        """After how many epochs with the better learning rate it has predictions."""
        return {leg.epochs for leg, found in self.outcomes.items() if leg.rate == self.rate and found.predictions is not None}

    @property
    def epochs(self) -> int:
        """How far it came with the better learning rate; 0: nowhere."""
        return max(self.scored, default=0)

    @property
    def failed(self) -> bool:
        """Whether its training ended before it was stopped."""
        return any(found.failed is not None for leg, found in self.outcomes.items() if self.rate in (None, leg.rate))


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How a race ended."""

    standings: Mapping[str, Standing]  # by name, in the order of starting
    winner: str
    runner_up: str | None  # the next best of those who came as far as any but the winner, and whose training did not fail
    tied: bool  # the two cannot be told apart on the images that decide


class Race:
    """One race. `run` trains legs, in any order, and gives what each led to; asked again it must give the same."""

    def __init__(
        self, entrants: Sequence[Entrant], schedule: Schedule, run: Run, labels: NDArray[np.int64], metric: Metric = "top1"
    ) -> None:
        self.standings = {entrant.name: Standing(entrant=entrant) for entrant in entrants}
        self.schedule, self.run, self.labels, self.metric = schedule, run, labels, metric

    def finish(self) -> Finish | None:
        """Runs the race to its end; None when no entrant could be trained."""
        alive = list(self.standings)
        if self.schedule.rungs:
            alive = self._first_rung()
        else:
            for name in alive:
                self.standings[name].rate = self.schedule.rates[0]
        reached = self.schedule.rungs[0].epochs if self.schedule.rungs else 0
        for rung in self.schedule.rungs[1:]:
            if len(alive) > rung.entrants:
                kept = self._promoted(alive, rung.entrants)
                self._drop([name for name in alive if name not in kept], reached)
                alive = kept
            alive, reached = self._trained(alive, rung.epochs), rung.epochs
            alive = self._ranked(alive, reached)
        finished = self._to_the_end(alive, reached)
        if not finished:
            return None
        winner = finished[0]
        second = self._second(winner, finished)
        same = second is not None and self._tied(winner, second)
        return Finish(standings=self.standings, winner=winner, runner_up=second, tied=same)

    # --- rungs -----------------------------------------------------------------------------------------------------

    def _first_rung(self) -> list[str]:
        """Trains everyone with each learning rate, and keeps the better one of each; the best first."""
        epochs = self.schedule.rungs[0].epochs
        self._do([Leg(name, rate, epochs) for name in self.standings for rate in self.schedule.rates])
        for name, standing in self.standings.items():
            found = {rate: standing.outcomes[Leg(name, rate, epochs)] for rate in self.schedule.rates}
            scores = {rate: self._score(one.predictions).value for rate, one in found.items() if one.predictions is not None}
            if scores:
                standing.rate = max(scores, key=lambda rate: (scores[rate], -self.schedule.rates.index(rate)))
            else:
                standing.out = next(one.failed for one in found.values() if one.failed)
        return self._ranked([name for name, standing in self.standings.items() if standing.out is None], epochs)

    def _trained(self, names: Sequence[str], epochs: int) -> list[str]:
        """Those of the entrants whose training came to this epoch; the others are out."""
        rates = {name: self.standings[name].rate for name in names}
        legs = [Leg(name, rate, epochs) for name, rate in rates.items() if rate is not None]
        self._do(legs)
        for leg in legs:
            if (failed := self.standings[leg.entrant].outcomes[leg].failed) is not None:
                self.standings[leg.entrant].out = failed
        return [name for name in names if self.standings[name].out is None]

    def _promoted(self, ranked: Sequence[str], count: int) -> list[str]:
        """The first `count`, the best of either start among them."""
        kept = list(ranked[:count])
        for fresh in (True, False):
            of_this_start = [name for name in ranked if self.standings[name].entrant.fresh is fresh]
            others = [name for name in kept if self.standings[name].entrant.fresh is not fresh]
            if of_this_start and len(others) == len(kept) > 1:
                kept[-1] = of_this_start[0]
        return kept

    def _drop(self, names: Sequence[str], epochs: int) -> None:
        for name in names:
            found, many = self.standings[name].predictions(epochs), "" if epochs == 1 else "s"
            self.standings[name].out = "failed" if found is None else f"behind after {epochs} epoch{many} ({self._score(found)})"

    # --- the end -----------------------------------------------------------------------------------------------------

    def _to_the_end(self, ranked: Sequence[str], reached: int) -> list[str]:
        """The finished, the best first. Where a training fails the next entrant takes its place."""
        last, finished = self.schedule.epochs, list[str]()
        if ranked and reached == last:  # the last rung is the end
            return list(ranked)
        waiting = [*ranked, *self._ranked_by_last([name for name in self.standings if name not in ranked])]
        if len(ranked) > 1 and self._goes_with(ranked[0], ranked[1], reached):
            finished = self._trained(ranked[:2], last)
            waiting = waiting[2:]
        while not finished and waiting:
            name = waiting.pop(0)
            if self.standings[name].rate is None:
                continue
            before, self.standings[name].out = self.standings[name].out, None
            finished = self._trained([name], last)
            if not finished and before is not None:
                self.standings[name].out = f"{before}; then {self.standings[name].out}"
        for name in ranked:
            if name not in finished and self.standings[name].out is None:
                self._drop([name], reached)
        return self._ranked(finished, last)

    def _goes_with(self, first: str, second: str, reached: int) -> bool:
        """Whether the second finishes as well: it cannot be told from the first yet, or it started from nothing and is behind."""
        if reached == 0 or self._tied(first, second):
            return True
        one, other = self.standings[first].entrant, self.standings[second].entrant
        return other.fresh and not one.fresh

    def _second(self, winner: str, finished: Sequence[str]) -> str | None:
        trained = [name for name, standing in self.standings.items() if not standing.failed and name != winner]
        others = self._ranked_by_last(trained)
        return next(iter([*finished[1:], *others]), None)

    # --- comparisons ---------------------------------------------------------------------------------------------------

    def _do(self, legs: Sequence[Leg]) -> None:
        found = self.run(legs)
        for leg in legs:
            self.standings[leg.entrant].outcomes[leg] = found[leg]

    def _score(self, predictions: NDArray[np.int64]) -> Score:
        return score(predictions, self.labels, self.metric)

    def _ranked(self, names: Sequence[str], epochs: int) -> list[str]:
        """The best first; equal scores go to the faster, then to the one that was named first."""
        order = list(self.standings)

        def place(name: str) -> tuple[float, float, int]:
            found = self.standings[name].predictions(epochs)
            value = -1.0 if found is None else self._score(found).value
            return -value, self.standings[name].entrant.latency_ms or 0.0, order.index(name)

        return sorted(names, key=place)

    def _ranked_by_last(self, names: Sequence[str]) -> list[str]:
        """Those who came far first, the best first among them; who never came to a score is left out."""
        reached = sorted({self.standings[name].epochs for name in names} - {0}, reverse=True)
        found = ({name for name in names if self.standings[name].epochs == epochs} for epochs in reached)
        return [
            name for epochs, members in zip(reached, found, strict=True) for name in self._ranked(sorted(members), epochs)
        ]  # fmt: skip

    def _tied(self, first: str, second: str) -> bool:
        """Whether the two cannot be told apart at the last epoch that both came to."""
        epochs = max(self.standings[first].scored & self.standings[second].scored, default=0)
        one, other = self.standings[first].predictions(epochs), self.standings[second].predictions(epochs)
        return one is not None and other is not None and tied(one, other, self.labels, self.metric)
