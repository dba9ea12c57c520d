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
from pathlib import Path
from typing import Any

import numpy as np

from autoformer.data.duplicates import near_pairs, same_groups
from autoformer.data.examining import ODD, Seen, examine
from autoformer.data.images import called, printable
from autoformer.data.loading import groups_by_part, load_parts
from autoformer.data.parts import UNLABELLED, DataConfig, DataParts, Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.data.reading import for_each
from autoformer.data.value_range import GREY_MODES, NotFiniteError, Range
from autoformer.errors import DataError
from autoformer.progress import Progress, silent

EXAMPLES = 5  # names shown of a finding
SMALL_SHARE = 0.5  # of the image size that networks take
FEW_IMAGES = 20  # of a class in train, below which its share of a held-out part says little
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
    unlabelled: int | None = None  # images without labels, where some are given

    @property
    def is_usable(self) -> bool:
        """Whether training would start."""
        return not any(finding.refuses for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        found = {"format": "autoformer/data-check/1", **asdict(self), "is_usable": self.is_usable}
        return {key: value for key, value in found.items() if key != UNLABELLED or value is not None}


@dataclass(frozen=True)
class Entry:
    """One image of the check."""

    part: str
    name: str
    label: int
    seen: Seen | None  # None: it cannot be read
    is_finite: bool = True  # False: it cannot be used, since it holds infinity or what is not a number

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
    three, every = parts.three, _entries(parts.every, parts.preprocessing.value_range, progress)
    entries = [entry for entry in every if entry.part != UNLABELLED]
    findings = [
        *_unreadable(every, parts, config),
        *_beside(parts),
        *_classes(parts),
        *_odd(every, parts.preprocessing),
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
        unlabelled=None if parts.unlabelled is None else len(parts.unlabelled.part),
    )


def _entries(parts: Sequence[Part], value_range: Range | None, progress: Progress) -> list[Entry]:
    """Every image of the parts, examined."""

    def look(part: Part, index: int) -> Entry:
        label = int(part.images.labels[index])
        try:
            return Entry(part.name, called(part.images, index), label, examine(part.images, index, value_range))
        except DataError as error:
            is_finite = not isinstance(error.__cause__, NotFiniteError)
            return Entry(part.name, called(part.images, index), label, None, is_finite)

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
        consequence = "left out and named in the record of the run"
    for kind, text, is_finite in (
        ("unreadable", "cannot be read as images", True),
        ("not finite", "hold values that are infinite or not a number", False),
    ):
        some = [entry for entry in broken if entry.is_finite == is_finite]
        yield from _finding(kind, some, text, consequence, refuses=consequence.startswith("training is refused"))


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
        some = [entry for entry, seen in readable if kind in seen.odd]
        yield from _finding(kind, some, text, consequence.format(range=_words(preprocessing.value_range)))
    small = [entry for entry, seen in readable if min(seen.size) < SMALL_SHARE * preprocessing.image_size]
    text = f"shorter side below half of the {preprocessing.image_size} pixels that networks take"
    yield from _finding("small", small, text, "enlarged, which adds no detail; a smaller data.image_size suits them")
    grey = [entry for entry, seen in readable if seen.mode in GREY_MODES]
    if preprocessing.in_chans == 3:
        yield from _finding("grey", grey, "grey images among colour images", "the grey value stands in all three channels")
    elif len(grey) < len(readable):
        found = {id(entry) for entry in grey}
        colour = [entry for entry, _ in readable if id(entry) not in found]
        yield from _finding("colour", colour, "colour images among grey images", "converted to grey")


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
