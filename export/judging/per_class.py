"""Answers counted by class: how many images of each are right, and which classes are taken for which.

Of class k, with n_k images of it, g_k images that are called k and h_k that are both: recall h_k / n_k, precision h_k / g_k, and
F1, 2 h_k / (n_k + g_k), the harmonic mean of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.metric import wilson


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """One class that has images, or that was named for some. Shares are in 0..1; None where nothing is there to divide by."""

    name: str
    images: int  # of the class
    right: int
    named: int  # images that were given the class
    recall: float | None
    low: float | None  # of the recall, 95 %
    high: float | None
    precision: float | None
    f1: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Images of one class that were given another."""

    name: str
    taken_for: str
    images: int


def matrix_of(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How many images of each class (rows) were given each class (columns), [classes, classes]."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_counts(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str]) -> tuple[ClassCount, ...]:
    """The classes that have images or were named, in the order of `classes`."""
    images, named = (np.bincount(numbers, minlength=len(classes)) for numbers in (labels, predicted))
    right = np.bincount(labels[labels == predicted], minlength=len(classes))
    return tuple(
        _count(classes[k], int(images[k]), int(right[k]), int(named[k])) for k in range(len(classes)) if images[k] or named[k]
    )


def _count(name: str, images: int, right: int, named: int) -> ClassCount:
    recall = right / images if images else None
    low, high = wilson(right / images, images) if images else (None, None)
    return ClassCount(
        name=name, images=images, right=right, named=named, recall=recall, low=low, high=high,
        precision=right / named if named else None, f1=2 * right / (images + named),
    )  # fmt: skip


def confusions(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str]) -> tuple[Confusion, ...]:
    """Which classes were taken for which, the most frequent first; equal ones in the order of `classes`."""
    wrong = labels != predicted
    pairs, counts = np.unique(np.stack([labels[wrong], predicted[wrong]]), axis=1, return_counts=True)
    return tuple(
        Confusion(name=classes[pairs[0, at]], taken_for=classes[pairs[1, at]], images=int(counts[at]))
        for at in np.argsort(-counts, kind="stable")
    )


def worst_first(counts: Sequence[ClassCount]) -> list[ClassCount]:
    """The classes that have images, by their recall, from the lowest; equal ones by their number of images, then in order."""
    return sorted((one for one in counts if one.recall is not None), key=lambda one: (one.recall, -one.images))


def counted(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Both as JSON values."""
    return {
        "per_class": [asdict(one) for one in class_counts(labels, predicted, classes)],
        "confusions": [asdict(one) for one in confusions(labels, predicted, classes)],
    }
