"""A latency table as a cost model, and the latencies that a search believes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from autoformer.architecture import Architecture
from autoformer.cost import Budget, Cost, CostModel, MeasurementConditions, check_feasible, count_flops, count_params, show
from autoformer.errors import BudgetError, MeasurementError
from autoformer.profiling.tables.formulas import Terms
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace


@dataclass(frozen=True)
class PredictedCosts:
    """Exact counts, and the latency that a function gives."""

    space: SearchSpace
    predict: Callable[[Architecture], float]
    measurement_conditions: MeasurementConditions | None

    def __call__(self, architecture: Architecture) -> Cost:
        params, flops = count_params(architecture, self.space), count_flops(architecture, self.space)
        return Cost(params=params, flops=flops, latency_ms=self.predict(architecture))


@dataclass(frozen=True)
class TableCosts:
    """The cost model with latency: exact params and FLOPs, milliseconds as the table predicts them (without its margin).

    Raises `MeasurementError` when `table` was measured for another space.
    """

    space: SearchSpace
    table: LatencyTable

    def __post_init__(self) -> None:
        if self.space != self.table.space:
            other = [
                item.name
                for item in fields(SearchSpace)
                if getattr(self.space, item.name) != getattr(self.table.space, item.name)
            ]
            name = other[0]
            raise MeasurementError(
                f"the latency table was measured for another space: {name} is {getattr(self.table.space, name)} there and "
                f"{getattr(self.space, name)} here; measure one for this space"
            )

    @property
    def measurement_conditions(self) -> MeasurementConditions:
        """What the milliseconds mean."""
        return self.table.measurement_conditions

    def __call__(self, architecture: Architecture) -> Cost:
        return Cost(
            params=count_params(architecture, self.space),
            flops=count_flops(architecture, self.space),
            latency_ms=self.table.predict(architecture),
        )

    def latency_terms(self, embed_dim: int, depth: int, image_size: int) -> Terms:
        """See `LinearLatency`."""
        return self.table.latency_terms(embed_dim, depth, image_size)

    def latency_of(self, architecture: Architecture, flops: int) -> float:
        """See `LinearLatency`. Raises `MeasurementError` for FLOPs beyond the measured range."""
        return self.table.time_of(architecture, flops)


def searched_with(stated: Budget, space: SearchSpace, costs: CostModel, table: LatencyTable | None) -> Budget:
    """The budget to search with, checked: the stated one, its latency limit less the table's margin.

    Raises `BudgetError` when no network can keep the stated budget, or none can keep it with the margin.
    """
    check_feasible(stated, space, costs)
    sought = within_margin(stated, table)
    try:
        check_feasible(sought, space, costs)
    except BudgetError as error:
        least = costs(space.smallest).latency_ms
        assert table is not None, "only the margin makes the two differ"
        assert least is not None, "a table prices every network"
        raise BudgetError(
            f"{error} (the limit here is the stated {show('latency_ms', stated.max_latency_ms or 0)} less the table's margin of "
            f"{100 * table.margin:.2g} %; {show('latency_ms', least * (1 + table.margin))} can be searched with)"
        ) from error
    return sought


def within_margin(budget: Budget, table: LatencyTable | None) -> Budget:
    """The budget to search with so that the stated one is kept as measured: the latency limit less the table's margin."""
    if table is None or budget.max_latency_ms is None:
        return budget
    return replace(budget, max_latency_ms=budget.max_latency_ms / (1 + table.margin))
