"""The race as a folder: entrants measured, trained leg by leg (`legs`), the winner finished and delivered.

    entrants.json    who started, once measured
    entrants/        the trainings
    logits/          what their teacher says, while they run; those that see the same images share it
    race.json        the result

It goes on where it was stopped, and processes may share it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from autoformer.cli.chain.entrants import RESERVE, Field, Networks, Selection
from autoformer.cli.chain.legs import WAIT_S, Images, Legs, Question, claimed, leg_folder
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget
from autoformer.errors import CheckpointError, OutputExistsError, TrainingError
from autoformer.files import (
    IDENTITY,
    believing,
    claim_folder,
    json_digest,
    read_document,
    read_json,
    write_folder,
    write_json,
)
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, device_name
from autoformer.profiling.race.agreement import Agreement
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.entrant import Entrant
from autoformer.profiling.race.halving import Finish, Leg, Race
from autoformer.profiling.race.record import FILE_NAME, RaceRecord, counted, raced
from autoformer.profiling.race.schedule import Schedule
from autoformer.profiling.race.timing import Timekeeper
from autoformer.profiling.tables.loop import elsewhere
from autoformer.records import from_json, to_json
from autoformer.search.candidate import packed
from autoformer.search.record import SearchRecord
from autoformer.temporary import remove_leftovers
from autoformer.training.cached_teacher import FOLDER
from autoformer.training.config import FinetuneConfig
from autoformer.training.trainer import Surroundings

FORMAT = "autoformer/race-entrants/1"
ENTRANTS = "entrants.json"
MOST = 16  # entrants; more than this no schedule takes


def race_schedule(entrants: int, finetune: FinetuneConfig, config: RaceConfig) -> Schedule:
    """The schedule of a race among so many entrants at most."""
    warmup = min(finetune.warmup_epochs, finetune.epochs / 2)  # as the trainings take it
    return Schedule.of(entrants, finetune.epochs, config.learning_rates, config.cost, warmup)


def run_race(
    question: Question,
    out: Path,
    around: Surroundings,
    say: Callable[[str], None] = lambda line: None,
    company: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> RaceRecord:
    """Runs a race in `out`, or goes on with it; several processes may share it. Gives the record.

    `company` starts other processes for the trainings, once the entrants are measured, which wants the machine for itself.

    Raises `BudgetError` before anything is trained when no entrant keeps the limits, `TrainingError` when none could be trained,
    `OutputExistsError` when `out` holds another race.
    """
    search = SearchRecord.load(question.search)
    weights = read_json(question.supernet / "supernet.json", "weights_digest")["weights_digest"]
    if search.weights_digest not in (None, weights):
        raise CheckpointError(
            f"the search in {question.search} was of other weights than those in {question.supernet}; give the supernet that was "
            "searched"
        )
    identity = {
        "kind": "race",
        "search": json_digest(search.result.to_dict()),
        "weights": weights,
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
        _tidy(out)
        return RaceRecord.load(out)
    networks = Networks(supernet=question.supernet, parts=question.parts, seed=question.seed)
    keeper, unmeasured = _timekeeper(question, out, around)
    finetune, config = question.finetune, question.race
    plan = race_schedule(MOST, finetune, config)
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
    schedule = race_schedule(len(started.entrants), finetune, config)
    for line in plan_lines(started, schedule, question.limits, unmeasured):
        say(line)
    images = Images.of(question.parts, search.result)
    shared = replace(around, logits=out / FOLDER)
    legs = Legs(question=question, networks=networks, field=started, images=images, out=out, around=shared)
    with company():
        finish = Race(started.entrants, schedule, legs, images.labels, question.metric).finish()
    if finish is None:
        raise TrainingError(
            f"none of {len(started.entrants)} networks could be trained; {started.entrants[0].name}: "
            f"{next(iter(legs.failures), 'no reason is known')}"
        )
    record = _record(question, finish, started, schedule, images, None if keeper is None else keeper.meaning, measuring_s)
    record.save(out)
    _tidy(out)
    return record


def _tidy(out: Path) -> None:
    """Removes what a finished race needs no more; also by a later start, where the one that finished it was killed before."""
    for checkpoints in out.glob("entrants/*/x*/network/checkpoints"):
        shutil.rmtree(checkpoints, ignore_errors=True)
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    for graph in (out / "measuring").glob("*.*"):  # the folder stays: another process may be about to ask for it
        if graph.is_file() and graph.name != ".lock":
            graph.unlink()
    remove_leftovers(out)


def deliver(record: RaceRecord, out: Path, destination: Path) -> None:
    """Copies the winner's folder out of the race in `out`, unless the destination holds it already.

    Processes that share a race may all ask for it. Raises `OutputExistsError` when the destination holds something else.
    """
    source = leg_folder(out, Leg(record.winner, record.delivered.rate or 1.0, record.schedule.epochs)) / "network"
    if not source.is_dir() and not (destination / IDENTITY).exists():
        raise CheckpointError(f"{source}, the winner of the race in {out}, is gone; race into another folder")
    while True:
        with claimed(out / "entrants") as ours:
            if ours:
                if not (destination / IDENTITY).exists():
                    with write_folder(destination) as beside:
                        for path in sorted(source.iterdir()):
                            if path.is_file() and path.name not in (".lock", "log.jsonl"):
                                shutil.copy2(path, beside / path.name)
                elif source.is_dir() and read_json(destination / IDENTITY) != read_json(source / IDENTITY):
                    raise OutputExistsError(f"{destination} holds another network; move it away")
                return
        time.sleep(WAIT_S)


def plan_lines(field: Field, schedule: Schedule, limits: Budget, unmeasured: str | None) -> Iterator[str]:
    """What is going to happen, for a reader."""
    if unmeasured is not None:
        yield f"latencies are not measured here: {unmeasured}"
    for one in field.refused:
        if RESERVE not in one.reason:
            yield f"{one.name} ({one.network}) does not start: {one.reason}"
    names = ", ".join(_introduced(one) for one in field.entrants)
    if not schedule.rungs:
        reserve = any(RESERVE in one.reason for one in field.refused)
        why = "they leave no room for a second network" if reserve else "one network alone keeps the limits"
        yield f"no race: {counted(schedule.epochs)}, {why}; {names} is finetuned"
        return
    rivals = [one for one in field.refused if one.kind == "rival"]
    if rivals and not any(one.kind == "rival" for one in field.entrants):
        spare = [one.name for one in rivals if RESERVE in one.reason]
        why = f"{', '.join(spare)} would keep the limits, but few can start" if spare else "none that was tried can start"
        yield f"no network out of timm races: {why}; so how good one is under these limits stays open"
    yield f"{len(field.entrants)} networks race inside {limits}: {names}"
    yield _steps_words(schedule)


def _steps_words(schedule: Schedule) -> str:
    """How far everyone is trained, and what that costs."""
    first, *later = schedule.rungs
    rates = " and again with ".join(f"{rate:g}" for rate in schedule.rates)
    tried = f", with {rates} times the learning rate" if len(schedule.rates) > 1 else ""
    ends = [(f"the best {rung.entrants}", rung.epochs) for rung in later]
    if schedule.rungs[-1].epochs < schedule.epochs:
        ends.append(("the best one, and the second where they are tied or it started from nothing,", schedule.epochs))
    told, go = "", "go on" if later else "goes on"
    for who, end in ends:
        where = f"the end, epoch {end}" if end == schedule.epochs else f"epoch {end}"
        told += f", {who} to {where}" if told else f"; {who} {go} to {where}"
    more = schedule.most_extra_epochs
    return (
        f"each is finetuned for {counted(first.epochs)}{tried}{told}; beyond the winner's own finetune that is at most "
        f"{counted(more)}, {more / schedule.epochs:.2g} times as many as it has"
    )


def _introduced(entrant: Entrant) -> str:
    """A name, and how the network starts where it is not one of the search."""
    if entrant.architecture is not None:
        return entrant.name
    return f"{entrant.name} ({'from scratch' if entrant.fresh else 'pretrained'}, {entrant.image_size} px)"


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
        write_json({"format": FORMAT, "seconds": time.perf_counter() - began, **to_json(found)}, path)
    values = read_document(path, FORMAT, expected="who starts in a race")
    with believing(path, "remove it, and the networks are measured again"):
        return from_json(Field, values, "entrants", beside=("format", "seconds")), float(values["seconds"])


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
