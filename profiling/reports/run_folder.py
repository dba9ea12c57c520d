"""`Run`: everything a finished run has written, read back and checked against itself.

A report is only as good as what it is made of: whatever is missing, damaged, of another format or from another run is a
`CheckpointError` that names the file, before a line of the report is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget
from autoformer.data.ledger import LEDGER, Reading, read_ledger
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError
from autoformer.export.judging.mistakes import FILE_NAME as MISTAKES
from autoformer.export.judging.mistakes import Mistake, load_mistakes
from autoformer.export.manifest import Manifest
from autoformer.files import TIMM, believing, read_document, read_json, refuse_unfinished
from autoformer.metric import Metric, Score, metric_from, score
from autoformer.profiling.insides.layers import LayerProfile
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.profiles.latency import Profile
from autoformer.profiling.race.entrant import WORDS, Entrant
from autoformer.profiling.race.record import FILE_NAME as RACE_FILE
from autoformer.profiling.race.record import RaceRecord
from autoformer.profiling.tables.limit import FILE_NAME, LatencyAnswer, finally_chosen
from autoformer.profiling.tables.table import LatencyTable
from autoformer.records import from_json
from autoformer.search.record import SearchRecord
from autoformer.search.result import SearchResult
from autoformer.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What other runs in the same parent folder read of one test part."""

    runs: int  # those with at least one reading of it
    readings: int
    damaged: tuple[str, ...]  # folders that cannot be read, or whose ledger cannot, by name


def readings_beside(folder: Path, split: str) -> Beside:
    """Readings of the test part with the digest `split` by the folders beside `folder`, each counted once."""
    own = folder.resolve()
    try:
        others = {path.resolve() for path in own.parent.iterdir()} - {own}  # links to one folder count once
    except OSError:
        return Beside(runs=0, readings=0, damaged=(own.parent.name,))
    counts, damaged = list[int](), list[str]()
    for other in sorted(others):
        try:
            if (other / LEDGER).is_file():
                counts.append(sum(reading.split == split for reading in read_ledger(other / LEDGER)))
        except (CheckpointError, OSError):
            damaged.append(other.name)
    return Beside(runs=sum(count > 0 for count in counts), readings=sum(counts), damaged=tuple(damaged))


PARENT, INHERITED, FINETUNED, FP32, INT8 = "parent", "inherited", "finetuned", "onnx fp32", "onnx int8"  # names in test.json


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a training; scores on the search part by the name of the network, where they were taken."""

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    scores: dict[str, Score] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epoch < 1:
            raise ValueError(f"{self.epoch} is not the number of an epoch; epochs begin with 1")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the data."""

    images: int
    digest: str

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"a part of {self.images} images")


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """The network that was finetuned and exported: what the search chose, or what won the race."""

    name: str  # the short name of an architecture, or timm's words
    words: str
    architecture: Architecture | None  # of a network of the search's space
    params: int
    flops: int | None  # multiply-adds of one image; None: they could not be counted
    predicted_ms: float | None  # by the latency table
    search_score: Score | None  # with inherited weights

    @classmethod
    def of_race(cls, entrant: Entrant) -> Delivered:
        """The winner of a race."""
        own = entrant.architecture
        return cls(
            name=entrant.network,
            words=f"{WORDS[entrant.kind]}, images of {entrant.image_size} px" if own is None else str(own),
            architecture=own,
            params=entrant.params,
            flops=entrant.flops,
            predicted_ms=entrant.predicted_ms,
            search_score=entrant.inherited,
        )


@dataclass(frozen=True, kw_only=True)
class _Steps:
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, except for its report."""

    folder: Path
    version: str
    recipe: dict[str, Any]
    metric: Metric  # what networks were compared by
    source: str
    layout: str  # how the parts of the data came about, in words
    classes: tuple[str, ...]
    parts: dict[str, Part]
    preprocessing: dict[str, Any]
    space: SearchSpace
    device: DeviceFacts
    stated: dict[str, str]  # the limits as they were given; a percentage is of the largest network
    limits: Budget
    searched_with: Budget  # the limits less the margin of the latency table
    table: LatencyTable | None
    supernet_history: tuple[Epoch, ...]
    finetune_history: tuple[Epoch, ...]
    search: SearchResult
    search_config: dict[str, Any]
    progress: dict[str, tuple[tuple[int, float], ...]]  # by method: images evaluated, and the best score by then
    answer: LatencyAnswer | None  # to the limit on latency, before the choice was final
    race: RaceRecord | None  # that decided what is delivered; None: the search's choice is
    measurement_conditions: MeasurementConditions | None  # what a latency means in the budget and in the candidates' costs
    manifest: Manifest
    profile: Profile
    layers: LayerProfile | None  # of the fp32 file; runs of earlier versions have none
    labels: NDArray[np.int64]  # of the test images, [n]
    predictions: dict[str, NDArray[np.int64]]  # by name, [n] each
    mistakes: tuple[Mistake, ...] | None  # the worst of the fp32 file; runs of earlier versions have none
    readings: tuple[Reading, ...]  # of the test part, by this run
    beside: Beside  # of the same test part, by the runs beside it
    seconds: dict[str, float]  # by step

    @property
    def seed(self) -> int:
        return int(self.recipe["seed"])

    @property
    def delivered(self) -> Delivered:
        """The network that was finetuned and exported."""
        if self.race is not None:
            return Delivered.of_race(self.race.delivered.entrant)
        chosen = self.search.chosen
        return Delivered(
            name=chosen.architecture.slug,
            words=str(chosen.architecture),
            architecture=chosen.architecture,
            params=chosen.cost.params,
            flops=chosen.cost.flops,
            predicted_ms=chosen.cost.latency_ms,
            search_score=chosen.score,
        )

    @property
    def inherited(self) -> bool:
        """Whether the delivered network began with weights of the supernet."""
        return _inherited(self.race)

    def score(self, name: str) -> Score:
        """The score of one network on the test part."""
        return score(self.predictions[name], self.labels, self.metric)

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Reads a run's folder. Raises `CheckpointError` for an unfinished one, and naming the first file that is not right."""
        refuse_unfinished(folder)
        if not (folder / "run.json").is_file():
            raise CheckpointError(f"{folder} is not a run: it has no run.json; expected the folder that `autoformer run` fills")
        with checked(folder / "run.json", "autoformer/run/1") as record:
            values = {"folder": folder, **_described(record)}
        metric, parts = values["metric"], values["parts"]
        with checked(folder / "budget.json") as record:
            values |= {
                "stated": {name: str(words) for name, words in record["stated"].items() if words is not None},
                "limits": from_json(Budget, record["limits"], "limits"),
                "searched_with": from_json(Budget, record["searched_with"], "searched_with"),
            }
        table, layers = folder / "latency_table.json", folder / "layers.json"
        values["table"] = LatencyTable.load(table) if table.exists() else None
        with checked(folder / "supernet" / "supernet.json", "autoformer/supernet/1") as record:
            values["supernet_history"] = _history(record, metric)
        race = values["race"] = _raced(folder / "race", metric)
        with checked(*_finetuned(folder / "finetuned", race)) as record:
            values["finetune_history"] = _history(record, metric)
        with checked(folder / "search" / "search.json", "autoformer/search/3"):
            values |= _searched(folder / "search", metric)
        values["manifest"] = Manifest.load(folder / "export")
        values["profile"] = Profile.load(folder / "latency.json")
        if not values["profile"].measurements:
            raise CheckpointError(f"{folder / 'latency.json'} holds no measurement; profile again")
        values["layers"] = LayerProfile.load(layers) if layers.exists() else None
        with checked(folder / "test.json", "autoformer/test/1") as record:
            values |= _tested(record, parts["test"], len(values["classes"]), inherited=_inherited(race))
        values["mistakes"] = _mistakes(folder, parts["test"], values)
        values["readings"] = read_ledger(folder / LEDGER)
        values["beside"] = readings_beside(folder, parts["test"].digest)
        with checked(folder / "steps.json", "autoformer/steps/1") as record:
            values["seconds"] = from_json(_Steps, record, beside=("format",)).seconds
        run = cls(**values)
        run._check_files()
        return run

    def _check_files(self) -> None:
        """Raises `CheckpointError` when the export is of another network than was chosen or won, or a file was changed."""
        delivered, exported = self.delivered, self.manifest.architecture
        foreign = self.manifest.network or "a network of no space"
        same = exported == delivered.architecture
        if same and exported is None and self.manifest.network is not None and delivered.name.startswith(TIMM):
            same = _of_timm(foreign) == _of_timm(delivered.name)
        if not same:
            what = foreign if exported is None else exported.slug
            said = "the search chose" if self.race is None else "the race was won by"
            raise CheckpointError(f"{self.folder / 'export'} holds {what}, {said} {delivered.name}; not of one run")
        for artefact in self.manifest.artefacts:
            if artefact.file is not None:
                self.manifest.verified_file(self.folder / "export", artefact)


def _described(record: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` says: the recipe, the data, the space and the device."""
    recipe, data = dict(record["recipe"]), record["data"]
    int(recipe["seed"])
    dict(recipe["profile"])["table"]
    Preprocessing.from_dict(data["preprocessing"])
    classes = data["classes"]
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes are not a list of names")
    parts = {name: from_json(Part, part, f"data.parts.{name}") for name, part in data["parts"].items()}
    for needed in ("train", "search", "test"):
        parts[needed]
    return {
        "version": str(record["version"]),
        "recipe": recipe,
        "metric": metric_from(recipe["metric"]),
        "source": str(data["source"]),
        "layout": str(data["layout"]),
        "classes": tuple(classes),
        "parts": parts,
        "preprocessing": dict(data["preprocessing"]),
        "space": SearchSpace.from_dict(record["space"]),
        "device": DeviceFacts.from_dict(record["device"]),
    }


def _searched(folder: Path, metric: Metric) -> dict[str, Any]:
    """What the search found, with the network that was chosen after measuring, if any was measured."""
    found = SearchRecord.load(folder)
    if found.result.metric != metric:
        raise ValueError(f"it searched by {found.result.metric}, the run's metric is {metric}")
    return {
        "search": finally_chosen(found.result, folder),
        "answer": LatencyAnswer.load(folder) if (folder / FILE_NAME).exists() else None,
        "measurement_conditions": found.measurement_conditions,
        "search_config": found.config.to_dict(),
        "progress": {name: tuple((step.images, step.best) for step in steps) for name, steps in found.history.items() if steps},
    }


def _raced(folder: Path, metric: Metric) -> RaceRecord | None:
    """The race that decided; None in a run without one."""
    if not folder.is_dir():
        return None
    found = RaceRecord.load(folder)
    if found.metric != metric:
        path = folder / RACE_FILE
        raise CheckpointError(f"{path} was decided by {found.metric}, the run's metric is {metric}; not of one run")
    return found


def _inherited(race: RaceRecord | None) -> bool:
    """Whether what is delivered began with weights of the supernet: the search's choice, or a winner out of its space."""
    return race is None or (race.delivered.entrant.architecture is not None and not race.delivered.entrant.fresh)


def _finetuned(folder: Path, race: RaceRecord | None) -> tuple[Path, str]:
    """The record of the delivered network's finetune, and its format: of a network of ours, or of one out of timm."""
    own = folder / "subnet.json"
    if race is None or race.delivered.entrant.architecture is not None or own.exists():
        return own, "autoformer/subnet/1"
    return folder / "network.json", "autoformer/network/1"


def _of_timm(words: str) -> str:
    """The name in `timm:NAME` or `timm:NAME@FILE`, without the mark of its weights."""
    return words.removeprefix(TIMM).partition("@")[0].partition(".")[0]


def _tested(record: Mapping[str, Any], part: Part, classes: int, *, inherited: bool) -> dict[str, Any]:
    """The labels of the test images, and what each network predicted."""
    labels = np.array(record["labels"], dtype=np.int64)
    predictions = {name: np.array(found, dtype=np.int64) for name, found in record["guesses"].items()}
    if record["split"] != part.digest:
        raise ValueError("it was scored on another test part than run.json names")
    for name, found in (("labels", labels), *predictions.items()):
        if found.shape != (part.images,):
            raise ValueError(f"{name} has {found.shape} entries, the test part {part.images} images")
        if found.min() < 0 or found.max() >= classes:
            raise ValueError(f"{name} names classes beyond the {classes} of run.json")
    for name in (*((INHERITED,) if inherited else ()), FINETUNED, FP32):
        if name not in predictions:
            raise ValueError(f"predictions of {name!r} are missing")
    if INHERITED in predictions and not inherited:
        raise ValueError(f"it has predictions of {INHERITED!r}, the winner of the race inherited nothing")
    return {"labels": labels, "predictions": predictions}


def _mistakes(folder: Path, part: Part, values: Mapping[str, Any]) -> tuple[Mistake, ...] | None:
    """The worst mistakes on the test part, compared with what the file predicted there."""
    found, labels, predicted = load_mistakes(folder, split=part.digest), values["labels"], values["predictions"][FP32]
    for one in found or ():
        if not 0 <= one.index < part.images or (labels[one.index], predicted[one.index]) != (one.label, one.predicted):
            raise CheckpointError(
                f"{folder / MISTAKES} names a mistake at image {one.index} that test.json does not; not of one run"
            )
    return found


@contextmanager
def checked(path: Path, format: str | None = None) -> Iterator[Mapping[str, Any]]:
    """The JSON of `path` for a block that reads it; whatever is wrong becomes a `CheckpointError` naming the file."""
    values = read_json(path) if format is None else read_document(path, format, expected="a file of a finished run")
    try:
        with believing(path, "copy the whole folder again or run into a new one"):
            yield values
    except CheckpointError as error:
        if isinstance(error.__cause__, CheckpointError) and str(path.parent) in str(error.__cause__):
            raise error.__cause__ from None  # it names a file already
        raise


def _history(record: Mapping[str, Any], metric: Metric) -> tuple[Epoch, ...]:
    known = {item.name for item in fields(Epoch)}  # beside what only the log of the training needs
    found = tuple(
        from_json(Epoch, {key: value for key, value in epoch.items() if key in known}, f"history[{index}]")
        for index, epoch in enumerate(record["history"])
    )
    if not found:
        raise ValueError("its history has no epoch")
    if others := {kept.metric for epoch in found for kept in epoch.scores.values()} - {metric}:
        raise ValueError(f"its history has scores of {' and '.join(sorted(others))}, the run's metric is {metric}")
    return found
