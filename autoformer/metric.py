"""How good a network is, as a number with its uncertainty: of one network, and of two on the same images.

A run has one metric, and everything after training goes by it. With K the classes that the labels name, n_k the images of
class k, h_k those of them that are right and g_k the images that the network calls k:

    top1                h / n over all images
    balanced_accuracy   mean over the K classes of the recall h_k / n_k
    macro_f1            mean over the K classes of 2 h_k / (n_k + g_k)

A class without an image has no recall, so it stands in no mean; naming it is an error like any other, and never changes K.
(scikit-learn's macro-F1 counts a class that was only predicted as a zero; two networks would be averaged over other classes.)

Every interval is Wilson's, 95 %, for the number of images that the score is as sure as (`effective_images`). Two networks
are compared image by image, far sharper than two intervals: see `tied`. How far the scores of equally good networks spread by
chance follows from their predictions as well: see `chance_spread`.

Numbers have the digits that their interval supports: two of an uncertainty that starts below 355, else one (the rule of the
Particle Data Group, Review of Particle Physics, introduction, "Rounding").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import floor, isclose, log10, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoformer.records import from_json, value_from_json

Metric = Literal["top1", "balanced_accuracy", "macro_f1"]
WORDS: dict[Metric, str] = {"top1": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
Z95 = 1.959964  # two-sided 95 % of the normal distribution
SWAPS = 999  # random ones that decide a tie; with the answer itself 1000, of which 5 % is a whole number
SWAPS_AT_ONCE = 111  # bounds the memory
DEALS = 20  # of the predictions among networks; the spread of 32 of them is then known to 3 %
NO_VARIANCE = 1e-14  # below what one image in a million adds to a sum over classes, above rounding


def metric_from(name: object) -> Metric:
    """The metric of this name. Raises `CheckpointError` listing the known ones."""
    known: Metric = value_from_json(Metric, name, "metric")
    return known


def decimals(half_width: float) -> int:
    """Decimal places that an interval of this half width supports; 0 when it supports none."""
    if half_width <= 0:
        return 2
    exponent = floor(log10(half_width))
    lead = half_width / 10**exponent
    exponent, lead = (exponent + 1, 1.0) if lead >= 9.5 else (exponent, lead)
    return max(0, (1 if lead < 3.55 else 0) - exponent)


def percent(value: float, low: float, high: float) -> str:
    """A share with its interval: `98.1 % [96.6, 99.0]`."""
    return f"{percent_value(value, low, high)} [{percent_value(low, low, high)[:-2]}, {percent_value(high, low, high)[:-2]}]"


def percent_value(value: float, low: float, high: float) -> str:
    """A share in per cent, with the digits that its interval supports."""
    return f"{100 * value:.{decimals(50 * (high - low))}f} %"


@dataclass(frozen=True)
class Score:
    """A metric on some images, in 0..1, with its 95 % interval. `correct` counts the right images and belongs to top-1."""

    metric: Metric
    value: float
    low: float
    high: float
    images: int
    correct: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.value <= self.high <= 1 or self.images < 1:
            raise ValueError(f"{self.value:g} from {self.low:g} to {self.high:g} on {self.images} images cannot be")
        if (self.correct is None) is (self.metric == "top1"):
            raise ValueError(f"{self.correct} right images do not go with {self.words}")
        if self.correct is not None and not abs(self.correct / self.images - self.value) < 1e-9:
            raise ValueError(f"{self.correct} right of {self.images} are not {self.value:g}")

    @property
    def words(self) -> str:
        """The metric as people say it: accuracy, balanced accuracy, macro-F1."""
        return WORDS[self.metric]

    def is_close_to(self, other: Score) -> bool:
        """Whether value and interval are those of `other`, but for rounding."""
        pairs = ((self.value, other.value), (self.low, other.low), (self.high, other.high))
        return all(isclose(*pair, abs_tol=1e-9) for pair in pairs)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, shares in 0..1."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Score:
        """Reads the JSON form. Raises `CheckpointError` naming what is missing or impossible."""
        return from_json(cls, values, "score")

    @property
    def rounded(self) -> str:
        """The value alone, with the digits that its interval supports."""
        return percent_value(self.value, self.low, self.high)

    def __str__(self) -> str:
        return percent(self.value, self.low, self.high)


def wilson(share: float, images: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that was found on `images` images."""
    centre, spread = share + Z95**2 / (2 * images), sqrt(share * (1 - share) / images + Z95**2 / (4 * images * images))
    low, high = ((centre + sign * Z95 * spread) / (1 + Z95**2 / images) for sign in (-1, 1))
    return min(max(0.0, low), share), max(min(1.0, high), share)  # at 0 and 1 a rounding error may pass the share


def score(predicted: NDArray[np.int64], labels: NDArray[np.int64], metric: Metric = "top1") -> Score:
    """The metric of predictions [n] for images of these classes [n], n at least 1."""
    assert predicted.shape == labels.shape, f"{predicted.shape} predictions, {labels.shape} labels"
    assert len(labels), "a score of no images"
    if metric == "top1":
        right = int((predicted == labels).sum())
        return Score(metric, right / len(labels), *wilson(right / len(labels), len(labels)), len(labels), right)
    table = ClassTable.of(predicted, labels)
    value = table.value(metric)
    return Score(metric, value, *wilson(value, effective_images(table, metric)), len(labels))


@dataclass(frozen=True)
class ClassTable:
    """Predictions and labels counted over the K classes that have images; the prediction K stands for every other class."""

    predicted: NDArray[np.int64]  # [n], 0..K
    labels: NDArray[np.int64]  # [n], 0..K - 1
    images: NDArray[np.int64]  # [K], at least 1

    @classmethod
    def of(cls, predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> ClassTable:
        present, numbered, images = np.unique(labels, return_inverse=True, return_counts=True)
        place = np.searchsorted(present, predicted)
        known = present[np.minimum(place, len(present) - 1)] == predicted
        return cls(np.where(known, place, len(present)), numbered, images)

    @property
    def hits(self) -> NDArray[np.int64]:
        """Right images by class, [K]."""
        return np.bincount(self.labels[self.predicted == self.labels], minlength=len(self.images))

    @property
    def named(self) -> NDArray[np.int64]:
        """Images that are given each class, [K]."""
        return np.bincount(self.predicted, minlength=len(self.images) + 1)[:-1]

    def value(self, metric: Metric) -> float:
        """The mean over classes."""
        return float(_per_class(self.hits, self.named, self.images, metric).mean())


def _per_class(hits: NDArray[Any], named: NDArray[Any], images: NDArray[np.int64], metric: Metric) -> NDArray[np.float64]:
    """Recall or F1 of each class, [..., K], from counts [..., K]."""
    found: NDArray[np.float64] = hits / images if metric == "balanced_accuracy" else 2 * hits / (images + named)
    return found


def _shares(
    per_class: NDArray[np.float64], named: NDArray[Any], images: NDArray[np.int64], metric: Metric
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What one image adds to the sum over classes, to first order and with the images of each class fixed.

    An image of class y that is called g adds gain[y], if g is y, less loss[g]; gain [..., K], loss [..., K + 1].
    """
    if metric == "balanced_accuracy":
        return np.broadcast_to(1 / images, per_class.shape), np.zeros((*per_class.shape[:-1], len(images) + 1))
    sizes = images + named
    nothing = np.zeros((*per_class.shape[:-1], 1))  # a class without images stands in no sum
    return 2 / sizes, np.concatenate([per_class / sizes, nothing], axis=-1)


def effective_images(table: ClassTable, metric: Metric) -> float:
    """How many images a plain accuracy would need to be as sure as this mean over classes.

    Were every class as easy as the mean, K recalls of n_k images each would be as sure as K² / Σ 1/n_k images, which for
    equally large classes is all of them. Where the spread seen is larger, because the classes that are hard are also
    small, the score's variance v (to first order, with n_k fixed) counts: value (1 - value) / v images.
    """
    classes, images, predicted, labels = len(table.images), table.images, table.predicted, table.labels
    pooled = float(classes**2 / (1 / images).sum())
    per_class = _per_class(table.hits, table.named, images, metric)
    value = float(per_class.mean())
    gain, loss = _shares(per_class, table.named, images, metric)
    share = gain[labels] * (predicted == labels) - loss[predicted]
    sums = np.bincount(labels, share, classes)
    variance = float((share**2).sum() - (sums**2 / images).sum()) / classes**2
    return pooled if value in (0.0, 1.0) or variance <= 0 else min(pooled, value * (1 - value) / variance)


def tied(
    first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.int64], metric: Metric = "top1", level: float = 0.05
) -> bool:
    """Whether two networks' predictions [n] for the same images do not differ significantly in the metric, at `level`.

    For top-1, McNemar's exact test. It asks: if it did not matter which network a prediction comes from, how often would
    swapping the two predictions of images at random give as large a difference? For the means over classes the same is asked
    of the difference over its standard error (to first order, with the images of each class fixed), of random swaps, always
    the same ones. A bootstrap would ask less of small classes: it finds equal networks different twice as often as it says.
    """
    if metric == "top1":
        right, also = first == labels, second == labels
        return mcnemar(int((right & ~also).sum()), int((also & ~right).sum())) >= level
    pairs = Pairs.of(ClassTable.of(first, labels), ClassTable.of(second, labels))
    seen = pairs.contrast(np.zeros((1, len(pairs.sizes)), np.int64), metric)[0]
    needed, found, rng = level * (SWAPS + 1), 1, np.random.default_rng(0)  # the difference as it is counts as one
    for start in range(0, SWAPS, SWAPS_AT_ONCE):
        swaps = rng.binomial(pairs.sizes, 0.5, (min(SWAPS_AT_ONCE, SWAPS - start), len(pairs.sizes)))
        found += int((pairs.contrast(swaps, metric) >= seen * (1 - 1e-9)).sum())
        if found >= needed:
            return True
    return False


def mcnemar(wins: int, losses: int) -> float:
    """The two-sided p-value of McNemar's exact test, from the images that only one or only the other network has right."""
    from scipy.special import bdtr  # of scipy.stats.binomtest the part that computes, without its second of imports

    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5))) if wins + losses else 1.0


def chance_spread(predicted: Sequence[NDArray[np.int64]], labels: NDArray[np.int64], metric: Metric) -> float:
    """The standard deviation that the scores of these networks would have if they were equally good; 0 of fewer than two.

    It is asked what `tied` asks: if it did not matter which network a prediction comes from, how far would the scores spread
    after the predictions for each image are dealt anew among the networks? So classes of few images count as they count in
    the metric. An accuracy and a mean of recalls are sums over images, so the expected variance is a sum as well: of the
    variance over networks of each image's share. Macro-F1 is dealt `DEALS` times, always alike.
    """
    if len(predicted) < 2:
        return 0.0
    every = np.stack(predicted)
    if metric == "macro_f1":
        rng = np.random.default_rng(0)
        dealt = (rng.permuted(every, axis=0) for _ in range(DEALS))
        return sqrt(np.mean([np.var([ClassTable.of(row, labels).value(metric) for row in deal], ddof=1) for deal in dealt]))
    _, numbered, images = np.unique(labels, return_inverse=True, return_counts=True)
    share = 1 / len(labels) if metric == "top1" else 1 / (len(images) * images[numbered])
    return sqrt(float((np.var(every == labels, axis=0, ddof=1) * share**2).sum()))


@dataclass(frozen=True)
class Pairs:
    """Two networks' predictions for the same images, C different triples of label and predictions with the images of each.

    Images of one triple are interchangeable, so a swap is the number of them whose two predictions change places.
    """

    first: ClassTable
    second: ClassTable
    label: NDArray[np.int64]  # [C]
    one: NDArray[np.int64]  # the first network's prediction, [C]
    other: NDArray[np.int64]  # the second's, [C]
    sizes: NDArray[np.int64]  # images, [C]

    @classmethod
    def of(cls, first: ClassTable, second: ClassTable) -> Pairs:
        triples = np.stack([first.labels, first.predicted, second.predicted])
        (label, one, other), sizes = np.unique(triples, axis=1, return_counts=True)
        return cls(first, second, label, one, other, sizes)

    def contrast(self, swaps: NDArray[np.int64], metric: Metric) -> NDArray[np.float64]:
        """The squared difference of the scores over its variance after each row of `swaps` [r, C], [r]."""
        difference, variance = self.moments(swaps, metric)
        found: NDArray[np.float64] = difference**2 / np.maximum(variance, NO_VARIANCE)
        return found

    def moments(self, swaps: NDArray[np.int64], metric: Metric) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The difference of the scores, summed over classes, and its variance after each row of `swaps` [r, C], both [r]."""
        images, label, one, other = self.first.images, self.label, self.one, self.other
        classes, stay = len(images), self.sizes - swaps
        gained = _sum_by_class(swaps * ((other == label).astype(np.int64) - (one == label)), label, classes)
        named = (_sum_by_class(swaps, other, classes + 1) - _sum_by_class(swaps, one, classes + 1))[:, :-1]
        shares = []  # of an image that is called `one` or `other`, by the first and the second network
        scores = []
        for table, sign in ((self.first, 1), (self.second, -1)):
            calls = table.named + sign * named
            per_class = _per_class(table.hits + sign * gained, calls, images, metric)
            gain, loss = _shares(per_class, calls, images, metric)
            shares.append([gain[:, label] * (prediction == label) - loss[:, prediction] for prediction in (one, other)])
            scores.append(per_class.sum(-1))
        kept, moved = shares[0][0] - shares[1][1], shares[0][1] - shares[1][0]
        sums = _sum_by_class(stay * kept + swaps * moved, label, classes)
        variance = (stay * kept**2 + swaps * moved**2).sum(-1) - (sums**2 / images).sum(-1)
        return scores[0] - scores[1], variance


def _sum_by_class(values: NDArray[Any], classes_of: NDArray[np.int64], classes: int) -> NDArray[Any]:
    """Columns of `values` [r, c] summed by the class each belongs to, [r, classes]."""
    found = np.zeros((len(values), classes), values.dtype)
    order = np.argsort(classes_of, kind="stable")
    present, starts = np.unique(classes_of[order], return_index=True)
    found[:, present] = np.add.reduceat(values[:, order], starts, axis=1)
    return found


@dataclass(frozen=True)
class Difference:
    """The second network's score less the first's, in shares of 1."""

    value: float
    low: float | None  # None: the images do not tell
    high: float | None
    tied: bool  # not significantly different by the paired test of `tied`

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{100 * self.value:+.2f}"
        places = decimals(50 * (self.high - self.low))
        value, low, high = (f"{round(100 * number, places) + 0.0:+.{places}f}" for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def paired_difference(
    first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.int64], metric: Metric = "top1"
) -> Difference:
    """Compares predictions [n] for the same images of the classes `labels` [n]."""
    same = tied(first, second, labels, metric)
    if metric == "top1":
        found, low, high = newcombe(first == labels, second == labels)
        return Difference(found, low, high, same)
    value = score(second, labels, metric).value - score(first, labels, metric).value
    pairs = Pairs.of(ClassTable.of(first, labels), ClassTable.of(second, labels))
    _, variance = pairs.moments(np.zeros((1, len(pairs.sizes)), np.int64), metric)
    spread = Z95 * sqrt(max(0.0, float(variance[0]))) / len(pairs.first.images)
    return Difference(value, value - spread if spread else None, value + spread if spread else None, same)


def newcombe(right: NDArray[np.bool_], also: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The second share less the first, and its 95 % interval, from what was right [n] in either."""
    n = len(right)
    both, neither = int((right & also).sum()), int((~right & ~also).sum())
    lost, gained = int((right & ~also).sum()), int((~right & also).sum())
    p, q = (both + gained) / n, (both + lost) / n  # of the second, of the first
    (p_low, p_high), (q_low, q_high) = wilson(p, n), wilson(q, n)
    product = (both + gained) * (neither + lost) * (both + lost) * (neither + gained)
    # The correlation of the two, drawn towards 0 where it is positive, as Newcombe has it.
    excess = both * neither - gained * lost
    phi = 0.0 if not product else (max(excess - n / 2, 0.0) if excess > 0 else float(excess)) / sqrt(product)
    below = (p - p_low) ** 2 - 2 * phi * (p - p_low) * (q_high - q) + (q_high - q) ** 2
    above = (p_high - p) ** 2 - 2 * phi * (p_high - p) * (q - q_low) + (q - q_low) ** 2
    value = p - q
    return value, value - sqrt(max(0.0, below)), value + sqrt(max(0.0, above))


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b: agreement of two orders, from −1 to 1; 0 where one of them is constant."""
    from scipy.stats import kendalltau

    return float(np.nan_to_num(kendalltau(first, second).statistic))
