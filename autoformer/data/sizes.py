"""How large images are, and the size in pixels that they are trained at.

An image counts by its shorter side: what a network sees of it is a square. Sizes fall into classes whose bounds double every
second time (64, 96, 128, 192 ...), fine enough to show thumbnails among photographs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoformer.data.parts import DataParts

BOUNDS = tuple(sorted({1 << power for power in range(25)} | {3 << power for power in range(24)}))  # 1, 2, 3, 4, 6, 8, 12, ...
SHOWN = 3  # of the most common sizes


@dataclass(frozen=True, kw_only=True)
class SizeClass:
    """Images whose shorter side is at least `low` and below `high`, in pixels."""

    low: int
    high: int
    images: int


@dataclass(frozen=True, kw_only=True)
class SizeCount:
    """Images of one width and height, in pixels."""

    width: int
    height: int
    images: int


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """The sizes of images as they are seen, upright."""

    images: int
    typical: int  # the median of the shorter sides, pixels
    shorter_sides: tuple[SizeClass, ...]  # without gaps, from the first class that has images to the last
    most_common: tuple[SizeCount, ...]

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> ImageSizes | None:
        """From the width and height of each image; None where there are none."""
        if not sizes:
            return None
        shorter = sorted(map(min, sizes))
        counts = Counter(bisect_right(BOUNDS, side) - 1 for side in shorter)
        places = range(min(counts), max(counts) + 1)
        return cls(
            images=len(sizes),
            typical=median_side(sizes),
            shorter_sides=tuple(SizeClass(low=BOUNDS[place], high=BOUNDS[place + 1], images=counts[place]) for place in places),
            most_common=tuple(
                SizeCount(width=width, height=height, images=count)
                for (width, height), count in sorted(Counter(sizes).items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
            ),
        )


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """The side in pixels of the squares that a training sees, and why it is that."""

    pixels: int
    reason: str


ChooseSize = Callable[[DataParts], TrainingSize]


def median_side(sizes: Sequence[tuple[int, int]]) -> int:
    """The median of the shorter sides."""
    return sorted(map(min, sizes))[len(sizes) // 2]


def typical_words(side: int | None) -> str:
    """How large the train images are, in words."""
    return f"the shorter side of the train images is {side} px (median)"


def fitting_size(typical: int, most: int) -> int:
    """The size that images of this typical shorter side suggest: a multiple of 8, which a grid of 8 patches a side divides."""
    return min(most, max(8, typical // 8 * 8))


def configured_size(parts: DataParts) -> TrainingSize:
    """The size that the settings of the data lead to, without a recipe."""
    config, pixels = parts.config, parts.preprocessing.image_size
    if config.image_size is not None:
        return TrainingSize(pixels=pixels, reason=f"data.image_size={pixels} asks for it")
    seen = typical_words(parts.typical_side)
    if pixels == config.max_image_size:
        return TrainingSize(pixels=pixels, reason=f"{seen}, and data.max_image_size={pixels} is the most that is taken unasked")
    return TrainingSize(pixels=pixels, reason=seen if pixels == parts.typical_side else f"{seen}, rounded to a multiple of 8")
