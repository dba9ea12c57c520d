"""What one decoding tells about an image, for `data check`: what is unusual about it, and its pixels in short."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autoformer.data.decoding import decode, has_frames, orientation_of, without_remarks
from autoformer.data.duplicates import THUMBNAIL, pixel_digest
from autoformer.data.images import FileImages, Images, called
from autoformer.data.preprocessing import convert
from autoformer.data.tar_images import TarImages
from autoformer.data.value_range import WHOLE_MODES, WIDE_MODES, Range, clipped_share

LARGE_PIXELS = 16e6  # width times height, above which decoding holds up the training
LONG_RATIO = 3.0  # longer to shorter side
DARK = 64  # of 255: files of 16 bit whose values use at most 14
CLIPPED_SHARE = 0.05  # of an image's values beyond the measured range
PNG_START, PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # the byte that holds the bits of a channel
BITS_PER_SAMPLE = 258  # TIFF's tag

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
