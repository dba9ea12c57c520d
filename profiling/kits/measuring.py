"""Measures a kit on the device it was copied to, in rounds that can be stopped and gone on with at any visit.

A round visits every network: it is opened, warmed up, timed and closed, so memory holds one at a time, and every visit is one
more placement in it. Rounds go in one order and then in the other; what befell all networks of a round alike is taken out before
anything is judged (`drift.py`). A network that is built more than once is as many instances, each with its own visits.

A finished visit is a line in a file, on disk before the next begins; a line that was being written when the device went
down is dropped. Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from autoformer.errors import CheckpointError, MeasurementError, short
from autoformer.profiling.kits.kit import Kit, KitNetwork, StoppingRule
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.drift import drift_of_rounds
from autoformer.profiling.measuring.measure import KINDS_OF_SAMPLES, Measurement
from autoformer.profiling.measuring.order_statistics import FLOORS, median_interval_ranks
from autoformer.progress import Progress

FORMAT = "autoformer/kit-rows/1"
# what must be as it was for a measurement to go on
SAME_DEVICE = ("cpu", "cores", "governor", "gpus", "jetson", "l4t", "power_mode", "clocks_locked", "versions")
RULE_MET, ROUNDS_OUT = "every median is known as closely as asked", "the most rounds were made"


class Runtime(Protocol):
    """What runs the networks of a kit. Leaving nothing open between visits is its business."""

    @property
    def name(self) -> str:
        """ "onnxruntime-cpu", "tensorrt", "trtexec", ..."""

    @property
    def facts(self) -> Mapping[str, str]:
        """Versions and settings that the times depend on."""

    def prepare(self, network: KitNetwork, precision: str, batch: int, build: int) -> Mapping[str, Any]:
        """Builds what has to be built before the visits, or finds it built; what is worth knowing of it."""

    def visit(self, network: KitNetwork, precision: str, batch: int, build: int, rule: StoppingRule) -> Measurement:
        """Opens, warms up, times in one round, and closes."""


@dataclass(frozen=True, order=True)
class Setting:
    """What is the same for all networks of one table."""

    precision: str
    batch: int

    def __str__(self) -> str:
        return f"{self.precision}, batch {self.batch}"


@dataclass(frozen=True)
class Instance:
    """One build of one network."""

    network: KitNetwork
    build: int

    @property
    def key(self) -> tuple[str, int]:
        """By which rows name it."""
        return self.network.name, self.build


def instances_of(kit: Kit) -> list[Instance]:
    """Every build of every network; second builds come last, so that a first table is there early."""
    most = max(network.builds for network in kit.networks)
    return [Instance(network, build) for build in range(most) for network in kit.networks if build < network.builds]


@dataclass
class Rows:
    """The file of finished visits. Its first line says of which kit, device and runtime they are."""

    path: Path
    head: Mapping[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, head: Mapping[str, Any]) -> Rows:
        """Reads what is there, or begins the file. Raises `MeasurementError` when it is of something else, `CheckpointError`
        when a line in its middle is damaged.
        """
        wanted = {"format": FORMAT, **json.loads(json.dumps(head))}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # the device went down while this line was written
            with path.open("r+b") as file:
                file.truncate(len(whole))
        try:
            found = [json.loads(line) for line in whole.splitlines()]
            if unread := [number for number, row in enumerate(found, 1) if not _is_row(row, first=number == 1)]:
                raise ValueError(f"line {unread[0]} is no finished visit")
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged ({short(error)}); move it away to measure from the beginning") from error
        rows = cls(path, wanted, found[1:])
        if not found:
            rows._write(wanted)
            return rows
        for key in sorted(set(wanted) | set(found[0])):
            if found[0].get(key) != wanted.get(key):
                raise MeasurementError(
                    f"{path} was measured with another {key} ({short(found[0].get(key), 60)}, now {short(wanted.get(key), 60)}); "
                    "put the device back as it was, or measure from the beginning in another folder, --work FOLDER"
                )
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row; it is on disk when this returns."""
        self._write(row)
        self.rows.append(dict(row))

    def _write(self, row: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def visits(self, setting: Setting) -> dict[tuple[str, int], list[dict[str, Any]]]:
        """The rows of one setting by instance, in the order of their rounds."""
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in self.rows:
            if row.get("row") == "visit" and (row["precision"], row["batch"]) == (setting.precision, setting.batch):
                found.setdefault((row["network"], row["build"]), []).append(row)
        return found


def _is_row(row: object, *, first: bool) -> bool:
    """Whether a line has what is read from it here; the first says what all others are of."""
    if first or not isinstance(row, dict):
        return isinstance(row, dict)
    named = isinstance(row.get("network"), str) and all(type(row.get(name)) is int for name in ("batch", "build"))
    if row.get("row") != "visit":
        return named and row.get("row") == "build" and "precision" in row
    times = row.get("samples_us")
    timed = isinstance(times, list) and bool(times) and all(type(time) in (int, float) and 0 < time < 1e15 for time in times)
    return named and timed and "precision" in row and type(row.get("round")) is int


def measure_setting(kit: Kit, runtime: Runtime, setting: Setting, rows: Rows, progress: Progress | None = None) -> str:
    """Visits all networks until the kit's rule is met; says why it stopped. Raises whatever a network's failure raises."""
    instances = instances_of(kit)
    for number, instance in enumerate(instances):
        if progress:
            progress(f"prepare {setting}", number + 1, len(instances))
        made = runtime.prepare(instance.network, setting.precision, setting.batch, instance.build)
        if made:
            rows.append({"row": "build", **_named(setting, instance), **made})
    done = rows.visits(setting)
    for number in range(kit.rule.max_rounds):
        if number >= kit.rule.min_rounds and _known(done, instances, number, kit):
            return RULE_MET
        for place, instance in enumerate(instances if number % 2 == 0 else instances[::-1]):
            if progress:
                progress(f"round {number + 1} of {setting}", place + 1, len(instances))
            if len(done.get(instance.key, ())) > number:
                continue
            taken = runtime.visit(instance.network, setting.precision, setting.batch, instance.build, kit.rule)
            row = {"row": "visit", "round": number, **_named(setting, instance), **row_of(taken)}
            rows.append(row)
            done.setdefault(instance.key, []).append(row)
    return RULE_MET if _known(done, instances, kit.rule.max_rounds, kit) else ROUNDS_OUT


def _known(
    done: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]], instances: Sequence[Instance], rounds: int, kit: Kit
) -> bool:
    """Whether the rounds so far satisfy the rule and carry the statistic; an unfinished round does not count."""
    own = [done.get(instance.key, ()) for instance in instances]
    if any(len(visits) < rounds for visits in own):
        return False
    if any(sum(len(row["samples_us"]) for row in visits) < FLOORS.get(kit.statistic, 1) for visits in own):
        return False
    widest = widest_interval([[median(row["samples_us"]) for row in visits[:rounds]] for visits in own])
    return widest <= kit.rule.max_interval


def widest_interval(medians: Sequence[Sequence[float]]) -> float:
    """The widest relative 95 % interval of a network's median over its rounds [network][round], common drift taken out."""
    drift = drift_of_rounds(medians)
    widths = []
    for own in medians:
        steady = sorted(time / factor for time, factor in zip(own, drift, strict=True))
        ranks = median_interval_ranks(len(steady))
        if ranks is None:
            return float("inf")
        widths.append((steady[ranks[1] - 1] - steady[ranks[0] - 1]) / median(steady))
    return max(widths)


def _named(setting: Setting, instance: Instance) -> dict[str, Any]:
    return {
        "precision": setting.precision, "batch": setting.batch, "network": instance.network.name, "build": instance.build,
    }  # fmt: skip


def row_of(taken: Measurement) -> dict[str, Any]:
    """A visit, compact: microseconds with two digits."""
    return {
        "threads": taken.threads,
        "settings": dict(taken.settings),
        "warmup_runs": taken.warmup.runs,
        "settled": taken.warmup.settled,
        "conditions": taken.conditions and taken.conditions.to_dict(),
        **{name.replace("_ms", "_us"): [round(1000 * time, 2) for time in getattr(taken, name)] for name in KINDS_OF_SAMPLES},
    }


def settings_of(kit: Kit, precisions: Sequence[str], batches: Sequence[int]) -> Iterator[Setting]:
    """What is asked for, in the kit's order. Raises `MeasurementError` for what the kit does not hold."""
    for asked, held, what in ((precisions, kit.precisions, "precision"), (batches, kit.batches, "batch")):
        if unknown := [one for one in asked if one not in held]:
            raise MeasurementError(f"this kit has no {what} {unknown[0]}, only {', '.join(map(str, held))}")
    for batch in batches or kit.batches:
        for precision in precisions or kit.precisions:
            yield Setting(precision, batch)


def head_of(kit_digest: str, runtime: Runtime, device: DeviceFacts) -> dict[str, Any]:
    """What all rows of a file have in common; a row of another device or state of it must not be mixed in."""
    facts = device.to_dict()
    same = {key: facts[key] for key in SAME_DEVICE if key in facts}
    return {"kit": kit_digest, "runtime": runtime.name, "facts": dict(runtime.facts), "device": same}
