"""Architectures inside a budget, constructed from closed-form costs; nothing here evaluates anything.

Drawn without a proposal, an architecture comes from the `Region` inside the limits on params and FLOPs: the distribution of
`SearchSpace.sample`, given the budget. A latency limit belongs to the region where the cost model says how (`LinearLatency`,
which a latency table is), and has no closed form otherwise. Then a network that breaks it is followed by one from the networks
with no more FLOPs than that one, until one keeps it: where latency grows with FLOPs this is the same distribution again, in a
handful of draws; otherwise it is near it, and every network inside can still come first.

A proposal (a mutation, a crossover) outside the budget is walked into it: choices step down, or up below a lower limit, one
at a time, in random order, until every limit is kept. So it stays near what was proposed.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import replace

from autoformer.architecture import Architecture
from autoformer.cost import Budget, Cost, CostModel, LinearLatency, OutlineLatency, check_feasible, show
from autoformer.drawing.region import Region, Shapes, latency_terms_of
from autoformer.drawing.tilted import Outlines, TiltedRegion
from autoformer.drawing.walk import Prices, Walk
from autoformer.errors import BudgetError
from autoformer.space import SearchSpace

Draw = Callable[[random.Random], Architecture]

DRAWS = 200  # under a latency limit; each about halves what is left until the limit is near
PROPOSALS = 20  # before limits are taken to be too narrow to walk into
RUNGS = 128  # FLOPs limits between the smallest and the largest network, so that a region serves many draws


def closed_latency(costs: CostModel, space: SearchSpace) -> LinearLatency | OutlineLatency | None:
    """The cost model as one whose latencies have a closed form in this space; None where they have not."""
    if isinstance(costs, OutlineLatency) and not space.is_plain:
        return costs
    return costs if isinstance(costs, LinearLatency) and space.is_plain else None


@functools.lru_cache(maxsize=4)
def parts_of(space: SearchSpace) -> Shapes | Outlines:
    """What all regions of a space share, in the form its costs allow."""
    return Shapes(space) if space.blocks_cost_alike else Outlines(space)


def region_of(
    parts: Shapes | Outlines, budget: Budget, latency: LinearLatency | OutlineLatency | None = None
) -> Region | TiltedRegion:
    """The networks of a space that keep the limits of a budget, in the form its costs allow."""
    if isinstance(parts, Shapes):
        return Region(parts, budget, latency)
    assert not isinstance(latency, LinearLatency) or isinstance(latency, OutlineLatency), "a latency of whole outlines"
    return TiltedRegion(parts, budget, latency)


class Candidates:
    """Draws architectures of `space` that keep `budget`. Raises `BudgetError` at once when no network can keep it.

    Params and FLOPs are the closed forms; `costs` is asked for latencies.
    """

    def __init__(self, space: SearchSpace, costs: CostModel, budget: Budget) -> None:
        check_feasible(budget, space, costs)
        self.space, self.costs, self.budget = space, costs, budget
        self._parts = parts_of(space)
        self._prices = Prices(space)
        self._ends = costs(space.smallest).flops, costs(space.largest).flops
        self._rungs: dict[int, Region | TiltedRegion] = {}
        self._closed = closed_latency(costs, space)  # latency in closed form
        self.region = self._within(budget.max_flops)
        if not self.region.share:
            raise BudgetError(self._nearest())

    # --- drawing -------------------------------------------------------------------------------------------------

    def draw(self, rng: random.Random, propose: Draw | None = None) -> tuple[Architecture, Cost]:
        """One architecture inside the budget and its cost: from the space, or near what `propose` gives.

        Raises `BudgetError` when a latency limit and lower limits leave too little room to find any.
        """
        for _ in range(PROPOSALS if propose else 0):
            assert propose is not None
            if (found := self._walked(propose(rng), rng)) is not None:
                return found
        region = self.region
        for _ in range(DRAWS):
            architecture, params, flops = region.draw(rng)
            cost = self._cost(architecture, params, flops)
            broken = self.budget.excess(cost)
            if not broken:
                return architecture, cost
            region = self._up_to(flops) if "max_latency_ms" in broken else self.region
        if (found := self._walked(architecture, rng)) is None:
            raise BudgetError(self._nearest())
        return found

    def distinct(
        self, rng: random.Random, count: int, known: set[Architecture], propose: Draw | None = None, attempts: int | None = None
    ) -> list[Architecture]:
        """Up to `count` architectures inside the budget that are not in `known`, which grows by them."""
        found: list[Architecture] = []
        for _ in range(attempts or 20 * count):
            if len(found) == count:
                break
            architecture, _ = self.draw(rng, propose)
            if architecture not in known:
                known.add(architecture)
                found.append(architecture)
        return found

    def most_expensive(self, rng: random.Random) -> Architecture:
        """A network with the most FLOPs inside the budget, then the most params. Which block gets what is drawn.

        Latency without a closed form is taken to grow with FLOPs; where it does not, the network has nearly the most.
        """
        architecture, params, flops = self.region.most_expensive(rng)
        limit = self.budget.max_latency_ms
        if limit is None or self._closed is not None or self.budget.allows(self._cost(architecture, params, flops)):
            return architecture
        (kept, cost), above = self.draw(rng), flops  # a network that keeps the limit, and FLOPs that break it
        while above - cost.flops > 1:
            region = self._within((cost.flops + above) // 2)
            architecture, params, flops = region.most_expensive(rng)
            found = self._cost(architecture, params, flops)
            if flops <= cost.flops:
                break  # nothing lies between
            if self.budget.allows(found):
                kept, cost = architecture, found
            else:
                above = flops
        return kept

    # --- closed forms --------------------------------------------------------------------------------------------

    def _cost(self, architecture: Architecture, params: int, flops: int) -> Cost:
        if self._closed is not None:
            return Cost(params=params, flops=flops, latency_ms=self._closed.latency_of(architecture, flops))
        return Cost(params=params, flops=flops) if self.costs.measurement_conditions is None else self.costs(architecture)

    def _within(self, max_flops: float | None) -> Region | TiltedRegion:
        """The networks that keep the limits on params and FLOPs, with this upper limit on FLOPs."""
        return region_of(self._parts, replace(self.budget, max_flops=max_flops), self._closed)

    def _up_to(self, flops: int) -> Region | TiltedRegion:
        """The networks of the region up to the first rung that is at or above `flops`."""
        least, most = self._ends
        rung = math.ceil((flops - least) / max(1, most - least) * RUNGS)
        if rung not in self._rungs:
            limit = least + rung * (most - least) / RUNGS + 1  # 1: this division may round below `flops`
            self._rungs[rung] = self._within(min(limit, self.budget.max_flops or math.inf))
        return self._rungs[rung]

    # --- walking -------------------------------------------------------------------------------------------------

    def _walked(self, architecture: Architecture, rng: random.Random) -> tuple[Architecture, Cost] | None:
        """Steps into the budget: down while an upper limit is broken, then up while a lower one is. None: it ends outside."""
        walk, budget = Walk(self.space, self._prices, architecture), self.budget
        while self._above(walk):
            if not walk.step(-1, rng):
                return None
        while self._below(walk):
            if not walk.step(1, rng):
                return None
        reached = walk.architecture()
        cost = self._cost(reached, walk.params, walk.flops)
        return (reached, cost) if budget.allows(cost) else None

    def _above(self, walk: Walk) -> bool:
        """Whether an upper limit is broken; latency is only asked for when the counts are fine."""
        budget = self.budget
        if walk.params > (budget.max_params or math.inf) or walk.flops > (budget.max_flops or math.inf):
            return True
        if self._closed is not None and budget.max_latency_ms is not None:
            return self._time_of(walk, self._closed) > budget.max_latency_ms
        return budget.max_latency_ms is not None and not self._fast(walk.architecture())

    def _below(self, walk: Walk) -> bool:
        """Whether a lower limit is broken; one on latency is walked to where latency has a closed form."""
        budget = self.budget
        if walk.params < (budget.min_params or 0) or walk.flops < (budget.min_flops or 0):
            return True
        return self._closed is not None and self._time_of(walk, self._closed) < (budget.min_latency_ms or 0)

    def _time_of(self, walk: Walk, latency: LinearLatency | OutlineLatency) -> float:
        if self.space.blocks_cost_alike:
            base, per_head, per_hidden = latency_terms_of(latency, walk.outline, self.space)
            return base + per_head * sum(walk.heads) + per_hidden * sum(walk.hidden)
        assert isinstance(latency, OutlineLatency)
        return walk.total(latency.outline_latency(walk.outline))

    def _fast(self, architecture: Architecture) -> bool:
        return "max_latency_ms" not in self.budget.excess(self.costs(architecture))

    def _nearest(self) -> str:
        """Says that no network keeps the budget, and which of many comes nearest."""
        rng, found = random.Random(0), []
        for _ in range(50):
            walk = Walk(self.space, self._prices, self.space.sample(rng))
            while self._above(walk) and walk.step(-1, rng):
                pass
            cost = self.costs(walk.architecture())
            if broken := self.budget.excess(cost):
                limit = max(broken, key=lambda name: broken[name])
                found.append((broken[limit], limit, cost, walk.architecture()))
        _, limit, cost, architecture = min(found, key=lambda entry: entry[0])
        return (
            f"no network found with {self.budget} in space {self.space.name!r}; the nearest of {len(found)} breaks {limit} with "
            f"{show(limit[4:], getattr(cost, limit[4:]))} ({architecture}); widen the limits"
        )
