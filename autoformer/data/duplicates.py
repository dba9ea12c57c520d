"""Images that occur twice: exactly, and nearly.

Exactly: the same size and the same RGB pixels once decoded upright, whatever the file format. Nearly: both are shrunk to
16 × 16 pixels, and the two thumbnails agree: their grey values correlate by at least 0.99 and, brightness and contrast made
equal, their colours differ by at most 0.25 standard deviations on average. That finds images stored again in another size,
quality, brightness or contrast; it finds no crops, mirror images or rotations. All pairs are compared, none is sorted out by
a hash first, at about a billion pairs in 6 seconds of one core.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

THUMBNAIL = 16  # pixels a side
MIN_CORRELATION = 0.99  # of grey thumbnails
MAX_COLOUR_DIFFERENCE = 0.25  # mean absolute difference of colours in standard deviations
MIN_DEVIATION = 4.0  # grey levels of 255; flatter thumbnails show too little to be compared
BLOCK = 4096  # images a side of what is compared at once: 64 MiB
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def same_groups(keys: Sequence[Hashable]) -> list[tuple[int, ...]]:
    """Indices with equal keys, two or more each, in order of first appearance."""
    members: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    return [tuple(indices) for indices in members.values() if len(indices) > 1]


def near_pairs(thumbnails: NDArray[np.uint8], first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs (one of `first`, one of `second`) of nearly equal thumbnails, uint8 [n, 16, 16, 3], exactly equal ones too."""
    right, right_grey = _grey(thumbnails, second)
    for start in range(0, len(first), BLOCK):
        left, left_grey = _grey(thumbnails, first[start : start + BLOCK])
        for begin in range(0, len(right), BLOCK):
            correlation = left_grey @ right_grey[begin : begin + BLOCK].T
            for row, column in np.argwhere(correlation >= MIN_CORRELATION):
                pair = int(left[row]), int(right[begin + column])
                if np.abs(_levelled(thumbnails[pair[0]]) - _levelled(thumbnails[pair[1]])).mean() <= MAX_COLOUR_DIFFERENCE:
                    yield pair


def _grey(thumbnails: NDArray[np.uint8], indices: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Those of `indices` that are not too flat, and their grey thumbnails as vectors of mean 0 and length 1."""
    chosen = np.array(indices, dtype=np.int64)
    grey = (thumbnails[chosen] @ np.array(LUMA, dtype=np.float32)).reshape(len(chosen), THUMBNAIL**2)
    grey -= grey.mean(1, keepdims=True)
    deviation = grey.std(1, keepdims=True)
    shown = deviation[:, 0] >= MIN_DEVIATION
    return chosen[shown], grey[shown] / (deviation[shown] * THUMBNAIL)


def _levelled(thumbnail: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Colours of mean 0 and standard deviation 1."""
    values = thumbnail.astype(np.float64)
    return np.asarray((values - values.mean()) / values.std())
