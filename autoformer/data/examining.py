"""What one decoding tells about an image, for `data check`: what is unusual about it, its pixels in short, and which are alike.

Exactly alike: the same size and the same RGB pixels once decoded upright, whatever the file format. Nearly: both are shrunk to
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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autoformer.data.decoding import decode, has_frames, orientation_of, without_remarks
from autoformer.data.images import FileImages, Images, applied, called
from autoformer.data.parts import Part
from autoformer.data.preprocessing import convert
from autoformer.data.reading import for_each
from autoformer.data.tar_images import TarImages
from autoformer.data.value_range import WHOLE_MODES, WIDE_MODES, Range, clipped_share
from autoformer.errors import DataError

LARGE_PIXELS = 16e6  # width times height, above which decoding holds up the training
LONG_RATIO = 3.0  # longer to shorter side
DARK = 64  # of 255: files of 16 bit whose values use at most 14
CLIPPED_SHARE = 0.05  # of an image's values beyond the measured range
PNG_START, PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # the byte that holds the bits of a channel
BITS_PER_SAMPLE = 258  # TIFF's tag
THUMBNAIL = 16  # pixels a side
MIN_CORRELATION = 0.99  # of grey thumbnails
MAX_COLOUR_DIFFERENCE = 0.25  # mean absolute difference of colours in standard deviations
MIN_DEVIATION = 4.0  # grey levels of 255; flatter thumbnails show too little to be compared
BLOCK = 4096  # images a side of what is compared at once: 64 MiB
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

WIDE = "mapped to 8 bit from the range of the train images{range}"
ODD = {
    "rotated": ("EXIF asks for a rotation or mirroring", "it is applied, in training and on the device"),
    "cmyk": ("CMYK", "converted to RGB without the colour profile"),
    "deep": ("16 bit a channel", f"{WIDE}; of colour the upper 8 bits are read"),
    "float": ("floating point values", WIDE),
    "clipped": (
        f"more than {CLIPPED_SHARE:.0%} of the values beyond the range of the train images",
        "clipped to it: these were stored in another scale, or show what train does not",
    ),
    "dark": (
        "colour of 16 bit a channel that leaves the upper bits empty",
        "nearly black, since only the upper 8 bits are read; store them as 8 bit",
    ),
    "constant": ("one colour in all pixels", "trained on as they are, though they show nothing; look at how they were made"),
    "transparent": ("transparency", "laid on white"),
    "animated": ("several frames", "the first is taken"),
    "large": (f"more than {LARGE_PIXELS / 1e6:g} million pixels", "decoded whole each time; store them smaller to train faster"),
    "long": (f"one side more than {LONG_RATIO:g} times the other", "the middle square is kept, the rest cut off"),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What one decoding tells about an image."""

    digest: bytes  # of size and RGB pixels
    thumbnail: NDArray[np.uint8]  # [16, 16, 3]
    mode: str
    size: tuple[int, int]  # width and height in pixels, upright
    odd: frozenset[str]  # keys of `ODD`


def examine(images: Images, index: int, value_range: Range | None = None) -> Seen:
    """Decodes one image. Raises `DataError` when it cannot be read or converted."""
    content = b""
    if isinstance(images, FileImages | TarImages):
        content = images.read(index)
        image = decode(content, called(images, index))
    else:
        image = images.open(index)
    mode, rgb = image.mode, convert(image, 3, value_range)
    is_deep_colour = mode not in WIDE_MODES and _channel_bits(image, content) > 8
    odd = {
        "rotated": orientation_of(image) != 1,
        "cmyk": mode == "CMYK",
        "deep": mode in WHOLE_MODES or is_deep_colour,
        "float": mode == "F",
        "dark": is_deep_colour and max(high for _, high in _extrema(rgb)) < DARK,
        "clipped": mode in WIDE_MODES and value_range is not None and clipped_share(image, value_range) > CLIPPED_SHARE,
        "constant": all(low == high for low, high in _extrema(rgb)),
        "transparent": _is_transparent(image),
        "large": rgb.width * rgb.height > LARGE_PIXELS,
        "long": max(rgb.size) > LONG_RATIO * min(rgb.size),
        "animated": has_frames(image),  # last
    }
    thumbnail = np.asarray(rgb.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), dtype=np.uint8)
    return Seen(pixel_digest(rgb), thumbnail, mode, rgb.size, frozenset(kind for kind, is_so in odd.items() if is_so))


def _channel_bits(image: Image.Image, content: bytes) -> int:
    """The bits of a channel that a PNG or TIFF says it has; 8 where nothing is said."""
    if content.startswith(PNG_START):
        return content[PNG_DEPTH]
    try:
        return int(max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))))
    except Exception:  # damaged, and not needed for the pixels
        return 8


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    return [image.getchannel(band).getextrema() for band in image.getbands()]  # type: ignore[misc]


def _is_transparent(image: Image.Image) -> bool:
    """Whether some pixel really is; many files have an alpha channel of nothing but opaque."""
    if image.mode in WIDE_MODES or (image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info):
        return False
    with without_remarks():
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return isinstance(lowest, int | float) and lowest < 255


# --- images alike --------------------------------------------------------------------------------------------------


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
