"""One training loop for supernets, networks from scratch and finetuning; what differs is which architecture a step runs.

Everything random is a pure function of (seed, step): the order of images, their augmentation, the architecture of a
step, drop path. So a resumed run needs no random states, and ends with the weights of an undisturbed one, bit for bit, on
the same machine with the same number of threads.

The folder of a training holds `training.json` (what it is), `checkpoints/` while it runs, and, when finished, the weights.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from autoformer.architecture import Architecture
from autoformer.augment import AugmentConfig, TrainingImages, epoch_order
from autoformer.checkpoint import (
    check_weights,
    claim_folder,
    load_weights,
    read_json,
    read_tensors,
    sole_worker,
    tensors_digest,
    write_folder,
    write_json,
    write_tensors,
)
from autoformer.data import DataParts
from autoformer.errors import ArchitectureError, CheckpointError, DataError, InterruptedRunError
from autoformer.evaluate import EvaluationSet, accuracy, correct, predict_with, resize_images
from autoformer.preprocessing import Preprocessing
from autoformer.progress import Progress, silent
from autoformer.space import SearchSpace
from autoformer.subnet import Subnet
from autoformer.subnet_folder import fill_folder, load_subnet
from autoformer.supernet import INIT_STD, Supernet
from autoformer.training_state import TrainingState

Choose = Callable[[int], Architecture | None]  # step to the architecture it trains; None: the network has only one


class TrainConfig(BaseModel):
    """How a network is trained. The defaults suit small images and a CPU."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(100, gt=0)
    batch_size: int = Field(128, gt=0, description="images per step")
    learning_rate: float = Field(2e-3, gt=0, description="peak, as it is (not scaled to the batch)")
    min_learning_rate: float = Field(1e-5, ge=0, description="at the end of the cosine")
    warmup_epochs: float = Field(5.0, ge=0, description="linear warm-up from min_learning_rate")
    weight_decay: float = Field(0.05, ge=0, description="AdamW; biases, norms, positions and the class token are exempt")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0, description="timm's mixup alpha; 0 is off")
    cutmix: float = Field(0.0, ge=0, description="timm's cutmix alpha; 0 is off")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth of the deepest block")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; empty: no clipping")
    init_std: float = Field(
        INIT_STD, gt=0, description="of a supernet's fresh weights; the paper's 0.02 suits widths from 192, narrow ones need more"
    )
    amp: Literal["auto", "off"] = Field("auto", description="auto: bfloat16 where the device is a GPU that has it")
    augment: AugmentConfig = Field(default_factory=lambda: AugmentConfig())
    workers: int = Field(0, ge=0, description="loader processes; changes speed only, never the result")
    evaluate_every: int = Field(10, gt=0, description="epochs between accuracies on the search part")
    keep_checkpoints: int = Field(2, gt=0, description="the newest checkpoints kept while training")

    @model_validator(mode="after")
    def _even_batches_for_mixing(self) -> TrainConfig:
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(f"mixup and cutmix pair images: batch_size must be even, got {self.batch_size}")
        return self


@dataclass(frozen=True)
class Trained:
    """What a training gives: the network, and one record per epoch (loss, learning rate, seconds, accuracies)."""

    network: nn.Module
    history: list[dict[str, Any]]


@dataclass
class Trainer:
    """Trains `network` on `parts.train`. `anchors` are scored on the search part now and then, None for a plain network."""

    network: nn.Module
    parts: DataParts
    config: TrainConfig
    folder: Path
    choose: Choose
    anchors: dict[str, Architecture | None]
    seed: int = 0
    progress: Progress = silent
    work: str = "train"

    def run(self) -> Trained:
        """Trains to the end, from the newest checkpoint if there is one.

        Raises `InterruptedRunError` on Ctrl-C, after which the same call goes on from the last finished epoch.
        """
        config, network = self.config, self.network
        device = next(network.parameters()).device
        images = TrainingImages(self.parts.train, self.parts.preprocessing, config.augment)
        if len(images) < 2:
            raise DataError(f"{self.parts.source}: the train part has {len(images)} images; nothing can be trained on that")
        steps_per_epoch = len(epoch_order(len(images), config.batch_size, self.seed, 0))
        optimizer = create_optimizer_v2(network, "adamw", lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = self._schedule(optimizer, steps_per_epoch)
        mixup = self._mixup()
        preprocessing = self.parts.preprocessing
        if isinstance(network, Subnet):
            preprocessing = preprocessing_of(network, self.parts)
        watched = EvaluationSet.of(self.parts.search, preprocessing)
        state = TrainingState(network, optimizer, self.folder / "checkpoints", config.keep_checkpoints)
        state.load_newest()

        network.train()
        with deterministic():
            for epoch in range(state.epoch, config.epochs):
                started, losses = time.perf_counter(), []
                try:
                    for index, (batch, labels) in enumerate(self._loader(images, epoch)):
                        step = epoch * steps_per_epoch + index
                        schedule.step_update(step)
                        seed_step(self.seed, step)
                        losses.append(self._step(optimizer, mixup, batch.to(device), labels.to(device), step))
                except KeyboardInterrupt as stop:
                    raise InterruptedRunError(
                        f"stopped in epoch {epoch + 1} of {config.epochs}; run the same command again to go on from there"
                    ) from stop
                loss = float(torch.stack(losses).mean())  # waits for the device, once an epoch
                record: dict[str, Any] = {"epoch": epoch + 1, "loss": loss, "learning_rate": optimizer.param_groups[0]["lr"]}
                if not math.isfinite(loss):
                    raise CheckpointError(
                        f"the loss of epoch {epoch + 1} is {loss}; lower train.learning_rate or set train.amp=off"
                    )
                record["seconds"] = time.perf_counter() - started
                if (epoch + 1) % config.evaluate_every == 0 or epoch + 1 == config.epochs:
                    record["accuracy"] = {
                        name: accuracy(correct(predict_with(network, anchor), watched)).to_dict()
                        for name, anchor in self.anchors.items()
                    }
                state.finish_epoch(record)
                shown = {name: f"{100 * value['accuracy']:.1f} %" for name, value in state.last_accuracy.items()}
                self.progress(self.work, epoch + 1, config.epochs, f"loss {loss:.3f} {' '.join(shown.values())}")
        return Trained(network.eval(), state.history)

    def _step(self, optimizer: Any, mixup: Mixup | None, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        """One optimiser step; gives the loss without waiting for the device."""
        images = normalise(pixels, self.parts.preprocessing)
        if self.config.augment.erase:
            images = RandomErasing(self.config.augment.erase, mode="pixel", device=images.device.type)(images)
        targets: Tensor = labels
        if mixup is not None:
            images, targets = mixup(images, labels)
        architecture = self.choose(step)
        bfloat = self.config.amp == "auto" and images.is_cuda and torch.cuda.is_bf16_supported()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat):
            if architecture is None:
                assert isinstance(self.network, Subnet)
                logits = self.network(resize_images(images, self.network.patch_embed.img_size[0]))
            else:
                assert isinstance(self.network, Supernet)
                size = self.network.space.image_size_of(architecture)
                logits = self.network(resize_images(images, size), architecture)
        if targets.ndim == 2:
            loss: Tensor = SoftTargetCrossEntropy()(logits.float(), targets)
        else:
            loss = nn.functional.cross_entropy(logits.float(), targets, label_smoothing=self.config.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        optimizer.step()
        return loss.detach()

    def _loader(self, images: TrainingImages, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = epoch_order(len(images), self.config.batch_size, self.seed, epoch)
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            images,  # type: ignore[arg-type]
            batch_sampler=batches,
            num_workers=self.config.workers,
            pin_memory=torch.cuda.is_available(),
        )
        try:
            yield from loader
        except DataError as error:  # from a loader process it arrives with that process's whole traceback as its text
            raise DataError(str(error).strip().splitlines()[-1].removeprefix("autoformer.errors.DataError: ")) from error

    def _schedule(self, optimizer: Any, steps_per_epoch: int) -> CosineLRScheduler:
        config = self.config
        warmup = min(round(config.warmup_epochs * steps_per_epoch), config.epochs * steps_per_epoch // 2)
        return CosineLRScheduler(
            optimizer,
            t_initial=max(1, config.epochs * steps_per_epoch - warmup),
            lr_min=config.min_learning_rate,
            warmup_t=warmup,
            warmup_lr_init=config.min_learning_rate,
            warmup_prefix=True,
            t_in_epochs=False,
        )

    def _mixup(self) -> Mixup | None:
        config = self.config
        if not config.mixup and not config.cutmix:
            return None
        return Mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            label_smoothing=config.label_smoothing,
            num_classes=len(self.parts.classes),
        )


def seed_step(seed: int, step: int) -> None:
    """Sets every random state that a training step draws from, as a function of (seed, step)."""
    mixed = random.Random(f"{seed}/{step}").getrandbits(31)
    torch.default_generator.manual_seed(mixed)  # torch.manual_seed would queue a traceback per call where CUDA is not started
    if torch.cuda.is_available():
        torch.cuda.manual_seed(mixed)
    np.random.seed(mixed)


@contextmanager
def deterministic() -> Iterator[None]:
    """Repeatable algorithms while the block runs."""
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time only
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 [B, C, H, W] to the float input of the network, on the device."""
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(-1, 1, 1)
    return (pixels.float() / 255 - mean) / std


def uniform_choice(space: SearchSpace, seed: int) -> Choose:
    """Single-path training as in the paper: every step trains one architecture, drawn uniformly choice by choice.

    A function of (seed, step): the same on every rank, and after a resume.
    """
    return lambda step: space.sample(random.Random(f"{seed}/architecture/{step}"))


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# --- the two trainings -------------------------------------------------------------------------------------------


def train_supernet(
    space: SearchSpace,
    parts: DataParts,
    config: TrainConfig,
    out: Path,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Supernet:
    """Trains all networks of `space` at once, one per step, and writes the folder `out` that `load_supernet` reads.

    Called again with the same arguments it goes on where it stopped, or just loads what is finished. Raises
    `OutputExistsError` when `out` holds something else.
    """
    check_images(space.image_size, space.in_chans, space.num_classes, parts)
    identity = {
        "kind": "supernet",
        "space": space.to_dict(),
        "data": parts.digest,
        "seed": seed,
        "train": identity_of(config),
    }
    claim_folder(out, identity)
    if (out / "supernet.json").exists():
        return load_supernet(out)
    with sole_worker(out):
        return _train_supernet(space, parts, config, out, seed, device or best_device(), progress)


def _train_supernet(
    space: SearchSpace, parts: DataParts, config: TrainConfig, out: Path, seed: int, device: torch.device, progress: Progress
) -> Supernet:
    torch.manual_seed(seed)
    supernet = Supernet(space, drop_path_rate=config.drop_path_rate)
    with torch.no_grad():
        for name, weight in supernet.named_parameters():
            if weight.ndim > 1 and not name.startswith("patch_embed") and not name.endswith("bias"):
                weight.mul_(config.init_std / INIT_STD)
    supernet.to(device)
    trainer = Trainer(
        supernet, parts, config, out, uniform_choice(space, seed), dict(space.anchors), seed, progress, "train supernet"
    )
    history = trainer.run().history
    write_tensors(supernet.state_dict(), out / "model.safetensors")
    record = {
        "format": "autoformer/supernet/1",
        "space": space.to_dict(),
        "data": parts.record,
        "seed": seed,
        "train": config.model_dump(mode="json"),
        "weights_digest": tensors_digest(supernet.state_dict()),
        "history": history,
    }
    write_json(record, out / "supernet.json")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return supernet


def save_supernet(supernet: Supernet, out: Path, *, source: str) -> None:
    """Writes a supernet trained elsewhere as a folder that `load_supernet` reads; whole or not at all.

    The record says ImageNet's preprocessing as the official evaluation does it, and class numbers for names.
    Raises `OutputExistsError` when `out` holds something.
    """
    space = supernet.space
    preprocessing = Preprocessing(
        image_size=space.image_size,
        in_chans=space.in_chans,
        mean=IMAGENET_DEFAULT_MEAN if space.in_chans == 3 else (0.5,) * space.in_chans,
        std=IMAGENET_DEFAULT_STD if space.in_chans == 3 else (0.5,) * space.in_chans,
        crop_pct=224 / 256,
    )
    record = {
        "format": "autoformer/supernet/1",
        "space": space.to_dict(),
        "data": {
            "source": source,
            "config": None,
            "layout": "trained elsewhere",
            "classes": [str(number) for number in range(space.num_classes)],
            "parts": {},
            "preprocessing": preprocessing.to_dict(),
        },
        "weights_digest": tensors_digest(supernet.state_dict()),
        "history": [],
    }
    with write_folder(out) as folder:
        write_tensors(supernet.state_dict(), folder / "model.safetensors")
        write_json(record, folder / "supernet.json")


def load_supernet(folder: Path) -> Supernet:
    """The supernet of a folder, in evaluation mode. Raises `CheckpointError` when it is unfinished or damaged."""
    if not (folder / "supernet.json").exists():
        what = "an unfinished training; run it again to finish" if (folder / "checkpoints").exists() else "no supernet"
        raise CheckpointError(f"{folder} holds {what}; expected the folder that `autoformer train` writes")
    path = folder / "model.safetensors"
    try:
        space = SearchSpace.from_dict(read_json(folder / "supernet.json", "space", "weights_digest", "data")["space"])
    except ArchitectureError as error:
        raise CheckpointError(f"{folder / 'supernet.json'} is damaged: {error}") from error
    tensors = read_tensors(path)
    with torch.device("meta"):  # shapes alone, so that a wrong space cannot take memory
        check_weights(Supernet(space), tensors, path)
    supernet = Supernet(space)
    load_weights(supernet, tensors, path)
    return supernet.eval()


def finetune(
    subnet: Subnet,
    parts: DataParts,
    config: TrainConfig,
    out: Path,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Subnet:
    """Trains one network further on `parts.train` and writes the folder `out` that `load_subnet` reads.

    The last epoch's weights are kept; its accuracy on the search part is in the record. Called again with the same
    arguments it goes on where it stopped. Raises `OutputExistsError` when `out` holds something else.
    """
    stored_size = subnet.patch_embed.img_size[0] if subnet.architecture.image_size is None else parts.preprocessing.image_size
    check_images(stored_size, subnet.in_chans, subnet.num_classes, parts)
    identity = {
        "kind": "subnet",
        "weights": tensors_digest(subnet.state_dict()),
        "architecture": subnet.architecture.to_dict(),
        "data": parts.digest,
        "seed": seed,
        "train": identity_of(config),
    }
    claim_folder(out, identity)
    if (out / "subnet.json").exists():
        return load_subnet(out)[0]
    with sole_worker(out):
        subnet.to(device or best_device())
        subnet.set_drop_path(config.drop_path_rate)
        trained = Trainer(subnet, parts, config, out, lambda step: None, {"network": None}, seed, progress, "finetune").run()
        record = {
            "format": "autoformer/subnet/1",
            "made_by": "finetune",
            "data": parts.record,
            "seed": seed,
            "train": config.model_dump(mode="json"),
            "weights_digest": tensors_digest(subnet.state_dict()),
            "history": trained.history,
        }
        fill_folder(subnet, out, preprocessing=preprocessing_of(subnet, parts), classes=parts.classes, record=record)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return subnet


def preprocessing_of(subnet: Subnet, parts: DataParts) -> Preprocessing:
    """The data's preprocessing, followed by the resize to the network's own input where the search chose a smaller one."""
    size = subnet.patch_embed.img_size[0]
    return replace(parts.preprocessing, network_size=None if size == parts.preprocessing.image_size else size)


def identity_of(config: TrainConfig) -> dict[str, Any]:
    """What of a config decides the weights; the number of loader processes does not."""
    return config.model_dump(mode="json", exclude={"workers", "keep_checkpoints"})


def check_images(image_size: int, in_chans: int, num_classes: int, parts: DataParts) -> None:
    """Raises `DataError` when the data do not suit a network."""
    have = (parts.preprocessing.image_size, parts.preprocessing.in_chans, len(parts.classes))
    if have != (image_size, in_chans, num_classes):
        raise DataError(
            f"{parts.source} has images of {have[0]} px, {have[1]} channels, {have[2]} classes; the network takes "
            f"{image_size} px, {in_chans} channels, {num_classes} classes"
        )
