"""Who is scored again at the end: networks from all along the tied set, and one that fills the budget."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, Cost, CostModel, ExactCosts
from autoformer.drawing.budgeted import Candidates
from autoformer.metric import score
from autoformer.search.candidate import Candidate
from autoformer.search.config import SearchConfig
from autoformer.search.database import Study
from autoformer.search.finalists import fills, finalists, network_to_fill
from autoformer.search.loop import search
from autoformer.search.result import SearchResult, conclude
from autoformer.space import SearchSpace

IMAGES = 200
LABELS = np.ones(IMAGES, np.int64)


def candidate(number: int, flops: int, right: int) -> Candidate:
    """Right on the first so many of 200 images."""
    predicted = (np.arange(IMAGES) < right).astype(np.int64)
    architecture = Architecture(embed_dim=8 + number, num_heads=(1, 2), mlp_ratio=(1.0, 2.0))
    return Candidate(
        number=number, generation=0, architecture=architecture, cost=Cost(params=1, flops=flops), predictions=predicted,
        score=score(predicted, LABELS, "top1"),
    )  # fmt: skip


def numbers(found: list[Candidate]) -> list[int]:
    return [one.number for one in found]


# --- along the tied set --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "taken"),
    [(1, [0]), (2, [0, 30]), (3, [0, 15, 30]), (4, [0, 10, 20, 30]), (7, [0, 5, 10, 15, 20, 25, 30]), (31, list(range(31)))],
)
def test_finalists_stand_evenly_along_the_tied_set_both_its_ends_included(count: int, taken: list[int]) -> None:
    """31 candidates, dearer by number; number 16 is right once more than the others, too little to be significant."""
    result = conclude([candidate(n, 100 + n, 151 if n == 16 else 150) for n in range(31)], LABELS, "best")
    assert len(result.tied) == 31
    assert numbers(finalists(result, Budget(), count)) == sorted({*taken, 16})  # the best is always among them


def test_of_a_tied_set_smaller_than_asked_for_all_are_finalists_and_nobody_else() -> None:
    result = conclude([candidate(0, 10, 100), candidate(1, 20, 150), candidate(2, 30, 150)], LABELS, "best")
    assert numbers(finalists(result, Budget(), 10)) == [1, 2]


# --- a full budget -------------------------------------------------------------------------------------------------


def test_a_network_fills_a_budget_by_its_tightest_limit_alone() -> None:
    budget = Budget(max_params=1000, max_flops=1000, max_latency_ms=10)
    assert fills(budget, Cost(params=970, flops=10, latency_ms=1))
    assert fills(budget, Cost(params=10, flops=10, latency_ms=9.7))
    assert not fills(budget, Cost(params=969, flops=969, latency_ms=9.69))
    assert not fills(Budget(min_flops=10), Cost(params=10, flops=1000))  # no upper limit, nothing to fill


def test_where_no_other_finalist_fills_the_budget_the_best_of_those_that_do_is_one() -> None:
    every = [candidate(0, 50, 180), candidate(1, 98, 90), candidate(2, 99, 100), candidate(3, 60, 95)]
    result = conclude(every, LABELS, "best")
    assert numbers(list(result.tied)) == [0]
    assert numbers(finalists(result, Budget(max_flops=100), 5)) == [0, 2]
    assert numbers(finalists(result, Budget(max_flops=200), 5)) == [0]


CONDITIONS = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="a test", device="a test")
DEEP = SearchSpace(
    name="deep", embed_dims=(16, 24, 32), depths=(2, 3, 4), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8,
    image_sizes=(8,), patch_size=4, num_classes=3,
)  # fmt: skip


class ByDepth(ExactCosts):
    """A millisecond for every block, a hundredth for every head, whatever the width: what has the most FLOPs need not be slow."""

    def __call__(self, architecture: Architecture) -> Cost:
        time = architecture.depth + 0.01 * sum(architecture.num_heads)
        return replace(super().__call__(architecture), latency_ms=time)


class InClosedForm(ByDepth):
    """The same as a latency table offers it: linear in the heads and in the hidden channels."""

    def latency_terms(self, embed_dim: int, depth: int, image_size: int) -> tuple[float, float, float]:
        return float(depth), 0.01, 0.0

    def latency_of(self, architecture: Architecture, flops: int) -> float:
        return self(architecture).latency_ms or 0.0


BY_DEPTH, IN_CLOSED_FORM = ByDepth(DEEP, CONDITIONS), InClosedForm(DEEP, CONDITIONS)
BY_LATENCY = Budget(max_params=9880, max_flops=80_000, max_latency_ms=4.1)
BY_PARAMS = Budget(max_params=15_380, max_flops=120_000)
CASES = [(BY_DEPTH, BY_LATENCY), (IN_CLOSED_FORM, BY_LATENCY), (ExactCosts(DEEP), BY_PARAMS)]


def used(cost: Cost, budget: Budget) -> float:
    """The share of the tightest limit, by its definition."""
    limits = {"params": budget.max_params, "flops": budget.max_flops, "latency_ms": budget.max_latency_ms}
    return max(float(getattr(cost, name)) / limit for name, limit in limits.items() if limit is not None)


def inside(costs: CostModel, budget: Budget) -> list[Cost]:
    """What every network of the space inside the budget costs, the whole space enumerated."""
    found = []
    for width, depth in itertools.product(DEEP.embed_dims, DEEP.depths):
        for heads in itertools.product(DEEP.num_heads, repeat=depth):
            for ratios in itertools.product(DEEP.mlp_ratios, repeat=depth):
                found.append(costs(Architecture(embed_dim=width, num_heads=heads, mlp_ratio=ratios)))
    return [cost for cost in found if budget.allows(cost)]


def right(network: Architecture, images: slice) -> NDArray[np.int64]:
    """Wide networks are better, by noise that depends on the network alone."""
    known = np.random.default_rng(int(network.digest[:8], 16)).random(IMAGES) < 0.4 + network.embed_dim / 100
    return known.astype(np.int64)[images]


LITTLE = SearchConfig(population=2, generations=1, parents=1, mutated=1, crossed=1, uniform_shapes=0, finalists=3)


def found(costs: CostModel, budget: Budget, seed: int = 0, study: Study | None = None) -> SearchResult:
    return search(Candidates(DEEP, costs, budget), right, LABELS, LITTLE, study or Study(None, "s"), seed=seed)


@pytest.mark.parametrize(("costs", "budget"), CASES)
def test_in_these_budgets_the_most_expensive_network_leaves_room_and_few_networks_fill_them(
    costs: CostModel, budget: Budget
) -> None:
    """The control: without it the test below would say nothing."""
    every = inside(costs, budget)
    assert used(max(every, key=lambda cost: (cost.flops, cost.params)), budget) < 0.97
    assert 1 <= sum(used(cost, budget) >= 0.97 for cost in every) <= 0.03 * len(every)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("costs", "budget"), CASES)
def test_one_finalist_fills_the_budget_if_the_space_has_such_a_network(costs: CostModel, budget: Budget, seed: int) -> None:
    result = found(costs, budget, seed)
    full = [one for one in result.candidates if used(one.cost, budget) >= 0.97]
    assert full
    assert any(one.number in result.held_out_scores for one in full)
    assert all(len(one.predictions) == 160 for one in full)  # four fifths decide
    assert result.searched == 2
    assert all(budget.allows(one.cost) for one in result.candidates)


def test_nothing_more_is_evaluated_where_no_network_fills_the_budget() -> None:
    """Above the largest network by a tenth; then every one of the space leaves room."""
    largest = ExactCosts(DEEP)(DEEP.largest)
    budget = Budget(max_params=1.1 * largest.params, max_flops=1.1 * largest.flops)
    assert max(used(cost, budget) for cost in inside(ExactCosts(DEEP), budget)) < 0.97
    assert len(found(ExactCosts(DEEP), budget).candidates) == 3  # two, and the most expensive


def test_an_interrupted_search_finds_the_same_network_to_fill_the_budget(tmp_path: Path) -> None:
    whole = found(IN_CLOSED_FORM, BY_LATENCY)
    assert len(whole.candidates) == 4
    place, calls = f"sqlite:///{tmp_path / 'study.db'}", 0

    def dies(network: Architecture, images: slice) -> NDArray[np.int64]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("killed")
        return right(network, images)

    candidates = Candidates(DEEP, IN_CLOSED_FORM, BY_LATENCY)
    with pytest.raises(RuntimeError):
        search(candidates, dies, LABELS, LITTLE, Study(place, "s"))
    resumed = search(candidates, dies, LABELS, LITTLE, Study(place, "s"))
    assert resumed.to_dict() == whole.to_dict()


def test_a_network_that_fills_the_budget_and_was_left_behind_by_halving_is_evaluated_on_all_images() -> None:
    budget = Budget(max_flops=100)
    every = [candidate(0, 50, 180), candidate(1, 98, 90), candidate(2, 99, 100)]

    def left_behind(one: Candidate) -> Candidate:
        seen = one.predictions[:120]
        return replace(one, predictions=seen, score=score(seen, LABELS[:120], "top1"))

    halved = [every[0], *map(left_behind, every[1:])]
    drawn_from = Candidates(DEEP, ExactCosts(DEEP), Budget())
    drawn_from.budget = budget
    assert network_to_fill(drawn_from, conclude(halved, LABELS, "best"), 0) == every[2].architecture
    assert network_to_fill(drawn_from, conclude(every, LABELS, "best"), 0) is None
