"""Which images each step trains on, and which of them each process takes: pure functions of (seed, step).

An image is asked for by a key (position, seed), and the seed decides its augmentation, so the same key gives the same pixels
in whatever process. Where a plan has views, the seed is that of one of the image's few views, which later epochs take again. A
step's images are shared out so that the share of any process holds, for each of its images, the one at the mirrored place of the
batch: mixup and cutmix pair mirrored places, and so mix the same images however many share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

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
    views: int | None = None  # augmented forms of each image, which are taken in turns; None: every epoch has new ones

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
        order = self._order_of(step)
        return list(zip(order.positions.tolist(), order.seeds.tolist(), strict=True))

    def places(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The views and the positions of the images of a step, where there are views."""
        order = self._order_of(step)
        return order.views, order.positions

    def _order_of(self, step: int) -> Order:
        epoch, index = divmod(step, self.steps_per_epoch)
        members = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return Order(*(column[members] for column in epoch_order(self, epoch)))

    @property
    def num_views(self) -> int:
        """How many views the training takes of an image: those below this number."""
        return min(self.views or 0, self.epochs * self.repeats)

    def views_of(self, epoch: int) -> list[int]:
        """The views that an epoch takes."""
        return sorted({(epoch * self.repeats + copy) % self.views for copy in range(self.repeats)}) if self.views else []

    def view(self, view: int, positions: range) -> list[Key]:
        """One view of the images at `positions`."""
        return list(
            zip(positions, view_seeds(self.images, self.seed, view)[positions.start : positions.stop].tolist(), strict=True)
        )

    def shares(self, first: int, rank: int, size: int, accumulate: int) -> Iterator[list[Key]]:
        """The share of process `rank` of `size` in each step from `first` on, its `accumulate` pieces one after the other."""
        for step in range(first, self.steps):
            batch = self.batch(step)
            yield [
                key for piece in range(accumulate) for key in mirrored_piece(batch, rank * accumulate + piece, size * accumulate)
            ]


class Order(NamedTuple):
    """Images in the order in which they are taken, [n] each."""

    positions: NDArray[np.int64]
    seeds: NDArray[np.int64]
    views: NDArray[np.int64]  # -1 where there are none


@lru_cache(maxsize=2)
def epoch_order(plan: Plan, epoch: int) -> Order:
    """The images of an epoch, shuffled; with `repeats` fewer of them, each that often, with another seed each time."""
    images, repeats = plan.images, plan.repeats
    order = np.random.Generator(np.random.PCG64([plan.seed, epoch])).permutation(images).repeat(repeats)[:images]
    if plan.views is None:
        seeds = np.random.Generator(np.random.PCG64([plan.seed, epoch, 1])).integers(0, 2**31, images)
        return Order(order, seeds, np.full(images, -1))
    views, seeds = (epoch * repeats + np.arange(images) % repeats) % plan.views, np.empty(images, np.int64)
    for view in plan.views_of(epoch):
        chosen = views == view
        seeds[chosen] = view_seeds(images, plan.seed, view)[order[chosen]]
    return Order(order, seeds, views)


@lru_cache(maxsize=4)
def view_seeds(images: int, seed: int, view: int) -> NDArray[np.int64]:
    """The seeds of a view, by position."""
    return np.random.Generator(np.random.PCG64([seed, view, 2])).integers(0, 2**31, images)


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
