"""How an image file becomes a network's input; the same few lines on the host, in a bundle and on a board.

Imports numpy and Pillow inside the functions that need them, and works on Python 3.10.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from autoformer.data.decoding import open_image, reason, upright, without_remarks
from autoformer.data.value_range import WIDE_MODES, NotFiniteError, Range, to_grey
from autoformer.errors import DataError, short
from autoformer.records import from_json, is_finite

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

MAX_SIZE = 8192  # pixels; a damaged file must not exhaust a machine
MAX_RESIZED = 1 << 28  # pixels of an image whose shorter side has the wanted size; a strip of 1 × 65000 pixels would have more
INTERPOLATIONS = ("bicubic", "bilinear")
INPUT_TYPES = ("float32", "uint8")


class PreprocessingError(DataError, ValueError):
    """A preprocessing that no image could go through."""


class Normalisation(NamedTuple):
    """What pixels from 0 to 1 are normalised with, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, cut the centre, scale to 0..1, normalise: what evaluation and deployment do to an image.

    The image is then `image_size` square. `crop_pct` is the share of the resized image that the crop keeps (timm's meaning).
    A network of a searched resolution gets that image resized once more (`resize_matrix`), as in its supernet's training.
    Where the input is uint8 the file takes the cropped image as it is, and holds the steps after that itself. Grey files of more
    than 8 bit are mapped to 8 bit first, from `value_range` (`value_range.py`).
    Raises `PreprocessingError` when a value is impossible.
    """

    image_size: int  # pixels
    in_chans: int  # 1: grey, 3: RGB
    mean: tuple[float, ...]  # per channel, of values in 0..1
    std: tuple[float, ...]
    interpolation: str = "bicubic"  # or "bilinear"
    crop_pct: float = 1.0
    network_size: int | None = None  # pixels; where the search chose a smaller input than the images have; None: image_size
    input_type: str = "float32"  # normalised values, as every torch network takes them; "uint8": pixels, for some exported files
    value_range: Range | None = None  # the values of grey files beyond 8 bit that become 0 and 255; None: 0..65535, floats 0..255

    def __post_init__(self) -> None:
        for name in ("image_size", "network_size"):
            size = getattr(self, name)
            whole = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= MAX_SIZE
            if not whole and not (name == "network_size" and size is None):
                raise PreprocessingError(f"{name} must be a whole number of pixels from 1 to {MAX_SIZE}, got {str(size)[:40]}")
        if type(self.in_chans) is not int or self.in_chans not in (1, 3):
            raise PreprocessingError(f"in_chans must be 1 (grey) or 3 (RGB), got {short(repr(self.in_chans))}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != self.in_chans or not all(is_finite(value) for value in values):
                raise PreprocessingError(f"{name} must be {self.in_chans} finite numbers, one per channel, got {short(values)}")
        if not all(value > 0 for value in self.std):
            raise PreprocessingError(f"std must be positive in every channel, got {short(self.std)}")
        if self.interpolation not in INTERPOLATIONS:
            raise PreprocessingError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {short(repr(self.interpolation))}"
            )
        if self.input_type not in INPUT_TYPES:
            raise PreprocessingError(f"input_type must be one of {', '.join(INPUT_TYPES)}, got {short(repr(self.input_type))}")
        if not is_finite(self.crop_pct) or not 0 < self.crop_pct <= 1:
            raise PreprocessingError(f"crop_pct must be above 0 and at most 1, got {short(repr(self.crop_pct))}")
        if self.value_range is not None and not _is_range(self.value_range):
            raise PreprocessingError(f"value_range must be two finite numbers, low < high, got {short(repr(self.value_range))}")

    @property
    def input_size(self) -> int:
        """The side in pixels of what is fed in: a file that takes uint8 pixels resizes them itself."""
        return self.image_size if self.input_type == "uint8" else self.network_size or self.image_size

    @property
    def normalisation(self) -> Normalisation:
        """What its pixels are normalised with."""
        return Normalisation(self.mean, self.std)

    def to_pil(self, image: Image.Image) -> Image.Image:
        """The resized and cropped image in the network's colour mode. Raises `PreprocessingError` when it cannot be made."""
        from PIL import Image as pil

        image = convert(image, self.in_chans, self.value_range)
        resample = {"bicubic": pil.Resampling.BICUBIC, "bilinear": pil.Resampling.BILINEAR}[self.interpolation]
        shorter = int(self.image_size / self.crop_pct)
        width, height = image.size
        if max(width, height) * shorter**2 > MAX_RESIZED * min(width, height):
            raise PreprocessingError(f"an image of {width} × {height} pixels is too long to be resized; cut it")
        if min(width, height) != shorter:  # the longer side is truncated, as torchvision's Resize does
            size = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
            image = image.resize(size, resample)
        left, top = round((image.width - self.image_size) / 2), round((image.height - self.image_size) / 2)
        return image.crop((left, top, left + self.image_size, top + self.image_size))

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """uint8 [..., H, W, C] of `image_size` to the input [..., C, H, W]: normalised float32, or the pixels themselves."""
        import numpy as np

        if self.input_type == "uint8":
            return np.ascontiguousarray(np.moveaxis(pixels, -1, -3))
        return self.normalise(pixels)

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [..., H, W, C] of `image_size` to the float32 values [..., C, H, W] that the torch network takes."""
        import numpy as np

        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        values = normalised(pixels.astype(np.float32), mean, std)
        values = np.moveaxis(values, -1, -3)
        if self.network_size not in (None, self.image_size):
            resize = resize_matrix(self.image_size, self.network_size)
            values = resize @ values @ resize.T
        return np.ascontiguousarray(values)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """The network's view of an image before normalising: uint8 [H, W, C]."""
        import numpy as np

        array = np.asarray(self.to_pil(image), dtype=np.uint8)
        return array.reshape(self.image_size, self.image_size, self.in_chans)

    def __call__(self, image: Image.Image) -> NDArray[Any]:
        """The input [C, H, W] of `input_type`, ready to be stacked into a batch."""
        return self.prepare(self.pixels(image))

    def of_file(self, path: Path) -> NDArray[Any]:
        """The input [C, H, W] of `input_type` that a file gives. Raises `DataError` naming the file when it cannot be used."""
        image = open_image(path)
        try:
            return self(image)
        except PreprocessingError as error:
            raise DataError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; float32 and no range go unsaid, so that records and their digests are those of older versions."""
        values = asdict(self)
        if self.input_type == "float32":
            del values["input_type"]
        if self.value_range is None:
            del values["value_range"]
        return values

    @classmethod
    def from_dict(cls, values: object) -> Preprocessing:
        """Reads the JSON form. Raises `CheckpointError` on unknown or missing keys and impossible values."""
        return from_json(cls, values, "preprocessing")


def normalised(pixels: Any, mean: Any, std: Any) -> Any:
    """Pixels 0..255 as the values a network takes; all three are floating point arrays of any one library that broadcast."""
    return (pixels / 255 - mean) / std


def resize_matrix(old: int, new: int) -> NDArray[np.float32]:
    """The matrix [new, old] that resizes one side of an image: linear interpolation, antialiased where it shrinks.

    One rule for training, evaluation and deployment: `matrix @ image @ matrix.T` on any array library.
    """
    import numpy as np

    scale = max(1.0, old / new)  # the filter is as wide as an output pixel, at least as an input pixel
    centres = (np.arange(new)[:, None] + 0.5) * (old / new)
    distances = np.abs(np.arange(old)[None, :] + 0.5 - centres) / scale
    weights = np.clip(1.0 - distances, 0.0, None)
    return np.asarray(weights / weights.sum(1, keepdims=True), dtype=np.float32)


def convert(image: Image.Image, in_chans: int, value_range: Range | None = None) -> Image.Image:
    """Grey or RGB, 8 bit, upright: the one place that says what becomes of unusual files.

    The rotation that a camera notes in EXIF is applied. Transparency is laid on white. Grey values beyond 8 bit are mapped from
    `value_range` (without one 16 bit is scaled down, where Pillow alone would clip it, and floats are clipped to 0..255). CMYK
    becomes RGB without its colour profile. Of an animation the frame in hand is taken. Raises `PreprocessingError` for an image
    that cannot be converted, or holds values that are not finite.
    """
    from PIL import Image as pil

    try:
        with without_remarks():
            image.load()
            if 0 in image.size:
                raise ValueError("it has no pixels")
            image = upright(image)
            if image.mode in WIDE_MODES:
                image = to_grey(image, value_range)
            if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
                rgba = image.convert("RGBA")
                image = pil.alpha_composite(pil.new("RGBA", rgba.size, "white"), rgba)
            return image.convert("L" if in_chans == 1 else "RGB")
    except NotFiniteError as error:
        raise PreprocessingError(str(error)) from error
    except Exception as error:
        raise PreprocessingError(
            f"an image of colour mode {image.mode} cannot be converted ({reason(error)}); save it as RGB"
        ) from error


def _is_range(values: object) -> bool:
    if not isinstance(values, tuple) or len(values) != 2 or not all(is_finite(value) for value in values):
        return False
    return bool(values[0] < values[1]) and is_finite(values[1] - values[0]) and is_finite(255 / (values[1] - values[0]))
