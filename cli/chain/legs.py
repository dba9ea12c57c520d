"""The trainings of a race, leg by leg: each once, whichever process comes to it first.

    entrants/NAME/xRATE/                     one training, in `network/`
    entrants/NAME/xRATE/after-EPOCHS.json    what it gave at the end of a leg

Every leg is a function of the seed and the entrant alone, and goes on from the checkpoint of the one before it. So a race that
was killed ends as an undisturbed one, bit for bit, and so do processes that share it, with as many threads each.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.cli.chain.entrants import Field, Networks
from autoformer.cost import Budget
from autoformer.data.parts import DataParts
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, DataError, DivergedError, OutputExistsError, RecipeError, memory_shortage, short
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.files import TIMM, believing, json_digest, read_document, sole_worker, whole_lines, write_json
from autoformer.metric import Metric
from autoformer.pretrained.timm_models import name_and_file
from autoformer.pretrained.weight_shapes import sketch
from autoformer.profiling.profiles.config import ProfileConfig
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.halving import Leg, Outcome
from autoformer.profiling.tables.table import LatencyTable
from autoformer.search.candidate import packed, unpacked
from autoformer.search.result import SearchResult
from autoformer.search.rungs import balanced_order
from autoformer.training.config import FinetuneConfig
from autoformer.training.runs import finetune
from autoformer.training.subjects import subject_of
from autoformer.training.trainer import Surroundings

FORMAT = "autoformer/race-leg/1"
WAIT_S = 0.5  # between looks at what other processes finish
MOST_DECODED = 2  # copies of the search part in memory: networks of the space take it alike, rivals at other sizes


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a race is about."""

    supernet: Path
    search: Path
    parts: DataParts
    limits: Budget  # as stated
    race: RaceConfig
    finetune: FinetuneConfig
    profile: ProfileConfig
    table: LatencyTable | None = None
    metric: Metric = "top1"
    seed: int = 0
    graphs: Path | None = None  # exported networks of the space that are kept there; None: in the race's own folder

    def __post_init__(self) -> None:
        check_race(self.race, self.finetune)


def check_race(race: RaceConfig, config: FinetuneConfig) -> None:
    """Raises `RecipeError` for a finetune that a race cannot decide by, and for rivals that are no networks of timm."""
    for name, why in (
        ("patience", "stops by all images of the search part, and a race keeps some of them for the winner's last score"),
        ("fold_search", "trains on the images by which a race decides"),
    ):
        if getattr(config, name):
            raise RecipeError(f"finetune.{name} {why}; leave it out, or do without a race")
    for words in race.rivals or ():
        if not words.startswith(TIMM):
            raise RecipeError(
                f"rival {short(words, 80)!r} is no network of timm; write timm:NAME, timm:NAME@FILE or timm:NAME@scratch"
            )
        try:
            sketch(name_and_file(words)[0])
        except CheckpointError as error:
            raise RecipeError(f"rival {short(words, 80)!r}: {error}") from error


# --- images ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images of the search part decide, and which are held out: as in the search before."""

    order: NDArray[np.int64]  # of the search part
    deciding: int  # the first so many
    labels: NDArray[np.int64]  # of those that decide
    held_out_labels: NDArray[np.int64]

    @classmethod
    def of(cls, parts: DataParts, searched: SearchResult) -> Images:
        order, deciding = balanced_order(parts.search.labels), len(searched.labels)
        labels = parts.search.labels[order]
        if not np.array_equal(labels[:deciding], searched.labels):
            raise DataError("the search was of other images than these; give the data that it was made with")
        return cls(order=order, deciding=deciding, labels=labels[:deciding], held_out_labels=labels[deciding:])


# --- training ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Legs:
    """Trains legs, each once, whichever process comes to it first."""

    question: Question
    networks: Networks
    field: Field
    images: Images
    out: Path
    around: Surroundings

    def __post_init__(self) -> None:
        self.entrants = {one.name: one for one in self.field.entrants}
        self.failures: list[str] = []
        self.decoded: dict[str, EvaluationSet] = {}

    def __call__(self, legs: Sequence[Leg]) -> Mapping[Leg, Outcome]:
        """What each of the legs led to."""
        self._forget_other_rates(legs)
        while missing := [leg for leg in legs if not self._path(leg).exists()]:
            worked = False
            for leg in missing:
                with claimed(leg_folder(self.out, leg)) as ours:
                    if ours and not self._path(leg).exists():
                        self._keep(leg, self._trained(leg, f"{legs.index(leg) + 1} of {len(legs)}"))
                        worked = True
            if not worked:
                time.sleep(WAIT_S)
        found = {leg: self._read(leg) for leg in legs}
        self.failures += [one.failed for one in found.values() if one.failed]
        return found

    def _path(self, leg: Leg) -> Path:
        return leg_folder(self.out, leg) / f"after-{leg.epochs}.json"

    def _forget_other_rates(self, legs: Sequence[Leg]) -> None:
        """Removes checkpoints of learning rates that lost in the first rung."""
        for name in {leg.entrant for leg in legs}:
            kept = {leg_folder(self.out, leg) for leg in legs if leg.entrant == name}
            for folder in (self.out / "entrants" / name).glob("x*"):
                if folder not in kept:
                    shutil.rmtree(folder / "network" / "checkpoints", ignore_errors=True)

    def _trained(self, leg: Leg, number: str) -> Outcome:
        question, entrant = self.question, self.entrants[leg.entrant]
        config = question.finetune.model_copy(
            update={"learning_rate": leg.rate * question.finetune.learning_rate, "keep_checkpoints": 1}
        )
        folder, progress = leg_folder(self.out, leg) / "network", self.around.progress

        def told(work: str, done: int, total: int, note: str = "") -> None:
            steps = max(done, round(total * leg.epochs / config.epochs))  # of this leg, which may end before the training does
            progress(f"race: {number}", done, steps, f"{entrant.name} ×{leg.rate:g} {note}")

        try:
            network, parts = self.networks.of(entrant)
        except CheckpointError as error:  # weights that were there when it was measured
            if entrant.architecture is not None:
                raise
            return Outcome(seconds=0.0, failed=str(error))
        try:
            preprocessing = subject_of(network).preprocessing(subject_of(network).parts_of(parts))
            trained = finetune(
                network, parts, config, folder, seed=question.seed, metric=question.metric,
                around=replace(self.around, progress=told), until=leg.epochs,
            )  # fmt: skip
        except DivergedError as error:
            return Outcome(seconds=_seconds(folder, leg.epochs), failed=str(error).replace(f"{self.out}/", ""))
        except (RuntimeError, MemoryError) as error:
            if (shortage := memory_shortage(error)) is None:
                raise
            return Outcome(seconds=_seconds(folder, leg.epochs), failed=shortage)
        every = self._images(parts, preprocessing)
        finished, split = leg.epochs == config.epochs, self.images.deciding
        asked = every.chosen(np.arange(len(every) if finished else split))
        found = predictions(predict_with(trained), asked)
        held_out = found[split:] if finished and len(every) > split else None
        return Outcome(seconds=_seconds(folder, leg.epochs), predictions=found[:split], held_out=held_out)

    def _images(self, parts: DataParts, preprocessing: Preprocessing) -> EvaluationSet:
        """The search part in the order of the search, decoded once for all networks that take it alike."""
        key = json_digest(preprocessing.to_dict())
        if key not in self.decoded:
            while len(self.decoded) >= MOST_DECODED:
                del self.decoded[next(iter(self.decoded))]
            self.decoded[key] = EvaluationSet.of(parts.search, preprocessing).chosen(self.images.order)
        return self.decoded[key]

    def _keep(self, leg: Leg, found: Outcome) -> None:
        known = {
            name: None if value is None else packed(value)
            for name, value in (("guesses", found.predictions), ("held_out", found.held_out))
        }
        write_json({"format": FORMAT, "seconds": found.seconds, "failed": found.failed, **known}, self._path(leg))

    def _read(self, leg: Leg) -> Outcome:
        path = self._path(leg)
        with believing(path, f"remove {path.parent}, and this training is done again"):
            values = read_document(path, FORMAT, expected="a part of a race")
            guesses, held_out = values["guesses"], values["held_out"]
            return Outcome(
                seconds=float(values["seconds"]),
                predictions=None if guesses is None else unpacked(guesses, len(self.images.labels)),
                held_out=None if held_out is None else unpacked(held_out, len(self.images.held_out_labels)),
                failed=values["failed"],
            )


def leg_folder(out: Path, leg: Leg) -> Path:
    """Where a learning rate of an entrant is trained."""
    return out / "entrants" / leg.entrant / f"x{leg.rate:g}"


def _seconds(folder: Path, until: int) -> float:
    """The time of the epochs since the leg before, as the log of the training has it."""
    before = max((int(path.stem.rpartition("-")[2]) for path in folder.parent.glob("after-*.json")), default=0)
    total = 0.0
    for line in whole_lines(folder / "log.jsonl"):
        record: dict[str, Any] = json.loads(line)
        if record["event"] == "epoch" and before < record["epoch"] <= until:
            total += float(record["seconds"])
    return total


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether the folder is this process's own for the block; False: another one works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(sole_worker(folder))
        except OutputExistsError:
            yield False
            return
        yield True
