"""One training loop for supernets, networks from scratch and finetuning; what differs is which networks a step trains.

Everything random is a pure function of (seed, step): the order of images, their augmentation, the networks of a step, mixing,
drop path. So a resumed run needs no random states, and on a CPU it ends with the weights of an undisturbed one, bit for bit, with
the same number of threads. Processes that share a step average their gradients; together they do what one process would.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from autoformer.architecture import Architecture
from autoformer.augment import TrainingImages, erase, seed_torch
from autoformer.batches import Plan
from autoformer.checkpoint import write_json, write_tensors
from autoformer.data import DataParts
from autoformer.distributed import World
from autoformer.errors import DataError, InterruptedRunError, TrainingError
from autoformer.evaluate import EvaluationSet, Metric, guesses, predict_with, resize_images, score
from autoformer.images import called
from autoformer.preprocessing import Preprocessing
from autoformer.progress import Progress, silent
from autoformer.sampling import Choose, frozen_outside, used_weights
from autoformer.stopping import stop_wish
from autoformer.subnet import Subnet
from autoformer.supernet import Supernet
from autoformer.teacher import Teacher, imitation
from autoformer.training_config import FinetuneConfig, SupernetConfig, TrainConfig
from autoformer.training_log import Hook, Stopwatch, TrainingLog, tensorboard_hook
from autoformer.training_state import TrainingState

CHECK_EVERY = 50  # steps between looks at the device's count of skipped steps; a look waits for the device
FUSED = ("adamw", "adam")  # optimisers whose fused form skips a step on the device, without a word to the CPU


@dataclass(frozen=True)
class Trained:
    """What a training gives: the network with the weights it ended with, and one record per epoch."""

    network: nn.Module
    history: list[dict[str, Any]]


@dataclass
class Trainer:
    """Trains `network` on `parts.train` and scores `anchors` on the search part now and then."""

    network: Supernet | Subnet
    parts: DataParts
    config: TrainConfig
    folder: Path
    choose: Choose
    anchors: dict[str, Architecture | None]
    preprocessing: Preprocessing
    seed: int = 0
    metric: Metric = "top1"
    world: World = field(default_factory=World)
    progress: Progress = silent
    work: str = "train"
    hooks: Sequence[Hook] = ()

    def __post_init__(self) -> None:
        config, network = self.config, self.network
        self.device, self.dtype = (weight := next(network.parameters())).device, weight.dtype
        skip = self.parts.config.unreadable == "skip"
        self.images = TrainingImages(self.parts.train, self.parts.preprocessing, config.augment, skip_unreadable=skip)
        self.plan = Plan(len(self.images), config.batch_size, config.epochs, config.repeats, self.seed)
        self.fused = config.optimizer in FUSED
        self.optimizer = create_optimizer_v2(
            network,
            config.optimizer,
            lr=config.peak_learning_rate,
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay if isinstance(config, FinetuneConfig) else None,
            **({"fused": True} if self.fused else {}),
        )
        self.schedule = self._schedule()
        self.mixup = self._mixup()
        self.amp = self._amp()
        scaled = self.amp is torch.float16
        self.average = ModelEmaV3(network, config.ema_decay, use_warmup=True) if config.ema_decay else None
        self.scaler = torch.amp.GradScaler(self.device.type) if scaled else None
        self.state = TrainingState(
            network, self.optimizer, self.folder / "checkpoints", config.keep_checkpoints, self.plan.steps_per_epoch,
            None if self.average is None else self.average.module, self.scaler, self.world,
        )  # fmt: skip
        self.teacher = None
        if config.teacher is not None:
            self.teacher = Teacher(config.teacher, self.parts.preprocessing, len(self.parts.classes), self.device)
        if isinstance(network, Supernet):
            network.checkpoint_activations = config.checkpoint_activations
        else:
            network.set_grad_checkpointing(config.checkpoint_activations)
        if config.compile:
            network.compile_blocks()
        self.unreadable: set[int] = set()
        self.nonfinite_in_a_row = torch.zeros((), device=self.device)
        self.nonfinite_step = torch.zeros((), device=self.device, dtype=torch.int64)

    # --- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> Trained:
        """Trains to the end, from the newest checkpoint if there is one.

        Raises `InterruptedRunError` after Ctrl-C or SIGTERM: the step is finished and saved, and the same call goes on
        from it. Raises `TrainingError` when gradients stay without finite values or a checkpoint cannot be written,
        `DataError` when images cannot be read.
        """
        config, state, plan = self.config, self.state, self.plan
        watched = None
        if not (isinstance(config, FinetuneConfig) and config.fold_search):
            watched = EvaluationSet.of(self.parts.search, self.preprocessing)
        state.load_newest()
        hooks = [*self.hooks]
        if config.tensorboard and self.world.leads:
            hooks.append(tensorboard_hook(self.folder / "tensorboard"))
        log = TrainingLog(self.folder if self.world.leads else None, state.step, hooks)
        loss_sum = torch.tensor(state.epoch_sums.get("loss", 0.0), dtype=torch.float64, device=self.device)
        watch, saved = Stopwatch(), time.monotonic()
        forward = self.world.wrap(self.network, some_unused=isinstance(self.network, Supernet))
        self.network.train()
        with deterministic(self.device), stop_wish() as wish:
            loader = self._loader(state.step)
            while state.step < plan.steps and not self._has_stopped_rising():
                asked = time.perf_counter()
                pixels, facts = next(loader)
                self._note_unreadable(facts)
                waited_s = time.perf_counter() - asked
                loss_sum += self.train_step(forward, pixels, facts, state.step)
                state.step += 1
                watch.count(config.batch_size, waited_s)
                if due(state.step, CHECK_EVERY, self.device) or self._ends_epoch():
                    self._stop_if_nonfinite()
                if due(state.step, config.log_every) and not self._ends_epoch():
                    log.write(self._record("step", loss_sum, watch))
                if self._ends_epoch():
                    record = self._record("epoch", loss_sum, watch)
                    if watched is not None and (due(state.epoch, config.evaluate_every) or state.epoch == config.epochs):
                        record["scores"] = self._scores(watched)
                        self._keep_best(record["scores"])
                    state.history.append(record)
                    log.write(record)
                    loss_sum.zero_()
                    watch = Stopwatch()
                stop = self.world.any(wish.signal_number != 0)
                if stop or self._ends_epoch() or self.world.any(time.monotonic() - saved > 60 * config.save_minutes):
                    state.epoch_sums = {"loss": float(loss_sum)}
                    state.save()
                    saved = time.monotonic()
                if stop:
                    raise InterruptedRunError(
                        f"stopped in epoch {state.epoch + 1} of {config.epochs}; run the same command again to go on from there",
                        wish.signal_number or 15,
                    )
                self._show()
        if isinstance(config, FinetuneConfig) and config.patience is not None and state.best is not None:
            state.load_best()
        return Trained(state.result.eval(), state.history)

    def train_step(self, forward: nn.Module, pixels: Tensor, facts: Tensor, step: int) -> Tensor:
        """One step of the optimiser on this process's share of the batch; gives the loss without waiting for the device."""
        architectures = self.choose(step)
        self._set_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        pieces = list(zip(pixels.chunk(self.config.accumulate), facts.chunk(self.config.accumulate), strict=True))
        total = torch.zeros((), device=self.device)
        for index, (some_pixels, some_facts) in enumerate(pieces):
            images, targets = self._prepare(some_pixels, some_facts, step)
            taught = None if self.teacher is None else self.teacher(images)
            largest: Tensor | None = None
            for number, architecture in enumerate(architectures):
                piece = self.world.rank * len(pieces) + index
                seed_torch(random.Random(f"{self.seed}/{step}/{piece}/{number}").getrandbits(31))  # drop path
                last = index == len(pieces) - 1 and number == len(architectures) - 1
                with nullcontext() if last or self.world.size == 1 else forward.no_sync():  # type: ignore[operator]
                    with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
                        logits = self._logits(forward, images, architecture)
                    loss = self._loss(logits.to(self.dtype), targets, taught, largest) / (len(pieces) * len(architectures))
                    (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                if largest is None and isinstance(self.config, SupernetConfig) and self.config.subnets.distill:
                    largest = logits.detach()
                total += loss.detach()
        self._update(architectures, step)
        return total

    def _prepare(self, pixels: Tensor, facts: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Normalised, erased and mixed images on the device, and labels [B] or mixed targets [B, classes]."""
        images = normalise(pixels.to(self.device, non_blocking=True), self.parts.preprocessing, self.dtype)
        labels = facts[:, 0].to(self.device, non_blocking=True)
        if self.config.augment.erase:
            images = erase(images, facts[:, 1].tolist(), self.config.augment.erase)
        if self.mixup is None:
            return images, labels
        np.random.seed(random.Random(f"{self.seed}/{step}").getrandbits(31))  # one mix for all pieces and processes
        mixed: tuple[Tensor, Tensor] = self.mixup(images, labels)
        return mixed

    def _logits(self, forward: nn.Module, images: Tensor, architecture: Architecture | None) -> Tensor:
        if isinstance(self.network, Subnet):
            return cast(Tensor, forward(resize_images(images, self.network.patch_embed.img_size[0])))
        assert architecture is not None
        return cast(Tensor, forward(resize_images(images, self.network.space.image_size_of(architecture)), architecture))

    def _loss(self, logits: Tensor, targets: Tensor, taught: Tensor | None, largest: Tensor | None) -> Tensor:
        """Cross entropy with the labels, shared with the teacher's part; the largest network's guesses replace both."""
        if largest is not None:
            return imitation(logits, largest)
        if targets.ndim == 2:
            loss = torch.sum(-targets * F.log_softmax(logits, -1), -1).mean()
        else:
            loss = F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)
        if self.teacher is None or taught is None:
            return loss
        weight = self.teacher.config.weight
        return (1 - weight) * loss + weight * self.teacher.loss(logits, taught)

    def _update(self, architectures: Sequence[Architecture | None], step: int) -> None:
        """Clips and steps; a gradient that is not finite moves nothing, in no process, since all hold the same average."""
        weights = [weight for weight in self.network.parameters() if weight.grad is not None]
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if self.config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(weights, self.config.clip_norm, norm)
        bad = ~torch.isfinite(norm)
        self.nonfinite_in_a_row = torch.where(bad, self.nonfinite_in_a_row + 1, 0.0)
        self.nonfinite_step = torch.where(bad, step, self.nonfinite_step)
        with self._unused_frozen(architectures):
            if self.scaler is not None:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            elif self.fused:
                self.optimizer.found_inf = bad.float()
                self.optimizer.step()
            elif not bad:
                self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network, step + 1)

    @contextmanager
    def _unused_frozen(self, architectures: Sequence[Architecture | None]) -> Iterator[None]:
        if not isinstance(self.config, SupernetConfig) or not self.config.subnets.freeze_unused:
            yield
            return
        assert isinstance(self.network, Supernet)
        used = used_weights(self.network, [architecture for architecture in architectures if architecture is not None])
        with frozen_outside(used, self.optimizer):
            yield

    # --- now and then --------------------------------------------------------------------------------------------

    def _ends_epoch(self) -> bool:
        return self.state.step % self.plan.steps_per_epoch == 0

    def _record(self, event: str, loss_sum: Tensor, watch: Stopwatch) -> dict[str, Any]:
        """What is known now; waits for the device."""
        steps = self.state.step % self.plan.steps_per_epoch or self.plan.steps_per_epoch
        return {
            "event": event,
            "step": self.state.step,
            "epoch": (self.state.step - 1) // self.plan.steps_per_epoch + 1,
            "loss": float(loss_sum) / steps,
            "learning_rate": max(group["lr"] for group in self.optimizer.param_groups),
            **watch.read(),
        }

    def _scores(self, watched: EvaluationSet) -> dict[str, Any]:
        """The score of each anchor on the search part, its images shared by the processes."""
        own = watched.share(self.world.rank, self.world.size)
        found = {}
        for name, anchor in self.anchors.items():
            guessed = guesses(predict_with(self.state.result, anchor), own).tolist() if len(own) else []
            found[name] = score(np.array(self.world.gather(guessed)), watched.labels, self.metric).to_dict()
        return found

    def _keep_best(self, scores: dict[str, Any]) -> None:
        self.state.keep_best(sum(entry["value"] for entry in scores.values()) / len(scores))

    def _has_stopped_rising(self) -> bool:
        if not isinstance(self.config, FinetuneConfig) or self.config.patience is None or self.state.best is None:
            return False
        return self._ends_epoch() and self.state.epoch - int(self.state.best["epoch"]) >= self.config.patience

    def _stop_if_nonfinite(self) -> None:
        """Raises `TrainingError` after too many skipped steps in a row, the last one's networks and images saved."""
        if self.nonfinite_in_a_row < self.config.max_nonfinite:
            return
        step = int(self.nonfinite_step)
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
        raise TrainingError(
            f"{int(self.nonfinite_in_a_row)} steps in a row had gradients that are not finite, the last of them step {step + 1}; "
            f"its images and networks are in {path}.*; lower learning_rate, set amp=off, or go back to an older checkpoint"
        )

    def _note_unreadable(self, facts: Tensor) -> None:
        """Counts images that another one stood in for. Raises `DataError` beyond the limit of the data's config."""
        new = {int(position) for position in facts[:, 2].tolist() if position >= 0} - self.unreadable
        for position in sorted(new):
            self.unreadable.add(position)
            self.progress(self.work, self.state.epoch, self.config.epochs, f"left out {self._name(position)}")
        if len(self.unreadable) > self.parts.config.max_unreadable:
            limit, first = self.parts.config.max_unreadable, self._name(min(self.unreadable))
            raise DataError(
                f"{len(self.unreadable)} images of {self.parts.source} cannot be read, e.g. {first}; the limit is {limit}: "
                "repair them or raise data.max_unreadable"
            )

    def _name(self, position: int) -> str:
        return called(self.parts.train.images, self.parts.train.indices[position])

    def _show(self) -> None:
        if self._ends_epoch() and self.state.history:
            record = self.state.history[-1]
            shown = " ".join(f"{100 * entry['value']:.1f} %" for entry in self.state.last_scores.values())
            words = f"loss {record['loss']:.3f} {record['images_per_s']:.0f} images/s {shown}".rstrip()
            self.progress(self.work, self.state.epoch, self.config.epochs, words)

    # --- parts of the step ---------------------------------------------------------------------------------------

    def _loader(self, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        shares = self.plan.shares(first_step, self.world.rank, self.world.size, self.config.accumulate)
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            self.images,  # type: ignore[arg-type]
            batch_sampler=shares,
            num_workers=self.config.workers,
            pin_memory=self.device.type == "cuda",
        )
        try:
            yield from loader
        except DataError as error:  # from a loader process it arrives with that process's whole traceback as its text
            raise DataError(str(error).strip().splitlines()[-1].removeprefix("autoformer.errors.DataError: ")) from error

    def _set_rate(self, step: int) -> None:
        if self.config.schedule == "step":
            self.schedule.step_update(step)
        else:
            self.schedule.step(max(0, step // self.plan.steps_per_epoch - 1))

    def _schedule(self) -> CosineLRScheduler:
        config, by_epoch = self.config, self.config.schedule == "epoch"
        steps = config.epochs if by_epoch else self.plan.steps
        warmup = round(config.warmup_epochs * (1 if by_epoch else self.plan.steps_per_epoch))
        warmup = min(warmup, steps // 2)
        return CosineLRScheduler(
            self.optimizer,
            t_initial=steps if by_epoch else max(1, steps - warmup),
            lr_min=config.min_learning_rate,
            warmup_t=warmup,
            warmup_lr_init=config.warmup_learning_rate,
            warmup_prefix=not by_epoch,
            t_in_epochs=by_epoch,
        )

    def _mixup(self) -> Mixup | None:
        config = self.config
        if not config.mixup and not config.cutmix:
            return None
        return Mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            prob=config.mix_probability,
            label_smoothing=config.label_smoothing,
            num_classes=len(self.parts.classes),
        )

    def _amp(self) -> torch.dtype | None:
        if self.config.amp == "auto":
            return torch.bfloat16 if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else None
        return {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.config.amp]


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


def normalise(pixels: Tensor, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [B, C, H, W] to the float input of the network, on the device."""
    mean = torch.tensor(preprocessing.mean, device=pixels.device, dtype=dtype).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device, dtype=dtype).view(-1, 1, 1)
    return (pixels.to(dtype) / 255 - mean) / std
