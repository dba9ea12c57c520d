"""`Entrant`: a network that takes part in a race, with what is known of it before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from autoformer.architecture import Architecture
from autoformer.cost import Budget, Cost, show
from autoformer.metric import Score
from autoformer.profiling.measuring.verdict import INCONCLUSIVE
from autoformer.profiling.tables.limit import Timing

Kind = Literal["finalist", "homogeneous", "most expensive", "sibling", "rival"]
WORDS: Mapping[Kind, str] = {
    "finalist": "found by the search",
    "homogeneous": "the same block throughout",
    "most expensive": "the most FLOPs inside the limits",
    "sibling": "smaller sibling of the parent",
    "rival": "rival out of timm",
}


UNITS = {"params": " parameters", "flops": " FLOPs", "latency_ms": ""}


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A network, its costs, and how it starts. Its name is also that of its folder."""

    name: str
    kind: Kind
    network: str  # the short name of an architecture, or timm's words
    image_size: int  # pixels
    fresh: bool  # starts from random weights; the others inherit or are pretrained
    params: int
    flops: int | None  # multiply-adds of one image; None: they could not be counted
    architecture: Architecture | None = None  # of a network of the search's space
    inherited: Score | None = None  # by the search, with inherited weights
    timing: Timing | None = None  # None: it could not be measured here
    predicted_ms: float | None = None  # by the latency table, of a network of its space
    note: str | None = None  # what was changed so that it can start

    @property
    def latency_ms(self) -> float | None:
        """As measured; where nothing could be, as predicted."""
        return self.predicted_ms if self.timing is None else self.timing.measured_ms

    def cost(self) -> Cost:
        """What the limits are held against: the upper end of the interval of its latency, where it was measured."""
        upper = self.timing and (self.timing.high_ms or self.timing.measured_ms)
        return Cost(params=self.params, flops=self.flops or 0, latency_ms=upper or self.predicted_ms)

    def why_not(self, budget: Budget) -> str | None:
        """Why it may not start; None where it keeps every limit."""
        cost = self.cost()
        if budget.max_latency_ms is not None and cost.latency_ms is None:
            return "its latency could not be measured"
        if self.flops is None and (budget.max_flops or budget.min_flops):
            return "its FLOPs could not be counted"
        broken = budget.excess(cost)
        if not broken:
            return None
        name = max(broken, key=lambda limit: broken[limit])
        measure = name[4:]
        said = (
            f"{show(measure, getattr(cost, measure))}{UNITS[measure]} against the limit of {show(measure, getattr(budget, name))}"
        )
        timing, limit = self.timing, budget.max_latency_ms
        if measure == "latency_ms" and timing is not None and limit is not None and timing.status(limit) == INCONCLUSIVE:
            said += f" ({timing.why(limit)})"
        return said
