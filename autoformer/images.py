"""Where images come from: arrays in memory, files below a folder, or any data set object; one interface for all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from autoformer.errors import DataError


class Images(Protocol):
    """Labelled images by index; what a source of images must offer."""

    @property
    def labels(self) -> Sequence[int]: ...

    def open(self, index: int) -> Image.Image:
        """Raises `DataError` naming the image when it cannot be read."""

    def identity(self, index: int) -> str:
        """What tells this image from all others, for digests."""


@dataclass(frozen=True)
class ArrayImages:
    """Grey or RGB images held in memory, uint8 [n, H, W] or [n, H, W, 3]."""

    arrays: NDArray[np.uint8]
    labels: Sequence[int]

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.arrays[index])

    def identity(self, index: int) -> str:
        return hashlib.sha256(self.arrays[index].tobytes()).hexdigest() + f"#{index}"


@dataclass(frozen=True)
class FileImages:
    """Image files below a folder."""

    root: Path
    files: tuple[Path, ...]  # relative to root
    labels: Sequence[int]

    def open(self, index: int) -> Image.Image:
        path = self.root / self.files[index]
        try:
            with Image.open(path) as image:
                image.load()
                return image
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            reason = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
            raise DataError(f"{path} cannot be read as an image ({reason}); repair or remove it") from error

    def identity(self, index: int) -> str:
        return f"{self.files[index].as_posix()}:{(self.root / self.files[index]).stat().st_size}"


@dataclass(frozen=True)
class DatasetImages:
    """Any map-style data set of (PIL image, label), a notebook's own included."""

    dataset: Any
    labels: Sequence[int]

    def open(self, index: int) -> Image.Image:
        try:
            image = self.dataset[index][0]
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"image {index} of {type(self.dataset).__name__} cannot be read ({error})") from error
        if not isinstance(image, Image.Image):
            raise DataError(
                f"item {index} of {type(self.dataset).__name__} is a {type(image).__name__}; expected (PIL image, label) "
                "without a transform, since resizing and augmentation happen here"
            )
        return image

    def identity(self, index: int) -> str:
        return str(index)


def digits() -> tuple[Images, tuple[str, ...]]:
    """scikit-learn's 8 × 8 handwritten digits, 1,797 of them, values 0–16 scaled to 0–255."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    return ArrayImages(pixels, data.target.tolist()), tuple(str(digit) for digit in range(10))


def folder_images(root: Path, classes: Sequence[str] | None = None) -> tuple[FileImages, tuple[str, ...]]:
    """The images of a folder of one folder per class, and the class names in their order.

    With `classes` given (those of train) every folder must be one of them. Raises `DataError` for an empty folder.
    """
    from timm.data.readers.reader_image_folder import find_images_and_targets

    class_to_index = {name: index for index, name in enumerate(classes)} if classes else None
    if classes and (strange := sorted({path.name for path in _folders(root)} - set(classes))):
        raise DataError(f"{root} holds class {strange[0]!r}, which train does not; known are {', '.join(classes[:8])}")
    samples, found = find_images_and_targets(str(root), class_to_idx=class_to_index)
    if not samples:
        raise DataError(f"{root} holds no images; expected one folder per class with image files in it")
    names = tuple(sorted(found, key=lambda name: found[name]))
    files = tuple(Path(path).relative_to(root) for path, _ in samples)
    if any(file.parent == Path(".") for file in files) and len(names) < 2:
        raise DataError(f"{root} holds images but no folder per class; sort them into {root}/CLASS/IMAGE")
    return FileImages(root, files, [target for _, target in samples]), names


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def dataset_images(dataset: Any, classes: Sequence[str] | None = None) -> tuple[Images, tuple[str, ...]]:
    """A data set object of (PIL image, label): map-style as it is, iterable ones read into memory."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or _is_iterable_only(dataset):
        dataset = list(dataset)
    labels = _labels(dataset)
    if not labels:
        raise DataError("the data set is empty; expected (PIL image, label) pairs")
    names = classes or _class_names(dataset) or [str(index) for index in range(max(labels) + 1)]
    if max(labels) >= len(names) or min(labels) < 0:
        raise DataError(f"labels run from {min(labels)} to {max(labels)}, but there are {len(names)} class names")
    return DatasetImages(dataset, labels), tuple(names)


def _is_iterable_only(dataset: Any) -> bool:
    from torch.utils.data import IterableDataset

    return isinstance(dataset, IterableDataset)


def _labels(dataset: Any) -> list[int]:
    for name in ("targets", "labels", "_labels"):
        values = getattr(dataset, name, None)
        if values is not None and len(values) == len(dataset):
            return [int(value) for value in values]
    samples = getattr(getattr(dataset, "reader", None), "samples", None)
    if isinstance(samples, list) and len(samples) == len(dataset):
        return [int(sample[1]) for sample in samples]
    return [int(dataset[index][1]) for index in range(len(dataset))]


def _class_names(dataset: Any) -> list[str] | None:
    names = getattr(dataset, "classes", None)
    if names is not None:
        return [str(name) for name in names]
    mapping = getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    return sorted(mapping, key=lambda name: mapping[name]) if mapping else None
