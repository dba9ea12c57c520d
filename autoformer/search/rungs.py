"""Which images of the search part decide what.

The images are put into one order, the same for every search on them, in which every stretch holds the classes in about
their shares. The last of them are held out: no choice looks at them, so the score they give the finalists is not flattered by
having been picked. The others come in rungs, each a prefix of the next: many candidates are compared on
few images and few on many (successive halving), always on common images, which compare far more sharply than different ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoformer.search.config import SearchConfig

SHARES = (1 / 16, 1 / 4, 1.0)
SMALLEST = 500  # images; on fewer, one in twenty of the candidates' order is chance


def balanced_order(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """A permutation of the images [n] after which every stretch holds each class in about its share.

    The members of a class are shuffled and spread evenly. It depends on `labels` alone, so that searches agree on it.
    """
    rng = np.random.default_rng(0)
    places = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.nonzero(labels == label)[0])
        places[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(places, kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Portions:
    """How many images, in their order, decide at which rung, and how many are held out."""

    rungs: tuple[int, ...]  # rising; the last is every image that may decide
    held_out: int  # images after those

    @classmethod
    def of(cls, images: int, config: SearchConfig) -> Portions:
        """The portions of so many images. At least one image decides."""
        held_out = min(round(config.confirmation * images), images - 1)
        return cls(rungs_of(images - held_out, config.rungs), held_out)

    @property
    def search(self) -> int:
        """Images that may decide."""
        return self.rungs[-1]

    def promoted(self, rung: int, population: int) -> int:
        """How many candidates of a generation go up to `rung`, 0 the first: so many that each rung takes about equal work."""
        return population if rung == 0 else -(-population * self.rungs[0] // self.rungs[rung])


def rungs_of(images: int, shares: Sequence[float] | None = None) -> tuple[int, ...]:
    """Sizes of the rungs on `images`, rising, the last all of them. None: `SHARES`, without rungs below `SMALLEST` images."""
    sizes = sorted({max(1, round(share * images)) for share in shares or SHARES})
    return tuple(size for size in sizes if shares is not None or size >= SMALLEST or size == images)
