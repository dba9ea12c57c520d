"""`SpaceTable`: what a space costs and how much of it a budget leaves; what a person wants to see before a search."""

from __future__ import annotations

import random
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from autoformer.cost import LIMITS, Budget, CostModel
from autoformer.drawing.budgeted import closed_latency
from autoformer.drawing.region import Region, Shapes
from autoformer.metric import wilson
from autoformer.space import SearchSpace

DRAWS = 2000  # a share of a half is known to 2 points, none inside says less than 0.2 %


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One cost over the space."""

    smallest: float
    median: float  # of the draws
    largest: float


@dataclass(frozen=True, kw_only=True)
class SpaceTable:
    """Costs of a space, and the share of it inside a budget under the paper's sampling (every choice uniform).

    `exact_share` is the closed form, where the cost model has one for the limits; the estimate stands beside it all the same.
    """

    space: str
    networks: int
    costs: dict[str, Spread]  # by measure: params, flops (multiply-adds), latency_ms where the cost model has it
    draws: int
    inside: int  # of the draws
    share: float
    low: float  # Wilson's interval of the share, 95 %
    high: float
    exact_share: float | None

    @classmethod
    def of(cls, space: SearchSpace, costs: CostModel, budget: Budget, draws: int = DRAWS) -> SpaceTable:
        """From the smallest and the largest network and `draws` random ones, always the same."""
        rng = random.Random("space table")
        drawn = [costs(space.sample(rng)) for _ in range(draws)]
        least, most = costs(space.smallest), costs(space.largest)
        spreads = {
            measure: Spread(
                smallest=getattr(least, measure),
                median=statistics.median(getattr(cost, measure) for cost in drawn),
                largest=getattr(most, measure),
            )
            for measure in LIMITS
            if getattr(least, measure) is not None
        }
        inside = sum(budget.allows(cost) for cost in drawn)
        low, high = wilson(inside / draws, draws)
        latency = closed_latency(costs, space)
        closed = space.blocks_cost_alike and (budget.max_latency_ms is None or latency is not None)
        exact = Region(Shapes(space), budget, latency).share if closed else None
        return cls(
            space=space.name,
            networks=space.size,
            costs=spreads,
            draws=draws,
            inside=inside,
            share=inside / draws,
            low=low,
            high=high,
            exact_share=exact,
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, shares in 0..1."""
        return asdict(self)

    def __str__(self) -> str:
        """The share in words."""
        estimate = f"{100 * self.share:.3g} % [{100 * self.low:.3g}, {100 * self.high:.3g}] of {self.draws} random networks"
        exact = "" if self.exact_share is None else f", {100 * self.exact_share:.3g} % by the closed form"
        return f"space {self.space!r}: {self.networks:,} networks; inside the budget: {estimate}{exact}"
