"""Accuracy with its uncertainty: of one network, and of two on the same images.

An accuracy on n images has an interval (Wilson, 95 %). Two networks are compared on common images, where only the images
that exactly one of them gets right count (McNemar's exact test): far sharper than comparing two intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import comb, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.data import Part
from autoformer.preprocessing import Preprocessing, resize_matrix
from autoformer.progress import Progress, silent
from autoformer.supernet import Supernet

Z95 = 1.959964  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Accuracy:
    """Share of images whose first guess is right."""

    correct: int
    images: int

    @property
    def value(self) -> float:
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval, 95 %."""
        n, p = self.images, self.value
        centre, spread = p + Z95**2 / (2 * n), Z95 * sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
        return max(0.0, (centre - spread) / (1 + Z95**2 / n)), min(1.0, (centre + spread) / (1 + Z95**2 / n))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, shares in 0..1."""
        low, high = self.interval
        return {"accuracy": self.value, "low": low, "high": high, "correct": self.correct, "images": self.images}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


def tied(first: NDArray[np.bool_], second: NDArray[np.bool_], level: float = 0.05) -> bool:
    """Whether two networks, right where the arrays [n] say, cannot be told apart: McNemar's exact test at `level`."""
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    n = wins + losses
    tail: float = sum(comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
    return bool(2 * tail >= level)


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

    def batches(self, batch_size: int) -> Iterator[NDArray[np.float32]]:
        """Normalised images, float32 [b, C, H, W], in order."""
        for start in range(0, len(self), batch_size):
            yield self.preprocessing.normalise(self.pixels[start : start + batch_size])

    def images(self, count: int | None = None) -> NDArray[np.float32]:
        """The first `count` images (all without a count) normalised, float32 [n, C, H, W]."""
        return self.preprocessing.normalise(self.pixels[:count])


Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # images [b, C, H, W] to logits [b, classes]


def guesses(predict: Predict, images: EvaluationSet, batch_size: int = 256, progress: Progress = silent) -> NDArray[np.int64]:
    """The class `predict` gives each image, [n]."""
    found: list[NDArray[np.int64]] = []
    for batch in images.batches(batch_size):
        found.append(predict(batch).argmax(-1).astype(np.int64))
        progress("evaluate", sum(map(len, found)), len(images))
    return np.concatenate(found)


def correct(predict: Predict, images: EvaluationSet, batch_size: int = 256) -> NDArray[np.bool_]:
    """Which images `predict` gets right, [n]."""
    return np.asarray(guesses(predict, images, batch_size) == images.labels)


def accuracy(right: NDArray[np.bool_]) -> Accuracy:
    """The accuracy that the array [n] of `correct` amounts to."""
    return Accuracy(int(right.sum()), len(right))


def resize_images(images: Tensor, size: int) -> Tensor:
    """Normalised images [B, C, H, W] at another side in pixels, by the rule that deployment uses (`resize_matrix`)."""
    if images.shape[-1] == size:
        return images
    resize = torch.from_numpy(resize_matrix(images.shape[-1], size)).to(images)
    return resize @ images @ resize.T


def predict_with(network: nn.Module, architecture: Architecture | None = None) -> Predict:
    """A torch network as a function of arrays; a `Supernet` takes the architecture to run. Evaluation mode while it runs."""

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        device = next(network.parameters()).device
        images = torch.from_numpy(batch).to(device)
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
