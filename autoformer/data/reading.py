"""Reading many images once: in threads where that is safe, and for what a network's preprocessing takes from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from PIL import Image

from autoformer.data.images import FileImages, Images, applied
from autoformer.data.preprocessing import Preprocessing, convert
from autoformer.data.sizes import fitting_size, median_side
from autoformer.data.tar_images import TarImages
from autoformer.data.value_range import GREY_MODES, WIDE_MODES, Values, measured_range
from autoformer.errors import DataError

AT_ONCE = 256  # images handed to the threads, so that a million of them are not queued

Answer = TypeVar("Answer")


def for_each(images: Images, indices: Sequence[int], work: Callable[[int], Answer]) -> Generator[Answer, None, None]:
    """What `work` answers for each index, in order; files in as many threads as there are cores, since Pillow lets others run.

    Other sources may not stand threads and are read one by one. To be closed when left early, which ends the threads.
    """
    if not isinstance(images, FileImages | TarImages):
        yield from map(work, indices)
        return
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(indices), AT_ONCE):
            yield from threads.map(work, indices[start : start + AT_ONCE])


def sampled_preprocessing(
    images: Images,
    indices: Sequence[int],
    *,
    image_size: int | None,
    max_image_size: int,
    crop_pct: float,
    skip_unreadable: bool,
    most: int = 512,
) -> tuple[Preprocessing, int]:
    """Image size, channels, range of values, mean and standard deviation from up to `most` evenly spaced images.

    Beside them the median of the images' shorter sides, in pixels. Images are read twice, one in each thread at a time: what they
    have in common has to be known before they are resized, and 512 photographs at once do not fit into memory.

    Raises `DataError` for an image that cannot be used; with `skip_unreadable` when none can.
    """
    chosen = indices[:: max(1, len(indices) // most)]
    seen, unreadable = _applied_to(images, chosen, _seen, skip=skip_unreadable)
    if unreadable is not None and not seen:
        raise unreadable
    channels = 1 if all(one.is_grey for one in seen.values()) else 3
    typical = median_side([one.size for one in seen.values()])
    size = fitting_size(typical, max_image_size) if image_size is None else image_size
    found = measured_range([one.values for one in seen.values() if one.values is not None])
    plain = Preprocessing(size, channels, (0.0,) * channels, (1.0,) * channels, crop_pct=crop_pct, value_range=found)
    prepared, unreadable = _applied_to(images, list(seen), plain.pixels, skip=skip_unreadable)
    if unreadable is not None and not prepared:
        raise unreadable
    pixels = np.stack(list(prepared.values())).astype(np.float64) / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    measured = Preprocessing(
        image_size=size,
        in_chans=channels,
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(max(float(value), 0.01), 4) for value in std),
        crop_pct=crop_pct,
        value_range=found,
    )
    return measured, typical


@dataclass(frozen=True)
class _Seen:
    """What decides how images are prepared, of one of them."""

    size: tuple[int, int]  # pixels
    is_grey: bool
    values: Values | None  # of an image beyond 8 bit


def _seen(image: Image.Image) -> _Seen:
    convert(image, 3)
    return _Seen(image.size, image.mode in GREY_MODES, Values.of(image) if image.mode in WIDE_MODES else None)


def _applied_to(
    images: Images, indices: Sequence[int], work: Callable[[Image.Image], Answer], *, skip: bool
) -> tuple[dict[int, Answer], DataError | None]:
    """What `work` makes of each image that can be used, by index; and the last error where others are to be skipped."""

    def attempt(index: int) -> Answer | DataError:
        try:
            return applied(images, index, work)
        except DataError as error:
            return error

    found, unusable = dict[int, Answer](), None
    with closing(for_each(images, indices, attempt)) as answers:
        for index, answer in zip(indices, answers, strict=True):
            if not isinstance(answer, DataError):
                found[index] = answer
            elif skip:
                unusable = answer
            else:
                raise DataError(f"{answer}, or leave out what cannot be read: --set data.unreadable=skip") from answer
    return found, unusable


def imagenet_normalised(preprocessing: Preprocessing) -> Preprocessing:
    """The same with ImageNet's mean and standard deviation; grey images get their averages over the channels."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if preprocessing.in_chans == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return replace(preprocessing, mean=mean, std=std)
