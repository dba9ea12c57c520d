"""How well a network guesses, with its uncertainty: of one network, and of two on the same images.

A run has one metric, and everything after training goes by it. With K the classes that the labels name, n_k the images of
class k, h_k those of them that are right and g_k the images that the network calls k:

    top1                h / n over all images
    balanced_accuracy   mean over the K classes of the recall h_k / n_k
    macro_f1            mean over the K classes of 2 h_k / (n_k + g_k)

A class without an image has no recall, so it stands in no mean; naming it is an error like any other, and never changes K.
(scikit-learn's macro-F1 counts a class that was only guessed as a zero; two networks would be averaged over other classes.)

Every interval is Wilson's, 95 %, for the number of images that the score is as sure as (`effective_images`). Two networks
are compared image by image, far sharper than two intervals: see `tied`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import comb, isfinite, sqrt
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.data import Part
from autoformer.errors import CheckpointError
from autoformer.preprocessing import Preprocessing, resize_matrix
from autoformer.progress import Progress, silent
from autoformer.supernet import Supernet

Metric = Literal["top1", "balanced_accuracy", "macro_f1"]

WORDS: dict[Metric, str] = {"top1": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
Z95 = 1.959964  # two-sided 95 % of the normal distribution
SWAPS = 999  # random ones that decide a tie; with the answer itself 1000, of which 5 % is a whole number
SWAPS_AT_ONCE = 111  # bounds the memory
NO_VARIANCE = 1e-14  # below what one image in a million adds to a sum over classes, above rounding


def metric_from(name: object) -> Metric:
    """The metric of this name. Raises `CheckpointError` listing the known ones."""
    for known in get_args(Metric):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise CheckpointError(f"{str(name)[:40]!r} is no metric; known are {', '.join(get_args(Metric))}")


@dataclass(frozen=True)
class Score:
    """A metric on some images, in 0..1, with its 95 % interval. `correct` counts the right images and belongs to top-1."""

    metric: Metric
    value: float
    low: float
    high: float
    images: int
    correct: int | None = None

    @property
    def words(self) -> str:
        """The metric as people say it: accuracy, balanced accuracy, macro-F1."""
        return WORDS[self.metric]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, shares in 0..1."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Score:
        """Reads the JSON form. Raises `CheckpointError` naming what is missing or impossible."""
        try:
            metric = metric_from(values["metric"])
            shares = [values[name] for name in ("low", "value", "high")]
            images: Any = values["images"]
            correct: Any = values["correct"] if metric == "top1" else None
        except (AttributeError, KeyError, TypeError) as error:
            lacking = f"it lacks {error}" if isinstance(error, KeyError) else "it is no JSON object"
            raise CheckpointError(f"a score cannot be read: {lacking}; it was edited or damaged") from error
        if not all(isinstance(share, int | float) and isfinite(share) for share in shares):
            raise CheckpointError(f"a score holds {str(shares)[:80]}, expected three numbers; it was edited or damaged")
        if not 0 <= shares[0] <= shares[1] <= shares[2] <= 1:
            raise CheckpointError(f"a score of {shares[1]:g} from {shares[0]:g} to {shares[2]:g} cannot be; it was edited")
        whole = (images, correct) if metric == "top1" else (images,)
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in whole) or images < 1:
            given = f"{str(correct)[:40]} right " if metric == "top1" else ""
            raise CheckpointError(f"a score of {given}on {str(images)[:40]} images cannot be; it was edited or damaged")
        if metric == "top1" and not (0 <= correct <= images and abs(correct / images - shares[1]) < 1e-9):
            raise CheckpointError(f"{correct} right of {images} are not {shares[1]:g}; the score was edited or damaged")
        return cls(metric, float(shares[1]), float(shares[0]), float(shares[2]), images, correct)

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(share: float, images: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that was found on `images` images."""
    centre, spread = share + Z95**2 / (2 * images), sqrt(share * (1 - share) / images + Z95**2 / (4 * images * images))
    low, high = ((centre + sign * Z95 * spread) / (1 + Z95**2 / images) for sign in (-1, 1))
    return min(max(0.0, low), share), max(min(1.0, high), share)  # at 0 and 1 a rounding error may pass the share


def score(guessed: NDArray[np.int64], labels: NDArray[np.int64], metric: Metric = "top1") -> Score:
    """The metric of guesses [n] of images of these classes [n], n at least 1."""
    assert guessed.shape == labels.shape, f"{guessed.shape} guesses, {labels.shape} labels"
    assert len(labels), "a score of no images"
    if metric == "top1":
        right = int((guessed == labels).sum())
        return Score(metric, right / len(labels), *wilson(right / len(labels), len(labels)), len(labels), right)
    table = ClassTable.of(guessed, labels)
    value = float(_per_class(table.hits, table.named, table.images, metric).mean())
    return Score(metric, value, *wilson(value, effective_images(table, metric)), len(labels))


@dataclass(frozen=True)
class ClassTable:
    """Guesses and labels counted over the K classes that have images; `guessed` K stands for every other class."""

    guessed: NDArray[np.int64]  # [n], 0..K
    labels: NDArray[np.int64]  # [n], 0..K - 1
    images: NDArray[np.int64]  # [K], at least 1

    @classmethod
    def of(cls, guessed: NDArray[np.int64], labels: NDArray[np.int64]) -> ClassTable:
        present, numbered, images = np.unique(labels, return_inverse=True, return_counts=True)
        place = np.searchsorted(present, guessed)
        known = present[np.minimum(place, len(present) - 1)] == guessed
        return cls(np.where(known, place, len(present)), numbered, images)

    @property
    def hits(self) -> NDArray[np.int64]:
        """Right images by class, [K]."""
        return np.bincount(self.labels[self.guessed == self.labels], minlength=len(self.images))

    @property
    def named(self) -> NDArray[np.int64]:
        """Images that are given each class, [K]."""
        return np.bincount(self.guessed, minlength=len(self.images) + 1)[:-1]


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
    classes, images, guessed, labels = len(table.images), table.images, table.guessed, table.labels
    pooled = float(classes**2 / (1 / images).sum())
    per_class = _per_class(table.hits, table.named, images, metric)
    value = float(per_class.mean())
    gain, loss = _shares(per_class, table.named, images, metric)
    share = gain[labels] * (guessed == labels) - loss[guessed]
    sums = np.bincount(labels, share, classes)
    variance = float((share**2).sum() - (sums**2 / images).sum()) / classes**2
    return pooled if value in (0.0, 1.0) or variance <= 0 else min(pooled, value * (1 - value) / variance)


def tied(
    first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.int64], metric: Metric = "top1", level: float = 0.05
) -> bool:
    """Whether two networks' guesses [n] on the same images cannot be told apart by the metric, at `level`.

    For top-1, McNemar's exact test. It asks: if it did not matter which network a guess comes from, how often would
    swapping the two guesses of images at random give as large a difference? For the means over classes the same is asked
    of the difference over its standard error (to first order, with the images of each class fixed), of random swaps, always
    the same ones. A bootstrap would ask less of small classes: it tells equal networks apart twice as often as it says.
    """
    if metric == "top1":
        right, also = first == labels, second == labels
        wins, losses = int((right & ~also).sum()), int((also & ~right).sum())
        n = wins + losses
        tail: float = sum(comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
        return bool(2 * tail >= level)
    pairs = Pairs.of(ClassTable.of(first, labels), ClassTable.of(second, labels))
    seen = pairs.contrast(np.zeros((1, len(pairs.sizes)), np.int64), metric)[0]
    needed, found, rng = level * (SWAPS + 1), 1, np.random.default_rng(0)  # the difference as it is counts as one
    for start in range(0, SWAPS, SWAPS_AT_ONCE):
        swaps = rng.binomial(pairs.sizes, 0.5, (min(SWAPS_AT_ONCE, SWAPS - start), len(pairs.sizes)))
        found += int((pairs.contrast(swaps, metric) >= seen * (1 - 1e-9)).sum())
        if found >= needed:
            return True
    return False


@dataclass(frozen=True)
class Pairs:
    """Two networks' guesses of the same images, C different triples of label and guesses with the images that share each.

    Images of one triple are interchangeable, so a swap is the number of them whose two guesses change places.
    """

    first: ClassTable
    second: ClassTable
    label: NDArray[np.int64]  # [C]
    one: NDArray[np.int64]  # the first network's guess, [C]
    other: NDArray[np.int64]  # the second's, [C]
    sizes: NDArray[np.int64]  # images, [C]

    @classmethod
    def of(cls, first: ClassTable, second: ClassTable) -> Pairs:
        triples = np.stack([first.labels, first.guessed, second.guessed])
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
            shares.append([gain[:, label] * (guess == label) - loss[:, guess] for guess in (one, other)])
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
class EvaluationSet:
    """Images decoded once and kept, uint8 [n, H, W, C], with their labels [n]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    preprocessing: Preprocessing
    digest: str

    @classmethod
    def of(cls, part: Part, preprocessing: Preprocessing) -> EvaluationSet:
        """Decodes every image of `part`. Raises `DataError` naming one that cannot be read."""
        return cls(part.pixels(preprocessing), part.labels, preprocessing, part.digest)

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, order: NDArray[np.int64]) -> EvaluationSet:
        """The images with these numbers, in this order."""
        return replace(self, pixels=self.pixels[order], labels=self.labels[order])

    def share(self, index: int, count: int) -> EvaluationSet:
        """Every `count`-th image from `index` on: what one of `count` processes evaluates."""
        return replace(self, pixels=self.pixels[index::count], labels=self.labels[index::count])

    def batches(self, batch_size: int) -> Iterator[NDArray[Any]]:
        """Images as the preprocessing's input, [b, C, H, W], in order: normalised float32, or uint8 pixels."""
        for start in range(0, len(self), batch_size):
            yield self.preprocessing.prepare(self.pixels[start : start + batch_size])

    def images(self, count: int | None = None) -> NDArray[Any]:
        """The first `count` images (all without a count) as the preprocessing's input, [n, C, H, W]."""
        return self.preprocessing.prepare(self.pixels[:count])


Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # images [b, C, H, W] to logits [b, classes]


def guesses(predict: Predict, images: EvaluationSet, batch_size: int = 256, progress: Progress = silent) -> NDArray[np.int64]:
    """The class `predict` gives each image, [n]."""
    found: list[NDArray[np.int64]] = []
    for batch in images.batches(batch_size):
        found.append(predict(batch).argmax(-1).astype(np.int64))
        progress("evaluate", sum(map(len, found)), len(images))
    return np.concatenate(found)


def resize_images(images: Tensor, size: int) -> Tensor:
    """Normalised images [B, C, H, W] at another side in pixels, by the rule that deployment uses (`resize_matrix`)."""
    if images.shape[-1] == size:
        return images
    resize = torch.from_numpy(resize_matrix(images.shape[-1], size)).to(images)
    return resize @ images @ resize.T


def predict_with(network: nn.Module, architecture: Architecture | None = None) -> Predict:
    """A torch network as a function of arrays; a `Supernet` takes the architecture to run. Evaluation mode while it runs."""

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        weight = next(network.parameters())
        images = torch.from_numpy(batch).to(weight.device, weight.dtype)
        training = network.training
        network.eval()
        with torch.inference_mode():
            if isinstance(network, Supernet):
                assert architecture is not None, "a supernet needs the architecture to run"
                logits = network(resize_images(images, network.space.image_size_of(architecture)), architecture)
            else:
                logits = network(images)
        network.train(training)
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    return predict
