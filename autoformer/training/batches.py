"""Which images each step trains on, and which of them each process takes: pure functions of (seed, step).

An image is asked for by a key (position, seed), and the seed decides its augmentation, so the same key gives the same pixels
in whatever process. A step's images are shared out so that the share of any process holds, for each of its images, the one
at the mirrored place of the batch: mixup and cutmix pair mirrored places, and so mix the same images however many share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autoformer.errors import DataError

Item = TypeVar("Item")
Key = tuple[int, int]  # position in the part, seed of the augmentation


@dataclass(frozen=True)
class Plan:
    """The steps of a training. Raises `DataError` when a step wants more images than there are."""

    images: int
    batch_size: int
    epochs: int
    repeats: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size > self.images:
            raise DataError(
                f"batch_size {self.batch_size} is larger than the train part of {self.images} images; "
                f"set it to {max(1, self.images // 2)} or less"
            )

    @property
    def steps_per_epoch(self) -> int:
        """The last, smaller batch of an epoch is left out, as timm's loaders do."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def batch(self, step: int) -> list[Key]:
        """The images of a step, all processes together."""
        epoch, index = divmod(step, self.steps_per_epoch)
        positions, seeds = epoch_order(self.images, self.repeats, self.seed, epoch)
        members = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return list(zip(positions[members].tolist(), seeds[members].tolist(), strict=True))

    def shares(self, first: int, rank: int, size: int, accumulate: int) -> Iterator[list[Key]]:
        """The share of process `rank` of `size` in each step from `first` on, its `accumulate` pieces one after the other."""
        for step in range(first, self.steps):
            batch = self.batch(step)
            yield [
                key for piece in range(accumulate) for key in mirrored_piece(batch, rank * accumulate + piece, size * accumulate)
            ]


@lru_cache(maxsize=2)
def epoch_order(images: int, repeats: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions and seeds of an epoch, shuffled; with `repeats` fewer images, each that often, with another seed each time."""
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(images).repeat(repeats)[:images]
    return order, np.random.Generator(np.random.PCG64([seed, epoch, 1])).integers(0, 2**31, images)


def mirrored_piece(batch: Sequence[Item], index: int, count: int) -> list[Item]:
    """Piece `index` of `count` equal ones, closed under mirroring where the sizes allow it."""
    if len(batch) % count:
        raise DataError(
            f"batch_size {len(batch)} cannot be shared by {count} equal pieces (processes × accumulate); choose a multiple of it"
        )
    half, odd = divmod(len(batch) // count, 2)
    if odd:  # nothing is mixed then: the config wants pieces of even size for that
        return list(batch[index * len(batch) // count : (index + 1) * len(batch) // count])
    end = len(batch)
    return [*batch[index * half : (index + 1) * half], *batch[end - (index + 1) * half : end - index * half]]
