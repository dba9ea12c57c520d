"""Where images come from: arrays in memory, files below a folder, or any data set object; one interface for all."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autoformer.data.decoding import decode, reason, without_remarks
from autoformer.data.preprocessing import PreprocessingError
from autoformer.errors import AutoformerError, DataError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")  # in any case
IDENTITY_BYTES = 4096  # read at either end of a file
NO_IMAGE = "file that is not an image was", "files that are not images were"


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
    no_images: tuple[Path, ...] = ()  # relative to root; other files that were found and left out
    repeated: tuple[Path, ...] = ()  # relative to root; links to files and folders that are among the images already
    _identities: dict[int, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def read(self, index: int) -> bytes:
        """The bytes of the image file. Raises `DataError` when it cannot be read."""
        path = self.root / self.files[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{printable(path)} cannot be read ({error.strerror}); repair or remove it") from error

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
                raise DataError(f"{printable(path)} cannot be read ({error.strerror}); repair or remove it") from error
            self._identities[index] = f"{printable(self.files[index].as_posix())}:{size}:{ends.hexdigest()}"
        return self._identities[index]

    @property
    def left_out(self) -> str:
        """What lay among the images and was not taken, in words that continue a sentence; "" where that is nothing."""
        repeated = words_left_out(self.repeated, "link to what is there already was", "links to what is there already were")
        return words_left_out(self.no_images, *NO_IMAGE) + repeated


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


def folder_images(root: Path, classes: Sequence[str] | None = None) -> tuple[FileImages, tuple[str, ...]]:
    """The images of a folder of one folder per class, and the class names, sorted.

    The class of an image is the folder directly below `root` that it lies in, however deep. Links are followed, and each real
    folder and file is taken once. With `classes` given (those of train) every folder with images must be one of them.
    Raises `DataError` for a folder that is empty, unreadable or without classes, for broken links, and for names that are
    not UTF-8.
    """
    files, no_images, repeated = _walk(root)
    if not files:
        raise DataError(f"{printable(root)} holds no images; expected one folder per class with image files in it")
    if loose := [file for file in files if len(file.parts) == 1]:
        folders = "images but no folder per class" if len(loose) == len(files) else f"{loose[0]} beside its folders of classes"
        raise DataError(f"{root} holds {folders}; sort them into {root}/CLASS/IMAGE")
    found = sorted({file.parts[0] for file in files})
    if classes and (strange := sorted(set(found) - set(classes))):
        raise DataError(f"{root} holds class {strange[0]!r}, which train does not; known are {', '.join(classes[:8])}")
    names = tuple(classes or found)
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers[file.parts[0]] for file in files]
    return FileImages(root, tuple(files), labels, tuple(no_images), tuple(repeated)), names


def visible_folders(root: Path) -> list[Path]:
    """The folders directly below `root`, links to folders included, hidden ones not; sorted by name.

    Raises `DataError` when `root` cannot be read.
    """
    return [Path(entry.path) for entry in _entries(str(root)) if os.path.isdir(entry.path)]


def visible_files(root: Path) -> list[Path]:
    """The files directly below `root`, hidden ones not; sorted by name. Raises `DataError` when `root` cannot be read."""
    return [Path(entry.path) for entry in _entries(str(root)) if os.path.isfile(entry.path)]


def _walk(root: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Images, other files, and links to what was found already, each relative to `root` and sorted."""
    real_root = os.path.realpath(root)
    plain, linked = deque([(str(root), real_root)]), deque[tuple[str, str]]()
    seen: set[str] = set()  # real paths, of folders and of images
    images: list[str] = []
    linked_images: list[tuple[str, str]] = []
    others: list[str] = []
    repeated: list[str] = []
    while plain or linked:
        # Links wait for all that lies below the root itself: what a link shows again keeps the class it really lies in.
        through_link = not plain
        folder, real_folder = (linked if through_link else plain).popleft()
        if real_folder in seen:
            repeated.append(folder)
            continue
        seen.add(real_folder)
        for path, real, is_folder, is_link in _resolved(folder, real_folder):
            if is_folder:
                (linked if is_link or through_link else plain).append((path, real))
            elif not path.lower().endswith(IMAGE_ENDINGS):
                others.append(path)
            elif is_link or through_link:
                linked_images.append((path, real))
            else:
                _utf8(path)
                seen.add(real)
                images.append(path)
    for path, real in sorted(linked_images):
        _utf8(path)
        if real in seen:
            repeated.append(path)
        else:
            seen.add(real)
            images.append(path)
    return _below(root, images), _below(root, others), _below(root, repeated)


def _resolved(folder: str, real_folder: str) -> Iterator[tuple[str, str, bool, bool]]:
    """Path, real path, whether it is a folder, and whether it is a link, of what is visible in `folder`."""
    for entry in _entries(folder):
        if not entry.is_symlink():  # no call to the system for each of a million files
            yield entry.path, os.path.join(real_folder, entry.name), entry.is_dir(), False
            continue
        try:
            real = os.path.realpath(entry.path, strict=True)
        except OSError as error:
            raise DataError(f"{printable(entry.path)} is a link that leads nowhere; repair or remove it") from error
        yield entry.path, real, os.path.isdir(real), True


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is visible in a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"folder {printable(folder)} cannot be read ({reason}); make it readable or remove it") from error


def _below(root: Path, paths: list[str]) -> list[Path]:
    return sorted(Path(path).relative_to(root) for path in paths)


def _utf8(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the name {printable(path)} is not UTF-8, so no record can hold it; rename it") from error


def words_left_out(paths: Sequence[Path | str], one: str, many: str) -> str:
    """How many files were not taken, in words that continue a sentence; "" where there are none."""
    return f"; {len(paths)} {one if len(paths) == 1 else many} left out, e.g. {printable(paths[0])}" if paths else ""


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
    items, taken = [], 0
    for item in dataset:
        items.append(item)
        if isinstance(item[0], Image.Image):
            taken += item[0].width * item[0].height * len(item[0].getbands())
        if taken > max_memory_mib * 2**20:
            raise DataError(
                f"a data set that can only be read in order is held in memory, and {len(items)} images take more than "
                f"max_memory_mib={max_memory_mib}; raise it, or store the images as a folder or a plain .tar"
            )
    return items


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
