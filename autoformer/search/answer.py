"""Another budget answered from the evaluations of a finished search: no supernet runs, nothing new is evaluated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from autoformer import __version__
from autoformer.cost import Budget, CostModel, MeasuredCosts, check_feasible, show
from autoformer.errors import BudgetError
from autoformer.files import claim_folder, file_digest
from autoformer.search.record import FILE_NAME, SearchRecord, Source
from autoformer.search.result import conclude


class StoredSearch:
    """A finished search as a source of answers. Raises `CheckpointError` when `folder` holds none, or a damaged one.

    `costs` are counts of every network, and latencies of those it has a latency of.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.record, self.digest = folder, SearchRecord.load(folder), file_digest(folder / FILE_NAME)
        self.result, self.space = self.record.result, self.record.space
        known = {candidate.architecture: candidate.cost.latency_ms for candidate in self.result.candidates}
        ends = dict(zip((self.space.smallest, self.space.largest), self.record.latency_ends, strict=False))
        measured = {network: time for network, time in (ends | known).items() if time is not None}
        self.costs = MeasuredCosts(self.space, measured, lambda _: None, self.record.measurement_conditions)

    def answer(
        self,
        budget: Budget,
        costs: CostModel | None = None,
        choose: Literal["cheapest", "best"] | None = None,
        latency_margin: float | None = None,
    ) -> SearchRecord:
        """The choice among the stored candidates inside `budget`, priced by `costs`; numbered anew. None: as in the search.

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
        config = self.record.config if choose is None else self.record.config.model_copy(update={"choose": choose})
        searched = sum(candidate.number < self.result.searched for candidate in inside)
        numbered = [replace(candidate, number=number) for number, candidate in enumerate(inside)]
        result = conclude(numbered, self.result.labels, config.choose, searched=searched)
        ends = {name: costs(end).latency_ms for name, end in (("smallest", self.space.smallest), ("largest", self.space.largest))}
        return replace(
            self.record,
            result=replace(result, held_out_labels=self.result.held_out_labels),
            config=config,
            budget=budget,
            measurement_conditions=costs.measurement_conditions,
            latency_margin=self.record.latency_margin if latency_margin is None else latency_margin,
            space_table={} if None in ends.values() else {"costs": {"latency_ms": ends}},
            source=Source(
                search=self.digest,
                stored=len(self.result.candidates),
                inside=len(inside),
                images=len(result.best.predictions),
            ),
            images={},
            history={},
            version=__version__,
        )


def save_answer(answer: SearchRecord, out: Path) -> None:
    """Writes `out/search.json`, as a search does. Raises `OutputExistsError` when `out` holds something else."""
    record = answer.to_dict()
    identity = {name: record[name] for name in ("budget", "from", "latency_qualification")}
    claim_folder(out, {"kind": "search from stored evaluations", "choose": answer.config.choose, **identity})
    answer.save(out)
