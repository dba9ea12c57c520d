"""What is wrong with a data set, and what would be done about it; every image is decoded once.

Findings are facts with a consequence: what the code does with such images when it trains, or why it would refuse. The test
part is read like the others and not scored, so its ledger stays empty.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from autoformer.data.classes import CLASS_MAP, shown_order
from autoformer.data.decoding import RENAMED, is_heic
from autoformer.data.examining import ODD, Seen, examine, near_pairs, same_groups
from autoformer.data.images import FileImages, Images, called, printable
from autoformer.data.loading import groups_by_part, load_parts
from autoformer.data.parts import UNLABELLED, DataConfig, DataParts, Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.data.reading import for_each
from autoformer.data.remarks import by_ending
from autoformer.data.sizes import ChooseSize, ImageSizes, TrainingSize, configured_size
from autoformer.data.tar_images import TarImages
from autoformer.data.value_range import GREY_MODES, NotFiniteError, Range
from autoformer.errors import DataError
from autoformer.progress import Progress, silent

EXAMPLES = 5  # names shown of a finding
NAMED = 20  # names shown of folders without images, each of which somebody may have meant to be a class
SMALL_SHARE = 0.5  # of the image size that networks take
FAR_SHRUNK = 4.0  # shorter side to the image size that networks take: 16 pixels become one, and more
FEW_IMAGES = 20  # of a class in train, below which its share of a held-out part says little
REFUSED = "training is refused"
IMBALANCE = 10.0  # largest to smallest class of train


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
    sizes: ImageSizes | None = None  # of the images that can be read; None where there are none
    training_size: TrainingSize | None = None
    unlabelled: int | None = None  # images without labels, where some are given

    @property
    def is_usable(self) -> bool:
        """Whether training would start."""
        return not any(finding.refuses for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        found = {"format": "autoformer/data-check/1", **asdict(self), "is_usable": self.is_usable}
        return {key: value for key, value in found.items() if key != UNLABELLED or value is not None}


FAULTS = {  # kind: what it is, and what helps
    "unreadable": ("cannot be read as images", ""),
    "heic": ("HEIC photographs under other endings, which cannot be read", f"; {RENAMED}"),
    "not finite": ("hold values that are infinite or not a number", ""),
}


@dataclass(frozen=True)
class Entry:
    """One image of the check."""

    part: str
    name: str
    label: int
    seen: Seen | None  # None: it cannot be used
    fault: str = ""  # why not, a key of `FAULTS`

    @property
    def place(self) -> str:
        return f"{self.part}: {self.name}"


def check_data(
    config: DataConfig, *, near: bool = True, choose_size: ChooseSize = configured_size, progress: Progress = silent
) -> DataCheck:
    """Looks at every image of the data set that `config` names.

    A data set that cannot be cut into parts at all gives a check with that one finding. `near` also compares all images across
    parts for near duplicates, at 6 seconds per billion pairs. `choose_size` says at which size they would be trained on.
    """
    started = time.perf_counter()
    try:
        parts = load_parts(config.model_copy(update={"unreadable": "skip"}))  # the first bad file should not hide the others
    except DataError as error:
        refusal = Finding(kind="refused", count=1, text=str(error), consequence=REFUSED, refuses=True)
        return DataCheck(
            source=config.source, layout="", classes=(), images={}, findings=(refusal,), seconds=time.perf_counter() - started
        )
    three, size = parts.three, choose_size(parts)
    every = _entries(parts.every, parts.preprocessing.value_range, progress)
    entries = [entry for entry in every if entry.part != UNLABELLED]
    findings = [
        *_unreadable(every, parts, config),
        *_beside(parts, config),
        *_order(parts),
        *_classes(parts),
        *_odd(every, parts.preprocessing),
        *_of_size(entries, size.pixels),
        *_exact(entries, parts.classes),
        *(_near(entries, parts.classes, progress) if near else ()),
        *_without_labels(every, parts, near),
        *(_groups(three, config.group_by) if config.group_by is not None else ()),
    ]
    return DataCheck(
        source=parts.source,
        layout=parts.layout,
        classes=parts.classes,
        images={part.name: tuple(np.bincount(part.labels, minlength=len(parts.classes)).tolist()) for part in three},
        findings=tuple(findings),
        seconds=time.perf_counter() - started,
        sizes=ImageSizes.of([entry.seen.size for entry in entries if entry.seen is not None]),
        training_size=size,
        unlabelled=None if parts.unlabelled is None else len(parts.unlabelled.part),
    )


def _entries(parts: Sequence[Part], value_range: Range | None, progress: Progress) -> list[Entry]:
    """Every image of the parts, examined."""

    def look(part: Part, index: int) -> Entry:
        label = int(part.images.labels[index])
        try:
            return Entry(part.name, called(part.images, index), label, examine(part.images, index, value_range))
        except DataError as error:
            return Entry(part.name, called(part.images, index), label, None, _fault(part.images, index, error))

    total = sum(map(len, parts))
    entries: list[Entry] = []
    for part in parts:
        with closing(for_each(part.images, part.indices, partial(look, part))) as looked_at:
            for entry in looked_at:
                entries.append(entry)
                progress("look at images", len(entries), total)
    return entries


def _fault(images: Images, index: int, error: DataError) -> str:
    """Why an image cannot be used, a key of `FAULTS`."""
    if isinstance(error.__cause__, NotFiniteError):
        return "not finite"
    try:
        content = images.read(index) if isinstance(images, FileImages | TarImages) else b""
    except DataError:
        return "unreadable"
    return "heic" if is_heic(content) else "unreadable"


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
        consequence = f"{REFUSED}: no image of class {parts.classes[min(lost)]!r} can be read"
    elif config.unreadable == "stop":
        consequence = f"{REFUSED}; repair or remove them, or leave them out: --set data.unreadable=skip"
    elif len(broken) > config.max_unreadable:
        consequence = f"{REFUSED}: more than data.max_unreadable={config.max_unreadable}"
    else:
        consequence = "left out and named in the record of the run"
    refuses = consequence.startswith(REFUSED)
    for kind, (text, remedy) in FAULTS.items():
        some = [entry for entry in broken if entry.fault == kind]
        files = [entry.name for entry in some if PurePosixPath(entry.name).suffix]
        yield from _finding(kind, some, f"{text} ({by_ending(files)})" if files else text, f"{consequence}{remedy}", refuses)


def _beside(parts: DataParts, config: DataConfig) -> Iterable[Finding]:
    """What lies among the images and is not used; a link that leads nowhere may have been meant to be a class."""
    root = Path(parts.source)
    for kind, paths, text, consequence in parts.remarks.found(root if root.is_dir() else None):
        names = tuple(map(printable, paths[: NAMED if kind == "empty" else EXAMPLES]))
        refuses = kind == "lost" and config.unreadable == "stop"
        done = f"{REFUSED}; repair or remove them, or leave them out: --set data.unreadable=skip" if refuses else consequence
        yield Finding(kind=kind, count=len(paths), text=text, consequence=done, examples=names, refuses=refuses)


def _order(parts: DataParts) -> Iterable[Finding]:
    """Folders of classes that programs number in different ways."""
    if (other := parts.natural_order) is not None:
        yield Finding(
            kind="order", count=sum(name != elsewhere for name, elsewhere in zip(parts.classes, other, strict=True)),
            text=f"classes whose number depends on how names are sorted: as text {shown_order(parts.classes, other)}, naturally "
            f"(timm's way) {shown_order(other, parts.classes)}",
            consequence=f"numbered as text; every network carries its names, and {CLASS_MAP}, with which timm numbers them alike",
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
        some = [entry for entry, seen in readable if kind in seen.odd]
        yield from _finding(kind, some, text, consequence.format(range=_words(preprocessing.value_range)))
    grey = [entry for entry, seen in readable if seen.mode in GREY_MODES]
    if preprocessing.in_chans == 3:
        yield from _finding("grey", grey, "grey images among colour images", "the grey value stands in all three channels")
    elif len(grey) < len(readable):
        found = {id(entry) for entry in grey}
        colour = [entry for entry, _ in readable if id(entry) not in found]
        yield from _finding("colour", colour, "colour images among grey images", "converted to grey")


def _of_size(entries: Sequence[Entry], pixels: int) -> Iterable[Finding]:
    """Images that are far smaller or far larger than what networks take, squares of so many pixels a side."""
    readable = [(entry, min(entry.seen.size)) for entry in entries if entry.seen is not None]
    small = [entry for entry, side in readable if side < SMALL_SHARE * pixels]
    text = f"shorter side below half of the {pixels} pixels that networks take"
    yield from _finding("small", small, text, "enlarged, which adds no detail; a smaller data.image_size suits them")
    large = [(entry, side) for entry, side in readable if side > FAR_SHRUNK * pixels]
    if large:
        middle = sorted(side for _, side in large)[len(large) // 2]
        yield from _finding(
            "shrunk", [entry for entry, _ in large],
            f"shorter side more than {FAR_SHRUNK:g} times the {pixels} pixels that networks take",
            f"shrunk to 1/{middle / pixels:.0f} of their side (median), and what is smaller than that is lost; "
            f"--set data.image_size={2 * pixels} keeps more of it, at about 4 times the time",
        )  # fmt: skip


def _words(found: Range | None) -> str:
    return "" if found is None else f", {found[0]:g}…{found[1]:g}"


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


def _without_labels(entries: Sequence[Entry], parts: DataParts, near: bool) -> Iterable[Finding]:
    """Images without labels that the search or test part holds too: the same files and, with `near`, nearly equal images."""
    if parts.unlabelled is None:
        return
    if names := parts.unlabelled.held_out:
        yield Finding(
            kind="unlabelled held out", count=len(names), text="images without labels that the search or test part holds",
            consequence="left out", examples=names[:EXAMPLES],
        )  # fmt: skip
    if not near:
        return
    readable = [(entry, entry.seen) for entry in entries if entry.seen is not None]
    own = [i for i, (entry, _) in enumerate(readable) if entry.part == UNLABELLED]
    held_out = [i for i, (entry, _) in enumerate(readable) if entry.part in ("search", "test")]
    if not own or not held_out:
        return
    found = near_pairs(np.stack([seen.thumbnail for _, seen in readable]), own, held_out)
    pairs = [(readable[first][0], readable[second][0]) for first, second in found]
    if pairs:
        yield Finding(
            kind="unlabelled near held out", count=len(pairs),
            text="pairs of an image without a label and a nearly equal one of the search or test part",
            consequence="kept: networks learn of held-out images what their teacher says of them; remove those without labels",
            examples=tuple(f"{one.place} = {other.place}" for one, other in pairs[:EXAMPLES]),
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
