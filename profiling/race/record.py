"""`RaceRecord`: what a race leaves, as `race.json`: who took part, how far each came, what was delivered and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer import __version__
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, show
from autoformer.files import believing, read_document, write_json
from autoformer.metric import WORDS as METRIC_WORDS
from autoformer.metric import Difference, Metric, Score, paired_difference, score
from autoformer.profiling.race.agreement import Agreement
from autoformer.profiling.race.entrant import WORDS, Entrant, Kind
from autoformer.profiling.race.halving import Finish, Leg
from autoformer.profiling.race.schedule import Schedule
from autoformer.records import fields_to_json, from_json
from autoformer.search.candidate import packed, unpacked

FORMAT, FILE_NAME = "autoformer/race/1", "race.json"
AT_CHANCE = "not clearly better than always naming the largest class"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """An entrant after a part of its training."""

    rate: float  # factor of the learning rate
    epochs: int
    seconds: float  # of this part
    score: Score | None = None  # on the images that decide
    guesses: str | None = None  # the predictions it is of (`packed`)
    failed: str | None = None

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.epochs < 1 or self.seconds < 0 or (self.score is None) is (self.failed is None):
            raise ValueError(f"{self.epochs} epochs at {self.rate} in {self.seconds} s, {self.score or self.failed}")
        if (self.score is None) is not (self.guesses is None):
            raise ValueError(f"a score without predictions, or the other way round, after {self.epochs} epochs")


@dataclass(frozen=True, kw_only=True)
class Raced:
    """An entrant with its way through the race."""

    entrant: Entrant
    rate: float | None  # the better factor of the learning rate; None: it failed with each
    trained: tuple[Trained, ...]
    out: str | None  # why it did not finish
    held_out: Score | None = None  # of a finished network, on images that decided nothing

    def curve(self) -> list[Trained]:
        """What it scored with the better learning rate, by rising epochs."""
        kept = (one for one in self.trained if one.rate == self.rate and one.score is not None)
        return sorted(kept, key=lambda one: one.epochs)

    @property
    def last(self) -> Trained | None:
        """The last score it came to."""
        return next(iter(self.curve()[::-1]), None)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A network that did not start."""

    name: str
    kind: Kind
    network: str
    reason: str
    entrant: Entrant | None = None  # where it came to be measured


@dataclass(frozen=True, kw_only=True)
class RaceRecord:
    """A finished race."""

    metric: Metric
    limits: Budget  # as stated
    measurement_conditions: MeasurementConditions | None  # of every latency; None: nothing could be measured
    schedule: Schedule
    entrants: tuple[Raced, ...]  # in the order of starting
    refused: tuple[Refused, ...]
    winner: str
    runner_up: str | None
    tied: bool  # the two cannot be told apart on the images that decide
    labels: str  # of the images that decide (`packed`)
    images: int  # that decide
    held_out_images: int
    agreement: Agreement | None  # of inherited scores with those after the first rung
    seconds: Mapping[str, float] = field(default_factory=dict)  # by what it was spent on, beside the trainings
    version: str = __version__

    def __post_init__(self) -> None:
        names = [one.entrant.name for one in self.entrants]
        others = {None, *names} - {self.winner}
        if self.winner not in names or self.runner_up not in others or len(set(names)) < len(names):
            raise ValueError(f"winner {self.winner!r}, runner-up {self.runner_up!r} of {names}")
        if (last := self[self.winner].last) is None or last.epochs != self.schedule.epochs:
            raise ValueError(f"the winner {self.winner!r} did not finish")
        for one in self.entrants:
            for part in one.trained:
                if part.score is None:
                    continue
                if not part.score.is_close_to(score(self._predictions(part), self._labels, self.metric)):
                    raise ValueError(f"{one.entrant.name} scored {part.score} after {part.epochs} epochs, its predictions do not")
        if (found := self.difference()) is not None and found.tied is not self.tied:
            raise ValueError(f"{self.winner} and {self.runner_up} differ by {found} points, and tied is {self.tied}")

    def __getitem__(self, name: str) -> Raced:
        return next(one for one in self.entrants if one.entrant.name == name)

    @property
    def delivered(self) -> Raced:
        """The winner."""
        return self[self.winner]

    # --- what it cost ----------------------------------------------------------------------------------------------

    def _parts(self) -> Iterator[tuple[bool, Trained, int]]:
        """Whether a part of a training belongs to the delivered network, the part, and its own epochs."""
        for one in self.entrants:
            before: dict[float, int] = {}
            for part in sorted(one.trained, key=lambda part: part.epochs):
                own = one.entrant.name == self.winner and part.rate == one.rate
                yield own, part, part.epochs - before.get(part.rate, 0)
                before[part.rate] = part.epochs

    @property
    def own_seconds(self) -> float:
        """The delivered network's finetune."""
        return sum(part.seconds for own, part, _ in self._parts() if own)

    @property
    def extra_seconds(self) -> float:
        """All other training."""
        return sum(part.seconds for own, part, _ in self._parts() if not own)

    @property
    def extra_epochs(self) -> int:
        """Epochs of all other training."""
        return sum(epochs for own, _, epochs in self._parts() if not own)

    @property
    def cost(self) -> float:
        """What the race trained beyond the delivered network's finetune, in whole finetunes of it, by epochs."""
        return self.extra_epochs / self.schedule.epochs

    # --- words -------------------------------------------------------------------------------------------------------

    def difference(self) -> Difference | None:
        """The winner's score less the runner-up's, at the last epoch that both came to; on the images that decide."""
        return None if self.runner_up is None else self._difference_to(self.runner_up)

    def _difference_to(self, other: str) -> Difference | None:
        if (last := self._last_common(other)) is None:
            return None
        one, two = (
            next(self._predictions(part) for part in self[name].curve() if part.epochs == last) for name in (self.winner, other)
        )
        return paired_difference(two, one, self._labels, self.metric)

    def _last_common(self, other: str) -> int | None:
        """The last epoch after which this entrant and the winner both have a score."""
        one, two = ({part.epochs for part in self[name].curve()} for name in (self.winner, other))
        return max(one & two, default=None)

    def sentence(self) -> str:
        """The decision, for a reader who knows nothing else."""
        best, entrant = self.delivered, self.delivered.entrant
        assert best.last is not None, "a winner has finished"
        words = f"{entrant.network} is delivered ({WORDS[entrant.kind]}): {METRIC_WORDS[self.metric]} {best.last.score} on "
        words += f"{self.images} images that decided"
        weak = self._is_at_chance(self.winner, best.last.epochs)
        words += f", {AT_CHANCE}" if weak else ""
        if best.held_out is not None:
            words += f"{'; ' if weak else ', '}{best.held_out} on {self.held_out_images} that did not"
        if entrant.latency_ms is not None:
            words += f"; {show('latency_ms', entrant.latency_ms)}"
            if self.limits.max_latency_ms is not None:
                words += f", {100 * entrant.latency_ms / self.limits.max_latency_ms:.0f} % of the limit"
            words += ", as the race measured it"
        found = self.difference()
        if self.runner_up is None or found is None:
            return f"{words}. There is no other network to compare it with."
        second, reached = self[self.runner_up].entrant, self._last_common(self.runner_up) or 0
        against = f"{second.network} ({WORDS[second.kind]})"
        if self.tied:
            return f"{words}. It cannot be told apart from {against}: {found} points.{self._open_words()}"
        if found.value < 0:  # it took the place of others, whose training failed
            return f"{words}. After {counted(reached)} it was behind {against}, which was not trained further: {found} points."
        weak = self._is_at_chance(self.runner_up, reached)
        but = f"; after {counted(reached)} that one was {AT_CHANCE}" if weak else ""
        return f"{words}. It is ahead of {against} by {found} points{but}.{self._open_words()}"

    def _is_at_chance(self, name: str, epochs: int) -> bool:
        """Whether the interval of a score holds what a network gets that gives every image the class that most images have."""
        found = next(part.score for part in self[name].curve() if part.epochs == epochs)
        largest = np.bincount(self._labels).argmax()
        return found is not None and found.low <= score(np.full(self.images, largest), self._labels, self.metric).value

    def undecided(self) -> list[Raced]:
        """Those that went out early while they could not be told apart from the winner, beside the runner-up."""
        others = [one for one in self.entrants if one.entrant.name not in (self.winner, self.runner_up)]
        found = []
        for one in others:
            difference = self._difference_to(one.entrant.name)
            if difference is not None and difference.tied:
                found.append(one)
        return found

    def _open_words(self) -> str:
        names = ", ".join(f"{one.entrant.name} ({one.entrant.network})" for one in self.undecided())
        return "" if not names else f" Out early, while they could not be told apart from it: {names}."

    # --- files -------------------------------------------------------------------------------------------------------

    @property
    def _labels(self) -> NDArray[np.int64]:
        return unpacked(self.labels, self.images)

    def _predictions(self, part: Trained) -> NDArray[np.int64]:
        assert part.guesses is not None, "only what was scored is compared"
        return unpacked(part.guesses, self.images)

    def to_dict(self) -> dict[str, Any]:
        """The content of `race.json`; cost and sentence stand there for readers."""
        beside = {"cost": self.cost, "extra_seconds": self.extra_seconds, "own_seconds": self.own_seconds}
        return {"format": FORMAT, "sentence": self.sentence(), **beside, **fields_to_json(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RaceRecord:
        """Reads the JSON form. Raises `CheckpointError` for what is missing or contradicts itself."""
        return from_json(cls, values, "race", beside=("format", "sentence", "cost", "extra_seconds", "own_seconds"))

    def save(self, folder: Path) -> None:
        """Writes `race.json`, whole or not at all."""
        write_json(self.to_dict(), folder / FILE_NAME)

    @classmethod
    def load(cls, folder: Path) -> RaceRecord:
        """The finished race in `folder`. Raises `CheckpointError` when it holds none, or one that is damaged."""
        path = folder / FILE_NAME
        values = read_document(path, FORMAT, expected="a finished race")
        with believing(path, "it was edited or damaged; race again", fault="is not the result of a race"):
            return cls.from_dict(values)


def counted(epochs: int) -> str:
    """So many epochs, in words."""
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def raced(finish: Finish, labels: NDArray[np.int64], held_out_labels: NDArray[np.int64], metric: Metric) -> tuple[Raced, ...]:
    """Everyone's way through a race, as the record keeps it."""
    found = []
    for standing in finish.standings.values():
        parts = []
        for leg, outcome in sorted(standing.outcomes.items()):
            known = outcome.predictions
            parts.append(
                Trained(
                    rate=leg.rate,
                    epochs=leg.epochs,
                    seconds=outcome.seconds,
                    score=None if known is None else score(known, labels, metric),
                    guesses=None if known is None else packed(known),
                    failed=outcome.failed,
                )
            )
        last = max((leg for leg in standing.outcomes if leg.rate == standing.rate), key=lambda leg: leg.epochs, default=None)
        held = None if last is None else _held_out(standing.outcomes, last)
        found.append(
            Raced(
                entrant=standing.entrant,
                rate=standing.rate,
                trained=tuple(parts),
                out=standing.out,
                held_out=None if held is None else score(held, held_out_labels, metric),
            )
        )
    return tuple(found)


def _held_out(outcomes: Mapping[Leg, Any], last: Leg) -> NDArray[np.int64] | None:
    found: NDArray[np.int64] | None = outcomes[last].held_out
    return found
