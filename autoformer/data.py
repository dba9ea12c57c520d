"""Images in three disjoint parts: train, search (held out from supernet training), test (read once, at the end).

Where images come from is told in `sources.py`. How the layout of a source becomes our parts:

* no parts of its own (digits, a folder of classes): stratified by class, with the fractions of the config;
* train and val, or train and test: the second is our test part as it is, the search part is taken out of train, stratified;
* train, val and test: all three as they are; val, which its makers held out for choosing, is our search part.

With `group_by`, what is taken out is taken in whole groups (`splits.py`). The record of a run holds sizes and digests of the
parts, and the names of images that were left out since they cannot be read.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from autoformer.checkpoint import json_digest, read_json, write_json
from autoformer.errors import DataError
from autoformer.images import Images, called, dataset_images, printable
from autoformer.preprocessing import Preprocessing, PreprocessingError, convert
from autoformer.progress import Progress, silent
from autoformer.reading import for_each, imagenet_normalised, sampled_preprocessing
from autoformer.sources import Source, open_source
from autoformer.splits import group_keys, grouped, stratified

PARTS = ("train", "search", "test")
BESIDE_THE_DIGEST = ("source", "config", "layout", "unreadable")  # keys of the record that change without the members


class DataConfig(BaseModel):
    """Which images, and how they are cut into parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field("digits", description="digits, a folder, a .tar file, or a name timm.data.create_dataset knows")
    root: Path | None = Field(None, description="where a named data set lies")
    image_size: int | None = Field(None, gt=3, le=4096, description="pixels; empty: from the images, at most max_image_size")
    max_image_size: int = Field(64, gt=3, le=4096, description="pixels; the largest size chosen from the images")
    crop_pct: float = Field(
        1.0, gt=0, le=1, description="evaluation resizes the shorter side to image_size / crop_pct, then crops the centre"
    )
    normalisation: Literal["measured", "imagenet"] = Field(
        "measured", description="mean and standard deviation of the pixels: of up to 512 train images, or ImageNet's constants"
    )
    search_fraction: float = Field(0.15, gt=0, lt=1, description="share of a class held out for the search")
    test_fraction: float = Field(0.3, gt=0, lt=1, description="share of a class held out for the test, where none exists")
    split_seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the split")
    group_by: str | None = Field(None, description="a regular expression in a path; images of one group stay in one part")
    unreadable: Literal["stop", "skip"] = Field("stop", description="what becomes of images that cannot be decoded")
    max_unreadable: int = Field(100, ge=0, description="images; more than these are never skipped")
    max_memory_mib: int = Field(4096, gt=0, description="what a data set that can only be read in order may take")

    @field_validator("group_by")
    @classmethod
    def _group_by_is_an_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


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
class JoinedImages:
    """Two parts of different sources as one source of images."""

    first: Part
    second: Part

    @property
    def labels(self) -> Sequence[int]:
        return [*self.first.labels.tolist(), *self.second.labels.tolist()]

    def _place(self, index: int) -> tuple[Images, int]:
        part, position = (self.first, index) if index < len(self.first) else (self.second, index - len(self.first))
        return part.images, part.indices[position]

    def open(self, index: int) -> Image.Image:
        images, own = self._place(index)
        return images.open(own)

    def identity(self, index: int) -> str:
        images, own = self._place(index)
        return f"{int(index >= len(self.first))}/{images.identity(own)}"

    def name(self, index: int) -> str | None:
        images, own = self._place(index)
        return images.name(own)


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
    unreadable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names of images left out, by part

    @cached_property
    def record(self) -> dict[str, Any]:
        """Sizes, digests and classes, for the record of a run; JSON."""
        parts = {part.name: part for part in (self.train, self.search, self.test.sealed)}
        record: dict[str, Any] = {
            "source": self.source,
            "config": self.config.model_dump(mode="json"),
            "layout": self.layout,
            "classes": list(self.classes),
            "parts": {name: {"images": len(part), "digest": part.digest} for name, part in parts.items()},
            "preprocessing": self.preprocessing.to_dict(),
        }
        if self.unreadable:
            record["unreadable"] = {name: list(names) for name, names in self.unreadable.items()}
        return record

    @property
    def digest(self) -> str:
        """SHA-256 of the record: equal for equal members, classes and preprocessing, wherever and beside what they lie."""
        return json_digest({key: value for key, value in self.record.items() if key not in BESIDE_THE_DIGEST})


# --- parts -------------------------------------------------------------------------------------------------------


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
    images, names = dataset_images(dataset, classes, config.max_memory_mib)
    tests = None if test_dataset is None else dataset_images(test_dataset, names, config.max_memory_mib)[0]
    return _parts(Source(source, names, images, test=tests), config)


def load_parts(config: DataConfig) -> DataParts:
    """The parts of the data set that `config` names. Raises `DataError` where it cannot be used as it is."""
    return _parts(open_source(config.source, config.root, config.max_memory_mib), config)


def _parts(source: Source, config: DataConfig) -> DataParts:
    images, classes, name = source.train, source.classes, source.name
    used = Counter(int(label) for label in images.labels)
    if len(used) < 2:
        raise DataError(f"{name} holds images of {len(used)} class; a classifier needs at least two folders of images")
    fractions = {}
    if source.val is None:
        fractions["search"] = config.search_fraction
    if source.test is None:
        fractions["test"] = config.test_fraction
    if sum(fractions.values()) >= 1:
        raise DataError(f"search_fraction and test_fraction are {sum(fractions.values()):g} together; leave some to train")
    cut = _cut(source, fractions, config)
    train = Part("train", images, cut["rest"])
    search = Part("search", images, cut["search"]) if source.val is None else _whole("search", source.val)
    tests = Part("test", images, cut["test"]) if source.test is None else _whole("test", source.test)
    for part in (search, tests):
        if len(set(part.labels.tolist())) < 2:
            only = classes[int(part.labels[0])] if len(part) else "none"
            raise DataError(f"{name}: the {part.name} part holds one class only ({only}); a score needs images of two or more")
    words = {0: "train, val and test as they are", 1: "test as it is, search taken out of train"}
    layout = words.get(len(fractions), "search and test taken out, stratified by class")
    if config.group_by is not None:
        layout += _words_on_groups((train, search, tests), config.group_by, has_effect=bool(fractions))
    layout += source.left_out
    preprocessing = sampled_preprocessing(
        images, train.indices, image_size=config.image_size, max_image_size=config.max_image_size, crop_pct=config.crop_pct,
        skip_unreadable=config.unreadable == "skip",
    )  # fmt: skip
    if config.normalisation == "imagenet":
        preprocessing = imagenet_normalised(preprocessing)
    return DataParts(name, classes, train, search, TestPart(tests), preprocessing, layout, config)


def _cut(source: Source, fractions: Mapping[str, float], config: DataConfig) -> dict[str, tuple[int, ...]]:
    """Indices of the source's train images by part."""
    labels = source.train.labels
    if not fractions:
        return {"rest": tuple(range(len(labels)))}
    try:
        if config.group_by is not None:
            keys = group_keys([source.train.name(index) for index in range(len(labels))], config.group_by)
            return grouped(labels, keys, fractions, config.split_seed, source.classes)
        return stratified(labels, fractions, config.split_seed)
    except DataError as error:
        counts = Counter(int(label) for label in labels)
        small = "" if config.group_by else f"class {source.classes[min(counts, key=lambda label: counts[label])]!r}: "
        raise DataError(f"{source.name}: {small}{error}") from error


def _whole(name: str, images: Images) -> Part:
    return Part(name, images, tuple(range(len(images.labels))))


def groups_by_part(parts: Sequence[Part], group_by: str) -> dict[str, dict[str, int]]:
    """How many images of each group lie in each part: group, part, count. Raises `DataError` as `group_keys` does."""
    found: dict[str, dict[str, int]] = {}
    for part in parts:
        for key in group_keys([part.images.name(index) for index in part.indices], group_by):
            counts = found.setdefault(key, {})
            counts[part.name] = counts.get(part.name, 0) + 1
    return found


def _words_on_groups(parts: Sequence[Part], group_by: str, has_effect: bool) -> str:
    """What the groups came to, in words that continue a sentence."""
    groups = groups_by_part(parts, group_by)
    words = f", in whole groups ({len(groups)} by {group_by!r})" if has_effect else f"; group_by {group_by!r} has nothing to cut"
    missing = [
        f"{number} classes are missing in {part.name}"
        for part in parts[1:]
        if (number := len(set(parts[0].labels.tolist()) - set(part.labels.tolist())))
    ]
    shared = [key for key, counts in groups.items() if len(counts) > 1]
    if shared:
        missing.append(f"{len(shared)} groups lie in more than one part, e.g. {printable(shared[0])!r}")
    return words + "".join(f"; {text}" for text in missing)


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
        parts = load_parts(config.model_copy(update={"source": source}))
        return check_readable(parts) if config.unreadable == "skip" else parts
    parts = without_recorded(load_parts(config), record)
    for name, part in parts.record["parts"].items():
        digest, count = recorded[name]
        if part["digest"] != digest:
            raise DataError(
                f"{config.source}: the {name} part is not the one of the record ({part['images']} images, then {count}); "
                "the images changed, or lie elsewhere: give --data"
            )
    return parts


def check_readable(parts: DataParts, progress: Progress = silent, most: int = 100_000) -> DataParts:
    """Decodes every image of all parts once and gives the parts without those that cannot be read.

    A part of more than `most` images is not checked, since that takes hours; with `unreadable: skip` it is, since training
    would end at the first. Reading is not scoring: the sealed test part is opened directly, and nothing is written into its
    ledger. Raises `DataError` naming the first image that cannot be read, with `skip` their number when they are too many.
    """
    skips = parts.config.unreadable == "skip"
    checked = [part for part in (parts.train, parts.search, parts.test.sealed) if skips or len(part) <= most]
    broken: dict[str, dict[int, DataError]] = {}
    done, total = 0, sum(map(len, checked))
    for part in checked:
        with closing(for_each(part.images, part.indices, partial(_read_error, part.images))) as errors:
            for index, error in zip(part.indices, errors, strict=True):
                if error is not None:
                    if not skips:
                        raise error
                    broken.setdefault(part.name, {})[index] = error
                done += 1
                progress("check images", done, total)
    count = sum(map(len, broken.values()))
    if count > parts.config.max_unreadable:
        first = next(iter(next(iter(broken.values())).values()))
        raise DataError(
            f"{count} images cannot be read, more than max_unreadable={parts.config.max_unreadable}; the first: {first}"
        )
    return _without(parts, {name: set(errors) for name, errors in broken.items()})


def _read_error(images: Images, index: int) -> DataError | None:
    try:
        convert(images.open(index), 3)
    except PreprocessingError as error:
        return DataError(f"{called(images, index)}: {error}")
    except DataError as error:
        return error
    return None


def without_recorded(parts: DataParts, record: Mapping[str, Any]) -> DataParts:
    """The parts without the images that a record of data names as unreadable. Raises `DataError` when one is not there."""
    named = record.get("unreadable", {}) if isinstance(record, Mapping) else None
    if not isinstance(named, Mapping) or not set(named) <= set(PARTS) or not all(isinstance(v, list) for v in named.values()):
        raise DataError("the record of data is damaged or foreign (see unreadable in it); expected the one a run wrote")
    broken: dict[str, set[int]] = {}
    for part in (parts.train, parts.search, parts.test.sealed):
        if part.name in named:
            names = set(map(str, named[part.name]))
            found = {called(part.images, index): index for index in part.indices}
            if lost := sorted(names - set(found)):
                raise DataError(f"{parts.source}: {lost[0]} was left out of the {part.name} part, and is there no longer")
            broken[part.name] = {found[name] for name in names}
    return _without(parts, broken)


def _without(parts: DataParts, broken: Mapping[str, set[int]]) -> DataParts:
    """The parts without some indices. Raises `DataError` when a class has no image left to train on."""
    if not any(broken.values()):
        return parts
    unreadable: dict[str, tuple[str, ...]] = {}
    kept: dict[str, Part] = {}
    for part in (parts.train, parts.search, parts.test.sealed):
        bad = broken.get(part.name, set())
        kept[part.name] = replace(part, indices=tuple(index for index in part.indices if index not in bad))
        if bad:
            unreadable[part.name] = tuple(called(part.images, index) for index in sorted(bad))
    if lost := set(parts.train.labels.tolist()) - set(kept["train"].labels.tolist()):
        raise DataError(f"{parts.source}: no image of class {parts.classes[min(lost)]!r} can be read; repair some")
    if empty := [name for name, part in kept.items() if not len(part)]:
        raise DataError(f"{parts.source}: no image of the {empty[0]} part can be read; repair some")
    names = [name for part in unreadable.values() for name in part]
    words = "image that cannot be read was" if len(names) == 1 else "images that cannot be read were"
    return replace(
        parts,
        train=kept["train"],
        search=kept["search"],
        test=replace(parts.test, sealed=kept["test"]),
        layout=f"{parts.layout}; {len(names)} {words} left out: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}",
        unreadable=unreadable,
    )


def describe_parts(parts: DataParts) -> Iterable[str]:
    """The parts in lines for people."""
    sizes = json.dumps({name: part["images"] for name, part in parts.record["parts"].items()}).strip("{}").replace('"', "")
    yield f"{parts.source}: {len(parts.classes)} classes, images {sizes}; {parts.layout}"
    size, channels = parts.preprocessing.image_size, parts.preprocessing.in_chans
    yield f"images are {size} × {size} px, {'grey' if channels == 1 else 'RGB'}"
