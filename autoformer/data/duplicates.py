"""Images that occur twice: exactly, and nearly.

Exactly: the same size and the same RGB pixels once decoded upright, whatever the file format. Nearly: both are shrunk to
16 × 16 pixels, and the two thumbnails agree: their grey values correlate by at least 0.99 and, brightness and contrast made
equal, their colours differ by at most 0.25 standard deviations on average. That finds images stored again in another size,
quality, brightness or contrast; it finds no crops, mirror images or rotations. All pairs are compared, none is sorted out by
a hash first, at about a billion pairs in 6 seconds of one core.

`held_by` looks for images that parts hold already, by the bytes of their files, so that nothing is decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autoformer.data.images import FileImages, Images, applied
from autoformer.data.parts import Part
from autoformer.data.preprocessing import convert
from autoformer.data.reading import for_each
from autoformer.data.tar_images import TarImages
from autoformer.errors import DataError

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


def held_by(part: Part, others: Sequence[Part]) -> set[int]:
    """The indices of `part`, of files, whose images `others` hold too.

    Those are files of the same bytes: their whole content is compared where their sizes and ends agree. Where `others` are no
    files, images of the same pixels. Raises `DataError` for a file that cannot be read.
    """
    files = [other for other in others if isinstance(other.images, FileImages | TarImages)]
    others = [other for other in others if not isinstance(other.images, FileImages | TarImages)]
    alike: dict[str, list[tuple[Images, int]]] = {}
    for other in files:
        for index in other.indices:
            alike.setdefault(_ends(other.images, index), []).append((other.images, index))
    found = set()
    for index in part.indices:
        if near := alike.get(_ends(part.images, index)):
            content = _content(part.images, index)
            if any(_content(*place) == content for place in near):
                found.add(index)
    if others:
        held = {digest for other in others for digest in _digests(other)}
        found |= {
            index for index, digest in zip(part.indices, _digests(part), strict=True) if digest is not None and digest in held
        }
    return found


def _ends(images: Images, index: int) -> str:
    """Size and digest of the ends of a file, out of its identity."""
    return ":".join(images.identity(index).split(":")[-2:])


def _content(images: Images, index: int) -> bytes:
    assert isinstance(images, FileImages | TarImages)
    return hashlib.sha256(images.read(index)).digest()


def _digests(part: Part) -> Iterator[bytes | None]:
    """Of the pixels of each image; None where it cannot be read."""

    def digest(index: int) -> bytes | None:
        try:
            return applied(part.images, index, lambda image: pixel_digest(convert(image, 3)))
        except DataError:
            return None

    with closing(for_each(part.images, part.indices, digest)) as found:
        yield from found


def pixel_digest(image: Image.Image) -> bytes:
    """Of the size and the pixels of an RGB image."""
    return hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest()


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
