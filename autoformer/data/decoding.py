"""Bytes of a file become a Pillow image: the one place that opens images, on the host and on boards.

Only the formats named here are opened, so that no decoder runs that nobody asked for. Whatever Pillow raises is one line with
the file's name: beside OSError it lets struct.error, KeyError, IndexError, ZeroDivisionError and others through. Metadata are
no pixels: EXIF is read for the orientation alone and never written, and where it is damaged the image counts as upright. Of a
file of several frames the first is taken, whole or refused, as a truncated file is.

Imports Pillow inside the functions that need it, and works on Python 3.10.
"""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from autoformer.errors import DataError, short

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")  # as Pillow calls them; older ones lack some
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")  # that all read
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"heif", b"mif1", b"msf1")  # after "ftyp"
HEIC_ENDINGS = (".heic", ".heif", ".hif")
# Finds names in either case, however deep in folders of classes, on Linux and on macOS; `mogrify` is in ImageMagick 6 and 7.
TO_JPEG = (
    "make JPEGs of them, with ImageMagick, where the images lie: "
    "find . '(' -iname '*.hei[cf]' -o -iname '*.hif' ')' -exec mogrify -format jpg {} +"
)
RENAMED = f"give them the ending .heic, then {TO_JPEG}"  # photographs under other endings
ORIENTATION = 0x0112  # EXIF tag; 1 is upright
FLIPS = {  # by orientation, the method of Pillow's `transpose` that makes an image upright
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip


def open_image(path: Path) -> Image.Image:
    """The image in a file. Raises `DataError` naming it when it does not exist or cannot be decoded."""
    if not path.is_file():
        raise DataError(f"{path} {'is no file' if path.exists() else 'does not exist'}; expected an image file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); make it readable") from error
    return decode(content, str(path))


def decode(content: bytes, name: str) -> Image.Image:
    """The image in the bytes of a file, its pixels loaded. Raises `DataError` with its `name` when they cannot be decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        with without_remarks():
            image = Image.open(io.BytesIO(content), formats=_formats())
            if image.format == "TIFF":
                # Its plugin turns the pixels itself when they are there, and rewrites EXIF for that; here `upright` turns them.
                orientation_of(image)
                image.load_end = lambda: None  # type: ignore[method-assign]
            image.load()
        return image
    except UnidentifiedImageError as error:
        if name.lower().endswith(HEIC_ENDINGS):
            raise DataError(f"{name} is a HEIC photograph, and these are not read; {TO_JPEG}") from error
        if is_heic(content):
            raise DataError(f"{name} is a HEIC photograph, whatever its ending, and these are not read; {RENAMED}") from error
        known = " or ".join(", ".join(_formats()).rsplit(", ", 1))
        raise DataError(f"{name} cannot be read as an image (it is not an image of {known}); repair or remove it") from error
    except Exception as error:
        raise DataError(f"{name} cannot be read as an image ({reason(error)}); repair or remove it") from error


def is_heic(content: bytes) -> bool:
    """Whether a file begins as the photographs of phones do that are neither JPEG nor AVIF."""
    return content[4:8] == b"ftyp" and content[8:12] in HEIC_BRANDS


def reason(error: Exception) -> str:
    """What an error of Pillow says, in one short line; its kind where it says nothing that can be understood alone."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, (OSError, SyntaxError, ValueError)) and text:
        return short(text, 100)
    return short(f"{type(error).__name__}: {text}" if text else type(error).__name__, 100)


def upright(image: Image.Image) -> Image.Image:
    """The image as its camera was held; a copy where the pixels had to be turned."""
    from PIL import Image as pil

    flip = FLIPS.get(orientation_of(image))
    return image if flip is None else image.transpose(getattr(pil.Transpose, flip))


def orientation_of(image: Image.Image) -> int:
    """What EXIF or XMP say of how the camera was held, 1 to 8; 1, upright, where they are missing or damaged."""
    with without_remarks():
        with suppress(Exception):
            image.getexif()  # damaged, it raises once and then gives what could be read; so it is asked twice, always
        try:
            found = getattr(image, "tag_v2", {}).get(ORIENTATION)  # of a TIFF, in which older versions see no EXIF
            found = image.getexif().get(ORIENTATION, 1) if found is None else found
            return int(found) if found in FLIPS else 1
        except Exception:
            return 1


def has_frames(image: Image.Image) -> bool:
    """Whether more than one frame begins in the file. Asked last: it may move the image to a frame that is damaged."""
    with without_remarks():
        try:
            return bool(getattr(image, "is_animated", False))
        except Exception:  # of a second frame that is cut
            return True


@cache
def _formats() -> tuple[str, ...]:
    """The named formats that this Pillow knows; it ends in a KeyError at one that it does not. Silences its log, once."""
    from PIL import Image

    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    Image.init()  # loads the plugins that there are
    return tuple(name for name in FORMATS if name in Image.OPEN)


class _Silence:
    """Counts the threads inside: `warnings.catch_warnings` alone puts back the filters of another thread."""

    def __init__(self) -> None:
        self.lock, self.inside, self.caught = threading.Lock(), 0, warnings.catch_warnings()

    def enter(self) -> None:
        with self.lock:
            if not self.inside:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.caught.__exit__(None, None, None)


_SILENCE = _Silence()


@contextmanager
def without_remarks() -> Iterator[None]:
    """Pillow's warnings about damaged metadata are kept from people while some thread is inside."""
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()
