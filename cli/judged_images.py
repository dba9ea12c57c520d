"""The images that a network is judged on: a part of those it was made from, or others, cut or as they lie.

Reading a test part is counted in a ledger, also where it is read among all images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from autoformer.cli.class_order import order_of
from autoformer.data.classes import recorded_names, same_name, some_of
from autoformer.data.ledger import LEDGER, read_ledger
from autoformer.data.loading import fitting_preprocessing, load_every_image, load_parts, parts_of_record
from autoformer.data.parts import DataConfig, DataParts, EveryImage, Part, TestPart
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import DataError
from autoformer.export.bundle import unpack_bundle
from autoformer.export.predictor import Predictor
from autoformer.files import TIMM, read_json
from autoformer.temporary import temporary_folder

PartWords = Literal["search", "test", "all"]
RECORDS = ("subnet.json", "network.json", "manifest.json", "supernet.json", "run.json")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the words on the command line ask for."""

    artefact: str
    part: PartWords | None = None  # None: search; all of others' images
    data: str | None = None
    classes: str | None = None  # `--classes`
    ledger: Path | None = None  # None: beside the artefact


@dataclass(frozen=True, kw_only=True)
class JudgedImages:
    """Images with their classes numbered as the outputs of `predictor`, which answers to them."""

    part: PartWords
    parts: tuple[Part, ...]
    classes: tuple[str, ...]
    predictor: Predictor
    preparation: Preprocessing
    source: str
    words: str  # which images of the source these are
    notes: tuple[str, ...]  # what a person should know about them
    skip_unreadable: bool

    @property
    def digest(self) -> str:
        """That of the only part; of several, SHA-256 over theirs."""
        digests = [part.digest for part in self.parts]
        return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def judged_images(request: Request, predictor: Predictor) -> JudgedImages:
    """The images that `request` names, for the network that `predictor` opened.

    Raises `DataError` where there are none, where they cannot be cut as asked, and where they hold classes that it does not know.
    """
    record = record_of(request.artefact, "data")
    if record is None and request.data is None:
        raise DataError(f"{request.artefact} does not say which images it was made for; give --data")
    own = record and record["data"]
    request, found = _asked_for(request, own)
    notes = list[str]()
    order, guessed = order_of(found, predictor.classes, request.classes, request.artefact)
    if guessed is not None:
        notes.append(guessed)
    _check_known(found, order, request.artefact)
    images = found.in_order(order)
    predictor = replace(predictor, classes=order)
    preparation = predictor.preparation(_assumed(images, predictor, request, own))
    if predictor.preprocessing is None:
        notes.append(f"{request.artefact} does not say how images are prepared; taken is what fits the images: {preparation}")
    parts, words, remarks = _chosen(images, request, own)
    assert request.part is not None
    return JudgedImages(
        part=request.part, parts=parts, classes=order, predictor=predictor, preparation=preparation, source=images.source,
        words=words, notes=(*notes, *remarks), skip_unreadable=request.part == "all",
    )  # fmt: skip


def _asked_for(request: Request, own: Mapping[str, Any] | None) -> tuple[Request, DataParts | EveryImage]:
    """The request with its part, and the images.

    Unasked the part is every image of those that the network was not made from; of its own, and where nothing says which
    those are, the search part.
    """
    part: PartWords = request.part or "search"
    if part == "all" or (request.part is None and own is not None and request.data is not None):
        every = every_image(request, own)
        if part == "all" or isinstance(every, EveryImage):
            return replace(request, part="all"), every
    return replace(request, part=part), _cut(request, own)


def _cut(request: Request, own: Mapping[str, Any] | None) -> DataParts | EveryImage:
    """The images cut into parts; of a source that holds a test part alone, that part."""
    try:
        return parts_of_record(own, request.data) if own is not None else load_parts(DataConfig(source=request.data or ""))
    except DataError as error:
        if request.data is None:
            raise
        try:
            every = load_every_image(_config(request, own))
        except DataError:
            raise error from None
        if request.part == "test" and [part.name for part in every.parts] == ["test"]:
            return every
        raise DataError(f"{error}; or give --part all, which scores all of them as they lie") from error


def every_image(request: Request, own: Mapping[str, Any] | None) -> DataParts | EveryImage:
    """All images: in the parts of the record where they are its own, else as they lie."""
    if request.data is None:
        assert own is not None
        return parts_of_record(own)
    every = load_every_image(_config(request, own))
    if own is not None and own.get("config") is not None and sum(map(len, every.parts)) == _recorded_images(own):
        try:
            parts = parts_of_record(own, request.data)
            if parts.test.digest == own["parts"]["test"]["digest"]:
                return parts
        except (DataError, KeyError, TypeError):
            return every
    return every


def _recorded_images(own: Mapping[str, Any]) -> int:
    """How many images a record is of, those left out as unreadable among them; 0 where it does not say."""
    try:
        return sum(int(part["images"]) for part in own["parts"].values()) + sum(map(len, own.get("unreadable", {}).values()))
    except (KeyError, TypeError, ValueError, AttributeError):
        return 0


def _config(request: Request, own: Mapping[str, Any] | None) -> DataConfig:
    """How images of another source are read: where a named one lies may stand in the record."""
    root = (own or {}).get("config") or {}
    return DataConfig(source=request.data or "", root=root.get("root") if isinstance(root, Mapping) else None)


def _assumed(
    images: DataParts | EveryImage, predictor: Predictor, request: Request, own: Mapping[str, Any] | None
) -> Preprocessing:
    """What fits the images; looked for only where the network does not say all of it."""
    if isinstance(images, DataParts):
        return images.preprocessing
    if predictor.preprocessing is not None and not str(predictor.path).startswith(TIMM):
        return predictor.preprocessing
    return fitting_preprocessing(images, _config(request, own))


def _check_known(images: DataParts | EveryImage, order: Sequence[str], artefact: str) -> None:
    """Raises `DataError` for classes of the images that are none of the network's."""
    known = set(map(same_name, order))
    strange = [name for name in images.classes if same_name(name) not in known]
    if not strange:
        return
    if len(strange) == len(images.classes):
        raise DataError(
            f"{artefact} knows the classes {some_of(order)}, the images have {some_of(images.classes)}; give the data set it was "
            "made for, or train it for these: autoformer finetune"
        )
    more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
    raise DataError(
        f"{images.source} holds class {strange[0]!r}{more}, which {artefact} does not know; it knows {', '.join(order[:8])}"
        f"{' ...' if len(order) > 8 else ''}: rename or move away the folders of others"
    )


def _chosen(
    images: DataParts | EveryImage, request: Request, own: Mapping[str, Any] | None
) -> tuple[tuple[Part, ...], str, tuple[str, ...]]:
    """The parts that are asked about, what they are in words, and what is to be said of them."""

    def read(test: TestPart) -> tuple[Part, str]:
        return read_test_part(test, request.artefact, request.ledger)

    if isinstance(images, EveryImage):
        parts = images.parts
        if request.part == "test":
            alone, counted = read(TestPart(parts[0]))
            return (alone,), "the test part", (counted,)
        return parts, images.layout.partition(";")[0], tuple(filter(None, (images.layout.partition("; ")[2],)))
    total = len(images.train) + len(images.search) + len(images.test)
    if request.part == "all":
        said = "the images that it was trained on are among them, so the score says little about new images"
        test, counted = read(images.test)
        return (images.train, images.search, test), f"all {total} images", (said, counted)
    part, *remarks = (images.search,) if request.part == "search" else read(images.test)
    cut = f"scored are {len(part)} of {total} images, the {request.part} part; --part all scores every image"
    return (part,), f"the {request.part} part", (*((cut,) if request.data is not None else ()), *remarks)


def foreign_images(request: Request, own: Mapping[str, Any] | None) -> EveryImage:
    """Every image of `--data`, however the folders lie, its classes numbered as in the record of a network, where there is one.

    Raises `DataError` for images that the network was trained on, and for classes that it does not know.
    """
    found = every_image(request, own)
    if isinstance(found, DataParts):
        raise DataError(
            f"{found.source} holds the images that {request.artefact} was trained on, so their score says little about new ones; "
            "take --part test, or give others"
        )
    names = None if own is None else recorded_names(own)
    if names is None:
        return found
    _check_known(found, names, request.artefact)
    return found.in_order(names)


def read_test_part(test: TestPart, artefact: str, ledger: Path | None) -> tuple[Part, str]:
    """The images of the test part, and in words how often it was read by now, as `ledger` (None: the artefact's own) says."""
    place = ledger or ledger_of(artefact)
    part = test.read(artefact, place)
    times = sum(reading.split == test.digest for reading in read_ledger(place))
    how_often = "for the first time" if times == 1 else f"{times} times by now; the more often, the less it says about new images"
    return part, f"the test part was read {how_often} (counted in {place})"


def ledger_of(words: str) -> Path:
    """The ledger of the run that an artefact belongs to; without a run, one beside it. Of timm's networks: one right here."""
    artefact = Path("." if words.startswith(TIMM) else words)
    place = artefact if artefact.is_dir() else artefact.parent
    run = next((folder for folder in (place, *place.resolve().parents) if (folder / "run.json").is_file()), place)
    return run / LEDGER


def record_of(words: str, key: str) -> dict[str, Any] | None:
    """The nearest record with an object or a name under `key` in an artefact's folder or the two above (a run's), or None."""
    if words.startswith(TIMM):
        return None
    artefact = Path(words)
    if artefact.suffix == ".zip" and artefact.is_file():
        with temporary_folder("bundle") as temporary:
            return record_of(str(unpack_bundle(artefact, temporary / "bundle")), key)
    for folder in (artefact, artefact.parent, artefact.parent.parent):
        for name in RECORDS:
            if (folder / name).is_file():
                record = read_json(folder / name)
                if isinstance(record.get(key), dict | str):
                    return record
    return None
