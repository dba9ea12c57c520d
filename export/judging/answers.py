"""What a network answers to each image: the class it names, and how sure it is of it.

Images are decoded, asked about and forgotten in batches, so that their number does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.data.images import applied, called
from autoformer.data.parts import Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.data.reading import for_each
from autoformer.errors import DataError
from autoformer.progress import Progress, silent

Predict = Callable[[NDArray[Any]], NDArray[np.float32]]  # images [b, C, H, W] to logits [b, classes]


@dataclass(frozen=True)
class Answers:
    """The answers to n images, in their order."""

    names: tuple[str, ...]  # of the images, each with its part where there are several
    places: tuple[tuple[int, int], ...]  # part, and index among its images
    labels: NDArray[np.int64]  # [n]
    predicted: NDArray[np.int64]  # [n]
    probability: NDArray[np.float64]  # of the class that was named, by the softmax, [n]
    unreadable: tuple[str, ...] = ()  # names of images that could not be asked about

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """[n]."""
        found: NDArray[np.bool_] = self.predicted == self.labels
        return found


def ask(
    predict: Predict,
    parts: Sequence[Part],
    preparation: Preprocessing,
    *,
    skip_unreadable: bool = False,
    batch_size: int = 256,
    progress: Progress = silent,
) -> Answers:
    """Asks about every image of the parts.

    Raises `DataError` naming the first image that cannot be read; with `skip_unreadable` where none can.
    """
    names: list[str] = []
    places: list[tuple[int, int]] = []
    labels: list[int] = []
    found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    unreadable: list[str] = []
    failure: DataError | None = None
    done, total = 0, sum(map(len, parts))
    for number, part in enumerate(parts):
        known = part.images.labels
        for batch in prepared_batches(part, preparation, batch_size):
            read = [pixels for _, pixels in batch if not isinstance(pixels, DataError)]
            for index, pixels in batch:
                name = called(part.images, index)
                if isinstance(pixels, DataError):
                    failure = pixels
                    if not skip_unreadable:
                        raise failure
                    unreadable.append(_called(name, part, parts))
                else:
                    names.append(_called(name, part, parts))
                    places.append((number, index))
                    labels.append(int(known[index]))
            if read:
                found.append(most_probable(predict(preparation.prepare(np.stack(read)))))
            done += len(batch)
            progress("evaluate", done, total)
    if not found:
        raise failure or DataError("there are no images to ask about")
    predicted, probability = (np.concatenate([pair[place] for pair in found]) for place in (0, 1))
    return Answers(tuple(names), tuple(places), np.asarray(labels, np.int64), predicted, probability, tuple(unreadable))


def prepared_batches(
    part: Part, preparation: Preprocessing, size: int
) -> Iterator[list[tuple[int, NDArray[np.uint8] | DataError]]]:
    """The images of a part, `size` at a time: the index of each, and its pixels as the network sees them, or why it has none."""
    with closing(for_each(part.images, part.indices, partial(_pixels, part, preparation))) as every:
        pairs = zip(part.indices, every, strict=True)
        while batch := list(islice(pairs, size)):
            yield batch


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The softmax of logits [n, classes]."""
    shares = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    result: NDArray[np.float64] = shares / shares.sum(-1, keepdims=True)
    return result


def most_probable(logits: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The class that logits [n, classes] name, [n], and its probability, [n]."""
    best = logits.argmax(-1).astype(np.int64)
    return best, np.take_along_axis(probabilities(logits), best[:, None], -1)[:, 0]


def _pixels(part: Part, preparation: Preprocessing, index: int) -> NDArray[np.uint8] | DataError:
    try:
        return applied(part.images, index, preparation.pixels)
    except DataError as error:
        return error


def _called(name: str, part: Part, parts: Sequence[Part]) -> str:
    return name if len(parts) == 1 else f"{part.name}/{name}"
