"""Images in three disjoint parts: train, search (held out from supernet training), test (read once, at the end).

Where images come from is told in `sources.py`. How the layout of a source becomes our parts:

* no parts of its own (digits, a folder of classes): stratified by class, with the fractions of the config;
* train and val, or train and test: the second is our test part as it is, the search part is taken out of train, stratified;
* train, val and test: all three as they are; val, which its makers held out for choosing, is our search part.

With `group_by`, what is taken out is taken in whole groups (`splits.py`). Images without labels may stand beside the parts, for
distillation only. The record of a run holds sizes and digests of the parts, and the names of images that were left out since they
cannot be read.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from autoformer.data.classes import CLASS_MAP, by_number, by_text, numbers_of, shown_order
from autoformer.data.images import FileImages, Images, applied
from autoformer.data.ledger import Reading, add_reading
from autoformer.data.preprocessing import Preprocessing
from autoformer.data.remarks import NOTHING, Remarks
from autoformer.data.tar_images import TarImages
from autoformer.data.value_range import words_on_range
from autoformer.files import json_digest
from autoformer.settings import Settings

PARTS, UNLABELLED = ("train", "search", "test"), "unlabelled"
T = TypeVar("T")
BESIDE_THE_DIGEST = ("source", "config", "layout", "unreadable")  # keys of the record that change without the members


class DataConfig(Settings):
    """Which images, and how they are cut into parts."""

    source: str = Field("digits", description="digits, a folder, a .tar file, or a name timm.data.create_dataset knows")
    root: Path | None = Field(None, description="where a named data set lies; NAME@FOLDER counts before it")
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
    unlabelled: Path | None = Field(
        None, description="a folder (any depth) or .tar file of images without labels, which a teacher alone teaches"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `unlabelled` where there is nothing, so that runs from before it existed are gone on with."""
        found: dict[str, Any] = write(self)
        return {key: value for key, value in found.items() if key != UNLABELLED or value is not None}

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

    def spaced(self, count: int) -> Part:
        """`count` of its images at equal distances, the first among them; all where it has no more."""
        few = min(count, len(self))
        return replace(self, indices=tuple(self.indices[position * len(self) // few] for position in range(few)))

    def batches(self, size: int) -> Iterator[Part]:
        """Its images in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield replace(self, indices=self.indices[start : start + size])

    def made(self, position: int, work: Callable[[Image.Image], T]) -> T:
        """What `work` makes of an image. Raises `DataError` naming the image when it cannot be read or converted."""
        return applied(self.images, self.indices[position], work)

    def pixels(self, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """All images as the network sees them before normalising, uint8 [n, H, W, C]."""
        size, channels = preprocessing.image_size, preprocessing.in_chans
        out = np.empty((len(self), size, size, channels), dtype=np.uint8)
        for position in range(len(self)):
            out[position] = self.made(position, preprocessing.pixels)
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
    ledger: list[Reading] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sealed)

    @property
    def digest(self) -> str:
        return self.sealed.digest

    def read(self, reader: str, ledger: Path | None = None) -> Part:
        """The images, for `reader` (the artefact that is scored). The reading is appended to the file `ledger`."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        reading = Reading(reader=reader, split=self.digest, images=len(self), time=now)
        self.ledger.append(reading)
        if ledger is not None:
            add_reading(reading, ledger)
        return self.sealed


@dataclass(frozen=True)
class Unlabelled:
    """Images without labels beside the parts, for distillation only."""

    part: Part
    source: str  # where they lie
    held_out: tuple[str, ...] = ()  # names of those left out, since they are images of the search or test part
    unreadable: tuple[str, ...] = ()  # likewise, since they cannot be read
    remarks: Remarks = NOTHING  # what else lies there

    @property
    def words(self) -> str:
        """What they are and what was left out, in words that continue a sentence."""
        left_out = (("that the search or test part holds", self.held_out), ("that cannot be read", self.unreadable))
        words = "".join(f", {len(names)} {why} left out, e.g. {names[0]}" for why, names in left_out if names)
        return f"; {self.source} adds images without labels, for distillation only{words}{self.remarks.words()}"


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
    remarks: Remarks = NOTHING  # what else lies there
    typical_side: int | None = None  # the median of the shorter sides of train images as they are stored, pixels
    unlabelled: Unlabelled | None = None

    def in_order(self, names: Sequence[str]) -> DataParts:
        """The same parts with classes numbered as in `names`, which must hold them all, in whatever Unicode form.

        Other names may stand among them: those classes have no images. The members stay, since they are drawn before.
        """
        if tuple(names) == self.classes:
            return self
        numbers = numbers_of(self.classes, names)
        train, search, sealed = renumbered(self.three, numbers)
        return replace(self, classes=tuple(names), train=train, search=search, test=replace(self.test, sealed=sealed))

    @cached_property
    def natural_order(self) -> tuple[str, ...] | None:
        """What `natural_order` gives for these classes."""
        return natural_order(self.classes, self.train.images)

    @property
    def three(self) -> tuple[Part, Part, Part]:
        """The parts with labels, the test part past its door: to look at images, not to score by them."""
        return self.train, self.search, self.test.sealed

    @property
    def every(self) -> tuple[Part, ...]:
        """The same, and the images without labels where there are some."""
        return self.three if self.unlabelled is None else (*self.three, self.unlabelled.part)

    @cached_property
    def trained_on(self) -> Part:
        """What an epoch takes: the train part, and behind it the images without labels where there are some."""
        if self.unlabelled is None:
            return self.train
        joined = JoinedImages(self.train, self.unlabelled.part)
        return Part("train", joined, tuple(range(len(self.train) + len(self.unlabelled.part))))

    @property
    def labelled(self) -> DataParts:
        """The same without the images that have no labels."""
        if self.unlabelled is None:
            return self
        config = self.config.model_copy(update={UNLABELLED: None})
        unreadable = {name: names for name, names in self.unreadable.items() if name != UNLABELLED}
        return replace(self, unlabelled=None, config=config, unreadable=unreadable)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Sizes, digests and classes, for the record of a run; JSON."""
        record: dict[str, Any] = {
            "source": self.source,
            "config": self.config.model_dump(mode="json"),
            "layout": self.layout + ("" if self.unlabelled is None else self.unlabelled.words),
            "classes": list(self.classes),
            "parts": {part.name: {"images": len(part), "digest": part.digest} for part in self.every},
            "preprocessing": self.preprocessing.to_dict(),
        }
        if self.unreadable:
            record["unreadable"] = {name: list(names) for name, names in self.unreadable.items()}
        return record

    @property
    def digest(self) -> str:
        """SHA-256 of the record: equal for equal members, classes and preprocessing, wherever and beside what they lie."""
        return json_digest({key: value for key, value in self.record.items() if key not in BESIDE_THE_DIGEST})


@dataclass(frozen=True)
class EveryImage:
    """All images of a source, in the parts in which its makers laid them, to be judged and not to be trained on."""

    source: str
    classes: tuple[str, ...]
    parts: tuple[Part, ...]
    layout: str  # in words, with what was not taken

    @property
    def natural_order(self) -> tuple[str, ...] | None:
        """What `natural_order` gives for these classes."""
        return natural_order(self.classes, self.parts[0].images)

    @property
    def as_one(self) -> Part:
        """The images of all parts."""
        first, *more = self.parts
        for part in more:
            first = Part("all", cast(Images, JoinedImages(first, part)), tuple(range(len(first) + len(part))))
        return first

    def in_order(self, names: Sequence[str]) -> EveryImage:
        """The same with classes numbered as in `names`, as `DataParts.in_order`."""
        return replace(self, classes=tuple(names), parts=renumbered(self.parts, numbers_of(self.classes, names)))


def natural_order(classes: tuple[str, ...], images: Images) -> tuple[str, ...] | None:
    """The classes as timm numbers their folders, where these are numbered as text and that differs; else None."""
    natural = by_number(classes)
    are_folders = isinstance(images, FileImages | TarImages)  # named sets number their classes themselves
    return natural if are_folders and classes == by_text(classes) != natural else None


def renumbered(parts: Sequence[Part], numbers: Sequence[int]) -> tuple[Part, ...]:
    """The parts with another number for each class; those of one source stay of one."""
    fresh = {id(images): _numbered(images, numbers) for images in (part.images for part in parts)}
    return tuple(replace(part, images=fresh[id(part.images)]) for part in parts)


def _numbered(images: Images, numbers: Sequence[int]) -> Images:
    """The images with another number for each class."""
    return cast(Images, replace(cast(Any, images), labels=[numbers[label] for label in images.labels]))


def describe_parts(parts: DataParts) -> Iterable[str]:
    """The parts in lines for people."""
    sizes = json.dumps({name: part["images"] for name, part in parts.record["parts"].items()}).strip("{}").replace('"', "")
    yield f"{parts.source}: {len(parts.classes)} classes, images {sizes}; {parts.record['layout']}"
    size, channels = parts.preprocessing.image_size, parts.preprocessing.in_chans
    yield f"images are {size} × {size} px, {'grey' if channels == 1 else 'RGB'}{words_on_range(parts.preprocessing.value_range)}"
    if (natural := parts.natural_order) is not None:
        yield (
            f"classes are numbered by their names as text: {shown_order(parts.classes, natural)}; timm would number them "
            f"{shown_order(natural, parts.classes)}, and numbers them as here with the {CLASS_MAP} beside the network"
        )
