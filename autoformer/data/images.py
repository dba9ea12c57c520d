"""Where images come from: arrays in memory, files below a folder, or any data set object; one interface for all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from autoformer.data.decoding import ENDINGS, decode, reason, without_remarks
from autoformer.data.preprocessing import PreprocessingError
from autoformer.errors import AutoformerError, DataError

AVIF = (".avif",) if "avif" in features.modules and features.check_module("avif") else ()  # as Pillow was built
IMAGE_ENDINGS = (*ENDINGS, *AVIF)  # in any case
IDENTITY_BYTES = 4096  # read at either end of a file
NO_LABEL = -1  # of an image without a class


class Images(Protocol):
    """Labelled images by index; what a source of images must offer."""

    @property
    def labels(self) -> Sequence[int]: ...

    def open(self, index: int) -> Image.Image:
        """Raises `DataError` naming the image when it cannot be read."""

    def identity(self, index: int) -> str:
        """What tells this image from all others, for digests."""

    def name(self, index: int) -> str | None:
        """The path below the root, with slashes; None where images have none."""


T = TypeVar("T")


def applied(images: Images, index: int, work: Callable[[Image.Image], T]) -> T:
    """What `work` makes of an image. Raises `DataError` naming the image when it cannot be read or converted."""
    try:
        return work(images.open(index))
    except PreprocessingError as error:
        raise DataError(f"{called(images, index)}: {error}") from error


def called(images: Images, index: int) -> str:
    """What people call an image: its path, or its number where paths are missing or may occur twice. Never the same for two."""
    name = images.name(index)
    if name is None or isinstance(images, DatasetImages):
        return f"image {index}" + (f" ({printable(name)})" if name else "")
    return printable(name)


@dataclass(frozen=True)
class ArrayImages:
    """Grey or RGB images held in memory, uint8 [n, H, W] or [n, H, W, 3]."""

    arrays: NDArray[np.uint8]
    labels: Sequence[int]

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.arrays[index])

    def identity(self, index: int) -> str:
        return hashlib.sha256(self.arrays[index].tobytes()).hexdigest() + f"#{index}"

    def name(self, index: int) -> None:
        return None


@dataclass(frozen=True)
class FileImages:
    """Image files below a folder."""

    root: Path
    files: tuple[Path, ...]  # relative to root
    labels: Sequence[int]
    _identities: dict[int, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def read(self, index: int) -> bytes:
        """The bytes of the image file. Raises `DataError` when it cannot be read."""
        path = self.root / self.files[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise _not_read(path, error) from error

    def open(self, index: int) -> Image.Image:
        return decode(self.read(index), printable(self.root / self.files[index]))

    def name(self, index: int) -> str:
        return self.files[index].as_posix()

    def identity(self, index: int) -> str:
        """The path below the root, the size in bytes, and SHA-256 over the first and the last 4 KiB of the file.

        The file is read once, at the first call. Raises `DataError` naming the file when it cannot be read.
        """
        if index not in self._identities:
            path = self.root / self.files[index]
            try:
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    ends = hashlib.sha256(file.read(IDENTITY_BYTES))
                    file.seek(max(0, size - IDENTITY_BYTES))
                    ends.update(file.read(IDENTITY_BYTES))
            except OSError as error:
                raise _not_read(path, error) from error
            self._identities[index] = f"{printable(self.files[index].as_posix())}:{size}:{ends.hexdigest()}"
        return self._identities[index]


def _not_read(path: Path, error: OSError) -> DataError:
    """Why an image file cannot be read."""
    lost = os.path.islink(path) and not os.path.exists(path)
    why = "is a link that leads nowhere" if lost else f"cannot be read ({error.strerror})"
    return DataError(f"{printable(path)} {why}; repair or remove it")


@dataclass(frozen=True)
class DatasetImages:
    """Any map-style data set of (PIL image, label), a notebook's own included."""

    dataset: Any
    labels: Sequence[int]

    def open(self, index: int) -> Image.Image:
        reader: Any = getattr(self.dataset, "reader", None)  # of timm, whose data sets put another image in a broken one's place
        kind = type(self.dataset).__name__
        if hasattr(reader, "__getitem__"):
            try:
                with reader[index][0] as file:
                    content = file.read()
            except Exception as error:
                raise DataError(f"image {index} of {kind} cannot be read ({reason(error)})") from error
            return decode(content, f"image {index} of {kind}")
        try:
            with without_remarks():
                image = self.dataset[index][0]
                if isinstance(image, Image.Image):
                    image.load()  # many open a file only to read it later
        except AutoformerError:
            raise
        except Exception as error:
            raise DataError(f"image {index} of {kind} cannot be read ({reason(error)})") from error
        if not isinstance(image, Image.Image):
            raise DataError(
                f"item {index} of {kind} is a {type(image).__name__}; expected (PIL image, label) "
                "without a transform, since resizing and augmentation happen here"
            )
        return image

    def identity(self, index: int) -> str:
        return str(index)

    def name(self, index: int) -> str | None:
        samples = getattr(self.dataset, "samples", None)  # of torchvision's folders
        if isinstance(samples, list) and len(samples) == len(self.labels):
            path = Path(str(samples[index][0]))
            root = Path(str(getattr(self.dataset, "root", "")))
            return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
        reader: Any = getattr(self.dataset, "reader", None)
        if hasattr(reader, "__getitem__") and hasattr(reader, "filename"):
            found = reader.filename(index)
            return str(found) if found else None
        return None


def digits() -> tuple[Images, tuple[str, ...]]:
    """scikit-learn's 8 × 8 handwritten digits, 1,797 of them, values 0–16 scaled to 0–255."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    return ArrayImages(pixels, data.target.tolist()), tuple(str(digit) for digit in range(10))


def printable(path: Path | str) -> str:
    """A path in one line of text that any terminal and file takes: what is not UTF-8 is escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def dataset_images(
    dataset: Any, classes: Sequence[str] | None = None, max_memory_mib: int = 4096
) -> tuple[Images, tuple[str, ...]]:
    """A data set object of (PIL image, label): map-style as it is, iterable ones read into memory.

    Raises `DataError` when it is empty, has labels without names, or would take more than `max_memory_mib` of memory.
    """
    named = _class_names(dataset)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or _is_iterable_only(dataset):
        dataset = _in_memory(dataset, max_memory_mib)
    labels = _labels(dataset)
    if not labels:
        raise DataError("the data set is empty; expected (PIL image, label) pairs")
    names = classes or named or [str(index) for index in range(max(labels) + 1)]
    if max(labels) >= len(names) or min(labels) < 0:
        raise DataError(f"labels run from {min(labels)} to {max(labels)}, but there are {len(names)} class names")
    return DatasetImages(dataset, labels), tuple(names)


def _in_memory(dataset: Iterable[Any], max_memory_mib: int) -> list[Any]:
    items: list[Any] = []
    taken, rest = 0, iter(dataset)
    while True:
        try:
            with without_remarks():
                item = next(rest)
        except StopIteration:
            return items
        except AutoformerError:
            raise
        except Exception as error:
            raise DataError(f"image {len(items)} of {type(dataset).__name__} cannot be read ({reason(error)})") from error
        items.append(item)
        if isinstance(item[0], Image.Image):
            taken += item[0].width * item[0].height * len(item[0].getbands())
        if taken > max_memory_mib * 2**20:
            raise DataError(
                f"a data set that can only be read in order is held in memory, and {len(items)} images take more than "
                f"max_memory_mib={max_memory_mib}; raise it, or store the images as a folder or a plain .tar"
            )


def _is_iterable_only(dataset: Any) -> bool:
    from torch.utils.data import IterableDataset

    return isinstance(dataset, IterableDataset)


def _labels(dataset: Any) -> list[int]:
    for name in ("targets", "labels", "_labels"):
        values = getattr(dataset, name, None)
        if values is not None and len(values) == len(dataset):
            return [int(value) for value in values]
    reader: Any = getattr(dataset, "reader", None)
    if hasattr(reader, "iter_targets"):  # of timm, without decoding images
        return [int(label) for label in reader.iter_targets()]
    samples = getattr(reader, "samples", None)
    if isinstance(samples, list) and len(samples) == len(dataset):
        return [int(sample[1]) for sample in samples]
    return [int(dataset[index][1]) for index in range(len(dataset))]


def _class_names(dataset: Any) -> list[str] | None:
    names = getattr(dataset, "classes", None)
    if names is not None:
        return [str(name) for name in names]
    mapping = getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    return sorted(mapping, key=lambda name: mapping[name]) if mapping else None
