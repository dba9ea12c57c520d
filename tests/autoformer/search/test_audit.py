"""What an audit takes for chance, on simulated networks: equally good ones are not searchable by any metric, others are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from autoformer import evaluate
from autoformer.cost import Cost, count_flops
from autoformer.metric import Metric, chance_spread, score
from autoformer.search.audit import LEAST_SPREAD, audit, searchability
from autoformer.search.candidate import Candidate
from autoformer.search.result import SearchResult, conclude
from autoformer.space import SearchSpace

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
LABELS = np.repeat(np.arange(10), [60] * 5 + [3] * 5)  # five classes are rare
METRICS: tuple[Metric, ...] = get_args(Metric)
NETWORKS, REPEATS = 32, 100


def answers(rng: np.random.Generator, right: NDArray[np.float64]) -> NDArray[np.int64]:
    """Predictions that are right with these probabilities [n], else of any other class."""
    wrong = (LABELS + rng.integers(1, 10, len(LABELS))) % 10
    return np.where(rng.random(len(LABELS)) < right, LABELS, wrong)


def spread_beyond_chance(rng: np.random.Generator, metric: Metric, differ: float) -> float:
    """The spread of networks over what chance gives; easier and harder images, networks that differ by so much in all."""
    images = rng.beta(7, 3, len(LABELS))
    networks = [answers(rng, images + differ * rng.normal()) for _ in range(NETWORKS)]
    values = [score(one, LABELS, metric).value for one in networks]
    return float(np.std(values, ddof=1)) / chance_spread(networks, LABELS, metric)


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_equally_good_networks_are_rarely_taken_for_different_ones_by_any_metric(metric: Metric) -> None:
    """Five rare classes of 3 images decide half of a mean over classes. Nominally 5 % pass; 13 % would be 3.7 sigma more."""
    rng = np.random.default_rng(0)
    found = np.asarray([spread_beyond_chance(rng, metric, differ=0) for _ in range(REPEATS)])
    assert np.mean(found > LEAST_SPREAD) < 0.13
    assert np.sqrt(np.mean(found**2)) == pytest.approx(1, abs=0.05)  # chance explains the spread, and no more


@pytest.mark.parametrize("metric", METRICS)
def test_networks_that_differ_are_found_by_every_metric(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    assert np.mean([spread_beyond_chance(rng, metric, differ=0.15) > LEAST_SPREAD for _ in range(30)]) > 0.9


def test_chance_is_the_spread_of_networks_that_are_equally_good() -> None:
    """Simulated: 60 networks, right on each of 500 images with probability 0.7; binomial spread of their scores."""
    rng = np.random.default_rng(0)
    labels = np.zeros(500, np.int64)
    predicted = [(rng.random(500) > 0.7).astype(np.int64) for _ in range(60)]
    spread = np.std([(prediction == labels).mean() for prediction in predicted], ddof=1)
    assert chance_spread(predicted, labels, "top1") == pytest.approx((0.7 * 0.3 / 500) ** 0.5, rel=0.03)
    assert chance_spread(predicted, labels, "top1") == pytest.approx(spread, rel=0.25)
    assert chance_spread(predicted[:1], labels, "top1") == 0.0


def test_the_chance_of_an_accuracy_is_that_of_the_images_that_one_of_two_networks_has_right() -> None:
    """By hand: each such image falls to either with probability 1/2, so a score has the variance (their number) / 2 n²."""
    rng = np.random.default_rng(0)
    networks = [answers(rng, np.full(len(LABELS), 0.7)) for _ in range(5)]
    right = [one == LABELS for one in networks]
    disputed = np.mean([(a != b).sum() for index, a in enumerate(right) for b in right[:index]])
    assert chance_spread(networks, LABELS, "top1") == pytest.approx((disputed / 2) ** 0.5 / len(LABELS))


@pytest.mark.parametrize("metric", METRICS)
def test_an_audit_goes_by_the_metric(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, most = np.random.default_rng(0), count_flops(SPACE.largest, SPACE)
    slope = 0.0  # of how often a network is right over its FLOPs

    def predicted(network: Any, images: Any) -> NDArray[np.int64]:
        return answers(rng, np.full(len(LABELS), 0.5 + slope * (count_flops(network, SPACE) / most - 0.6)))

    monkeypatch.setattr(evaluate, "predict_with", lambda supernet, architecture: architecture)
    monkeypatch.setattr(evaluate, "predictions", predicted)
    given: Any = (SimpleNamespace(space=SPACE), SimpleNamespace(labels=LABELS))
    alike = [audit(*given, seed=seed, metric=metric) for seed in range(5)]
    assert all(found.spread < LEAST_SPREAD * found.chance and not found.searchable for found in alike)
    slope = 1.2
    assert audit(*given, metric=metric).searchable


# --- of a finished search ------------------------------------------------------------------------------------------


def search_of(rights: Sequence[NDArray[np.bool_]], flops: Sequence[int], rung: int | None = None) -> SearchResult:
    """A search whose first generation has these images right; those after the third were asked about `rung` images alone."""
    rng, candidates = random.Random(0), []
    labels = np.zeros(len(rights[0]), np.int64)
    for number, (right, cost) in enumerate(zip(rights, flops, strict=True)):
        known = len(labels) if number < 3 or rung is None else rung
        predicted = np.where(right, labels, 1)[:known]
        candidates.append(
            Candidate(
                number=number, generation=0, architecture=SPACE.sample(rng), cost=Cost(params=1, flops=cost),
                predictions=predicted, score=score(predicted, labels[:known]),
            )
        )  # fmt: skip
    return conclude(candidates, labels, "best")


def rights_of(shares: Sequence[float], images: int = 400, seed: int = 0) -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return [rng.random(images) < share for share in shares]


def test_the_order_of_equally_good_networks_is_told_to_be_chance_by_a_search_too() -> None:
    found = searchability(search_of(rights_of([0.7] * 24), range(1, 25)))
    assert found is not None
    assert not found.searchable
    assert (found.networks, found.images) == (24, 400)
    assert found.chance == pytest.approx((0.7 * 0.3 / 400) ** 0.5, rel=0.1)  # binomial
    assert "train.epochs" in str(found)


def test_networks_that_differ_make_a_search_that_is_more_than_chance() -> None:
    found = searchability(search_of(rights_of(np.linspace(0.5, 0.9, 24).tolist()), range(1, 25)))
    assert found is not None
    assert found.searchable
    assert found.advice == ""
    assert found.size_correlation > 0.8
    assert str(found).startswith("the supernet is searchable (random networks spread by ")
    assert str(found).endswith("; 24 networks inside the budget, 400 images)")


def test_the_advice_is_true_before_and_after_a_race_and_without_one() -> None:
    found = searchability(search_of(rights_of([0.7] * 24), range(1, 25)))
    assert found is not None
    assert (
        "by these scores alone a homogeneous network may be as good; a race, after finetuning, does not rest on them"
        in found.advice
    )
    assert not any(words in found.advice for words in ("until then", "a race decides"))


def test_a_supernet_whose_larger_networks_are_worse_is_not_searchable_however_they_differ() -> None:
    found = searchability(search_of(rights_of(np.linspace(0.9, 0.5, 24).tolist()), range(1, 25)))
    assert found is not None
    assert not found.searchable
    assert "larger networks score worse" in found.advice
    assert "chance" not in found.advice


def test_networks_of_a_search_are_compared_on_the_images_that_all_of_them_saw() -> None:
    rights = rights_of(np.linspace(0.5, 0.9, 24).tolist())
    found, first = (searchability(search_of(some, range(1, 25), rung)) for some, rung in (
        (rights, 100), ([right[:100] for right in rights], None),
    ))  # fmt: skip
    assert found == first
    assert found is not None
    assert found.images == 100


def test_a_first_generation_of_a_few_networks_tells_nothing() -> None:
    assert searchability(search_of(rights_of([0.5, 0.6, 0.7, 0.8, 0.9]), range(1, 6))) is None
