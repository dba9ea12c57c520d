"""Images in three disjoint parts: train, search (held out from supernet training), test (read once, at the end).

A data set is the embedded `digits` (scikit-learn's 1,797 handwritten digits), a folder of one folder per class, or any name
that `timm.data.create_dataset` knows (`torch/cifar10`, `hfds/...`, `tfds/...`, `wds/...`). How its layout becomes our parts:

* no parts of its own (digits, a folder of classes): stratified by class, with the fractions of the config;
* train and val, or train and test: the second is our test part as it is, the search part is taken out of train, stratified;
* train, val and test: all three as they are; val, which its makers held out for choosing, is our search part.

Folders of parts are known by their names in any case (`Train`, `TEST`); `train` alone is cut like a folder of classes. The
class of an image is the folder directly below, however deep the image lies. One class map, that of train, serves all parts.
The record of a run holds sizes and digests of the parts.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoformer.checkpoint import json_digest, read_json, write_json
from autoformer.errors import DataError
from autoformer.images import Images, dataset_images, digits, folder_images, printable, visible_folders
from autoformer.preprocessing import Preprocessing
from autoformer.progress import Progress, silent

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}
PARTS = ("train", "search", "test")


class DataConfig(BaseModel):
    """Which images, and how they are cut into parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field("digits", description="digits, a folder of images, or a name timm.data.create_dataset knows")
    root: Path | None = Field(None, description="where a named data set lies")
    image_size: int | None = Field(None, gt=3, le=4096, description="pixels; empty: from the images, at most max_image_size")
    max_image_size: int = Field(64, gt=3, le=4096, description="pixels; the largest size chosen from the images")
    search_fraction: float = Field(0.15, gt=0, lt=1, description="share of a class held out for the search")
    test_fraction: float = Field(0.3, gt=0, lt=1, description="share of a class held out for the test, where none exists")
    split_seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the split")


@dataclass(frozen=True)
class Part:
    """Some images of a source, in a fixed order. Indexing gives (image, label)."""

    name: str
    images: Images
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        index = self.indices[position]
        return self.images.open(index), int(self.images.labels[index])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image, [n]."""
        every = self.images.labels
        return np.asarray([every[index] for index in self.indices], dtype=np.int64)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the identities and labels of the members."""
        found = hashlib.sha256()
        for index in self.indices:
            found.update(f"{self.images.identity(index)}\0{self.images.labels[index]}\n".encode())
        return found.hexdigest()

    def pixels(self, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """All images as the network sees them before normalising, uint8 [n, H, W, C]."""
        size, channels = preprocessing.image_size, preprocessing.in_chans
        out = np.empty((len(self), size, size, channels), dtype=np.uint8)
        for position in range(len(self)):
            out[position] = preprocessing.pixels(self[position][0])
        return out


@dataclass(frozen=True)
class TestPart:
    """The test part, behind a door that counts: `read` writes who asked into a ledger before it gives the images."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    sealed: Part
    ledger: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sealed)

    @property
    def digest(self) -> str:
        return self.sealed.digest

    def read(self, reader: str, ledger: Path | None = None) -> Part:
        """The images, for `reader` (the artefact that is scored). The reading is appended to the file `ledger`."""
        entry = {"reader": reader, "split": self.digest, "images": len(self), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        self.ledger.append(entry)
        if ledger is not None:
            entries = read_json(ledger)["readings"] if ledger.exists() else []
            write_json({"format": "autoformer/test-ledger/1", "readings": [*entries, entry]}, ledger)
        return self.sealed


@dataclass(frozen=True)
class DataParts:
    """Three disjoint parts, one class map, and what evaluation does to an image."""

    source: str
    classes: tuple[str, ...]
    train: Part
    search: Part
    test: TestPart
    preprocessing: Preprocessing
    layout: str  # how the parts came about, in words
    config: DataConfig  # what made them, so that a later command finds the same parts

    @cached_property
    def record(self) -> dict[str, Any]:
        """Sizes, digests and classes, for the record of a run; JSON."""
        parts = {part.name: part for part in (self.train, self.search, self.test.sealed)}
        return {
            "source": self.source,
            "config": self.config.model_dump(mode="json"),
            "layout": self.layout,
            "classes": list(self.classes),
            "parts": {name: {"images": len(part), "digest": part.digest} for name, part in parts.items()},
            "preprocessing": self.preprocessing.to_dict(),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the record: equal for equal members, classes and preprocessing, wherever and beside what they lie."""
        return json_digest({key: value for key, value in self.record.items() if key not in ("source", "config", "layout")})


# --- parts -------------------------------------------------------------------------------------------------------


def stratified(labels: Sequence[int], fractions: Mapping[str, float], seed: int) -> dict[str, tuple[int, ...]]:
    """Indices by part: of each class the given fractions, at least one each, the rest under "rest"; sorted.

    Raises `DataError` for a class with fewer images than parts.
    """
    parts: dict[str, list[int]] = {name: [] for name in (*fractions, "rest")}
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(int(label), []).append(index)
    for label, indices in sorted(members.items()):
        if len(indices) <= len(fractions):
            raise DataError(f"class number {label} has {len(indices)} images; {len(fractions) + 1} parts need as many each")
        random.Random(f"{seed}/{label}").shuffle(indices)
        start = 0
        for name, fraction in fractions.items():
            count = max(1, min(round(fraction * len(indices)), len(indices) - len(fractions)))
            parts[name] += indices[start : start + count]
            start += count
        parts["rest"] += indices[start:]
    return {name: tuple(sorted(indices)) for name, indices in parts.items()}


def split_dataset(
    dataset: Any,
    *,
    classes: Sequence[str] | None = None,
    test_dataset: Any = None,
    config: DataConfig | None = None,
    source: str = "data set",
) -> DataParts:
    """Parts of a data set object of (PIL image, label) pairs, such as a notebook's own.

    Without `test_dataset` the test part is taken out of `dataset` too. Raises `DataError` where images cannot be used.
    """
    config = config or DataConfig()
    images, names = dataset_images(dataset, classes)
    tests = None if test_dataset is None else dataset_images(test_dataset, names)[0]
    return _parts(images, None, tests, names, config, source)


def load_parts(config: DataConfig) -> DataParts:
    """The parts of the data set that `config` names. Raises `DataError` where it cannot be used as it is."""
    if config.source == "digits":
        images, names = digits()
        return _parts(images, None, None, names, config, "digits")
    path = Path(config.source).expanduser()
    if path.is_dir():
        return _folder_parts(path, config)
    prefix = config.source.partition("/")[0].lower()
    if prefix in ("torch", "hfds", "hfids", "tfds", "wds") and "/" in config.source:
        return _named_parts(config)
    raise DataError(
        f"data source {config.source!r} is neither 'digits', nor a folder that exists, nor a data set name like "
        "'torch/cifar10', 'hfds/NAME', 'tfds/NAME', 'wds/PATTERN'"
    )


def _folder_parts(root: Path, config: DataConfig) -> DataParts:
    folders = visible_folders(root)
    found = {part: folder for part, names in SPLIT_FOLDERS.items() if (folder := _split_folder(folders, names))}
    alone = len(found) == len(folders)
    if "train" not in found and found and (alone or len(found) == 2):
        held = " and ".join(folder.name for folder in found.values())
        raise DataError(f"{printable(root)} holds {held} but no train folder; expected a folder 'train' beside them")
    if "train" not in found or len(found) == 1:  # beside folders of other names, "train" is a class of vehicles
        images, classes = folder_images(found["train"] if "train" in found and alone else root)
        parts = _parts(images, None, None, classes, config, str(root))
        return replace(parts, layout=parts.layout + images.left_out)
    train, classes = folder_images(found["train"])
    val = folder_images(found["val"], classes)[0] if "val" in found else None
    test = folder_images(found["test"], classes)[0] if "test" in found else None
    left_out = "".join(images.left_out for images in (train, val, test) if images is not None)
    if test is None:
        val, test = None, val
    parts = _parts(train, val, test, classes, config, str(root))
    return replace(parts, layout=parts.layout + left_out)


def _split_folder(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The folder of a part: the first of `names` that is there, in any case."""
    for name in names:
        same = [folder for folder in folders if folder.name.lower() == name]
        if len(same) > 1:
            raise DataError(f"{same[0].parent} holds both {same[0].name} and {same[1].name}; expected one folder '{name}'")
        if same:
            return same[0]
    return None


def _named_parts(config: DataConfig) -> DataParts:
    from timm.data import create_dataset

    def load(split: str) -> Any:
        try:
            root = str(config.root) if config.root else None
            return create_dataset(config.source, root=root, split=split, search_split=True)
        except (OSError, RuntimeError, ValueError, AssertionError, ImportError) as error:
            line = (str(error) or type(error).__name__).splitlines()[0]
            place = config.root or "the default place"
            raise DataError(f"data set {config.source!r}, split {split!r}, in {place}: {line}") from error

    train, classes = dataset_images(load("train"))
    held_out = dataset_images(load("test" if config.source.startswith("hfds") else "validation"), classes)[0]
    return _parts(train, None, held_out, classes, config, config.source)


def _parts(
    images: Images, val: Images | None, test: Images | None, classes: Sequence[str], config: DataConfig, source: str
) -> DataParts:
    used = Counter(int(label) for label in images.labels)
    if len(used) < 2:
        raise DataError(f"{source} holds images of {len(used)} class; a classifier needs at least two folders of images")
    every = tuple(range(len(images.labels)))
    fractions = {}
    if val is None:
        fractions["search"] = config.search_fraction
    if test is None:
        fractions["test"] = config.test_fraction
    if sum(fractions.values()) >= 1:
        raise DataError(f"search_fraction and test_fraction are {sum(fractions.values()):g} together; leave some to train")
    try:
        cut = stratified(images.labels, fractions, config.split_seed) if fractions else {"rest": every}
    except DataError as error:
        small = min(used, key=lambda label: used[label])
        raise DataError(f"{source}: class {classes[small]!r}: {error}") from error
    train = Part("train", images, cut["rest"])
    search = Part("search", images, cut["search"]) if val is None else Part("search", val, tuple(range(len(val.labels))))
    tests = Part("test", images, cut["test"]) if test is None else Part("test", test, tuple(range(len(test.labels))))
    for part in (search, tests):
        if len(set(part.labels.tolist())) < 2:
            only = classes[int(part.labels[0])] if len(part) else "none"
            raise DataError(f"{source}: the {part.name} part holds one class only ({only}); a score needs images of two or more")
    words = {0: "train, val and test as they are", 1: "test as it is, search taken out of train"}
    layout = words.get(len(fractions), "search and test taken out, stratified by class")
    return DataParts(source, tuple(classes), train, search, TestPart(tests), _preprocessing(train, config), layout, config)


def parts_of_record(record: Mapping[str, Any], source: str | None = None) -> DataParts:
    """The parts that a record of data names, loaded again; `source` replaces where the images lie.

    Raises `DataError` when the record is damaged, or the images there are no longer those of the record.
    """
    try:
        if record["config"] is None and source is None:
            raise DataError(f"the weights come from {record['source']!r}, which names no images here; give --data")
        config = DataConfig.model_validate(record["config"] or {"image_size": record["preprocessing"]["image_size"]})
        recorded = (
            {}
            if source is not None
            else {name: (record["parts"][name]["digest"], record["parts"][name]["images"]) for name in PARTS}
        )
    except (KeyError, TypeError, ValidationError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'config'}: {first['msg']}"
        else:
            reason = f"{error} is missing" if isinstance(error, KeyError) else "it is not laid out as one"
        raise DataError(f"the record of data is damaged or foreign ({reason}); expected the one a run wrote") from error
    if source is not None:
        return load_parts(config.model_copy(update={"source": source}))
    parts = load_parts(config)
    for name, part in parts.record["parts"].items():
        digest, count = recorded[name]
        if part["digest"] != digest:
            raise DataError(
                f"{config.source}: the {name} part is not the one of the record ({part['images']} images, then {count}); "
                "the images changed, or lie elsewhere: give --data"
            )
    return parts


def check_readable(parts: DataParts, progress: Progress = silent, most: int = 100_000) -> None:
    """Decodes every image of all parts once; a part of more than `most` images is skipped, since that takes hours.

    Reading is not scoring: the sealed test part is opened directly, and nothing is written into its ledger.
    Raises `DataError` naming the first image that cannot be read.
    """
    checked = [part for part in (parts.train, parts.search, parts.test.sealed) if len(part) <= most]
    done, total = 0, sum(map(len, checked))
    for part in checked:
        for index in part.indices:
            part.images.open(index)
            done += 1
            progress("check images", done, total)


def _preprocessing(train: Part, config: DataConfig, most: int = 512) -> Preprocessing:
    """Image size, channels, mean and standard deviation from up to `most` evenly spaced training images."""
    step = max(1, len(train) // most)
    sample = [train[position][0] for position in range(0, len(train), step)]
    grey = all(image.mode in ("L", "1", "I;16", "I", "LA") for image in sample)
    channels = 1 if grey else 3
    size = config.image_size
    if size is None:
        shorter = sorted(min(image.size) for image in sample)[len(sample) // 2]
        size = min(config.max_image_size, max(8, shorter // 8 * 8))  # a grid of 8 patches a side divides it
    plain = Preprocessing(size, channels, (0.0,) * channels, (1.0,) * channels)
    pixels = np.stack([plain.pixels(image) for image in sample]).astype(np.float64) / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    return Preprocessing(
        image_size=size,
        in_chans=channels,
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(max(float(value), 0.01), 4) for value in std),
    )


def describe_parts(parts: DataParts) -> Iterable[str]:
    """The parts in lines for people."""
    sizes = json.dumps({name: part["images"] for name, part in parts.record["parts"].items()}).strip("{}").replace('"', "")
    yield f"{parts.source}: {len(parts.classes)} classes, images {sizes}; {parts.layout}"
    size, channels = parts.preprocessing.image_size, parts.preprocessing.in_chans
    yield f"images are {size} × {size} px, {'grey' if channels == 1 else 'RGB'}"
