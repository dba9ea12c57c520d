"""Architectures inside a budget, constructed from closed-form costs; nothing here evaluates anything.

A drawn architecture outside the budget is walked into it: choices step down (or up, below a lower limit) one at a time, in
random order, until every limit is kept. So tight budgets cost a few steps instead of thousands of rejections.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from autoformer.architecture import Architecture
from autoformer.cost import Budget, Cost, CostModel, check_feasible, show
from autoformer.errors import BudgetError
from autoformer.space import SearchSpace

Draw = Callable[[random.Random], Architecture]


class Candidates:
    """Draws architectures of `space` that keep `budget`. Raises `BudgetError` at once when no network can keep it."""

    def __init__(self, space: SearchSpace, costs: CostModel, budget: Budget) -> None:
        check_feasible(budget, space, costs)
        self.space, self.costs, self.budget = space, costs, budget

    def draw(self, rng: random.Random, propose: Draw | None = None, attempts: int = 200) -> tuple[Architecture, Cost]:
        """One architecture inside the budget, near what `propose` gives (uniform sampling by default), and its cost.

        Raises `BudgetError` when limits from above and below leave too little room to find any.
        """
        propose = propose or self.space.sample
        nearest: tuple[float, Architecture, Cost] | None = None
        for _ in range(attempts):
            architecture = propose(rng)
            cost = self.costs(architecture)
            if self.budget.allows(cost):
                return architecture, cost
            architecture, cost = self._walk(architecture, cost, rng)
            if self.budget.allows(cost):
                return architecture, cost
            distance = max(self.budget.excess(cost).values())
            if nearest is None or distance < nearest[0]:
                nearest = (distance, architecture, cost)
        assert nearest is not None
        _, architecture, cost = nearest
        limit = max(self.budget.excess(cost), key=lambda name: self.budget.excess(cost)[name])
        raise BudgetError(
            f"no network found with {self.budget} in space {self.space.name!r}; the nearest of {attempts} breaks {limit} with "
            f"{show(limit[4:], getattr(cost, limit[4:]))} ({architecture}); widen the limits"
        )

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

    def _walk(self, architecture: Architecture, cost: Cost, rng: random.Random) -> tuple[Architecture, Cost]:
        """Steps towards the budget: down while an upper limit is broken, then up while a lower one is."""
        for kind, sign in (("max", -1), ("min", 1)):
            while any(name.startswith(kind) for name in self.budget.excess(cost)):
                steps = self._steps(architecture, sign)
                if not steps:
                    break
                architecture = rng.choice(steps)
                cost = self.costs(architecture)
        return architecture, cost

    def _steps(self, architecture: Architecture, sign: int) -> list[Architecture]:
        """All architectures one step down (sign −1) or up (+1) in one choice. Depth steps at the last block."""
        space, found = self.space, []

        def neighbour(values: Sequence[float], value: float) -> float | None:
            index = values.index(value) + sign
            return values[index] if 0 <= index < len(values) else None

        if (width := neighbour(space.embed_dims, architecture.embed_dim)) is not None:
            found.append(replace(architecture, embed_dim=int(width)))
        if architecture.image_size and (size := neighbour(space.image_sizes, architecture.image_size)) is not None:
            found.append(replace(architecture, image_size=int(size)))
        if (depth := neighbour(space.depths, architecture.depth)) is not None:
            end = int(depth)
            pad = max(0, end - architecture.depth)
            heads = (architecture.num_heads + (space.num_heads[0],) * pad)[:end]
            ratios = (architecture.mlp_ratio + (space.mlp_ratios[0],) * pad)[:end]
            found.append(replace(architecture, num_heads=heads, mlp_ratio=ratios))
        for block in range(architecture.depth):
            if (heads_here := neighbour(space.num_heads, architecture.num_heads[block])) is not None:
                changed = (*architecture.num_heads[:block], int(heads_here), *architecture.num_heads[block + 1 :])
                found.append(replace(architecture, num_heads=changed))
            if (ratio := neighbour(space.mlp_ratios, architecture.mlp_ratio[block])) is not None:
                altered = (*architecture.mlp_ratio[:block], ratio, *architecture.mlp_ratio[block + 1 :])
                found.append(replace(architecture, mlp_ratio=altered))
        return found
