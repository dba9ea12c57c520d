"""Who trains how far: successive halving (Jamieson & Talwalkar, arXiv 1502.07943) in epochs of one finetune's schedule.

Everyone trains to the first rung with each learning rate, half of them to the second, and so on until two are left. The winner
finishes the finetune, and so does the runner-up where the two cannot be told apart. Each rung goes on where the last one
stopped, so only epochs of others than the delivered network are extra: so many finetunes as the recipe allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

STEEPNESS = (4, 3, 2)  # of the rungs' epochs, one to the next; a late decision costs little, since few are left by then
LEAST = 1 / 40  # of the finetune, before anything is decided


@dataclass(frozen=True)
class Rung:
    """Up to how many epochs, and how many entrants at most."""

    entrants: int
    epochs: int  # of the finetune's schedule, the earlier rungs included


@dataclass(frozen=True)
class Schedule:
    """The rungs, rising in epochs and falling in entrants."""

    rungs: tuple[Rung, ...]
    epochs: int  # of the whole finetune
    rates: tuple[float, ...]  # factors of the learning rate, tried in the first rung

    @property
    def entrants(self) -> int:
        """How many can start."""
        return self.rungs[0].entrants if self.rungs else 1

    @property
    def most_extra_epochs(self) -> int:
        """Epochs beyond the winner's own finetune, when the runner-up has to finish as well."""
        if not self.rungs:
            return 0
        total, before = (len(self.rates) - 1) * self.rungs[0].entrants * self.rungs[0].epochs, 0
        for rung in self.rungs:
            total, before = total + rung.entrants * (rung.epochs - before), rung.epochs
        return total + min(2, self.rungs[-1].entrants) * (self.epochs - before) - self.epochs

    @classmethod
    def of(cls, entrants: int, epochs: int, rates: tuple[float, ...], cost: float, warmup: float = 0.0) -> Schedule:
        """The schedule for up to so many entrants of a finetune of so many epochs, within `cost` finetunes.

        Nothing is decided before the `warmup` epochs of the learning rate are over. As many start as the cost allows when the
        first rung has a fortieth of all epochs; with that many, it is as long as it can be. Where not even two can start with
        every learning rate, the first one alone is tried; without room for that either there is no rung.
        """
        for tried in (rates, rates[:1]):
            for count in range(entrants, 1, -1):
                fitting = [plan for plan in _plans(count, epochs, tried, warmup) if plan.most_extra_epochs <= cost * epochs]
                if fitting:
                    return max(fitting, key=lambda plan: (plan.rungs[0].epochs, plan.rungs[-1].epochs))
        return cls((), epochs, rates[:1])


def _plans(entrants: int, epochs: int, rates: tuple[float, ...], warmup: float) -> Iterator[Schedule]:
    """Every schedule for exactly so many entrants."""
    sizes = [entrants]
    while sizes[-1] > 2:
        sizes.append(-(-sizes[-1] // 2))
    for steepness in STEEPNESS:
        for first in range(max(1, math.ceil(LEAST * epochs), math.ceil(warmup)), epochs + 1):
            ends = [first * steepness**place for place in range(len(sizes))]
            if ends[-1] > epochs:
                break
            yield Schedule(tuple(Rung(*rung) for rung in zip(sizes, ends, strict=True)), epochs, rates)
