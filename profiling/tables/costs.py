"""Latency tables and measurements as cost models, and the budget that a search under a latency limit keeps."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, Cost, CostModel, ExactCosts, LinearCost, Outline, Terms, check_feasible, show
from autoformer.errors import BudgetError, MeasurementError
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace


@dataclass(frozen=True)
class TableCosts:
    """The cost model with latency: exact params and FLOPs, milliseconds as the table predicts them (without its margin).

    Raises `MeasurementError` when `table` was measured for another space.
    """

    space: SearchSpace
    table: LatencyTable

    def __post_init__(self) -> None:
        here, there = self.space, self.table.space
        for name in (item.name for item in fields(SearchSpace)):
            if getattr(here, name) != getattr(there, name):
                raise MeasurementError(
                    f"the latency table was measured for another space: {name} is {getattr(there, name)} there and "
                    f"{getattr(here, name)} here; measure one for this space"
                )

    @property
    def measurement_conditions(self) -> MeasurementConditions:
        """What the milliseconds mean."""
        return self.table.measurement_conditions

    def __call__(self, architecture: Architecture) -> Cost:
        return replace(ExactCosts(self.space)(architecture), latency_ms=self.table.predict(architecture))

    def latency_terms(self, embed_dim: int, depth: int, image_size: int) -> Terms:
        """See `LinearLatency`."""
        return self.table.latency_terms(embed_dim, depth, image_size)

    def outline_latency(self, outline: Outline) -> LinearCost:
        """See `OutlineLatency`."""
        return self.table.outline_latency(outline)

    def latency_of(self, architecture: Architecture, flops: int) -> float:
        """See `LinearLatency` and `OutlineLatency`. Raises `MeasurementError` for FLOPs beyond the measured range."""
        return self.table.time_of(architecture, flops)


def margin_of(costs: CostModel) -> float:
    """By how much a network may be slower than `costs` predicts, relative; 0 where nothing is predicted."""
    return costs.table.margin if isinstance(costs, TableCosts) else 0.0


def within_margin(budget: Budget, margin: float) -> Budget:
    """The budget to search with so that the stated one is kept as measured: the latency limit less the margin."""
    return replace(budget, max_latency_ms=budget.max_latency_ms and budget.max_latency_ms / (1 + margin))


def searched_with(stated: Budget, space: SearchSpace, costs: CostModel) -> Budget:
    """The budget to search with, checked: the stated one, its latency limit less the margin of `costs`.

    Raises `BudgetError` when no network can keep the stated budget, or none can keep it with the margin.
    """
    margin = margin_of(costs)
    check_feasible(stated, space, costs)
    sought = within_margin(stated, margin)
    try:
        check_feasible(sought, space, costs)
    except BudgetError as error:
        least = costs(space.smallest).latency_ms
        assert least is not None, "only a margin makes the two differ, and a table prices every network"
        raise BudgetError(
            f"{error} (the limit here is the stated {show('latency_ms', stated.max_latency_ms or 0)} less the table's margin of "
            f"{100 * margin:.2g} %; {show('latency_ms', least * (1 + margin))} can be searched with)"
        ) from error
    return sought
