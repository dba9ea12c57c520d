"""`TrainStep`: what happens in one step of a training, from pixels to moved weights.

A step trains one network or several of a supernet on the same images, each with its own backward pass; the gradients add up, over
the pieces of a process's share and over the processes, and move the weights once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoformer.architecture import Architecture
from autoformer.data.images import NO_LABEL
from autoformer.data.parts import DataParts
from autoformer.errors import TrainingError
from autoformer.evaluate import Normalise, resize_images
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.training.augment import erase, seed_torch
from autoformer.training.batches import Plan, mirrored_piece
from autoformer.training.choosing import Choose, frozen_outside, used_weights
from autoformer.training.config import TrainConfig
from autoformer.training.distributed import World
from autoformer.training.features import Projector, Pupil, apart, pupil_of
from autoformer.training.teacher import Teacher, imitation

FUSED = ("adamw", "adam")  # optimisers whose fused form skips a step on the device, without a word to the CPU


class TrainStep:
    """The optimiser with its schedule, and all that a step needs beside the images."""

    def __init__(
        self,
        network: nn.Module,
        parts: DataParts,
        config: TrainConfig,
        choose: Choose,
        plan: Plan,
        seed: int,
        world: World,
    ) -> None:
        self.network, self.parts, self.config, self.choose = network, parts, config, choose
        self.plan, self.seed, self.world = plan, seed, world
        self.device, self.dtype = (weight := next(network.parameters())).device, weight.dtype
        self.normalise = Normalise(parts.preprocessing, self.device, self.dtype)
        self.fused = config.optimizer in FUSED
        self.teacher = None
        if config.teacher is not None:
            self.teacher = Teacher(config.teacher, parts.preprocessing, parts.classes, self.device)
        self.pupil = self._pupil()
        self.optimizer = self._optimizer()
        self.schedule = self._schedule()
        self.mixup = self._mixup()
        self.amp = self._amp()
        self.average = ModelEmaV3(network, config.ema_decay, use_warmup=True) if config.ema_decay else None
        self.scaler = torch.amp.GradScaler(self.device.type) if self.amp is torch.float16 else None
        # What the teacher said, by step and members of the batch; None: it is asked at every step.
        self.known: Callable[[int, Sequence[int]], Tensor] | None = None
        self._check_batch_norms()
        self.statistics = [buffer for buffer in network.buffers() if isinstance(buffer, Tensor) and buffer.is_floating_point()]
        self._adapt_network()
        self.labelled: float | None = None  # of the running step
        self.skipped = torch.zeros((), device=self.device)
        self.nonfinite_in_a_row = torch.zeros((), device=self.device)
        self.nonfinite_step = torch.zeros((), device=self.device, dtype=torch.int64)

    def run(self, forward: nn.Module, pixels: Tensor, facts: Tensor, step: int) -> Tensor:
        """One step of the optimiser on this process's share of the batch; gives the loss without waiting for the device.

        The loss of a step that was skipped is 0, and `skipped` counts it.
        """
        architectures = self.choose(step)
        self.set_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        self.labelled = self._labelled(step)
        pieces = list(zip(pixels.chunk(self.config.accumulate), facts.chunk(self.config.accumulate), strict=True))
        total = torch.zeros((), device=self.device)
        before = [buffer.clone() for buffer in self.statistics]
        for index, (some_pixels, some_facts) in enumerate(pieces):
            images, targets = self.prepare(some_pixels, some_facts, step)
            piece = self.world.rank * len(pieces) + index
            taught, features = self._taught(images, step, piece)
            largest: Tensor | None = None
            for number, architecture in enumerate(architectures):
                draws = self._draws(step, piece, number)
                last = index == len(pieces) - 1 and number == len(architectures) - 1
                with nullcontext() if last or self.world.size == 1 else forward.no_sync():  # type: ignore[operator]
                    with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
                        logits, own = self._answer(forward, images, architecture, draws, shows=largest is None)
                    loss = self.loss(logits.to(self.dtype), targets, taught, largest)
                    if own is not None and features is not None and self.teacher is not None:
                        loss = loss + (self.teacher.config.features or 0) * apart(own, features)
                    loss = loss / (len(pieces) * len(architectures))
                    (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                if largest is None and self.config.differences.distill:
                    largest = logits.detach()
                total += loss.detach()
        bad = self._update(architectures, step)
        self.skipped += bad
        for buffer, old in zip(self.statistics, before, strict=True):  # a batch norm has seen the images of a skipped step
            buffer.copy_(torch.where(bad, old, buffer))
        return torch.where(bad, 0.0, total)

    def _labelled(self, step: int) -> float | None:
        """How many images with a label a piece of this step's batch holds on average; None where all have one."""
        if self.parts.unlabelled is None:
            return None
        known = sum(key[0] < len(self.parts.train) for key in self.plan.batch(step))
        return max(1, known) / (self.world.size * self.config.accumulate)

    def prepare(self, pixels: Tensor, facts: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Normalised, erased and mixed images on the device, and labels [B] or mixed targets [B, classes]."""
        images = self.normalise(pixels.to(self.device, non_blocking=True))
        labels = facts[:, 0].to(self.device, non_blocking=True)
        if self.config.augment.erase:
            images = erase(images, facts[:, 1].tolist(), self.config.augment.erase)
        if self.mixup is None:
            return images, labels
        np.random.seed(random.Random(f"{self.seed}/{step}").getrandbits(31))  # one mix for all pieces and processes
        mixed: tuple[Tensor, Tensor] = self.mixup(images, labels)
        return mixed

    def answer(self, pixels: Tensor, facts: Tensor) -> Tensor:
        """The teacher's logits [B, classes] for images that are not mixed."""
        assert self.teacher is not None
        assert self.mixup is None
        return self._ask(self.prepare(pixels, facts, 0)[0])

    def _taught(self, images: Tensor, step: int, piece: int) -> tuple[Tensor | None, Tensor | None]:
        """The teacher's logits for a piece of the batch, and its features where they are learned too."""
        if self.teacher is None:
            return None, None
        if self.known is not None:
            return self.known(step, self._members(piece)).to(self.device, non_blocking=True), None
        if self.pupil is None:
            return self._ask(images), None
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            return self.teacher.with_features(images)

    def _ask(self, images: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            return self.teacher(images)

    def _members(self, piece: int) -> list[int]:
        """Which images of the batch are those of a piece."""
        return mirrored_piece(range(self.config.batch_size), piece, self.world.size * self.config.accumulate)

    def _draws(self, step: int, piece: int, number: int) -> Tensor | None:
        """What decides stochastic depth for a piece of the batch and one of the step's networks.

        Supernets get this piece's share of numbers drawn for the whole batch, so that it does not matter how many processes share
        it. A plain network draws by itself, after this seed.
        """
        seed_torch(random.Random(f"{self.seed}/{step}/{piece}/{number}").getrandbits(31))
        if not isinstance(self.network, Supernet) or not self.config.drop_path_rate:
            return None
        generator = torch.Generator().manual_seed(random.Random(f"{self.seed}/{step}/draws/{number}").getrandbits(31))
        draws = torch.rand(len(self.network.drop_path_rates), 2, self.config.batch_size, generator=generator)
        return draws[..., self._members(piece)].to(self.device, non_blocking=True)

    def _answer(
        self, forward: nn.Module, images: Tensor, architecture: Architecture | None, draws: Tensor | None, *, shows: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Logits, and features as the teacher's where they are learned and `shows` says so."""
        inputs: tuple[Any, ...] = (images,)
        if isinstance(self.network, Supernet):
            assert architecture is not None
            inputs = resize_images(images, self.network.space.image_size_of(architecture)), architecture, draws
        elif isinstance(self.network, Subnet):
            inputs = (resize_images(images, self.network.patch_embed.img_size[0]),)
        if self.pupil is not None:
            return cast(tuple[Tensor, Tensor | None], forward(*inputs, shows=shows))
        return cast(Tensor, forward(*inputs)), None

    def loss(self, logits: Tensor, targets: Tensor, taught: Tensor | None, largest: Tensor | None) -> Tensor:
        """Cross entropy with the labels, shared with the teacher's part; the largest network's predictions replace both.

        Images without a label have the teacher's part alone: the mean over labels is over those of the step's whole batch.
        """
        if largest is not None:
            return imitation(logits, largest)
        if targets.ndim == 2:
            loss = torch.sum(-targets * F.log_softmax(logits, -1), -1).mean()
        elif self.labelled is not None:
            smoothing = self.config.label_smoothing
            total = F.cross_entropy(logits, targets, label_smoothing=smoothing, ignore_index=NO_LABEL, reduction="sum")
            loss = total / self.labelled
        else:
            loss = F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)
        if self.teacher is None or taught is None:
            return loss
        weight = self.teacher.config.weight
        return (1 - weight) * loss + weight * self.teacher.loss(logits, taught)

    def _update(self, architectures: Sequence[Architecture | None], step: int) -> Tensor:
        """Clips and steps. A gradient that is not finite moves nothing, in no process, since all hold the same average.

        Gives whether the step was skipped, on the device.
        """
        weights = [weight for weight in self.trained.parameters() if weight.grad is not None]
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
                self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
                self.optimizer.step()
            elif not bad:
                self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network, step + 1)
        return bad

    @contextmanager
    def _unused_frozen(self, architectures: Sequence[Architecture | None]) -> Iterator[None]:
        if not self.config.differences.freeze_unused:
            yield
            return
        assert isinstance(self.network, Supernet)
        networks = [architecture for architecture in architectures if architecture is not None]
        used = used_weights(self.network, networks)
        if self.projector is not None:
            used[self.projector.weight] = self.projector.used(max(one.embed_dim for one in networks))
        with frozen_outside(used, self.optimizer):
            yield

    @property
    def trained(self) -> nn.Module:
        """All that learns: the network, with a projector where it learns a teacher's features."""
        return self.network if self.pupil is None else self.pupil

    @property
    def projector(self) -> Projector | None:
        return None if self.pupil is None else self.pupil.projector

    # --- made from the config ------------------------------------------------------------------------------------

    def _pupil(self) -> Pupil | None:
        if self.teacher is None or self.teacher.config.features is None:
            return None
        if self.config.compile and not isinstance(self.network, Supernet | Subnet):
            raise TrainingError("teacher.features are not taken from a compiled network of timm; set compile=false")
        size, channels = self.parts.preprocessing.image_size, self.parts.preprocessing.in_chans
        blank = torch.zeros(1, channels, size, size, device=self.device, dtype=self.dtype)
        return pupil_of(self.network, blank, self.teacher.features, self.seed)

    def _check_batch_norms(self) -> None:
        """Raises `TrainingError` where a batch norm would see one image at a time, which has no spread."""
        share = self.config.batch_size // (self.world.size * self.config.accumulate)
        if share < 2 and any(isinstance(module, _BatchNorm) for module in self.network.modules()):
            raise TrainingError(
                f"a batch norm needs two images at once, got {share} for each of {self.world.size} processes and "
                f"{self.config.accumulate} pieces; raise batch_size or lower accumulate"
            )

    def _adapt_network(self) -> None:
        """Recomputing and compiling, as the config asks. Raises `TrainingError` for a network that cannot."""
        network: Any = self.network
        if self.config.checkpoint_activations or isinstance(network, Supernet | Subnet):
            try:
                network.set_grad_checkpointing(self.config.checkpoint_activations)
            except (AssertionError, AttributeError) as error:
                raise TrainingError(
                    f"{type(network).__name__} cannot recompute its activations; set checkpoint_activations=false"
                ) from error
        if self.config.compile:
            if isinstance(network, Supernet | Subnet):
                network.compile_blocks()
            else:
                network.compile()

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        try:
            optimizer: torch.optim.Optimizer = create_optimizer_v2(
                self.network,
                config.optimizer,
                lr=config.peak_learning_rate,
                weight_decay=config.weight_decay,
                layer_decay=config.differences.layer_decay,
                **({"fused": True} if self.fused else {}),
            )
        except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise TrainingError(f"optimizer {config.optimizer} cannot be used here: {line}; choose another") from error
        if getattr(optimizer, "is_second_order", False):
            raise TrainingError(
                f"optimizer {config.optimizer} needs second derivatives, which are not taken here; choose another"
            )
        if self.projector is not None:
            group = {"params": [self.projector.weight], "lr": config.peak_learning_rate, "weight_decay": config.weight_decay}
            optimizer.add_param_group(group)
        return optimizer

    def set_rate(self, step: int) -> None:
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
