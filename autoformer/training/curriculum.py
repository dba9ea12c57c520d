"""From large networks to small ones: for the first part of a training, only networks of so many FLOPs are drawn.

A supernet that starts from one pretrained network knows its largest network alone. Small ones, drawn from the first step on, pull
the shared weights away from what the large ones need before they have learned anything themselves; so they are let in one after
the other (the idea is that of EA-ViT, ICCV 2025, and of progressive shrinking in Once-for-All, arXiv 1908.09791). Here the least
FLOPs fall in equal stages from those of the largest network to those of the smallest, and a step draws what its strategy draws,
given that. FLOPs order networks whatever a space leaves open; afterwards every step draws what it would without a curriculum.

The choice is a function of (seed, step, number of steps), like every other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from autoformer.architecture import Architecture
from autoformer.cost import Budget, ExactCosts
from autoformer.drawing.budgeted import Candidates
from autoformer.errors import BudgetError
from autoformer.space import SearchSpace
from autoformer.training.choosing import Choose, chooser, parameter_strata
from autoformer.training.config import SubnetsConfig, read_preferred

STAGES = 32  # so that what a stage draws from is made once for many steps


def chooser_over(config: SubnetsConfig, space: SearchSpace, seed: int, steps: int) -> Choose:
    """What each of the `steps` of a training trains: `chooser`, begun by the curriculum where the config has one."""
    choose = chooser(config, space, seed)
    eased = round((config.curriculum or 0.0) * steps)
    if not eased or space.size == 1:
        return choose
    early = _early(config, space, seed, Floor.of(space, eased))
    return lambda step: early(step) if step < eased else choose(step)


@dataclass(frozen=True)
class Floor:
    """The least FLOPs of a network that a step may draw."""

    smallest: int
    largest: int
    steps: int  # until the least are those of the smallest network

    @classmethod
    def of(cls, space: SearchSpace, steps: int) -> Floor:
        costs = ExactCosts(space)
        return cls(costs(space.smallest).flops, costs(space.largest).flops, steps)

    def __call__(self, step: int) -> int:
        """Falls from the FLOPs of the largest network in `STAGES` equal stages."""
        stage = min(STAGES, step * STAGES // self.steps)
        return self.largest - (self.largest - self.smallest) * stage // STAGES


def _early(config: SubnetsConfig, space: SearchSpace, seed: int, floor: Floor) -> Choose:
    """What the strategy of `config` draws above the floor."""
    costs = ExactCosts(space)

    @lru_cache(maxsize=2)
    def above(least: int) -> Candidates:
        return Candidates(space, costs, Budget(min_flops=least))

    @lru_cache(maxsize=2)
    def strata(least: int) -> Sequence[Candidates]:
        return _strata(config.strata, space, least) or (above(least),)

    def rng(step: int) -> random.Random:
        return random.Random(f"{seed}/architecture/{step}")

    def uniform(step: int) -> tuple[Architecture, ...]:
        return (above(floor(step)).draw(rng(step))[0],)

    def sandwich(step: int) -> tuple[Architecture, ...]:
        own, drawn = rng(step), above(floor(step))  # as many as ever: another one in place of the smallest
        return (space.largest, *(drawn.draw(own)[0] for _ in range(1 + config.between)))

    def stratified(step: int) -> tuple[Architecture, ...]:
        own = rng(step)
        return (own.choice(strata(floor(step))).draw(own)[0],)

    preferred = sorted(map(read_preferred, config.preferred), key=lambda one: costs(one).flops)

    def listed(step: int) -> tuple[Architecture, ...]:
        let_in = [one for one in preferred if costs(one).flops >= floor(step)] or preferred[-1:]
        return (rng(step).choice(let_in),)

    known: dict[str, Callable[[int], tuple[Architecture, ...]]] = {
        "uniform": uniform, "sandwich": sandwich, "stratified": stratified, "preferred": listed,
    }  # fmt: skip
    return known[config.strategy]


def _strata(count: int, space: SearchSpace, least: int) -> tuple[Candidates, ...]:
    """The ranges of parameters that hold a network above the floor, less what lies below it."""
    found = []
    for budget in parameter_strata(space, count):
        try:
            found.append(Candidates(space, ExactCosts(space), replace(budget, min_flops=least)))
        except BudgetError:
            continue
    return tuple(found)
