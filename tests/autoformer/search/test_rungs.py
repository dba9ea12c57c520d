"""Which images decide: the order, the rungs, the held-out ones, and what earlier searches already know."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import Budget, ExactCosts, count_flops
from autoformer.data.images import ArrayImages
from autoformer.data.parts import Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.drawing.budgeted import Candidates
from autoformer.errors import CheckpointError
from autoformer.evaluate import EvaluationSet, ResidentImages, precision_on, predict_with, predictions
from autoformer.metric import score
from autoformer.networks.supernet import Supernet
from autoformer.search.config import SearchConfig
from autoformer.search.database import EvaluationStore, Study
from autoformer.search.loop import search
from autoformer.search.result import SearchResult
from autoformer.search.rungs import Portions, balanced_order, rungs_of
from autoformer.space import SearchSpace

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
IMAGES = 2000  # 1600 decide, 400 are held out
LABELS = np.arange(IMAGES) % 10
HALVING = SearchConfig(
    population=8, generations=3, parents=3, mutated=4, crossed=4, uniform_shapes=1, rungs=(1 / 16, 1 / 4, 1), finalists=2
)
LARGEST = count_flops(SPACE.largest, SPACE)


class Network:
    """Predictions that depend on the architecture alone, right more often for larger ones; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Architecture, int, int]] = []

    def __call__(self, architecture: Architecture, images: slice) -> NDArray[np.int64]:
        self.asked.append((architecture, images.start, images.stop))
        share = 0.4 + 0.4 * count_flops(architecture, SPACE) / LARGEST
        right = np.random.default_rng(int(architecture.digest[:8], 16)).random(IMAGES) < share
        return np.where(right, LABELS, (LABELS + 1) % 10)[images]


def found(network: Network, budget: Budget | None = None, config: SearchConfig = HALVING, **more: object) -> SearchResult:
    candidates = Candidates(SPACE, ExactCosts(SPACE), budget or Budget())
    study = more.pop("study", None) or Study(None, "s", more.pop("store", None))  # type: ignore[arg-type]
    return search(candidates, network, LABELS, config, study, **more)  # type: ignore[arg-type]


# --- order and sizes ---------------------------------------------------------------------------------------------


def test_every_stretch_of_the_order_holds_the_classes_in_their_shares() -> None:
    labels = np.asarray([0] * 600 + [1] * 200 + [2] * 40)
    order = balanced_order(labels)
    assert sorted(order.tolist()) == list(range(840))
    for start in range(0, 840 - 84, 7):
        counts = np.bincount(labels[order[start : start + 84]], minlength=3)
        assert np.abs(counts - [60, 20, 4]).max() <= 2
    assert np.array_equal(order, balanced_order(labels))
    assert (np.diff(order[labels[order] == 0]) < 0).any()  # within a class they are shuffled


def test_rungs_are_a_sixteenth_a_quarter_and_all_but_none_of_fewer_than_500_images() -> None:
    assert rungs_of(10_000) == (625, 2500, 10_000)
    assert rungs_of(6000) == (1500, 6000)
    assert rungs_of(216) == (216,)
    assert rungs_of(160, (1 / 16, 1 / 4, 1)) == (10, 40, 160)
    assert rungs_of(10_000, (1,)) == (10_000,)


def test_each_rung_takes_about_equal_work_so_halving_takes_about_a_sixth_of_the_images() -> None:
    portions = Portions((625, 2500, 10_000), 0)
    assert [portions.promoted(rung, 50) for rung in range(3)] == [50, 13, 4]
    assert pytest.approx(0.171, abs=0.001) == (50 * 625 + 13 * 1875 + 4 * 7500) / (50 * 10_000)


@pytest.mark.parametrize("shares", [(), (0.5,), (0.0, 1.0), (0.5, 0.25, 1.0), (0.5, 0.5, 1.0)])
def test_rungs_that_do_not_rise_to_all_images_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rise from above 0 to 1"):
        SearchConfig(rungs=shares)


def test_a_search_part_of_two_images_still_has_one_that_decides() -> None:
    assert Portions.of(2, SearchConfig(confirmation=0.9)) == Portions((1,), 1)
    assert Portions.of(100, SearchConfig()) == Portions((80,), 20)


# --- halving -----------------------------------------------------------------------------------------------------


def test_a_halving_search_asks_for_what_its_rungs_say() -> None:
    """By hand: 8 candidates on 100 images, 2 on 400 and 1 on 1600 a generation; two baselines on all, if they are new."""
    network = Network()
    result = found(network)
    stages = [(start, stop) for _, start, stop in network.asked]
    assert stages[:11] == [(0, 100)] * 8 + [(100, 400)] * 2 + [(400, 1600)]
    assert sum(stop - start for start, stop in stages[:33]) == 3 * (800 + 600 + 1200)
    assert result.searched == 24
    assert {len(candidate.predictions) for candidate in result.candidates} == {100, 400, 1600}
    assert result.images["full"] == 3 + len(result.candidates) - 24
    assert {len(candidate.predictions) for candidate in (result.chosen, result.best, *result.tied, *result.front)} == {1600}


def test_who_goes_up_is_the_best_of_all_generations_that_has_not_gone_up() -> None:
    network = Network()
    result = found(network)
    first = {candidate.number: score(candidate.predictions[:100], LABELS[:100]).value for candidate in result.candidates}
    numbers = {candidate.architecture: candidate.number for candidate in result.candidates}
    waiting: set[int] = set()
    proposed = 0
    for architecture, start, _ in network.asked:
        number = numbers[architecture]
        if start == 0 and number < 24:
            waiting.add(number)
            proposed += 1
        elif start == 100 and number < 24:
            assert first[number] >= sorted((first[other] for other in waiting), reverse=True)[1]
            waiting.remove(number)
    assert proposed == 24
    assert len(waiting) == 18


@pytest.mark.slow
@pytest.mark.parametrize("method", ["evolution", "random", "pareto", "predictor"])
def test_halving_finds_nearly_what_full_evaluation_finds_with_a_quarter_of_the_images(method: str) -> None:
    """On 5 seeds, truth by formula: the mean loss stays within what one step of one block costs."""

    def truth(result: SearchResult) -> float:
        return count_flops(result.best.architecture, SPACE) / LARGEST

    budget = Budget(max_flops=0.8 * LARGEST)
    losses, shares = [], []
    for seed in range(5):
        results = [
            found(Network(), budget, HALVING.model_copy(update={"method": method, "rungs": rungs}), seed=seed)
            for rungs in ((1 / 16, 1 / 4, 1.0), (1.0,))
        ]
        losses.append(truth(results[1]) - truth(results[0]))
        shares.append(results[0].images["evaluated"] / results[1].images["evaluated"])
    assert np.mean(losses) < 0.05
    assert max(shares) < 0.3


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("last", [3, 9, 11, 23, 33, 34])
def test_a_halving_search_killed_at_any_stage_goes_on_to_the_same_end(tmp_path: Path, last: int) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    network, whole = Network(), Network()

    def dies(architecture: Architecture, images: slice) -> NDArray[np.int64]:
        if len(network.asked) == last:
            network.asked.append((architecture, -1, -1))
            raise RuntimeError("killed")
        return network(architecture, images)

    with pytest.raises(RuntimeError):
        found(dies, study=Study(url, "s"))  # type: ignore[arg-type]
    resumed = found(dies, study=Study(url, "s"))  # type: ignore[arg-type]
    assert resumed.to_dict() == found(whole).to_dict()
    assert len(network.asked) == len(whole.asked) + 1


# --- held-out images ------------------------------------------------------------------------------------------------


def test_held_out_images_are_asked_for_last_and_of_finalists_alone() -> None:
    network = Network()
    result = found(network)
    asked = [entry for entry in network.asked if entry[2] > 1600]
    assert asked == network.asked[-len(asked) :]
    assert {(start, stop) for _, start, stop in asked} == {(1600, 2000)}
    wanted = {result.chosen.number, result.best.number, *(c.number for c in result.baselines.values())}
    wanted |= {candidate.number for candidate in result.tied[:2]}
    assert set(result.held_out_scores) == wanted


def test_held_out_images_change_no_choice_and_give_the_finalists_scores() -> None:
    class Contrary(Network):
        def __call__(self, architecture: Architecture, images: slice) -> NDArray[np.int64]:
            answer = super().__call__(architecture, images)
            return LABELS[images] if images.stop > 1600 else answer  # all right where nothing is decided

    plain, contrary = found(Network()), found(Contrary())
    assert contrary.chosen.architecture == plain.chosen.architecture
    assert [candidate.score for candidate in contrary.candidates] == [candidate.score for candidate in plain.candidates]
    assert {scored.value for scored in contrary.held_out_scores.values()} == {1.0}
    right = Network()(plain.chosen.architecture, slice(1600, 2000)) == LABELS[1600:]
    assert plain.held_out_scores[plain.chosen.number].value == pytest.approx(right.mean(), abs=1e-12)
    assert plain.held_out_scores[plain.chosen.number].images == 400


def test_without_held_out_images_every_image_decides() -> None:
    network = Network()
    result = found(network, config=HALVING.model_copy(update={"confirmation": 0.0}))
    assert result.held_out_scores == {}
    assert max(stop for _, _, stop in network.asked) == len(result.labels) == 2000


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_study_on_more_images_than_there_are_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    found(Network(), config=HALVING.model_copy(update={"confirmation": 0.0}), study=Study(url, "s"))
    with pytest.raises(CheckpointError, match=r"evaluation .* is of 2000 images, expected 1600 at most"):
        found(Network(), study=Study(url, "s"))


# --- what earlier searches know ----------------------------------------------------------------------------------


def opened(tmp_path: Path, key: str = "these weights", classes: int = 10) -> EvaluationStore:
    return EvaluationStore(f"sqlite:///{tmp_path / 'evaluations.db'}", {"weights": key}, classes)


def test_a_search_under_another_budget_asks_only_for_what_no_search_knows(tmp_path: Path) -> None:
    first, second, fresh = Network(), Network(), Network()
    found(first, store=opened(tmp_path))
    again = found(second, Budget(max_flops=0.9 * LARGEST), store=opened(tmp_path))
    alone = found(fresh, Budget(max_flops=0.9 * LARGEST))
    known = {(network, image) for network, start, stop in first.asked for image in range(start, stop)}
    asked = {(network, image) for network, start, stop in second.asked for image in range(start, stop)}
    needed = {(network, image) for network, start, stop in fresh.asked for image in range(start, stop)}
    assert asked == needed - known
    assert again.images["reused"] == len(needed & known)
    assert len(needed & known) > 0
    assert [c.architecture for c in again.candidates] == [c.architecture for c in alone.candidates]
    assert again.chosen.score == alone.chosen.score


def test_the_same_search_again_asks_for_nothing_and_other_weights_for_everything(tmp_path: Path) -> None:
    first = found(Network(), store=opened(tmp_path))
    same, other = Network(), Network()
    again = found(same, store=opened(tmp_path))
    assert same.asked == []
    assert again.chosen.architecture == first.chosen.architecture
    assert again.images["reused"] == again.images["evaluated"] + again.images["confirming"]
    assert found(other, store=opened(tmp_path, "other weights")).images["reused"] == 0
    assert len(other.asked) > 30


def test_a_store_gives_the_longest_stretch_it_knows_from_a_place(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put(SPACE.smallest, 0, np.arange(6))
    store.put(SPACE.smallest, 0, np.arange(3))  # known already
    store.put(SPACE.smallest, 8, np.asarray([9, 9]))
    assert store.get(SPACE.smallest, 0, 4).tolist() == [0, 1, 2, 3]
    assert store.get(SPACE.smallest, 2, 20).tolist() == [2, 3, 4, 5]
    assert store.get(SPACE.smallest, 6, 8).tolist() == []
    assert store.get(SPACE.smallest, 8, 20).tolist() == [9, 9]
    assert store.get(SPACE.largest, 0, 4).tolist() == []


def test_a_damaged_evaluation_in_the_store_is_not_believed_and_replaced(tmp_path: Path) -> None:
    opened(tmp_path).put(SPACE.smallest, 0, np.asarray([9, 9]))
    with pytest.warns(UserWarning, match=r"evaluations.db holds a damaged evaluation .*class 9 of 5"):
        assert not opened(tmp_path, classes=5).get(SPACE.smallest, 0, 2).size
    with sqlite3.connect(tmp_path / "evaluations.db") as held:  # another class, as plausible as the first
        held.execute("UPDATE autoformer_evaluations SET guesses = '0908' || substr(guesses, 5)")
    with pytest.warns(UserWarning, match="its digest differs"):
        assert not opened(tmp_path).get(SPACE.smallest, 0, 2).size
    with pytest.warns(UserWarning, match="its digest differs"):
        opened(tmp_path).put(SPACE.smallest, 0, np.asarray([9, 9]))
    assert opened(tmp_path).get(SPACE.smallest, 0, 2).tolist() == [9, 9]
    with sqlite3.connect(tmp_path / "evaluations.db") as held:  # as version 0.1 wrote it
        held.execute("UPDATE autoformer_evaluations SET guesses = '0907'")
    assert opened(tmp_path).get(SPACE.smallest, 0, 2).tolist() == [9, 7]


def test_a_damaged_store_is_refused_with_the_advice_to_delete_it(tmp_path: Path) -> None:
    (tmp_path / "evaluations.db").write_bytes(b"no database, only words " * 99)
    with pytest.raises(CheckpointError, match=r"evaluations.db cannot be read .*it can be deleted"):
        opened(tmp_path)


# --- images on the device ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images() -> EvaluationSet:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)
    part = Part("search", ArrayImages(pixels, [index % 4 for index in range(50)]), tuple(range(50)))
    preprocessing = Preprocessing(image_size=16, in_chans=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return EvaluationSet.of(part, preprocessing)


def supernet() -> Supernet:
    torch.manual_seed(0)
    space = SearchSpace(
        name="sizes", embed_dims=(16, 24), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8,
        image_sizes=(8, 16), patch_size=4, in_chans=3, num_classes=4,
    )  # fmt: skip
    return Supernet(space)


def test_images_kept_for_many_networks_give_the_predictions_of_those_loaded_for_one(images: EvaluationSet) -> None:
    network = supernet().train()
    resident = ResidentImages(images, network, "fp32", batch_size=16)
    for architecture in (network.space.smallest, network.space.middle, network.space.largest):
        expected = predictions(predict_with(network, architecture), images, 16)
        assert resident.predictions(architecture).tolist() == expected.tolist()
        assert resident.predictions(architecture, slice(16, 40)).tolist() == expected[16:40].tolist()
    assert network.training  # as it was


def test_low_precision_computes_otherwise_but_predicts_mostly_the_same(images: EvaluationSet) -> None:
    network = supernet().eval()
    exact = ResidentImages(images, network, "fp32").predictions(network.space.largest)
    low = ResidentImages(images, network, "bf16").predictions(network.space.largest)
    assert (exact == low).mean() > 0.8
    assert precision_on(torch.device("cpu")) == "fp32"
    assert precision_on(torch.device("cpu"), "bf16") == "bf16"
