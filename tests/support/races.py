"""A finished race, made by hand: five entrants of which two finish, and how a run's folder looks after it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget
from autoformer.files import read_json, write_json
from autoformer.metric import score
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.race.agreement import Agreement
from autoformer.profiling.race.entrant import Entrant, Kind
from autoformer.profiling.race.record import Raced, RaceRecord, Refused, Trained
from autoformer.profiling.race.schedule import Rung, Schedule
from autoformer.profiling.tables.limit import Timing
from autoformer.search.candidate import packed

IMAGES, HELD_OUT, LIMIT_MS = 200, 100, 1.0
LABELS = np.arange(IMAGES) % 10
RIVAL = "timm:resnet18"
CONDITIONS = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device="Test CPU")
# Right images of 200 after so many epochs, by the factor of the learning rate; an epoch took 10 s.
RIGHT: dict[str, dict[float, dict[int, int | str]]] = {
    "chosen": {1.0: {2: 120, 6: 150, 24: 180}, 4.0: {2: 100}},
    "second": {1.0: {2: 110}, 4.0: {2: 90}},
    "alike": {1.0: {2: 80}, 4.0: {2: "the loss is not finite"}},
    "resnet": {1.0: {2: 116}, 4.0: {2: 130, 6: 152, 24: 170}},
    "broken": {1.0: {2: "out of memory"}, 4.0: {2: "out of memory"}},
}


def make_race(architecture: Architecture, *, winner: str = "chosen", rival: str = RIVAL, tied: bool = False) -> RaceRecord:
    """A race that `winner` won: "chosen", of this architecture, or the other who finished, "resnet", `rival` out of timm.

    A winner has 180 of 200 images right in the end, the other one 170; both had it the other way round before.
    """
    right = {name: dict(rates) for name, rates in RIGHT.items()}
    if tied:
        right["resnet"][4.0] = {**right["resnet"][4.0], 24: 178}
    if winner == "resnet":
        right["chosen"][1.0] = {**right["chosen"][1.0], 24: 170}
        right["resnet"][4.0] = {**right["resnet"][4.0], 24: 180}
    entrants = (
        _entrant("chosen", "finalist", architecture.slug, 0.8, architecture=architecture),
        _entrant("second", "finalist", "second-network", 0.6, architecture=architecture),
        _entrant("alike", "homogeneous", "homogeneous-network", None, architecture=architecture),
        _entrant("resnet", "rival", rival, 0.9),
        _entrant("broken", "rival", "timm:convnext_atto@scratch", 0.5, fresh=True),
    )
    rates = {"chosen": 1.0, "second": 1.0, "alike": 1.0, "resnet": 4.0}
    out = {
        "second": "behind after 2 epochs (55 % [48, 62])",
        "alike": "behind after 2 epochs (40 % [33, 47])",
        "broken": "out of memory",
    }
    raced = tuple(
        Raced(
            entrant=entrant,
            rate=rates.get(entrant.name),
            trained=tuple(_trained(right[entrant.name])),
            out=out.get(entrant.name),
            held_out=score(guesses(88, HELD_OUT), LABELS[:HELD_OUT]) if entrant.name == winner else None,
        )
        for entrant in entrants
    )
    too_slow = _entrant("slow", "rival", "timm:vgg16", 7.0)
    return RaceRecord(
        metric="top1",
        limits=Budget(max_params=200_000, max_latency_ms=LIMIT_MS),
        measurement_conditions=CONDITIONS,
        schedule=Schedule((Rung(5, 2), Rung(2, 6)), 24, (1.0, 4.0)),
        entrants=raced,
        refused=(
            Refused(name="slow", kind="rival", network="timm:vgg16", reason="7 ms against the limit of 1 ms", entrant=too_slow),
            Refused(name="absent", kind="rival", network="timm:x<b>|y", reason="timm knows no network of this name"),
        ),
        winner=winner,
        runner_up="resnet" if winner == "chosen" else "chosen",
        tied=tied,
        labels=packed(LABELS),
        images=IMAGES,
        held_out_images=HELD_OUT,
        agreement=Agreement(tau=1 / 3, low=-0.5, high=1.0, networks=3),
        seconds={"measuring": 95.0},
    )


def guesses(right: int, images: int = IMAGES) -> NDArray[np.int64]:
    """Predictions of which the first `right` are right."""
    return np.where(np.arange(images) < right, LABELS[:images], (LABELS[:images] + 1) % 10)


def _entrant(name: str, kind: Kind, network: str, latency_ms: float | None, **more: Any) -> Entrant:
    """One with a measured latency, give or take 5 %; None: predicted to take 0.7 ms."""
    timing = None
    if latency_ms is not None:
        low, high = 0.95 * latency_ms, 1.05 * latency_ms
        timing = Timing(measured_ms=latency_ms, low_ms=low, high_ms=high, runs=500, verdict=Verdict("VALID"))
    known = {"image_size": 8, "fresh": False, "params": 123_456, "flops": 7_890_000, **more}
    return Entrant(name=name, kind=kind, network=network, timing=timing, predicted_ms=None if timing else 0.7, **known)


def _trained(right: dict[float, dict[int, int | str]]) -> list[Trained]:
    found = []
    for rate, ends in right.items():
        before = 0
        for epochs, count in ends.items():
            seconds, before = 10.0 * (epochs - before), epochs
            known: dict[str, Any] = {"failed": count}
            if isinstance(count, int):
                known = {"score": score(guesses(count), LABELS), "guesses": packed(guesses(count))}
            found.append(Trained(rate=rate, epochs=epochs, seconds=seconds, **known))
    return found


def after_race(run: Path, race: RaceRecord) -> Path:
    """Makes of a finished run what a race would have left: its record, and what is delivered where a network of timm won."""
    race.save(run / "race")
    steps = read_json(run / "steps.json")
    write_json({**steps, "seconds": {**steps["seconds"], "race": 5400.0}}, run / "steps.json")
    if race.delivered.entrant.architecture is not None:
        return run
    shutil.rmtree(run / "subnet", ignore_errors=True)
    own = run / "finetuned" / "subnet.json"
    write_json({**read_json(own), "format": "autoformer/network/1"}, run / "finetuned" / "network.json")
    own.unlink()
    manifest, test = read_json(run / "export" / "manifest.json"), read_json(run / "test.json")
    write_json({**manifest, "architecture": None, "network": RIVAL}, run / "export" / "manifest.json")
    guessed = {name: found for name, found in test["guesses"].items() if name != "inherited"}
    write_json({**test, "guesses": guessed}, run / "test.json")
    ledger = read_json(run / "test_ledger.json")
    readings = [reading for reading in ledger["readings"] if reading["reader"] != "inherited"]
    write_json({**ledger, "readings": readings}, run / "test_ledger.json")
    return run
