"""One training loop for supernets, networks from scratch and finetuning; what differs is which networks a step trains.

Everything random is a pure function of (seed, step): the order of images, their augmentation, the networks of a step, mixing,
drop path. So a resumed run needs no random states, and on a CPU it ends with the weights of an undisturbed one, bit for bit, with
the same number of threads. Processes that share a step average their gradients; together they do what one process would.

A signal (Ctrl-C, a scheduler's SIGTERM) ends the training after the step it interrupts, with a checkpoint.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.data.images import called
from autoformer.data.parts import DataParts
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import DataError, DivergedError, InterruptedRunError, RecipeError, TrainingError
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.files import write_json
from autoformer.metric import Metric, percent_value, score
from autoformer.networks.supernet import Supernet
from autoformer.progress import Progress, silent
from autoformer.tensors import write_tensors
from autoformer.training.augment import TrainingImages
from autoformer.training.batches import Key, Plan
from autoformer.training.cached_teacher import FOLDER, CachedTeacher, check_views
from autoformer.training.choosing import Choose
from autoformer.training.config import TrainConfig
from autoformer.training.distributed import World, best_device
from autoformer.training.loader import loaded
from autoformer.training.log import Hook, Stopwatch, TrainingLog
from autoformer.training.state import TrainingState
from autoformer.training.step import TrainStep
from autoformer.training.trackers import TensorBoard, Told, Tracker, forget, tracked

CHECK_EVERY = 50  # steps between looks at the device's count of skipped steps; a look waits for the device
SAME_WISH_S = 2.0  # signals of one wish: a scheduler may send several; a later one is another wish, to stop at once


@dataclass(frozen=True)
class Surroundings:
    """The processes that share a training, and who is told how it goes. Nothing of it changes the weights."""

    world: World = field(default_factory=lambda: World(device=best_device()))
    progress: Progress = silent
    hooks: Sequence[Hook] = ()  # each gets every record of the log
    trackers: Sequence[Tracker] = ()  # each opens a hook for every training
    logits: Path | None = None  # where trainings share what their teacher says; None: each has it in its own folder


@dataclass(frozen=True)
class Trained:
    """What a training gives: the network with the weights it ended with, and one record per epoch."""

    network: nn.Module
    history: list[dict[str, Any]]


def plan_for(parts: DataParts, config: TrainConfig, seed: int) -> Plan:
    """The steps of a training.

    Raises `DataError` when one of them wants more images than there are, `RecipeError` when its teacher's logits take too much.
    """
    views = None if config.teacher is None else config.teacher.views
    plan = Plan(len(parts.trained_on), config.batch_size, config.epochs, config.repeats, seed, views)
    check_views(config, plan, len(parts.classes))
    return plan


def takes_unlabelled(config: TrainConfig) -> bool:
    """Whether a training can use images without labels: it has a teacher, and mixes no labels."""
    return config.teacher is not None and not config.mixup and not config.cutmix


def check_unlabelled(parts: DataParts, config: TrainConfig, section: str) -> None:
    """Raises `RecipeError` for images without labels that a training, of this section of a recipe, could not use."""
    if parts.unlabelled is None:
        return
    source = parts.unlabelled.source
    if config.teacher is None:
        raise RecipeError(
            f"{source} holds images without labels, which only a teacher can teach; set {section}.teacher.network, or leave "
            "data.unlabelled out"
        )
    if config.mixup or config.cutmix:
        raise RecipeError(
            f"{section}.mixup and {section}.cutmix mix labels, which the images of {source} lack; set both to 0, or leave "
            "data.unlabelled out"
        )


@dataclass
class Trainer:
    """Trains `network` on `parts.trained_on` and scores `anchors` on the search part now and then."""

    network: nn.Module
    parts: DataParts
    config: TrainConfig
    folder: Path
    choose: Choose
    anchors: dict[str, Architecture | None]
    preprocessing: Preprocessing
    seed: int = 0
    metric: Metric = "top1"
    around: Surroundings = field(default_factory=Surroundings)
    work: str = "train"

    def __post_init__(self) -> None:
        config, self.world = self.config, self.around.world
        check_unlabelled(self.parts, config, self.work.split()[0])
        skip = self.parts.config.unreadable == "skip"
        self.images = TrainingImages(self.parts.trained_on, self.parts.preprocessing, config.augment, skip_unreadable=skip)
        self.plan = plan_for(self.parts, config, self.seed)
        self.steps = TrainStep(self.network, self.parts, config, self.choose, self.plan, self.seed, self.world)
        self.device = self.steps.device
        self.state = TrainingState(
            self.network, self.steps.optimizer, self.folder / "checkpoints", config.keep_checkpoints, self.plan.steps_per_epoch,
            None if self.steps.average is None else self.steps.average.module, self.steps.scaler, self.world,
            self.steps.projector,
        )  # fmt: skip
        self.unreadable: set[int] = set()
        self.cached = self._cached_teacher()
        if self.cached is not None:
            self.steps.known = self.cached.logits

    def _cached_teacher(self) -> CachedTeacher | None:
        """What keeps the teacher's logits, where the config asks for it."""
        steps, parts = self.steps, self.parts
        if steps.teacher is None or self.plan.views is None:
            return None
        identity = {
            "teacher": steps.teacher.identity,
            "images": parts.trained_on.digest,
            "unreadable": parts.config.unreadable,
            "preprocessing": parts.preprocessing.to_dict(),
            "augment": self.config.augment.model_dump(mode="json"),
            "seed": self.seed,
            "arithmetic": [self.device.type, str(steps.dtype), str(steps.amp)],
        }

        def answer(shares: list[list[Key]]) -> Generator[Tensor, None, None]:
            for pixels, facts in self._loaded(shares):
                yield steps.answer(pixels, facts)

        return CachedTeacher(self.around.logits or self.folder / FOLDER, identity, self.plan, len(parts.classes), answer)

    # --- the loop ------------------------------------------------------------------------------------------------

    def run(self, until: int | None = None) -> Trained:
        """Trains to the end, or to the end of epoch `until` of the same schedule, from the newest checkpoint if there is one.

        Raises `InterruptedRunError` after Ctrl-C or SIGTERM: the step is finished and saved, and the same call goes on
        from it. Raises `DivergedError` when gradients stay without finite values, `TrainingError` when a checkpoint cannot be
        written, `DataError` when images cannot be read.
        """
        config, state, plan = self.config, self.state, self.plan
        state.load_newest()
        loss_sum = torch.tensor(state.epoch_sums.get("loss", 0.0), dtype=torch.float64, device=self.device)
        self.steps.skipped.fill_(state.epoch_sums.get("skipped", 0.0))
        watch, saved = Stopwatch(), time.monotonic()
        forward = self.world.wrap(self.steps.trained, some_unused=isinstance(self.network, Supernet))
        self.network.train()
        with self._tracked() as hooks, deterministic(self.device), stop_wish() as wish:
            log = TrainingLog(self.folder if self.world.leads else None, state.step, hooks)
            loader = self.loader(state.step)
            last = plan.steps if until is None else min(plan.steps, until * plan.steps_per_epoch)
            while state.step < last and not self._has_stopped_rising():
                try:
                    if not self._teacher_has_spoken(wish):
                        self._stop(wish, loss_sum)
                    asked = time.perf_counter()
                    pixels, facts = next(loader)
                except TrainingError:
                    time.sleep(SAME_WISH_S / 4)
                    if not wish.signal_number or self.world.size > 1:
                        raise
                    self._stop(wish, loss_sum)  # the signal was for the loader processes as well
                self._note_unreadable(facts)
                waited_s = time.perf_counter() - asked
                loss_sum += self.steps.run(forward, pixels, facts, state.step)
                state.step += 1
                if state.step == 1:
                    _ = state.bytes  # an optimiser whose state no checkpoint holds is refused now, not after an epoch
                watch.count(config.batch_size, waited_s)
                if due(state.step, CHECK_EVERY, self.device) or self._ends_epoch():
                    self._stop_if_nonfinite()
                if due(state.step, config.log_every) and not self._ends_epoch():
                    log.write(record := self._record("step", loss_sum, watch))
                    self._show(record)
                if self._ends_epoch():
                    record = self._record("epoch", loss_sum, watch)
                    if config.differences.watches_search and self._scores_are_due():
                        record["scores"] = self._scores(self._watched)
                        self._keep_best(record["scores"])
                    state.history.append(record)
                    log.write(record)
                    self._show(record)
                    loss_sum.zero_()
                    self.steps.skipped.zero_()
                    watch = Stopwatch()
                stop, late = self.world.any(wish.signal_number != 0, time.monotonic() - saved > 60 * config.save_minutes)
                if stop:
                    self._stop(wish, loss_sum)
                if late or self._ends_epoch():
                    self._save(loss_sum)
                    saved = time.monotonic()
        if self.is_finished:
            forget(self.folder)
            if config.differences.patience is not None and state.best is not None:
                state.load_best()
        return Trained(state.result.eval(), state.history)

    @property
    def is_finished(self) -> bool:
        """Whether nothing of the schedule is left to train."""
        return self.state.step >= self.plan.steps or self._has_stopped_rising()

    # --- now and then --------------------------------------------------------------------------------------------

    @contextmanager
    def _tracked(self) -> Iterator[list[Hook]]:
        """Who gets every record of the log while the block runs."""
        asked = [*self.around.trackers, *([TensorBoard] if self.config.tensorboard else [])]
        settings = {"work": self.work, "seed": self.seed, "metric": self.metric, **self.config.model_dump(mode="json")}
        told = Told(folder=self.folder, first_step=self.state.step, settings=settings)
        with tracked(list(dict.fromkeys(asked)) if self.world.leads else [], told) as hooks:
            yield [*self.around.hooks, *hooks]

    def _teacher_has_spoken(self, wish: StopWish) -> bool:
        """Sees to it that the logits of the epoch are there, where they are kept; False: asked to stop before they were."""
        if self.cached is None:
            return True
        return self.cached.fill(self.state.epoch, self.world, self.around.progress, lambda: wish.signal_number != 0)

    def _save(self, loss_sum: Tensor) -> None:
        self.state.epoch_sums = {"loss": float(loss_sum), "skipped": float(self.steps.skipped)}
        self.state.save()

    def _stop(self, wish: StopWish, loss_sum: Tensor) -> NoReturn:
        """Saves, and raises `InterruptedRunError`."""
        self._save(loss_sum)
        raise InterruptedRunError(
            f"stopped in epoch {self.state.epoch + 1} of {self.config.epochs}; run the same command again to go on from there",
            wish.signal_number or 15,
        )

    @cached_property
    def _watched(self) -> EvaluationSet:
        """The search part; decoded when it is asked about first, which parts of a training may never do."""
        return EvaluationSet.of(self.parts.search, self.preprocessing)

    def _scores_are_due(self) -> bool:
        """Every so many epochs and after the last; after each where they decide when to stop."""
        patient = self.config.differences.patience is not None
        return patient or due(self.state.epoch, self.config.evaluate_every) or self.state.epoch == self.config.epochs

    def _ends_epoch(self) -> bool:
        return self.state.step % self.plan.steps_per_epoch == 0

    def _record(self, event: str, loss_sum: Tensor, watch: Stopwatch) -> dict[str, Any]:
        """What is known now; waits for the device."""
        steps = self.state.step % self.plan.steps_per_epoch or self.plan.steps_per_epoch
        skipped = int(self.steps.skipped)
        return {
            "event": event,
            "step": self.state.step,
            "epoch": (self.state.step - 1) // self.plan.steps_per_epoch + 1,
            "loss": float(loss_sum) / (steps - skipped) if steps > skipped else None,
            "skipped": skipped,
            "learning_rate": max(group["lr"] for group in self.steps.optimizer.param_groups),
            **watch.read(),
        }

    def _scores(self, watched: EvaluationSet) -> dict[str, Any]:
        """The score of each anchor on the search part, its images shared by the processes."""
        own = watched.share(self.world.rank, self.world.size)
        found = {}
        for name, anchor in self.anchors.items():
            predicted = predictions(predict_with(self.state.result, anchor), own).tolist() if len(own) else []
            found[name] = score(np.array(self.world.gather(predicted)), watched.labels, self.metric).to_dict()
        return found

    def _keep_best(self, scores: dict[str, Any]) -> None:
        self.state.keep_best(sum(entry["value"] for entry in scores.values()) / len(scores))

    def _has_stopped_rising(self) -> bool:
        patience, best = self.config.differences.patience, self.state.best
        if patience is None or best is None:
            return False
        return self._ends_epoch() and self.state.epoch - int(best["epoch"]) >= patience

    def _stop_if_nonfinite(self) -> None:
        """Raises `DivergedError` after too many skipped steps in a row, the last one's networks and images saved."""
        if self.steps.nonfinite_in_a_row < self.config.max_nonfinite:
            return
        step = int(self.steps.nonfinite_step)
        path = self.folder / f"nonfinite-step-{step:09d}"
        if self.world.leads:
            batch = [self.images[key] for key in self.plan.batch(step)]
            tensors = {
                "pixels": torch.from_numpy(np.stack([pixels for pixels, _ in batch])),
                "facts": torch.from_numpy(np.stack([facts for _, facts in batch])),
            }
            write_tensors(tensors, path.with_suffix(".safetensors"))
            networks = [None if choice is None else choice.to_dict() for choice in self.choose(step)]
            write_json({"step": step, "networks": networks, "keys": self.plan.batch(step)}, path.with_suffix(".json"))
        raise DivergedError(
            f"{int(self.steps.nonfinite_in_a_row)} steps in a row had gradients that are not finite, the last of them step "
            f"{step + 1}; its images and networks are in {path}.*; lower learning_rate or set amp=off"
        )

    def _note_unreadable(self, facts: Tensor) -> None:
        """Counts images that another one stood in for. Raises `DataError` beyond the limit of the data's config."""
        new = {int(position) for position in facts[:, 2].tolist() if position >= 0} - self.unreadable
        for position in sorted(new):
            self.unreadable.add(position)
            self.around.progress(self.work, self.state.step, self.plan.steps, f"left out {self._name(position)}")
        if len(self.unreadable) > self.parts.config.max_unreadable:
            limit, first = self.parts.config.max_unreadable, self._name(min(self.unreadable))
            raise DataError(
                f"{len(self.unreadable)} images of {self.parts.source} cannot be read, e.g. {first}; the limit is {limit}: "
                "repair them or raise data.max_unreadable"
            )

    def _name(self, position: int) -> str:
        return called(self.images.part.images, self.images.part.indices[position])

    def _show(self, record: dict[str, Any]) -> None:
        named = self.state.last_scores.items()
        shown = ((name, percent_value(entry["value"], entry["low"], entry["high"])) for name, entry in named)
        scores = " ".join(f"{name if len(named) > 1 else ''} {value}".strip() for name, value in shown)
        loss = "no finite loss" if record["loss"] is None else f"loss {record['loss']:.3f}"
        words = (
            f"epoch {record['epoch']} {loss} rate {record['learning_rate']:.2g} {record['images_per_s']:.0f} images/s {scores}"
        )
        self.around.progress(self.work, self.state.step, self.plan.steps, words.rstrip())

    def loader(self, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the images of each step from `first_step` on: uint8 [B, C, H, W] and facts [B, 3]."""
        return self._loaded(self.plan.shares(first_step, self.world.rank, self.world.size, self.config.accumulate))

    def _loaded(self, shares: Iterable[list[Key]]) -> Iterator[tuple[Tensor, Tensor]]:
        return loaded(
            self.images,
            shares,
            workers=self.config.workers,
            pinned=self.device.type == "cuda",
            setting=f"{self.work.split()[0]}.workers",
        )


def due(count: int, every: int, device: torch.device | None = None) -> bool:
    """Whether something that happens `every` so many is due; on a CPU, where looking waits for nothing, always."""
    return count % every == 0 or (device is not None and device.type == "cpu")


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Repeatable algorithms while the block runs, on a CPU; on a GPU they cost too much and some do not exist."""
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time only
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


@dataclass
class StopWish:
    """The number of the signal that asked for the end, or 0."""

    signal_number: int = 0
    noted: float = 0.0  # when, on the monotonic clock


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Collects SIGINT and SIGTERM while the block runs; elsewhere than in the main thread nothing is collected."""
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def note(number: int, frame: FrameType | None) -> None:
        if wish.signal_number and time.monotonic() - wish.noted > SAME_WISH_S:
            raise KeyboardInterrupt
        if not wish.signal_number:
            wish.signal_number, wish.noted = number, time.monotonic()

    before: dict[signal.Signals, Any] = {kind: signal.signal(kind, note) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
