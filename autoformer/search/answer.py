"""Another budget answered from the evaluations of a finished search: no supernet runs, nothing new is evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.cost import Budget, Cost, CostModel, MeasurementConditions, check_feasible, count_flops, count_params, show
from autoformer.errors import ArchitectureError, BudgetError, CheckpointError
from autoformer.files import claim_folder, file_digest, write_json
from autoformer.search.candidate import Candidate
from autoformer.search.result import FORMAT, SearchResult, conclude, load_search
from autoformer.space import SearchSpace


class StoredCosts:
    """The cost model of a finished search: counts of every network, latencies of those it has a latency of."""

    def __init__(
        self,
        space: SearchSpace,
        candidates: Sequence[Candidate],
        measurement_conditions: MeasurementConditions | None,
        ends: Sequence[float],
    ) -> None:
        """`ends` are the latencies of the smallest and the largest network of the space, where they were recorded."""
        self.space, self.measurement_conditions = space, measurement_conditions
        self._latencies: dict[Architecture, float | None] = dict(zip((space.smallest, space.largest), ends, strict=False))
        self._latencies |= {candidate.architecture: candidate.cost.latency_ms for candidate in candidates}

    def __call__(self, architecture: Architecture) -> Cost:
        return Cost(
            params=count_params(architecture, self.space),
            flops=count_flops(architecture, self.space),
            latency_ms=self._latencies.get(architecture),
        )


class StoredSearch:
    """A finished search as a source of answers. Raises `CheckpointError` when `folder` holds none, or a damaged one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.result, self.record = load_search(folder)
        path = folder / "search.json"
        try:
            self.space = SearchSpace.from_dict(self.record["space"])
            measurement_conditions = self.record["latency_qualification"]
            self.measurement_conditions = (
                None if measurement_conditions is None else MeasurementConditions(**measurement_conditions)
            )
            spread = self.record.get("space_table", {}).get("costs", {}).get("latency_ms")
            ends = () if spread is None else (float(spread["smallest"]), float(spread["largest"]))
            self.margin = float(self.record.get("latency_margin", 0.0))
            if not all(0 < end < math.inf for end in ends) or not 0 <= self.margin < math.inf:
                raise ValueError(f"latencies {ends}, margin {self.margin}")
            for candidate in self.result.candidates:
                self.space.check(candidate.architecture)
            self.costs = StoredCosts(self.space, self.result.candidates, self.measurement_conditions, ends)
            self.choose: Literal["cheapest", "best"] = "best" if self.record["config"]["choose"] == "best" else "cheapest"
        except (ArchitectureError, AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise CheckpointError(f"{path} is not a search result: {what}; it was edited or damaged") from error

    def answer(self, budget: Budget, costs: CostModel | None = None, choose: Literal["cheapest", "best"] | None = None) -> Answer:
        """The choice among the stored candidates inside `budget`, priced by `costs` (by default as they were).

        Only networks known from all search images can be chosen; the others stay among the candidates.

        Raises `BudgetError` when no network of the space can keep the budget, and when none that is stored does.
        """
        costs = costs or self.costs
        if budget.max_latency_ms is None or costs(self.space.smallest).latency_ms is not None:
            check_feasible(budget, self.space, costs)
        every = [replace(candidate, cost=costs(candidate.architecture)) for candidate in self.result.candidates]
        inside = [candidate for candidate in every if budget.allows(candidate.cost)]
        if not inside:
            nearest = min(every, key=lambda candidate: max(budget.excess(candidate.cost).values()))
            broken = budget.excess(nearest.cost)
            limit = max(broken, key=lambda name: broken[name])
            raise BudgetError(
                f"none of the {len(every)} networks that {self.folder} evaluated keeps {budget}; the nearest breaks {limit} with "
                f"{show(limit[4:], getattr(nearest.cost, limit[4:]))} ({nearest.architecture}); widen the limits, or search anew"
            )
        if not any(len(candidate.predictions) == len(self.result.labels) for candidate in inside):
            raise BudgetError(
                f"{len(inside)} of the networks that {self.folder} evaluated keep {budget}, but none of them on all "
                f"{len(self.result.labels)} search images; search anew under this budget (what is known is not evaluated again)"
            )
        searched = sum(candidate.number < self.result.searched for candidate in inside)
        numbered = [replace(candidate, number=number) for number, candidate in enumerate(inside)]
        choose = choose or self.choose
        found = conclude(numbered, self.result.labels, choose, searched=searched)
        result = replace(found, confirmation_labels=self.result.confirmation_labels)
        return Answer(self, result, budget, costs, choose)


class Answer:
    """What a stored search says to another budget. The result's candidates are those inside it, numbered anew.

    `margin` is what the limit on latency was tightened by; None: as in the search itself.
    """

    margin: float | None = None

    def __init__(
        self,
        source: StoredSearch,
        result: SearchResult,
        budget: Budget,
        costs: CostModel,
        choose: Literal["cheapest", "best"],
    ) -> None:
        self.source, self.result, self.budget, self.costs, self.choose = source, result, budget, costs, choose

    @property
    def record(self) -> dict[str, Any]:
        """The content of its `search.json`: of the source's form, with how many of its candidates lie inside the budget."""
        of, measurement_conditions = self.source.record, self.costs.measurement_conditions
        ends = [self.costs(end).latency_ms for end in (self.source.space.smallest, self.source.space.largest)]
        spread = None if None in ends else dict(zip(("smallest", "largest"), ends, strict=True))
        return {
            "format": FORMAT,
            "version": __version__,
            **{name: of.get(name) for name in ("space", "seed", "weights_digest", "images_digest")},
            "config": {**of["config"], "choose": self.choose},
            "budget": self.budget.to_dict(),
            "latency_qualification": None if measurement_conditions is None else measurement_conditions.__dict__,
            "latency_margin": self.source.margin if self.margin is None else self.margin,
            **({} if spread is None else {"space_table": {"costs": {"latency_ms": spread}}}),
            "result": self.result.to_dict(),
            "from": {
                "search": file_digest(self.source.folder / "search.json"),
                "stored": len(self.source.result.candidates),
                "inside": len(self.result.candidates),
                "images": len(self.result.best.predictions),
            },
        }

    def write(self, out: Path) -> None:
        """Writes `out/search.json`, as a search does. Raises `OutputExistsError` when `out` holds something else."""
        record = self.record
        identity = {name: record[name] for name in ("budget", "from", "latency_qualification")}
        claim_folder(out, {"kind": "search from stored evaluations", "choose": self.choose, **identity})
        write_json(record, out / "search.json")
