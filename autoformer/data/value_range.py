"""Values beyond 8 bit become 0..255: of grey images that hold whole numbers of 16 or 32 bits, signed or not, or floats.

Cameras and scanners store 10 or 12 bits in files of 16, tomographs signed numbers, simulations floats from 0 to 1: which values
mean black and white no file says. So the range is measured on the train part, as mean and standard deviation are, and kept in
the preprocessing. Between its ends values are mapped linearly and rounded; what lies beyond is clipped. That leaves 256 levels
of the measured range, since pixels are 8 bit everywhere after it (augmentation, files that take pixels, check images).

The range is that of the smallest and the largest value, unless a few outliers stretch it: defective pixels of a camera hold the
largest number that a file can. An end further than `STRETCH` times the range of the middle 99.5 % away is left out, and that
middle's end taken. (nnU-Net clips tomographs to 0.5 and 99.5 %, arXiv:1904.08128, always; here only where it saves levels.)

Imports numpy and Pillow inside the functions that need them, and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoformer.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

WHOLE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
WIDE_MODES = (*WHOLE_MODES, "F")  # of one band and more than 8 bit
GREY_MODES = ("1", "L", "LA", "La", *WIDE_MODES)  # of one band, an alpha channel apart; a palette holds colours
TAIL = 0.0025  # share of the values at either end that may be outliers
STRETCH = 0.5  # of the range of the values between the tails; 8 bit keep at least 128 levels of it
AT_ONCE = 1 << 20  # values that are mapped at once, so that large images take little memory on a board
SAMPLED = 128  # rows and columns of an image whose values are counted for the tails

Range = tuple[float, float]  # the values that become 0 and 255


class NotFiniteError(DataError, ValueError):
    """An image that holds infinity, or what is not a number."""


def values_of(image: Image.Image) -> NDArray[Any]:
    """The numbers of an image of a wide mode, [H, W]. Raises `NotFiniteError`."""
    import numpy as np

    values = np.asarray(image)
    if image.mode == "F" and (broken := int((~np.isfinite(values)).sum())):
        raise NotFiniteError(
            f"{broken} of {values.size} values are infinite or not a number; replace them by what missing values shall mean"
        )
    return values


def to_grey(image: Image.Image, value_range: Range | None) -> Image.Image:
    """An image of a wide mode as 8 bit grey. Without a range 16 bits are scaled down and floats clipped to 0..255.

    Raises `NotFiniteError`.
    """
    import numpy as np
    from PIL import Image as pil

    values = values_of(image)
    if value_range is not None:
        low, high = value_range
        grey, rows = np.empty(values.shape, np.uint8), max(1, AT_ONCE // values.shape[1])
        for start in range(0, len(values), rows):
            block = np.clip(values[start : start + rows].astype(np.float64), low, high)
            grey[start : start + rows] = np.rint((block - low) * 255 / (high - low))
        return pil.fromarray(grey)
    if image.mode == "F":
        return image.convert("L")
    return pil.fromarray((values.clip(0, 65535).astype(np.uint32) >> 8).astype(np.uint8))


def clipped_share(image: Image.Image, value_range: Range) -> float:
    """The share of an image's values that lie beyond the range. Raises `NotFiniteError`."""
    values = values_of(image)
    return float(((values < value_range[0]) | (values > value_range[1])).mean())


@dataclass(frozen=True)
class Values:
    """What is kept of the values of one image."""

    lowest: float
    highest: float
    some: NDArray[Any]  # at most `SAMPLED` squared, evenly spaced
    whole: bool  # whether they are whole numbers

    @classmethod
    def of(cls, image: Image.Image) -> Values:
        """Raises `NotFiniteError`."""
        values = values_of(image)
        rows, columns = (max(1, -(-side // SAMPLED)) for side in values.shape)
        some = values[::rows, ::columns].ravel()
        return cls(float(values.min()), float(values.max()), some, image.mode in WHOLE_MODES)


def measured_range(found: Sequence[Values]) -> Range | None:
    """The range of the values of these images; None where they all have one value, or there is no image."""
    import numpy as np

    if not found:
        return None
    low, high = min(values.lowest for values in found), max(values.highest for values in found)
    some = np.concatenate([values.some for values in found]).astype(np.float64)
    first, last = (float(value) for value in np.quantile(some, (TAIL, 1 - TAIL)))
    if first < last:
        if all(values.whole for values in found):
            first, last = float(np.floor(first)), float(np.ceil(last))
        reach = STRETCH * (last - first)
        low, high = (low if low >= first - reach else first), (high if high <= last + reach else last)
    return (low, high) if low < high else None


def words_on_range(found: Sequence[float] | None) -> str:
    """The range of values in words that continue a sentence; "" where no image has values beyond 8 bit."""
    return "" if found is None else f"; values {found[0]:g}…{found[1]:g} of files beyond 8 bit become 0…255, others are clipped"
