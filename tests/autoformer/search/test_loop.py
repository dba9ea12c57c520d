"""The search knows numbers and choices; here the truth is a formula, so a full search takes milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import Budget, Cost, ExactCosts, count_flops, count_params
from autoformer.drawing.budgeted import Candidates
from autoformer.errors import BudgetError, CheckpointError
from autoformer.metric import Metric, score
from autoformer.search.candidate import Candidate, packed, unpacked
from autoformer.search.config import SearchConfig
from autoformer.search.database import Study
from autoformer.search.loop import search
from autoformer.search.result import conclude
from autoformer.space import SearchSpace

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
SMALL = SearchConfig(population=10, generations=4, parents=4, mutated=5, crossed=5, confirmation=0)
LABELS = np.arange(400) % 10


def pretend(architecture: Architecture, images: slice = slice(None)) -> NDArray[np.int64]:
    """Larger is better, with noise that depends on the architecture alone; a wrong prediction is the next class."""
    share = 0.5 + 0.4 * count_flops(architecture, SPACE) / count_flops(SPACE.largest, SPACE)
    right = np.random.default_rng(int(architecture.digest[:8], 16)).random(400) < share
    return np.where(right, LABELS, (LABELS + 1) % 10)[images]


def stored(tmp_path: Path, name: str = "s") -> Study:
    return Study(f"sqlite:///{tmp_path / 'study.db'}", name)


def in_memory() -> Study:
    return Study(None, "s")


def test_every_evaluated_architecture_keeps_the_budget() -> None:
    costs = ExactCosts(SPACE)
    budget = Budget(
        max_params=0.5 * count_params(SPACE.largest, SPACE),
        max_flops=0.5 * count_flops(SPACE.largest, SPACE),
        min_flops=0.3 * count_flops(SPACE.largest, SPACE),
    )
    result = search(Candidates(SPACE, costs, budget), pretend, LABELS, SMALL, in_memory())
    assert result.searched == 40
    assert all(budget.allows(costs(candidate.architecture)) for candidate in result.candidates)
    assert len({candidate.architecture for candidate in result.candidates}) == len(result.candidates) == 45  # and the baselines


def test_evolution_finds_better_networks_than_the_random_first_generation() -> None:
    config = SearchConfig(population=20, generations=8, parents=5, mutated=10, crossed=10)
    result = search(Candidates(SPACE, ExactCosts(SPACE), Budget()), pretend, LABELS, config, in_memory())
    first = [c.score.value for c in result.candidates if c.generation == 0]
    last = [c.score.value for c in result.candidates if c.generation == 7]
    assert sum(last) / len(last) > sum(first) / len(first)


def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path: Path) -> None:
    candidates = Candidates(SPACE, ExactCosts(SPACE), Budget())
    whole = search(candidates, pretend, LABELS, SMALL, stored(tmp_path, "whole"))
    calls = 0

    def dies(architecture: Architecture, images: slice) -> NDArray[np.int64]:
        nonlocal calls
        calls += 1
        if calls in (7, 19):
            raise RuntimeError("killed")
        return pretend(architecture, images)

    for _ in range(2):
        with pytest.raises(RuntimeError):
            search(candidates, dies, LABELS, SMALL, stored(tmp_path, "cut"))
    resumed = search(candidates, dies, LABELS, SMALL, stored(tmp_path, "cut"))
    assert [c.architecture for c in resumed.candidates] == [c.architecture for c in whole.candidates]
    assert resumed.chosen.architecture == whole.chosen.architecture
    assert calls == len(whole.candidates) + 2  # only the two evaluations in flight were lost


def test_a_trial_that_was_running_when_its_process_died_is_done_again(tmp_path: Path) -> None:
    study = stored(tmp_path)
    study.study.ask()
    result = search(Candidates(SPACE, ExactCosts(SPACE), Budget()), pretend, LABELS, SMALL, stored(tmp_path))
    assert [c.number for c in result.candidates] == list(range(result.searched + 1))
    assert result.searched == 40


def test_a_study_of_another_seed_is_refused(tmp_path: Path) -> None:
    candidates = Candidates(SPACE, ExactCosts(SPACE), Budget())
    search(candidates, pretend, LABELS, SMALL, stored(tmp_path), seed=1)
    with pytest.raises(CheckpointError, match="another search"):
        search(candidates, pretend, LABELS, SMALL, stored(tmp_path), seed=2)


def test_a_space_smaller_than_the_search_is_evaluated_once_each() -> None:
    tiny = SearchSpace(
        name="four", embed_dims=(16,), depths=(1,), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8,
        image_sizes=(8,), patch_size=4,
    )  # fmt: skip
    result = search(
        Candidates(tiny, ExactCosts(tiny), Budget()), lambda a, images: LABELS[:5][images], LABELS[:5], SMALL, in_memory()
    )
    assert len(result.candidates) == tiny.size == 4


def candidate(number: int, flops: int, right: list[int]) -> Candidate:
    """Right where `right` says, on images of class 1."""
    predicted = np.asarray(right, np.int64)
    architecture = Architecture(embed_dim=number + 1, num_heads=(1,), mlp_ratio=(1.0,))
    return Candidate(
        number=number, generation=0, architecture=architecture, cost=Cost(params=1, flops=flops), predictions=predicted,
        score=score(predicted, np.ones_like(predicted)),
    )  # fmt: skip


def test_among_tied_candidates_the_cheapest_is_chosen_unless_the_best_is_asked_for() -> None:
    best, near, far = candidate(0, 90, [1] * 20), candidate(1, 50, [1] * 19 + [0]), candidate(2, 10, [1] * 8 + [0] * 12)
    result = conclude([best, near, far], np.ones(20, np.int64), "cheapest")
    assert (result.best.number, result.chosen.number) == (0, 1)
    assert [c.number for c in result.tied] == [1, 0]
    assert conclude([best, near, far], np.ones(20, np.int64), "best").chosen.number == 0


def test_the_front_holds_what_nothing_beats_in_both_cost_and_accuracy() -> None:
    three = [candidate(0, 10, [1, 0, 0]), candidate(1, 20, [1, 0, 0]), candidate(2, 30, [1, 1, 0])]
    result = conclude(three, np.ones(3, np.int64), "best")
    assert [c.number for c in result.front] == [0, 2]


RARE = np.asarray([0] * 90 + [1] * 10)  # one class has nine times the images of the other


def either(architecture: Architecture, images: slice) -> NDArray[np.int64]:
    """Networks of one block name the common class alone: 90 % right, half of the classes. The others get a quarter of the
    common class wrong and nothing of the rare one: 77.5 % right on the whole, 87.5 % in the mean over classes."""
    predicted = np.zeros_like(RARE)
    if architecture.depth > 1:
        predicted[67:] = 1
    return predicted[images]


@pytest.mark.parametrize(
    ("metric", "depth", "value"), [("top1", 1, 0.9), ("balanced_accuracy", 2, (67 / 90 + 1) / 2), ("macro_f1", 2, None)]
)
def test_rare_classes_decide_a_search_by_class_means_and_not_by_top1(metric: Metric, depth: int, value: float | None) -> None:
    """By hand, F1: all common 2·90/(90+100) = 0.947 and 0, mean 0.474; else 2·67/(90+67) = 0.854 and 2·10/(10+33) = 0.465."""
    space = SearchSpace(
        name="eight", embed_dims=(16,), depths=(1, 2), num_heads=(1,), mlp_ratios=(1.0, 2.0), head_dim=8, image_sizes=(8,),
        patch_size=4,
    )  # fmt: skip
    candidates = Candidates(space, ExactCosts(space), Budget())
    result = search(candidates, either, RARE, SMALL, in_memory(), metric=metric)
    assert {c.architecture.depth for c in result.tied} == {depth}
    assert result.chosen.architecture.depth == depth
    assert result.chosen.score.value == pytest.approx((0.8535 + 0.4651) / 2 if value is None else value, abs=1e-4)
    assert result.metric == metric


def test_a_study_of_another_metric_is_refused(tmp_path: Path) -> None:
    candidates = Candidates(SPACE, ExactCosts(SPACE), Budget())
    search(candidates, pretend, LABELS, SMALL, stored(tmp_path))
    with pytest.raises(CheckpointError, match=r"study.db holds another search: .* scored by accuracy, expected macro-F1"):
        search(candidates, pretend, LABELS, SMALL, stored(tmp_path), metric="macro_f1")


def test_a_study_of_other_images_is_refused(tmp_path: Path) -> None:
    candidates = Candidates(SPACE, ExactCosts(SPACE), Budget())
    search(candidates, pretend, LABELS, SMALL, stored(tmp_path))
    with pytest.raises(CheckpointError, match="another search: evaluation 0 scored"):
        search(candidates, pretend, (LABELS + LABELS // 9) % 10, SMALL, stored(tmp_path))


@pytest.mark.parametrize("metric", ["top1", "balanced_accuracy", "macro_f1"])
def test_an_interrupted_search_knows_its_scores_again(tmp_path: Path, metric: Metric) -> None:
    candidates = Candidates(SPACE, ExactCosts(SPACE), Budget())
    first = search(candidates, pretend, LABELS, SMALL, stored(tmp_path), metric=metric)
    again = search(
        candidates, lambda a, images: pytest.fail("evaluated again"), LABELS, SMALL, stored(tmp_path), metric=metric
    )  # fmt: skip
    assert [c.score for c in again.candidates] == [c.score for c in first.candidates]
    assert again.to_dict() == first.to_dict()


@pytest.mark.parametrize(("largest", "digits"), [(255, 2), (256, 4), (65_536, 8)])
def test_predictions_are_stored_in_as_few_bytes_as_their_largest_class_needs(largest: int, digits: int) -> None:
    classes = np.asarray([0, 7, largest])
    assert len(packed(classes)) == 3 * digits
    assert unpacked(packed(classes), 3).tolist() == classes.tolist()
    with pytest.raises(ValueError, match="for 2 images"):
        unpacked(packed(np.asarray([1, 2, 3])), 2)


def test_a_budget_nobody_can_meet_names_the_tightest_limit_and_the_cheapest_network() -> None:
    cheapest = count_params(SPACE.smallest, SPACE)
    with pytest.raises(BudgetError) as caught:
        Candidates(SPACE, ExactCosts(SPACE), Budget(max_params=cheapest / 10, max_flops=count_flops(SPACE.smallest, SPACE) / 2))
    message = str(caught.value)
    assert "max_params" in message
    assert f"{cheapest / 1e3:.4g}k" in message
    assert str(SPACE.smallest) in message


def test_a_lower_limit_above_the_most_expensive_network_is_refused_at_once() -> None:
    with pytest.raises(BudgetError, match="min_flops"):
        Candidates(SPACE, ExactCosts(SPACE), Budget(min_flops=2 * count_flops(SPACE.largest, SPACE)))


def test_limits_from_both_sides_that_leave_no_room_end_in_an_error_and_not_in_a_loop() -> None:
    middle = count_params(SPACE.middle, SPACE) + 0.25
    with pytest.raises(BudgetError, match="widen the limits"):
        Candidates(SPACE, ExactCosts(SPACE), Budget(min_params=middle, max_params=middle + 0.5))


def test_a_latency_limit_without_measured_latencies_is_refused() -> None:
    with pytest.raises(BudgetError, match="latency table"):
        Candidates(SPACE, ExactCosts(SPACE), Budget(max_latency_ms=1.0))
