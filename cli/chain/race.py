"""The race as a folder: entrants measured, trained leg by leg, the winner finished and delivered; resumable, shared by workers.

    entrants.json           who started, once measured
    entrants/NAME/xRATE/    one training; after-EPOCHS.json is what it gave at the end of a leg
    race.json               the result

Every leg is a function of the seed and the entrant alone, and each goes on from the checkpoint of the one before it. So a race
that was killed ends as an undisturbed one, bit for bit, and so do processes that share it, with as many threads each.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.cli.chain.entrants import Field, Networks, Selection
from autoformer.cost import Budget, MeasurementConditions
from autoformer.data.parts import DataParts
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import DataError, DivergedError, OutputExistsError, RecipeError, TrainingError, memory_shortage
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.files import (
    believing,
    claim_folder,
    json_digest,
    read_document,
    sole_worker,
    whole_lines,
    write_folder,
    write_json,
)
from autoformer.metric import Metric
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, device_name
from autoformer.profiling.profiles.config import ProfileConfig
from autoformer.profiling.race.agreement import Agreement
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.entrant import Entrant
from autoformer.profiling.race.halving import Finish, Leg, Outcome, Race
from autoformer.profiling.race.record import FILE_NAME, RaceRecord, raced
from autoformer.profiling.race.schedule import Schedule
from autoformer.profiling.race.timing import Timekeeper
from autoformer.profiling.tables.loop import elsewhere
from autoformer.profiling.tables.table import LatencyTable
from autoformer.records import from_json, to_json
from autoformer.search.candidate import packed, unpacked
from autoformer.search.record import SearchRecord
from autoformer.search.result import SearchResult
from autoformer.search.rungs import balanced_order
from autoformer.training.config import FinetuneConfig
from autoformer.training.runs import finetune
from autoformer.training.subjects import subject_of
from autoformer.training.trainer import Surroundings

LEG_FORMAT, FIELD_FORMAT = "autoformer/race-leg/1", "autoformer/race-entrants/1"
ENTRANTS = "entrants.json"
WAIT_S = 0.5  # between looks at what other processes finish
MOST = 16  # entrants; more than this no schedule takes


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
        check_finetune(self.finetune)


def check_finetune(config: FinetuneConfig) -> None:
    """Raises `RecipeError` for settings of a finetune that use the images by which a race decides."""
    for name, why in (
        ("patience", "stops by all images of the search part, and a race keeps some of them for the winner's last score"),
        ("fold_search", "trains on the images by which a race decides"),
    ):
        if getattr(config, name):
            raise RecipeError(f"finetune.{name} {why}; leave it out, or the race (race=null)")


def run_race(question: Question, out: Path, around: Surroundings, say: Callable[[str], None] = lambda line: None) -> RaceRecord:
    """Runs a race in `out`, or goes on with it; several processes may share it. Gives the record.

    Raises `BudgetError` before anything is trained when no entrant keeps the limits, `TrainingError` when none could be trained,
    `OutputExistsError` when `out` holds another race.
    """
    search = SearchRecord.load(question.search)
    identity = {
        "kind": "race",
        "search": json_digest(search.result.to_dict()),
        "weights": search.weights_digest,
        "data": question.parts.digest,
        "metric": question.metric,
        "seed": question.seed,
        "limits": question.limits.to_dict(),
        "race": question.race.model_dump(mode="json"),
        "finetune": question.finetune.identity,
        "table": None if question.table is None else json_digest(question.table.to_dict()),
        "measured": question.profile.model_dump(mode="json", include={"backend", "batch", "threads"}),
    }
    claim_folder(out, identity)
    if (out / FILE_NAME).exists():
        return RaceRecord.load(out)
    networks = Networks(supernet=question.supernet, parts=question.parts, seed=question.seed)
    keeper, unmeasured = _timekeeper(question, out, around)
    plan = Schedule.of(MOST, question.finetune.epochs, question.race.learning_rates, question.race.cost)
    selection = Selection(
        networks=networks, search=question.search, limits=question.limits, config=question.race, table=question.table,
        keeper=keeper, unmeasured=unmeasured, say=say,
    )  # fmt: skip
    while True:
        with claimed(out / "measuring") as ours:
            if ours or (out / ENTRANTS).exists():
                started, measuring_s = _field(selection, plan.entrants, out)
                break
        time.sleep(WAIT_S)  # another process measures
    schedule = Schedule.of(len(started.entrants), question.finetune.epochs, question.race.learning_rates, question.race.cost)
    for line in plan_lines(started, schedule, unmeasured):
        say(line)
    images = Images.of(question.parts, search.result)
    legs = Legs(question=question, networks=networks, field=started, images=images, out=out, around=around)
    finish = Race(started.entrants, schedule, legs, images.labels, question.metric).finish()
    if finish is None:
        raise TrainingError(
            f"none of {len(started.entrants)} networks could be trained; {started.entrants[0].name}: "
            f"{next(iter(legs.failures), 'no reason is known')}"
        )
    record = _record(question, finish, started, schedule, images, None if keeper is None else keeper.meaning, measuring_s)
    record.save(out)
    for checkpoints in out.glob("entrants/*/x*/network/checkpoints"):
        shutil.rmtree(checkpoints, ignore_errors=True)
    shutil.rmtree(out / "measuring", ignore_errors=True)
    return record


def deliver(record: RaceRecord, out: Path, destination: Path) -> None:
    """Copies the winner's folder out of the race in `out`, unless the destination holds it already.

    Processes that share a race may all ask for it. Raises `OutputExistsError` when the destination holds something else.
    """
    source = leg_folder(out, Leg(record.winner, record.delivered.rate or 1.0, record.schedule.epochs)) / "network"
    while True:
        with claimed(out / "entrants") as ours:
            if ours:
                if not (destination / "identity.json").exists():
                    with write_folder(destination) as beside:
                        for path in sorted(source.iterdir()):
                            if path.is_file() and path.name not in (".lock", "log.jsonl"):
                                shutil.copy2(path, beside / path.name)
                elif read_json(destination / "identity.json") != read_json(source / "identity.json"):
                    raise OutputExistsError(f"{destination} holds another network; move it away")
                return
        time.sleep(WAIT_S)


def plan_lines(field: Field, schedule: Schedule, unmeasured: str | None) -> Iterator[str]:
    """What is going to happen, for a reader."""
    if unmeasured is not None:
        yield f"latencies are not measured here: {unmeasured}"
    names = ", ".join(_introduced(one) for one in field.entrants)
    if not schedule.rungs:
        yield f"no race: a finetune of {schedule.epochs} epochs has no room for more than one network; {names} is finetuned"
        return
    rungs = ", ".join(f"{rung.entrants} to epoch {rung.epochs}" for rung in schedule.rungs)
    rates = " and ".join(f"{rate:g}" for rate in schedule.rates)
    yield f"{len(field.entrants)} networks race: {names}"
    yield (
        f"{rungs} of {schedule.epochs}, the first with {rates} times the learning rate; at most "
        f"{schedule.most_extra_epochs / schedule.epochs:.2g} finetunes beyond the winner's own"
    )


def _introduced(entrant: Entrant) -> str:
    """A name, and how the network starts where it is not one of the search."""
    if entrant.architecture is not None:
        return entrant.name
    return f"{entrant.name} ({'from scratch' if entrant.fresh else 'pretrained'}, {entrant.image_size} px)"


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


def _timekeeper(question: Question, out: Path, around: Surroundings) -> tuple[Timekeeper | None, str | None]:
    """What measures the entrants; or None, and why nothing can be measured here."""
    facts, profile, table = DeviceFacts.collect(), question.profile, question.table
    if table is not None:
        meaning = table.measurement_conditions
    else:
        device = device_name(facts, profile.backend, profile.threads if profile.backend.endswith("-cpu") else None)
        meaning = MeasurementConditions(
            statistic="p50", batch=profile.batch, precision="fp32", backend=profile.backend, device=device
        )
    if (reason := elsewhere(meaning, facts)) is not None:
        return None, reason
    config, folder = MeasureConfig.lasting(profile.seconds), question.graphs or out / "measuring"
    return Timekeeper(meaning=meaning, config=config, folder=folder, table=table, progress=around.progress), None


def _field(selection: Selection, most: int, out: Path) -> tuple[Field, float]:
    """Who starts, and the seconds that finding out took: as an earlier start or another process found it, or found now."""
    path = out / ENTRANTS
    if not path.exists():
        began = time.perf_counter()
        found = selection.field(most)
        write_json({"format": FIELD_FORMAT, "seconds": time.perf_counter() - began, **to_json(found)}, path)
    values = read_document(path, FIELD_FORMAT, expected="who starts in a race")
    with believing(path, "remove it, and the networks are measured again"):
        return from_json(Field, values, "entrants", beside=("format", "seconds")), float(values["seconds"])


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
            progress(f"race: {number}", done, total, f"{entrant.name} ×{leg.rate:g} {note}")

        try:
            network, parts = self.networks.of(entrant)
            preprocessing = subject_of(network).preprocessing(subject_of(network).parts_of(parts))
            trained = finetune(
                network, parts, config, folder, seed=question.seed, metric=question.metric,
                around=replace(self.around, progress=told), until=leg.epochs,
            )  # fmt: skip
        except DivergedError as error:
            return Outcome(seconds=_seconds(folder, leg.epochs), failed=str(error))
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
            self.decoded[key] = EvaluationSet.of(parts.search, preprocessing).chosen(self.images.order)
        return self.decoded[key]

    def _keep(self, leg: Leg, found: Outcome) -> None:
        known = {
            name: None if value is None else packed(value)
            for name, value in (("guesses", found.predictions), ("held_out", found.held_out))
        }
        write_json({"format": LEG_FORMAT, "seconds": found.seconds, "failed": found.failed, **known}, self._path(leg))

    def _read(self, leg: Leg) -> Outcome:
        path = self._path(leg)
        values = read_document(path, LEG_FORMAT, expected="a part of a race")
        with believing(path, "remove it, and this part is trained again"):
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


def _record(
    question: Question,
    finish: Finish,
    field: Field,
    schedule: Schedule,
    images: Images,
    meaning: MeasurementConditions | None,
    measuring_s: float,
) -> RaceRecord:
    """The race as it is kept."""
    return RaceRecord(
        metric=question.metric,
        limits=question.limits,
        measurement_conditions=meaning,
        schedule=schedule,
        entrants=raced(finish, images.labels, images.held_out_labels, question.metric),
        refused=field.refused,
        winner=finish.winner,
        runner_up=finish.runner_up,
        tied=finish.tied,
        labels=packed(images.labels),
        images=images.deciding,
        held_out_images=len(images.held_out_labels),
        agreement=_agreement(question, finish, schedule, images),
        seconds={"measuring": measuring_s},
    )


def _agreement(question: Question, finish: Finish, schedule: Schedule, images: Images) -> Agreement | None:
    """Of inherited scores with those after the first rung, over the networks of the search."""
    if not schedule.rungs:
        return None
    searched = {one.architecture: one.predictions for one in SearchRecord.load(question.search).result.candidates}
    before, after = [], []
    for standing in finish.standings.values():
        architecture, found = standing.entrant.architecture, standing.predictions(schedule.rungs[0].epochs)
        if architecture is not None and found is not None:
            before.append(searched[architecture])
            after.append(found)
    return Agreement.of(before, after, images.labels, question.metric)
