"""The methods of the search side by side, on scores that a formula gives."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import Budget, Cost, ExactCosts, count_flops
from autoformer.drawing.budgeted import Candidates
from autoformer.metric import score
from autoformer.search.baselines import baselines, is_homogeneous
from autoformer.search.candidate import Candidate
from autoformer.search.config import SearchConfig
from autoformer.search.database import Study
from autoformer.search.loop import best_so_far, search
from autoformer.search.methods import Predictor, features
from autoformer.search.pareto import crowding, nondominated_ranks
from autoformer.search.result import SearchResult, Step, fronts
from autoformer.space import SearchSpace

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
IMAGES = 1000
LABELS = np.arange(IMAGES) % 10
Method = Literal["evolution", "random", "pareto", "predictor"]
METHODS = get_args(Method)
LARGEST = count_flops(SPACE.largest, SPACE)
BUDGET = Budget(max_flops=0.6 * LARGEST, min_flops=0.2 * LARGEST)


def quality(architecture: Architecture) -> float:
    """Choices that add up: width helps most, then heads in early blocks and MLPs in late ones; 0.3 to 0.9."""
    early = sum(heads / (4 * (block + 1)) for block, heads in enumerate(architecture.num_heads))
    late = sum(ratio / 2 * (block + 1) / 5 for block, ratio in enumerate(architecture.mlp_ratio))
    return 0.3 + 0.2 * architecture.embed_dim / 80 + 0.08 * early + 0.05 * late


def pretend(architecture: Architecture, images: slice = slice(None)) -> NDArray[np.int64]:
    right = np.arange(IMAGES) < round(IMAGES * quality(architecture))
    return np.where(right, LABELS, (LABELS + 1) % 10)[images]


def config(method: Method, **changes: object) -> SearchConfig:
    given: dict[str, object] = {
        "method": method,
        "population": 12,
        "generations": 5,
        "parents": 4,
        "mutated": 6,
        "crossed": 6,
        "pool": 200,
    }
    given |= {"rungs": (1,), "confirmation": 0}
    return SearchConfig.model_validate({**given, **changes})


def found_by(method: Method, seed: int = 0, study: Study | None = None, **changes: object) -> SearchResult:
    candidates = Candidates(SPACE, ExactCosts(SPACE), BUDGET)
    return search(candidates, pretend, LABELS, config(method, **changes), study or Study(None, "s"), seed=seed)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_evaluates_as_many_networks_each_once_and_inside_the_budget(method: Method) -> None:
    result = found_by(method)
    assert result.searched == 60
    assert len({c.architecture for c in result.candidates}) == len(result.candidates)
    assert all(BUDGET.allows(ExactCosts(SPACE)(c.architecture)) for c in result.candidates)
    assert [c.generation for c in result.candidates[:60]] == [number // 12 for number in range(60)]


def test_all_methods_begin_with_the_same_networks_and_have_the_same_baselines() -> None:
    results = [found_by(method) for method in METHODS]
    assert len({tuple(c.architecture for c in result.candidates[:12]) for result in results}) == 1
    assert len({result.baselines["dearest"].architecture for result in results}) == 1
    assert len({tuple(c.architecture for c in result.candidates[12:60]) for result in results}) == len(METHODS)


@pytest.mark.parametrize("method", ["evolution", *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:])])
def test_every_method_goes_on_to_the_same_end_after_an_interruption(method: Method, tmp_path: Path) -> None:
    calls, url = 0, f"sqlite:///{tmp_path / 'study.db'}"

    def dies(architecture: Architecture, images: slice) -> NDArray[np.int64]:
        nonlocal calls
        calls += 1
        if calls == 31:
            raise RuntimeError("killed")
        return pretend(architecture, images)

    candidates = Candidates(SPACE, ExactCosts(SPACE), BUDGET)
    with pytest.raises(RuntimeError):
        search(candidates, dies, LABELS, config(method), Study(url, "s"))
    resumed = search(candidates, dies, LABELS, config(method), Study(url, "s"))
    assert resumed.to_dict() == found_by(method).to_dict()
    assert calls == len(resumed.candidates) + 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["evolution", "pareto", "predictor"])
def test_what_learns_from_scores_beats_random_draws_where_choices_add_up(method: Method) -> None:
    """The best of 120 on 10 seeds; the baselines do not count."""

    def best(method: Method, seed: int) -> float:
        result = found_by(method, seed, generations=10)
        return max(c.score.value for c in result.candidates[: result.searched])

    gains = np.asarray([best(method, seed) - best("random", seed) for seed in range(10)])
    assert gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(10)


def test_a_pareto_search_also_looks_for_good_networks_that_are_cheap() -> None:
    """Evolution runs to the dear end, where the scores are; NSGA-II keeps a front of all sizes."""

    def cheap(method: Method) -> float:
        flops = [c.cost.flops for seed in range(3) for c in found_by(method, seed).candidates[48:60]]
        return float(np.quantile(flops, 0.25))

    assert cheap("pareto") < 0.9 * cheap("evolution")


def test_the_official_code_swaps_the_two_probabilities_of_mutation() -> None:
    assert SearchConfig().mutation_probabilities == (0.2, 0.4)
    assert SearchConfig(mutation="official").mutation_probabilities == (0.4, 0.2)
    assert SearchConfig(mutation="official", shape_probability=0.3).mutation_probabilities == (0.3, 0.2)


def test_mutations_change_shapes_more_often_by_the_official_numbers() -> None:
    """All of a generation by mutation of one parent: the width stays with 1 − 2/3·p, 0.87 against 0.73."""

    def kept(mutation: str) -> float:
        same = []
        for seed in range(20):
            candidates = Candidates(SPACE, ExactCosts(SPACE), Budget())
            chosen = config("evolution", generations=2, parents=1, mutated=12, crossed=0, mutation=mutation, uniform_shapes=0)
            every = search(candidates, pretend, LABELS, chosen, Study(None, "s"), seed=seed).candidates
            parent = max(every[:12], key=lambda c: (c.score.value, -c.cost.flops, -c.number)).architecture
            same += [c.architecture.embed_dim == parent.embed_dim for c in every[12:24]]
        return float(np.mean(same))

    assert kept("paper") > kept("official") + 0.05


# --- fronts ------------------------------------------------------------------------------------------------------


def test_ranks_are_those_of_their_definition() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (60, 3)).astype(float)
    left, rank = set(range(60)), 0
    expected: dict[int, int] = {}
    while left:
        front = {
            i for i in left
            if not any((values[j] <= values[i]).all() and (values[j] < values[i]).any() for j in left)
        }  # fmt: skip
        expected |= dict.fromkeys(front, rank)
        left, rank = left - front, rank + 1
    assert nondominated_ranks(values).tolist() == [expected[i] for i in range(60)]


def test_crowding_by_hand() -> None:
    """Second objective the mirror of the first, 0 to 10: the middle ones are (4 − 0)/10 · 2 and (10 − 1)/10 · 2 apart."""
    values = np.asarray([[0.0, 10.0], [1.0, 9.0], [4.0, 6.0], [10.0, 0.0]])
    assert crowding(values).tolist() == [np.inf, pytest.approx(0.8), pytest.approx(1.8), np.inf]
    assert crowding(np.ones((3, 2))).tolist() == [0, 0, 0]


def test_fronts_hold_what_nothing_beats_in_score_and_cost() -> None:
    result = found_by("random")
    every = result.candidates
    for name, members in fronts(every).items():
        measures = ("params", "flops") if name == "all" else (name,)

        def values(c: Candidate, measures: tuple[str, ...] = measures) -> tuple[float, ...]:
            return (-c.score.value, *(getattr(c.cost, measure) for measure in measures))

        kept = {values(c) for c in members}
        best = {
            values(c) for c in every
            if not any(all(a <= b for a, b in zip(values(o), values(c), strict=True)) and values(o) != values(c) for o in every)
        }  # fmt: skip
        assert kept == best
    assert "latency_ms" not in fronts(every)


# --- predictor ---------------------------------------------------------------------------------------------------


def test_features_are_one_per_choice_and_zero_for_blocks_that_are_not_there() -> None:
    """Widths 48/64/80, depths 3/4/5, one size, then per block heads 2/3/4 and ratios 1/1.5/2."""
    network = Architecture(embed_dim=64, num_heads=(2, 4, 3), mlp_ratio=(2.0, 1.0, 1.5))
    (row,) = features([network], SPACE).tolist()
    blocks = [[1, 0, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 0], [0] * 6, [0] * 6]
    assert row == [0, 1, 0, 1, 0, 0, 1, *itertools.chain(*blocks)]


def test_choices_that_add_up_are_learned_from_fewer_networks_than_there_are_choices_in_all() -> None:
    rng = random.Random(0)
    known, other = ([SPACE.sample(rng) for _ in range(count)] for count in (60, 300))
    predicted = Predictor(SPACE, known, [quality(network) for network in known], [1] * 60)(other)
    assert np.corrcoef(predicted, [quality(network) for network in other])[0, 1] > 0.97


# --- baselines ---------------------------------------------------------------------------------------------------


def test_the_baselines_are_the_most_expensive_network_and_the_largest_homogeneous_ones() -> None:
    candidates = Candidates(SPACE, ExactCosts(SPACE), BUDGET)
    most_expensive, *uniform = baselines(candidates, 100, seed=0)
    assert count_flops(most_expensive, SPACE) > 0.99 * BUDGET.max_flops  # type: ignore[operator]
    shapes = [
        SPACE.uniform(width, depth, heads, ratio)
        for width in SPACE.embed_dims for depth in SPACE.depths for heads in SPACE.num_heads for ratio in SPACE.mlp_ratios
    ]  # fmt: skip
    inside = [shape for shape in shapes if BUDGET.allows(ExactCosts(SPACE)(shape))]

    def sizes(shape: Architecture) -> tuple[float, ...]:
        return shape.embed_dim, shape.depth, shape.num_heads[0], shape.mlp_ratio[0]

    def below(shape: Architecture, other: Architecture) -> bool:
        return shape != other and all(a <= b for a, b in zip(sizes(shape), sizes(other), strict=True))

    assert set(uniform) == {shape for shape in inside if not any(below(shape, other) for other in inside)}
    flops = [count_flops(shape, SPACE) for shape in uniform]
    assert flops == sorted(flops, reverse=True)
    assert baselines(candidates, 2, seed=0) == [most_expensive, *uniform[:2]]


def test_baselines_stand_beside_the_winner_and_may_be_it() -> None:
    result = found_by("random")
    assert {c.architecture for c in result.candidates[60:]} <= set(baselines(Candidates(SPACE, ExactCosts(SPACE), BUDGET), 4, 0))
    assert result.baselines["dearest"].cost.flops == max(c.cost.flops for c in result.candidates)
    uniform = result.baselines["uniform"]
    assert uniform.score.value == max(c.score.value for c in result.candidates if is_homogeneous(c.architecture))

    def only_uniform(architecture: Architecture, images: slice) -> NDArray[np.int64]:
        return (LABELS if is_homogeneous(architecture) else (LABELS + 1) % 10)[images]

    won = search(Candidates(SPACE, ExactCosts(SPACE), BUDGET), only_uniform, LABELS, config("random"), Study(None, "s"))
    assert is_homogeneous(won.chosen.architecture)
    assert won.on_par(won.baselines["uniform"])
    assert not won.on_par(won.baselines["dearest"])


def test_a_search_without_homogeneous_networks_still_has_the_most_expensive_one() -> None:
    result = found_by("random", uniform_shapes=0)
    assert len(result.candidates) == 61
    assert result.candidates[60] == result.baselines["dearest"]


def test_the_history_says_what_was_best_after_how_many_images() -> None:
    def candidate(number: int, right: int) -> Candidate:
        labels = np.ones(10, np.int64)
        predicted = (np.arange(10) < right).astype(np.int64)
        return Candidate(
            number=number, generation=0, architecture=SPACE.sample(random.Random(number)),
            cost=Cost(params=1, flops=number + 1), predictions=predicted, score=score(predicted, labels),
        )  # fmt: skip

    every = [candidate(number, right) for number, right in enumerate([3, 2, 5, 5, 4, 9])]
    assert list(best_so_far(every[:5], 10)) == [Step(10, 0.3), Step(30, 0.5), Step(50, 0.5)]
