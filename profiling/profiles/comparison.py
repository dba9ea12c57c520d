"""Networks of any kind side by side: accuracy on the same images, size, and latency measured in one interleaved session.

An artefact is what `open_predictor` opens: a network's folder or name, an ONNX file, an engine, a folder of exported files or a
bundle, which stands for all its files, as a finished run does. A network of torch is written to ONNX first, in fp32, and that
file is scored and timed, so that networks stand side by side as they would be deployed. Every one is asked about the same images,
each prepared as it wants them. The first is what the others are compared with: by how much their scores differ, image by image,
and how their median times relate to its, where both are of one backend, and of one precision or one network. Whatever could not
be found out stands in the answer with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.data.parts import Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import AutoformerError, CheckpointError, ExportError, MeasurementError
from autoformer.evaluate import EvaluationSet, predictions
from autoformer.export.bundle import unpack_bundle
from autoformer.export.manifest import FILE_NAME as MANIFEST
from autoformer.export.predictor import EXPECTED, open_predictor
from autoformer.files import TIMM
from autoformer.metric import WORDS, Difference, Metric, Score, paired_difference, score
from autoformer.pretrained.named_network import is_network
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement
from autoformer.profiling.profiles.artefact_costs import Costs, costs_of
from autoformer.profiling.profiles.as_onnx import write_as_onnx
from autoformer.profiling.profiles.latency import NO_GPU, NotMeasured, Profile, ProfileRequest, expand, profile_artefacts
from autoformer.progress import Progress, silent
from autoformer.search.pareto import nondominated_ranks
from autoformer.temporary import temporary_folder

FORMAT = "autoformer/comparison/1"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One artefact on one backend; None where something was not found out."""

    name: str
    costs: Costs
    score: Score | None = None
    difference: Difference | None = None  # of the score to the first row's
    measurement: Measurement | None = None
    network: str | None = None  # the folder that holds several files of one network; None: it stands alone
    ratio: float | None = None  # median time over that of the first artefact, where the two can be related
    image_size: int | None = None  # pixels a side, as the network was asked
    pareto: bool = False  # no other row on the same backend is at least as good in score and time and better in one

    @property
    def backend(self) -> str | None:
        """What ran it."""
        return None if self.measurement is None else self.measurement.backend

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without the single times."""
        taken = self.measurement
        return {
            "name": self.name,
            **asdict(self.costs),
            "score": self.score and self.score.to_dict(),
            "difference": self.difference and self.difference.to_dict(),
            "latency": taken and {
                "backend": taken.backend, "precision": taken.precision, **taken.stats.to_dict(),
                "verdict": {"level": taken.verdict.level, "reasons": list(taken.verdict.reasons)},
                "means": str(taken.measurement_conditions("p50")),
            },
            "ratio": self.ratio,
            "image_size": self.image_size,
            "pareto": self.pareto,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The answer: rows in the order asked for, and what is missing."""

    rows: tuple[Row, ...]
    missing: tuple[NotMeasured, ...]
    metric: Metric
    images: int
    part: str  # "search", "test" or "all"; "" without images
    split: str | None  # digest of the images
    profile: Profile | None  # everything about the times

    @property
    def words(self) -> str:
        """What is compared on how many images."""
        if not self.images:
            return "no images"
        return f"{WORDS[self.metric]} on {self.images} images{'' if self.part == 'all' else f' of the {self.part} part'}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "format": FORMAT,
            "rows": [row.to_dict() for row in self.rows],
            "not_measured": [asdict(missing) for missing in self.missing],
            "metric": self.metric,
            "images": self.images,
            "part": self.part,
            "split": self.split,
            "device": self.profile and self.profile.reference.device.to_dict(),
            "batch": self.profile and self.profile.measurements[0].batch,
            "threads": self.profile and self.profile.reference.threads,
            "config": self.profile and asdict(self.profile.config),
            "created": self.profile and self.profile.created,
        }


@dataclass(frozen=True, kw_only=True)
class Images:
    """What the artefacts are asked about.

    `read` gives the images to the artefact of these words, and may count that it did. `order` gives the order of its outputs,
    for its words and the classes that it names, if it does.
    """

    read: Callable[[str], Part]
    part: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing  # for files that do not say how images are prepared
    order: Callable[[str, Sequence[str] | None], Sequence[str]] | None = None  # None: that of `classes`, where it names none


def compare_artefacts(
    words: Sequence[str],
    images: Images | None,
    *,
    metric: Metric = "top1",
    config: MeasureConfig = MeasureConfig(),
    batch: int | None = None,
    threads: int | None = 1,
    progress: Progress = silent,
) -> Comparison:
    """Compares the artefacts that `words` name; without `images` by size and time alone.

    `batch` None means that of the first file that fixes one, else 1. Raises `CheckpointError` for words that name no artefact.
    """
    missing: list[NotMeasured] = []
    for one in words:
        if not one.startswith(TIMM) and not Path(one).exists():
            raise CheckpointError(f"{one} does not exist; expected {EXPECTED}")
    with ExitStack() as stack:
        named = expand([place for one in words for place in _unpacked(one, stack)], missing)
        if not named:
            raise CheckpointError(f"{', '.join(words)}: no file is there to compare; expected {EXPECTED}")
        costs = {label: costs_of(own_words) for own_words, label in named}  # first: what cannot be opened fails here
        asked, found, sizes, files = _Asked(images), {}, dict[str, int](), _as_files(named, missing, stack, progress)
        for own_words, label in named:
            place = files.get(label, own_words)
            try:
                found[label] = asked.predictions(own_words, place, progress)
                sizes[label] = asked.image_size
            except AutoformerError as error:
                missing.append(NotMeasured(label, "accuracy", str(error).replace(place, own_words)))  # not the file that stood in
        profile = _profile(files, missing, config, batch, threads, progress)
        rows = [row for own_words, label in named for row in _rows(own_words, label, costs[label], files.get(label), profile)]
        rows = [replace(_scored(row, found, named[0][1], asked.labels, metric), image_size=sizes.get(row.name)) for row in rows]
        rows = marked(with_ratios(rows))
        shown = _shown(named)
    return Comparison(
        rows=tuple(replace(row, name=shown[row.name]) for row in rows),
        missing=tuple(replace(item, name=shown.get(item.name, item.name)) for item in missing),
        metric=metric,
        images=len(asked.labels),
        part=images.part if images is not None and len(asked.labels) else "",
        split=asked.split,
        profile=profile,
    )


def _scored(row: Row, found: Mapping[str, NDArray[np.int64]], first: str, labels: NDArray[np.int64], metric: Metric) -> Row:
    """The row with what its predictions amount to, and how far that is from the first's."""
    if row.name not in found:
        return row
    own = found[row.name]
    compared = first in found and row.name != first
    return replace(
        row,
        score=score(own, labels, metric),
        difference=paired_difference(found[first], own, labels, metric) if compared else None,
    )


def _shown(named: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What each label is called: an exported file with its folder, an entrant of a race with its name, all else as it is."""
    files = {label: Path(words) for words, label in named if (Path(words).parent / MANIFEST).is_file()}
    short = {label: f"{path.parent.name}/{path.name}" for label, path in files.items()}
    entrants = {label: Path(words).parts[-3:] for words, label in named if Path(words).name == "network"}
    short |= {label: "/".join(parts) for label, parts in entrants.items()}
    every = {label: short.get(label, label) for _, label in named}
    return {label: name if list(every.values()).count(name) == 1 else label for label, name in every.items()}


class _Asked:
    """The images, decoded once for each preparation, and the classes that artefacts give them."""

    def __init__(self, images: Images | None) -> None:
        self.images = images
        self.labels: NDArray[np.int64] = np.empty(0, np.int64)
        self.split: str | None = None
        self.image_size = 0  # of the latest
        self._prepared: tuple[Preprocessing, EvaluationSet] | None = None  # one at a time: they may be large

    def predictions(self, words: str, place: str, progress: Progress) -> NDArray[np.int64]:
        """Of the artefact `words`, by what lies at `place`."""
        if self.images is None:
            raise MeasurementError("there are no images; give --data")
        with open_predictor(place) as opened:
            predictor = opened.knowing(self.images.classes, self.images.order and self.images.order(words, opened.classes))
            preparation = predictor.preparation(self.images.preprocessing)
            self.image_size = preparation.input_size
            part = self.images.read(words)
            if self._prepared is None or self._prepared[0] != preparation:
                self._prepared = (preparation, EvaluationSet.of(part, preparation))
            prepared = self._prepared[1]
            self.labels, self.split = prepared.labels, prepared.digest
            return predictions(predictor, prepared, progress=progress)


def _unpacked(words: str, stack: ExitStack) -> Iterator[str]:
    """The words, the exported files of a run, or the folder into which a bundle's archive was unpacked while the stack lasts."""
    if words.startswith(TIMM) or not words.endswith(".zip"):
        exported = Path(words) / "export"
        yield str(exported) if (Path(words) / "run.json").is_file() and exported.is_dir() else words
        return
    temporary = stack.enter_context(temporary_folder("bundle"))
    yield str(unpack_bundle(Path(words), temporary / Path(words).stem))


def _as_files(
    named: Sequence[tuple[str, str]], missing: list[NotMeasured], stack: ExitStack, progress: Progress
) -> dict[str, str]:
    """By label, the file that stands for each artefact: its own, or the one that a network of torch is written to.

    A network that cannot be written is left out, with the reason in `missing`.
    """
    found, folder = {}, stack.enter_context(temporary_folder("compared"))
    networks = sum(is_network(words) for words, _ in named)
    for number, (words, label) in enumerate(named):
        if not is_network(words):
            found[label] = words
            continue
        progress("export", sum(is_network(other) for other, _ in named[:number]), networks, label)
        try:
            found[label] = str(write_as_onnx(words, folder / f"network{number}.onnx"))
        except (ExportError, CheckpointError) as error:
            missing.append(NotMeasured(label, "latency", str(error)))
    if networks:
        progress("export", networks, networks)
    return found


def _profile(
    files: Mapping[str, str],
    missing: list[NotMeasured],
    config: MeasureConfig,
    batch: int | None,
    threads: int | None,
    progress: Progress,
) -> Profile | None:
    """The times of the files, under their labels; None, with the reason in `missing`, where nothing could be measured."""
    called = dict(expand(list(files.values()), []))  # what the measurement calls each
    labels = {called[place]: label for label, place in files.items()}
    try:
        profile = profile_artefacts(
            list(files.values()), ProfileRequest(batch=batch, threads=threads), config=config, progress=progress
        )
    except MeasurementError as error:
        missing.append(NotMeasured("all", "latency", str(error)))
        return None
    lacking = [replace(item, name=labels.get(item.name, item.name)) for item in profile.not_measured]
    missing += [item for item in lacking if item.reason != NO_GPU]
    if any(item.reason == NO_GPU for item in lacking):
        missing.append(NotMeasured("all", "GPU", NO_GPU))  # once, not for every artefact
    names = {f"{name} ({taken.backend})": labels[name] for name in labels for taken in profile.measurements}
    taken = (replace(one, name=f"{names[one.name]} ({one.backend})") for one in profile.measurements if one.name in names)
    return replace(profile, measurements=tuple(taken))


def _rows(words: str, label: str, costs: Costs, file: str | None, profile: Profile | None) -> Iterator[Row]:
    """A row for each backend that ran the artefact, or one without a time."""
    own = Path(words).parent / MANIFEST
    if file is not None and file != words:
        costs = replace(costs, bytes=Path(file).stat().st_size)  # of what was timed
    row = Row(name=label, costs=costs, network=str(own.parent) if own.is_file() else None)
    taken = [one for one in profile.measurements if one.name == f"{label} ({one.backend})"] if profile is not None else []
    yield from (replace(row, measurement=measurement) for measurement in taken)
    if not taken:
        yield row


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows with their times relative to the first artefact's, where that says something of the networks.

    Both were measured on the same backend, in the same precision, or are files of one network.
    """
    first = {row.backend: row for row in reversed(rows) if row.measurement and row.name == rows[0].name}
    found = []
    for row in rows:
        one, other = row.measurement, first[row.backend].measurement if row.backend in first else None
        same = row.network is not None and row.network == rows[0].network
        if one is not None and other is not None and (same or one.precision == other.precision):
            row = replace(row, ratio=one.stats.p50_ms / other.stats.p50_ms)
        found.append(row)
    return found


def marked(rows: Sequence[Row]) -> list[Row]:
    """The rows with those marked that no other on the same backend beats in score and median time at once."""
    found = list(rows)
    for backend in dict.fromkeys(row.backend for row in rows):
        places = [i for i, row in enumerate(rows) if row.score and row.measurement and row.backend == backend]
        values = [(-s.value, m.stats.p50_ms) for i in places if (s := rows[i].score) and (m := rows[i].measurement)]
        ranks = nondominated_ranks(np.asarray(values, np.float64).reshape(-1, 2))
        for place, rank in zip(places, ranks, strict=True):
            found[place] = replace(rows[place], pareto=bool(rank == 0))
    return found
