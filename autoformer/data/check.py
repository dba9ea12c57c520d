"""What is wrong with a data set, and what would be done about it; every image is decoded once.

Findings are facts with a consequence: what the code does with such images when it trains, or why it would refuse. The test
part is read like the others and not scored, so its ledger stays empty.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autoformer.data.duplicates import THUMBNAIL, near_pairs, same_groups
from autoformer.data.images import FileImages, called, decode, printable
from autoformer.data.loading import groups_by_part, load_parts
from autoformer.data.parts import DataConfig, DataParts, Part
from autoformer.data.preprocessing import ORIENTATION, Preprocessing, convert
from autoformer.data.reading import for_each
from autoformer.data.tar_images import TarImages
from autoformer.errors import DataError
from autoformer.progress import Progress, silent

EXAMPLES = 5  # names shown of a finding
LARGE_PIXELS = 16e6  # width times height, above which decoding holds up the training
LONG_RATIO = 3.0  # longer to shorter side
SMALL_SHARE = 0.5  # of the image size that networks take
FEW_IMAGES = 20  # of a class in train, below which its share of a held-out part says little
IMBALANCE = 10.0  # largest to smallest class of train
PNG_START, PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # the byte that holds the bits of a channel

ODD = {
    "rotated": ("EXIF asks for a rotation or mirroring", "it is applied, in training and on the device"),
    "cmyk": ("CMYK", "converted to RGB without the colour profile"),
    "deep": ("16 bit a channel", "scaled down to 8 bit"),
    "float": ("floating point values", "clipped to 0–255, so values of 0–1 turn black; store them as 8 or 16 bit"),
    "transparent": ("transparency", "laid on white"),
    "animated": ("several frames", "the first is taken"),
    "large": (f"more than {LARGE_PIXELS / 1e6:g} million pixels", "decoded whole each time; store them smaller to train faster"),
    "long": (f"one side more than {LONG_RATIO:g} times the other", "the middle square is kept, the rest cut off"),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of thing that was found."""

    kind: str
    count: int
    text: str  # what it is
    consequence: str  # what is done about it
    examples: tuple[str, ...] = ()
    refuses: bool = False  # whether training is refused because of it


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """What a data set holds and what was found in it."""

    source: str
    layout: str
    classes: tuple[str, ...]
    images: dict[str, tuple[int, ...]]  # by part: images of each class
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def is_usable(self) -> bool:
        """Whether training would start."""
        return not any(finding.refuses for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"format": "autoformer/data-check/1", **asdict(self), "is_usable": self.is_usable}


@dataclass(frozen=True, slots=True)
class Seen:
    """What one decoding tells about an image."""

    digest: bytes  # of size and RGB pixels
    thumbnail: NDArray[np.uint8]  # [16, 16, 3]
    mode: str
    size: tuple[int, int]  # width and height in pixels, upright
    odd: frozenset[str]  # keys of `ODD`


@dataclass(frozen=True)
class Entry:
    """One image of the check."""

    part: str
    name: str
    label: int
    seen: Seen | None  # None: it cannot be read

    @property
    def place(self) -> str:
        return f"{self.part}: {self.name}"


def check_data(config: DataConfig, *, near: bool = True, progress: Progress = silent) -> DataCheck:
    """Looks at every image of the data set that `config` names.

    A data set that cannot be cut into parts at all gives a check with that one finding. `near` also compares all images across
    parts for near duplicates, at 6 seconds per billion pairs.
    """
    started = time.perf_counter()
    try:
        parts = load_parts(config.model_copy(update={"unreadable": "skip"}))  # the first bad file should not hide the others
    except DataError as error:
        refusal = Finding(kind="refused", count=1, text=str(error), consequence="training is refused", refuses=True)
        return DataCheck(
            source=config.source, layout="", classes=(), images={}, findings=(refusal,), seconds=time.perf_counter() - started
        )
    three = (parts.train, parts.search, parts.test.sealed)
    entries = _entries(three, progress)
    findings = [
        *_unreadable(entries, parts, config),
        *_beside(parts),
        *_classes(parts),
        *_odd(entries, parts.preprocessing),
        *_exact(entries, parts.classes),
        *(_near(entries, parts.classes, progress) if near else ()),
        *(_groups(three, config.group_by) if config.group_by is not None else ()),
    ]
    return DataCheck(
        source=parts.source,
        layout=parts.layout,
        classes=parts.classes,
        images={part.name: tuple(np.bincount(part.labels, minlength=len(parts.classes)).tolist()) for part in three},
        findings=tuple(findings),
        seconds=time.perf_counter() - started,
    )


# --- one image ---------------------------------------------------------------------------------------------------


def examine(part: Part, index: int) -> Seen:
    """Decodes one image. Raises `DataError` when it cannot be read or converted."""
    images, content = part.images, b""
    if isinstance(images, FileImages | TarImages):
        content = images.read(index)
        image = decode(content, called(images, index))
    else:
        image = images.open(index)
    odd = set()
    if image.getexif().get(ORIENTATION, 1) != 1:
        odd.add("rotated")
    if image.mode == "CMYK":
        odd.add("cmyk")
    if image.mode.startswith("I") or (content.startswith(PNG_START) and content[PNG_DEPTH : PNG_DEPTH + 1] == b"\x10"):
        odd.add("deep")
    if image.mode == "F":
        odd.add("float")
    if _is_transparent(image):
        odd.add("transparent")
    if getattr(image, "is_animated", False):
        odd.add("animated")
    rgb = convert(image, 3)
    if rgb.width * rgb.height > LARGE_PIXELS:
        odd.add("large")
    if max(rgb.size) > LONG_RATIO * min(rgb.size):
        odd.add("long")
    digest = hashlib.blake2b(repr(rgb.size).encode() + rgb.tobytes(), digest_size=16).digest()
    thumbnail = np.asarray(rgb.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), dtype=np.uint8)
    return Seen(digest, thumbnail, image.mode, rgb.size, frozenset(odd))


def _is_transparent(image: Image.Image) -> bool:
    """Whether some pixel really is; many files have an alpha channel of nothing but opaque."""
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return isinstance(lowest, int | float) and lowest < 255


def _entries(parts: Sequence[Part], progress: Progress) -> list[Entry]:
    """Every image of the parts, examined."""

    def look(part: Part, index: int) -> Entry:
        label = int(part.images.labels[index])
        try:
            return Entry(part.name, called(part.images, index), label, examine(part, index))
        except DataError:
            return Entry(part.name, called(part.images, index), label, None)

    total = sum(map(len, parts))
    entries: list[Entry] = []
    for part in parts:
        with closing(for_each(part.images, part.indices, partial(look, part))) as looked_at:
            for entry in looked_at:
                entries.append(entry)
                progress("look at images", len(entries), total)
    return entries


# --- findings ----------------------------------------------------------------------------------------------------


def _finding(kind: str, entries: Sequence[Entry], text: str, consequence: str, refuses: bool = False) -> Iterable[Finding]:
    """The finding that some images are so; none where none are."""
    if entries:
        names = tuple(entry.place for entry in entries[:EXAMPLES])
        yield Finding(kind=kind, count=len(entries), text=text, consequence=consequence, examples=names, refuses=refuses)


def _unreadable(entries: Sequence[Entry], parts: DataParts, config: DataConfig) -> Iterable[Finding]:
    broken = [entry for entry in entries if entry.seen is None]
    lost = {entry.label for entry in entries if entry.part == "train"}
    lost -= {entry.label for entry in entries if entry.part == "train" and entry.seen is not None}
    if lost:
        consequence = f"training is refused: no image of class {parts.classes[min(lost)]!r} can be read"
    elif config.unreadable == "stop":
        consequence = "training is refused; repair or remove them, or set data.unreadable=skip"
    elif len(broken) > config.max_unreadable:
        consequence = f"training is refused: more than data.max_unreadable={config.max_unreadable}"
    else:
        yield from _finding("unreadable", broken, "cannot be read as images", "left out and named in the record of the run")
        return
    yield from _finding("unreadable", broken, "cannot be read as images", consequence, refuses=True)


def _beside(parts: DataParts) -> Iterable[Finding]:
    """What lies among the images and is not used."""
    root = Path(parts.source)
    for kind, paths, text, consequence in parts.remarks.found(root if root.is_dir() else None):
        yield Finding(
            kind=kind, count=len(paths), text=text, consequence=consequence, examples=tuple(map(printable, paths[:EXAMPLES]))
        )  # fmt: skip


def _classes(parts: DataParts) -> Iterable[Finding]:
    counts = Counter(parts.train.labels.tolist())
    sizes = sorted((counts[label], name) for label, name in enumerate(parts.classes))
    few = [f"{name} ({count})" for count, name in sizes if count < FEW_IMAGES]
    if few:
        yield Finding(
            kind="few", count=len(few), text=f"classes with fewer than {FEW_IMAGES} images to train on",
            consequence="trained on as they are; their accuracy is uncertain", examples=tuple(few[:EXAMPLES]),
        )  # fmt: skip
    (smallest, least), (largest, most) = sizes[0], sizes[-1]
    if largest > IMBALANCE * max(1, smallest):
        yield Finding(
            kind="imbalance", count=1, text=f"the largest class of train has {largest} images, the smallest {smallest}",
            consequence="trained on as they are; top-1 accuracy favours the large classes, so prefer balanced accuracy",
            examples=(most, least),
        )  # fmt: skip
    for part in (parts.search, parts.test.sealed):
        missing = sorted(set(counts) - set(part.labels.tolist()))
        if missing:
            yield Finding(
                kind="missing", count=len(missing), text=f"classes of train that have no image in {part.name}",
                consequence="their accuracy is not measured there",
                examples=tuple(parts.classes[label] for label in missing[:EXAMPLES]),
            )  # fmt: skip


def _odd(entries: Sequence[Entry], preprocessing: Preprocessing) -> Iterable[Finding]:
    readable = [(entry, entry.seen) for entry in entries if entry.seen is not None]
    for kind, (text, consequence) in ODD.items():
        yield from _finding(kind, [entry for entry, seen in readable if kind in seen.odd], text, consequence)
    small = [entry for entry, seen in readable if min(seen.size) < SMALL_SHARE * preprocessing.image_size]
    text = f"shorter side below half of the {preprocessing.image_size} pixels that networks take"
    yield from _finding("small", small, text, "enlarged, which adds no detail; a smaller data.image_size suits them")
    grey = [entry for entry, seen in readable if seen.mode in ("1", "L", "LA", "La") or seen.mode.startswith("I")]
    if preprocessing.in_chans == 3:
        yield from _finding("grey", grey, "grey images among colour images", "the grey value stands in all three channels")
    elif len(grey) < len(readable):
        found = {id(entry) for entry in grey}
        colour = [entry for entry, _ in readable if id(entry) not in found]
        yield from _finding("colour", colour, "colour images among grey images", "converted to grey")


def _pairs(groups: Sequence[Sequence[Entry]], classes: Sequence[str]) -> tuple[str, ...]:
    """Examples of images that belong together, with their classes where these differ."""
    texts = []
    for group in groups[:EXAMPLES]:
        differ = len({entry.label for entry in group}) > 1
        shown = [f"{entry.place} ({classes[entry.label]})" if differ else entry.place for entry in group[:3]]
        texts.append(" = ".join(shown) + (" = ..." if len(group) > 3 else ""))
    return tuple(texts)


def _exact(entries: Sequence[Entry], classes: Sequence[str]) -> Iterable[Finding]:
    readable = [entry for entry in entries if entry.seen is not None]
    same = [[readable[i] for i in group] for group in same_groups([e.seen.digest for e in readable if e.seen is not None])]
    across = [group for group in same if len({entry.part for entry in group}) > 1]
    within = [group for group in same if len({entry.part for entry in group}) == 1]
    conflicts = [group for group in same if len({entry.label for entry in group}) > 1]
    kinds = (
        ("duplicates across", across, "sets of equal images in more than one part",
         "kept: the score of the held-out part is too good by them; remove one of each, or use --group-by"),
        ("duplicates within", within, "sets of equal images within one part", "kept: each counts as often as it is there"),
        ("label conflicts", conflicts, "sets of equal images under different classes",
         "kept: no network can be right about all; decide on one class"),
    )  # fmt: skip
    for kind, groups, text, consequence in kinds:
        if groups:
            yield Finding(
                kind=kind, count=len(groups), text=text, consequence=consequence, examples=_pairs(groups, classes)
            )  # fmt: skip


def _near(entries: Sequence[Entry], classes: Sequence[str], progress: Progress) -> Iterable[Finding]:
    readable = [(entry, entry.seen) for entry in entries if entry.seen is not None]
    if not readable:
        return
    thumbnails = np.stack([seen.thumbnail for _, seen in readable])
    places = {name: [i for i, (entry, _) in enumerate(readable) if entry.part == name] for name in ("train", "search", "test")}
    found: list[list[Entry]] = []
    compared = (("train", "search"), ("train", "test"), ("search", "test"))
    for done, (one, other) in enumerate(compared):
        progress("compare parts", done, len(compared))
        for first, second in near_pairs(thumbnails, places[one], places[other]):
            if readable[first][1].digest != readable[second][1].digest:
                found.append([readable[first][0], readable[second][0]])
    progress("compare parts", len(compared), len(compared))
    conflicts = sum(one.label != other.label for one, other in found)
    if found:
        words = f", {conflicts} of them under different classes" if conflicts else ""
        yield Finding(
            kind="near duplicates across", count=len(found), text=f"pairs of nearly equal images in different parts{words}",
            consequence="kept: look at them; what shows the same scene belongs in one part (--group-by)",
            examples=_pairs(found, classes),
        )  # fmt: skip


def _groups(parts: Sequence[Part], group_by: str) -> Iterable[Finding]:
    shared = {key: counts for key, counts in groups_by_part(parts, group_by).items() if len(counts) > 1}
    if shared:
        texts = (f"{key!r}: " + ", ".join(f"{n} in {part}" for part, n in counts.items()) for key, counts in shared.items())
        yield Finding(
            kind="groups across", count=len(shared), text="groups that lie in more than one part, as the folders cut them",
            consequence="kept: the score of the held-out part is too good by them; put all images into one folder of classes",
            examples=tuple(texts)[:EXAMPLES],
        )  # fmt: skip
