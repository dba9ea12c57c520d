"""What a run will take on this machine, before it begins: some steps of each training, some images scored, one network timed.

Nothing is kept. What a step does is measured once and multiplied by how often the run does it, each time for the largest
network, so that a run takes about this long while the machine is as busy as it is now.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoformer.cli.chain.chain import Planned
from autoformer.cli.chain.limits import keeper_of, limit_words
from autoformer.cli.chain.parent import finetune_of, has_parent, knows_classes, taught_by, unfinetuned
from autoformer.cli.chain.places import places_of, rivals_of
from autoformer.cli.chain.race import MOST, race_schedule
from autoformer.cli.chain.recipe import Recipe
from autoformer.cli.chain.starting import network_for
from autoformer.cli.chain.steps import steps_of
from autoformer.data.parts import Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.export.graphs.onnx_graph import image_shape_of
from autoformer.networks.folders import save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.classifier import Classifier
from autoformer.profiling.measuring.machine_state import MachineState
from autoformer.profiling.measuring.sensors import MachineSensors, Reading
from autoformer.profiling.measuring.system_files import usable_cores
from autoformer.profiling.reports.wording import duration
from autoformer.profiling.tables.measuring import MOST as GROWN
from autoformer.progress import Progress, silent
from autoformer.search.sizing import SearchPlan
from autoformer.temporary import temporary_folder
from autoformer.training.curriculum import chooser_over
from autoformer.training.runs import fresh_supernet, rehearse, trainer_of
from autoformer.training.trainer import Surroundings, Trainer, plan_for

SCORED = 128  # images of the search part that are scored to see how long one takes
TRAININGS = ("parent", "train", "race", "finetune")  # the steps whose time follows the epochs
LONG_S, FEWER = 600, 4  # trainings from which a person is told what a quarter of the epochs would take
RIVAL, SIZES_TRIED = "timm:resnet10t@scratch", 2  # of the networks out of timm: one that is looked at here; image sizes of each
FEW_CORES = 0.25  # kept busy by other programs, of which nothing is said


@dataclass(frozen=True, kw_only=True)
class StepPrice:
    """What one step of a run takes."""

    step: str  # as in the report
    seconds: float
    measured: str  # what that rests on, in words

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def price_of(plan: Planned, out: Path, progress: Progress = silent) -> list[StepPrice]:
    """What the steps of a run that begins anew would take here, in their order. Writes nothing into `out`."""
    found: list[StepPrice] = []
    with temporary_folder("price") as folder:
        progress("measure steps", 0, len(names := steps_of(plan.recipe)), names[0])
        for price in _prices(plan, out, folder, Surroundings()):
            found.append(price)
            progress("measure steps", min(len(found), len(names) - 1), len(names), f"{price.step} done")
        progress("measure steps", len(names), len(names))
    return found


def total_s(prices: Sequence[StepPrice]) -> float:
    """Of all steps together."""
    return sum(price.seconds for price in prices)


def shorter_line(prices: Sequence[StepPrice], epochs: int) -> str:
    """How a run with so many epochs of the supernet can be made shorter, and to what; empty where its trainings are short."""
    trainings = sum(price.seconds for price in prices if price.step in TRAININGS)
    if trainings < LONG_S or epochs < 2 * FEWER:
        return ""
    fewer = epochs // FEWER
    rest = total_s(prices) - trainings * (1 - fewer / epochs)
    return f"--epochs {fewer} instead of {epochs} makes every training shorter: about {duration(rest)} in all, for less accuracy"


class OtherPrograms:
    """How many cores other programs keep busy from now on."""

    def __init__(self) -> None:
        self._sensors = MachineSensors()
        self._began = self._now()

    def _now(self) -> Reading:
        reading, times = self._sensors.read(time.perf_counter()), os.times()
        children = times.children_user + times.children_system  # which loaded images for this process
        return reading if reading.own_cpu_s is None else replace(reading, own_cpu_s=reading.own_cpu_s + children)

    def cores(self) -> float | None:
        """On average until now; None where the system does not say."""
        state = MachineState.of([(self._began, self._now())], on_gpu=False, cores=usable_cores(), threads=None)
        return state.known_other_cores

    @staticmethod
    def line(cores: float | None) -> str:
        """That what was measured meanwhile takes longer than it had to; empty where little was taken."""
        if cores is None or cores <= FEW_CORES:
            return ""
        return (
            f"other programs kept {cores:.2g} of {usable_cores()} cores busy while this was measured: with these free it takes "
            "less, and where several threads wait for one another many times less"
        )


def _prices(plan: Planned, out: Path, folder: Path, around: Surroundings) -> Iterator[StepPrice]:
    recipe, parts = plan.recipe, plan.parts
    if has_parent(recipe) and not knows_classes(recipe.train.start, parts):
        assert recipe.parent is not None
        assert recipe.train.start is not None
        network, own = unfinetuned(recipe.train.start, parts.labelled, recipe.seed)
        config = finetune_of(recipe.parent, recipe.finetune)
        yield _training("parent", trainer_of(network, own, config, out, seed=recipe.seed, around=around), out)
        assert isinstance(network, Subnet)
        save_subnet(
            network, folder / "parent", preprocessing=parts.preprocessing, classes=parts.classes, record={"data": parts.record}
        )
        recipe = taught_by(recipe, folder / "parent")
    elif has_parent(recipe):
        recipe = taught_by(recipe, Path(str(recipe.train.start)))
    supernet = plan.start or fresh_supernet(plan.space, recipe.train, recipe.seed)
    largest = Subnet.from_supernet(supernet, plan.space.largest)
    smallest = Subnet.from_supernet(supernet, plan.space.smallest)
    one_s, smallest_ms, largest_ms = _timed(recipe, smallest, largest, folder)
    timing = f"one network exported and timed, {one_s:.1f} s"
    if recipe.budget.max_latency is not None and recipe.profile.table is None:
        count, limit = recipe.profile.networks or GROWN, limit_words(recipe.budget.max_latency, smallest_ms, largest_ms)
        yield StepPrice(step="latency table", seconds=count * one_s, measured=f"{count} × {timing}; {limit}")
    yield _training("train", _of_supernet(supernet, plan, recipe, out, around), out)
    search = SearchPlan.of(len(parts.search), recipe.search)
    image_s = _scored_s(largest, parts.search.spaced(SCORED), parts.preprocessing, around)
    scored = f"{search.candidates:,} networks × {search.images:,} images × {1000 * image_s:.2g} ms"
    yield StepPrice(step="search", seconds=search.candidates * search.images * image_s, measured=scored)
    if recipe.budget.max_latency is not None:
        count = recipe.profile.rounds * recipe.profile.finalists
        yield StepPrice(step="latency in the loop", seconds=count * one_s, measured=f"{count} × {timing}")
    finetune = _training("finetune", trainer_of(largest, parts, recipe.finetune, out, seed=recipe.seed, around=around), out)
    if recipe.race is not None:
        schedule = race_schedule(MOST, recipe.finetune, recipe.race)
        places = places_of(recipe, recipe.race, plan.space.image_size)
        epoch_s = finetune.seconds / recipe.finetune.epochs
        looks = SIZES_TRIED * rivals_of(recipe, recipe.race, plan.space.image_size)
        look_s = _look_s(plan, folder) if looks else 0.0
        looked = f"{looks} looks at networks out of timm, {look_s:.1f} s each; " if looks else ""
        yield StepPrice(
            step="race",
            seconds=2 * schedule.entrants * one_s + looks * look_s + schedule.most_extra_epochs * epoch_s + finetune.seconds,
            measured=f"up to {places.every} networks start, {places.own} of the search's own; "
            f"{2 * schedule.entrants} × {timing}, alone and together; {looked}up to "
            f"{schedule.most_extra_epochs + recipe.finetune.epochs} epochs, "
            f"{epoch_s:.3g} s each",
        )
    else:
        yield finetune
    files = len(recipe.export.precisions)
    yield StepPrice(step="export", seconds=2 * files * one_s, measured=f"{files} files, compared and then timed; {timing}")
    readings = files + 2 + has_parent(recipe)
    test = f"{readings} readings of {len(parts.test):,} images × {1000 * image_s:.2g} ms"
    yield StepPrice(step="test", seconds=readings * len(parts.test) * image_s, measured=test)


def _training(step: str, trainer: Trainer, out: Path) -> StepPrice:
    """A training, by some of its steps."""
    found = rehearse(trainer, out)
    step_s, count = found.seconds_per_step, found.steps_measured
    each = (f"{step_s:.3g} s" if step_s >= 1 else f"{1000 * step_s:.3g} ms") + (f" (median of {count})" if count > 1 else "")
    measured = f"{found.steps:,} steps of {trainer.config.batch_size} images × {each}"
    return StepPrice(step=step, seconds=found.steps * found.seconds_per_step, measured=measured)


def _of_supernet(supernet: Supernet, plan: Planned, recipe: Recipe, out: Path, around: Surroundings) -> Trainer:
    """The trainer of the supernet, which its rehearsal spoils."""
    supernet.to(around.world.device).set_drop_path(recipe.train.drop_path_rate)
    steps = plan_for(plan.parts, recipe.train, recipe.seed).steps
    return Trainer(
        supernet, plan.parts, recipe.train, out, chooser_over(recipe.train.subnets, plan.space, recipe.seed, steps),
        dict(plan.space.anchors), plan.parts.preprocessing, seed=recipe.seed, around=around,
    )  # fmt: skip


def _timed(recipe: Recipe, smallest: Subnet, largest: Subnet, folder: Path) -> tuple[float, float, float]:
    """Seconds until a network is exported, opened and timed, where another was exported before; milliseconds of both.

    The seconds are those of the smallest and the largest on average: what takes longer is timed for longer.
    """
    keeper = keeper_of(recipe, folder)
    found, spent = [], []
    first = keeper.of_network("smallest", smallest, image_shape_of(smallest))
    for name, network in (("smallest", smallest), ("largest", largest)):
        began = time.perf_counter()
        ready = first if name == "smallest" else keeper.of_network(name, network, image_shape_of(network))
        found.append(keeper.together({name: ready})[name].measured_ms)
        spent.append(time.perf_counter() - began)
    return sum(spent) / len(spent), found[0], found[1]


def _look_s(plan: Planned, folder: Path) -> float:
    """Seconds for a first look at a network out of timm, which torch's exporter has to trace."""
    began = time.perf_counter()
    network, parts, _ = network_for(RIVAL, plan.parts, plan.recipe.seed)
    assert isinstance(network, Classifier)
    prepared, keeper = parts.preprocessing, keeper_of(plan.recipe, folder)
    keeper.alone(keeper.of_network("rival", network.network, (prepared.in_chans, prepared.image_size, prepared.image_size)))
    return time.perf_counter() - began


def _scored_s(network: Subnet, images: Part, preprocessing: Preprocessing, around: Surroundings) -> float:
    """Seconds for the scoring of an image."""
    ready = EvaluationSet.of(images, preprocessing)
    began = time.perf_counter()
    predictions(predict_with(network.to(around.world.device)), ready)
    return (time.perf_counter() - began) / len(ready)
