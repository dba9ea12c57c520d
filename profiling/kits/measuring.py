"""Measures a kit on the target device it was copied to, in rounds that can be interrupted and continued at any visit.

A round visits every network: it is opened, warmed up, timed and closed, so memory holds one at a time, and every visit is one
more placement in it. Rounds go in one order and then in the other; the drift that all networks of a round share is taken out
before anything is judged (`drift.py`). A network that is built more than once is as many instances, each with its own visits.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from autoformer.errors import MeasurementError
from autoformer.profiling.kits.kit import Kit, KitNetwork, StoppingRule
from autoformer.profiling.kits.rows import Build, Rows, Setting, Visit, visits_of
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.drift import drift_of_rounds
from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.order_statistics import FLOORS, median_interval_ranks
from autoformer.progress import Progress

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


@dataclass(frozen=True)
class Instance:
    """One build of one network."""

    network: KitNetwork
    build: int

    @property
    def key(self) -> tuple[str, int]:
        """By which rows name it."""
        return self.network.name, self.build

    def named(self, setting: Setting) -> dict[str, Any]:
        """What a row is of, as the fields of `Row`."""
        return {"precision": setting.precision, "batch": setting.batch, "network": self.network.name, "build": self.build}


def instances_of(kit: Kit) -> list[Instance]:
    """Every build of every network; second builds come last, so that a first table is there early."""
    most = max(network.builds for network in kit.networks)
    return [Instance(network, build) for build in range(most) for network in kit.networks if build < network.builds]


def measure_setting(kit: Kit, runtime: Runtime, setting: Setting, rows: Rows, progress: Progress | None = None) -> str:
    """Visits all networks until the kit's rule is met; says why it stopped. Raises whatever a network's failure raises."""
    instances = instances_of(kit)
    for number, instance in enumerate(instances):
        if progress:
            progress(f"prepare {setting}", number + 1, len(instances))
        if made := runtime.prepare(instance.network, setting.precision, setting.batch, instance.build):
            rows.append(Build(**instance.named(setting), **made))
    done = visits_of(rows.rows, setting)
    for number in range(kit.rule.max_rounds):
        if number >= kit.rule.min_rounds and _known(done, instances, number, kit):
            return RULE_MET
        for place, instance in enumerate(instances if number % 2 == 0 else instances[::-1]):
            if progress:
                progress(f"round {number + 1} of {setting}", place + 1, len(instances))
            if len(done.get(instance.key, ())) > number:
                continue
            taken = runtime.visit(instance.network, setting.precision, setting.batch, instance.build, kit.rule)
            visit = Visit.of(taken, number, **instance.named(setting))
            rows.append(visit)
            done.setdefault(instance.key, []).append(visit)
    return RULE_MET if _known(done, instances, kit.rule.max_rounds, kit) else ROUNDS_OUT


def _known(done: Mapping[tuple[str, int], Sequence[Visit]], instances: Sequence[Instance], rounds: int, kit: Kit) -> bool:
    """Whether the rounds so far satisfy the rule and carry the statistic; an unfinished round does not count."""
    own = [done.get(instance.key, ()) for instance in instances]
    if any(len(visits) < rounds for visits in own):
        return False
    if any(sum(len(visit.samples_us) for visit in visits) < FLOORS.get(kit.statistic, 1) for visits in own):
        return False
    widest = widest_interval([[median(visit.samples_us) for visit in visits[:rounds]] for visits in own])
    return widest <= kit.rule.max_interval


def widest_interval(medians: Sequence[Sequence[float]]) -> float:
    """The widest relative 95 % interval of a network's median over its rounds [network][round], without common drift."""
    drift = drift_of_rounds(medians)
    widths = []
    for own in medians:
        steady = sorted(time / factor for time, factor in zip(own, drift, strict=True))
        ranks = median_interval_ranks(len(steady))
        if ranks is None:
            return float("inf")
        widths.append((steady[ranks[1] - 1] - steady[ranks[0] - 1]) / median(steady))
    return max(widths)


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
