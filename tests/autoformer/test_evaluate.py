"""Scores, their intervals and their comparison, against scikit-learn, scipy and hand calculation."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score

from autoformer.errors import CheckpointError
from autoformer.metric import Metric, Score, mcnemar, score, tied

MEANS: tuple[Metric, ...] = ("balanced_accuracy", "macro_f1")


def drawn(
    rng: np.random.Generator, counts: list[int], recalls: list[float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Predictions and labels: of class k `counts[k]` images, each right with `recalls[k]`, else the next class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    right = rng.random(len(labels)) < np.asarray(recalls)[labels]
    return np.where(right, labels, (labels + 1) % len(counts)), labels


# --- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_values_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.permutation(np.repeat(np.arange(7), [90, 40, 1, 3, 12, 60, 5])), rng.integers(0, 7, 211)
    predicted = np.where(rng.random(211) < 0.5, labels, predicted)
    assert score(predicted, labels, "top1").value == np.mean(predicted == labels)
    assert score(predicted, labels, "balanced_accuracy").value == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert score(predicted, labels, "macro_f1").value == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_values_by_hand() -> None:
    """Class 0: 3 of 4 right, named 4 times; class 1: 1 of 2 right, named twice. F1 is 6/8 and 2/4."""
    labels, predicted = np.asarray([0, 0, 0, 0, 1, 1]), np.asarray([0, 0, 0, 1, 1, 0])
    assert score(predicted, labels, "top1").value == 4 / 6
    assert score(predicted, labels, "balanced_accuracy").value == (3 / 4 + 1 / 2) / 2
    assert score(predicted, labels, "macro_f1").value == (6 / 8 + 2 / 4) / 2


def test_a_class_without_images_stands_in_no_mean_and_naming_it_is_an_error_like_any_other() -> None:
    labels = np.asarray([0, 0, 0, 0, 5, 5, 5, 5])
    absent, wrong = np.asarray([0, 0, 0, 9, 5, 5, 3, 1]), np.asarray([0, 0, 0, 5, 5, 5, 0, 0])
    assert score(absent, labels, "balanced_accuracy").value == score(wrong, labels, "balanced_accuracy").value == 0.625
    known = f1_score(labels, absent, labels=[0, 5], average="macro", zero_division=0)
    assert score(absent, labels, "macro_f1").value == pytest.approx(known)
    assert score(absent, labels, "macro_f1").value == pytest.approx((2 * 3 / 7 + 2 * 2 / 6) / 2)  # named 3 and 2 times


def test_a_class_that_is_never_named_counts_as_zero_without_a_warning() -> None:
    labels, predicted = np.asarray([0, 0, 0, 1]), np.zeros(4, np.int64)
    assert score(predicted, labels, "balanced_accuracy").value == 0.5
    assert score(predicted, labels, "macro_f1").value == pytest.approx(6 / 7 / 2)


# --- intervals ---------------------------------------------------------------------------------------------------


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    """9 of 10: 0.5958 to 0.9821 (Wilson 1927, computed by hand with z = 1.96)."""
    found = score(np.asarray([1] * 9 + [0]), np.ones(10, np.int64))
    assert (found.correct, round(found.low, 3), round(found.high, 3)) == (9, 0.596, 0.982)


@pytest.mark.parametrize("metric", ["top1", *MEANS])
@pytest.mark.parametrize("right", [True, False])
def test_a_perfect_and_a_hopeless_network_still_have_an_interval(metric: Metric, right: bool) -> None:
    labels = np.repeat([0, 1], [100, 4])
    found = score(labels if right else 1 - labels, labels, metric)
    assert found.value == float(right)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.02


def test_of_equally_large_classes_the_balanced_accuracy_has_the_interval_of_the_accuracy() -> None:
    predicted, labels = drawn(np.random.default_rng(0), [40] * 5, [0.9, 0.5, 0.99, 0.8, 0.2])
    interval = binomtest(int((predicted == labels).sum()), 200).proportion_ci(method="wilson")
    found = score(predicted, labels, "balanced_accuracy")
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_a_rare_class_makes_the_interval_as_wide_as_its_few_images_do() -> None:
    """990 images of a class that is always right and 10 of one that is half right: (1 + p) / 2 with p = 5 of 10, whose own
    interval is 0.237 to 0.763, so about 0.62 to 0.88. Wilson's for 1000 images would be 0.72 to 0.78."""
    labels = np.repeat([0, 1], [990, 10])
    predicted = np.where(np.arange(1000) < 995, labels, 0)
    found = score(predicted, labels, "balanced_accuracy")
    assert found.value == 0.75
    assert (found.low, found.high) == pytest.approx((0.62, 0.88), abs=0.05)


@pytest.mark.parametrize("metric", MEANS)
@pytest.mark.parametrize(
    ("counts", "recalls"),
    [
        ([60] * 4, [0.9, 0.8, 0.95, 0.7]),
        ([200, 20, 20], [0.95, 0.6, 0.8]),
        ([300, 15], [0.98, 0.5]),
        ([300, 15], [0.8, 0.97]),
        ([100, 50, 25, 12, 6], [0.97, 0.95, 0.9, 0.9, 0.9]),
    ],
)
def test_intervals_hold_the_true_value_about_as_often_as_they_say(
    metric: Metric, counts: list[int], recalls: list[float]
) -> None:
    """The truth is the score on 500 times the images; 400 samples, of which 95 % ± 2.2 % should hold it."""
    rng = np.random.default_rng(1)
    predicted, labels = drawn(rng, [500 * count for count in counts], recalls)
    truth = score(predicted, labels, metric).value
    scores = [score(*drawn(rng, counts, recalls), metric) for _ in range(400)]
    assert np.mean([found.low <= truth <= found.high for found in scores]) >= 0.92


# --- comparisons -------------------------------------------------------------------------------------------------


def test_ties_are_decided_by_the_exact_sign_test() -> None:
    """Six wins to none has two-sided probability 2/64 = 0.031; five to none 2/32 = 0.063."""
    labels, other = np.ones(10, np.int64), np.ones(10, np.int64)
    other[:6] = 0
    assert not tied(labels, other, labels)
    other[5] = 1
    assert tied(labels, other, labels)


@pytest.mark.parametrize("metric", MEANS)
def test_a_network_is_tied_with_itself_and_never_with_one_that_is_wrong_everywhere(metric: Metric) -> None:
    predicted, labels = drawn(np.random.default_rng(0), [50, 10], [0.9, 0.7])
    assert tied(predicted, predicted, labels, metric)
    assert not tied(labels, 1 - labels, labels, metric)


def weighted(predicted: NDArray[np.int64], labels: NDArray[np.int64], metric: Metric, weights: NDArray[np.float64]) -> float:
    """scikit-learn's values of images that count with weights."""
    if metric == "balanced_accuracy":
        return float(balanced_accuracy_score(labels, predicted, sample_weight=weights))
    return float(f1_score(labels, predicted, average="macro", sample_weight=weights))


def exact_probability(first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.int64], metric: Metric) -> float:
    """The share of all ways to swap predictions that give as large a difference over its standard error, by brute force.

    What an image adds is measured by giving it a little more weight; its spread is taken within each class.
    """
    ones, step = np.ones(len(labels)), 1e-5

    def contrast(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
        def difference(weights: NDArray[np.float64]) -> float:
            return weighted(one, labels, metric, weights) - weighted(other, labels, metric, weights)

        seen = difference(ones)
        slopes = np.asarray([(difference(ones + step * (np.arange(len(labels)) == i)) - seen) / step for i in range(len(labels))])
        variance = sum(float(((slopes[labels == k] - slopes[labels == k].mean()) ** 2).sum()) for k in np.unique(labels))
        return seen**2 / variance

    (places,) = np.nonzero(first != second)
    found = []
    for swaps in itertools.product([False, True], repeat=len(places)):
        chosen = np.zeros(len(labels), bool)
        chosen[places] = swaps
        found.append(contrast(np.where(chosen, second, first), np.where(chosen, first, second)))
    return float(np.mean(np.asarray(found) >= found[0] * (1 - 1e-3)))


@pytest.mark.parametrize(
    ("metric", "second"),
    [
        ("balanced_accuracy", [0, 0, 0, 1, 0, 1, 2, 1, 0]),
        ("balanced_accuracy", [1, 0, 0, 1, 2, 2, 1, 2, 2]),
        ("macro_f1", [1, 1, 0, 1, 2, 1, 0, 0, 2]),
    ],
)
def test_ties_are_those_of_all_possible_swaps(metric: Metric, second: list[int]) -> None:
    labels, first = np.asarray([0, 0, 0, 0, 1, 1, 1, 2, 2]), np.asarray([0, 0, 0, 1, 1, 1, 0, 2, 2])
    probability = exact_probability(first, np.asarray(second), labels, metric)
    assert 0.1 < probability < 0.9
    assert tied(first, np.asarray(second), labels, metric, level=probability - 0.06)
    assert not tied(first, np.asarray(second), labels, metric, level=probability + 0.06)


@pytest.mark.parametrize("metric", MEANS)
def test_two_wins_in_a_class_of_two_images_are_no_proof(metric: Metric) -> None:
    """Both images of a rare class gained, nothing lost: 2 swaps of 4 look the same. Ten of ten: 2 of 1024."""
    labels = np.repeat([0, 1], [50, 2])
    assert tied(labels, np.zeros(52, np.int64), labels, metric)
    labels = np.repeat([0, 1], [50, 10])
    assert not tied(labels, np.zeros(60, np.int64), labels, metric)


@pytest.mark.parametrize("metric", MEANS)
def test_equal_networks_are_told_apart_no_more_often_than_the_level_says(metric: Metric) -> None:
    """Two draws of the same network, a class of 6 images among them: at most about 5 % of 300 pairs, 8.4 % at 3 sigma."""
    rng = np.random.default_rng(2)
    pairs = [(drawn(rng, [80, 6], [0.9, 0.6]), drawn(rng, [80, 6], [0.9, 0.6])[0]) for _ in range(300)]
    apart = [not tied(first, second, labels, metric) for (first, labels), second in pairs]
    assert np.mean(apart) < 0.084


def test_mcnemar_is_the_exact_binomial_tail_of_both_sides() -> None:
    """All pairs of up to 24 images, against fractions; and against scipy's test where fractions take seconds."""
    for wins, losses in itertools.product(range(25), repeat=2):
        outcomes = wins + losses
        tail = Fraction(sum(comb(outcomes, k) for k in range(min(wins, losses) + 1)), 2**outcomes)
        assert mcnemar(wins, losses) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-12)
    for wins, losses in ((2900, 3100), (2950, 3050), (0, 6000), (49_000, 51_000)):
        assert mcnemar(wins, losses) == pytest.approx(binomtest(wins, wins + losses).pvalue, rel=1e-9)


def test_thousands_of_images_that_one_network_alone_has_right_are_answered() -> None:
    labels = np.zeros(20_000, np.int64)
    first, close, far = (np.ones(20_000, np.int64) for _ in range(3))
    first[:3000] = close[3000:5950] = far[3000:5800] = 0
    assert tied(first, close, labels)  # 3000 against 2950
    assert not tied(first, far, labels)  # 3000 against 2800


# --- the JSON form -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["top1", *MEANS])
def test_a_score_comes_back_from_its_json_form(metric: Metric) -> None:
    predicted, labels = drawn(np.random.default_rng(0), [30, 10], [0.9, 0.5])
    found = score(predicted, labels, metric)
    assert Score.from_dict(found.to_dict()) == found
    keys = {"metric", "value", "low", "high", "images"}
    assert set(found.to_dict()) == (keys | {"correct"} if metric == "top1" else keys)


def test_a_score_reads_as_percent_with_its_interval() -> None:
    assert str(score(np.asarray([1] * 9 + [0]), np.ones(10, np.int64))) == "90 % [60, 98]"
    assert Score("macro_f1", 0.5, 0.4, 0.6, 10).words == "macro-F1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "loss"}, "metric is 'loss', expected one of top1, balanced_accuracy, macro_f1"),
        ({"value": "high"}, "value is 'high', expected a number"),
        ({"value": float("nan")}, "value is nan, expected a number"),
        ({"low": 0.9}, "0.5 from 0.9 to 0.6"),
        ({"high": 1.5}, "cannot be"),
        ({"images": 0}, "on 0 images"),
        ({"correct": 4}, "4 right of 10 are not 0.5"),
        ({"correct": True}, "correct is True, expected a whole number"),
        ({"correct": None}, "None right images do not go with accuracy"),
        ({"images": [10]}, "images is [10], expected a whole number"),
        ({"metric": "macro_f1"}, "5 right images do not go with macro-F1"),
    ],
)
def test_an_impossible_score_is_refused(change: dict[str, object], words: str) -> None:
    good = {"metric": "top1", "value": 0.5, "low": 0.4, "high": 0.6, "images": 10, "correct": 5}
    with pytest.raises(CheckpointError) as caught:
        Score.from_dict({**good, **change})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_score_that_lacks_something_is_refused() -> None:
    with pytest.raises(CheckpointError, match="lacks 'high'"):
        Score.from_dict({"metric": "macro_f1", "value": 0.5, "low": 0.4, "images": 10})
    with pytest.raises(CheckpointError, match="expected a JSON object"):
        Score.from_dict([0.5])  # type: ignore[arg-type]
