"""The two trainings, each into a folder of its own: `train_supernet` and `finetune`; `rehearse` measures what one would take.

The folder holds `identity.json` (what the training is), `data.json` (its images), `log.jsonl`, while it runs `checkpoints/` and
maybe what its teacher said (`logits/`), and, when finished, the weights with their record. The same call again goes on where it
stopped, or loads what is finished.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoformer.architecture import INIT_STD
from autoformer.data.classes import write_class_map
from autoformer.data.parts import DataParts, JoinedImages, Part
from autoformer.errors import DataError
from autoformer.files import claim_folder, sole_worker, write_json
from autoformer.metric import Metric
from autoformer.networks.folders import load_supernet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet, kernels_of
from autoformer.pretrained.classifier import Classifier
from autoformer.pretrained.cutting import cut_by_images
from autoformer.space import SearchSpace
from autoformer.tensors import tensors_digest, write_tensors
from autoformer.training.cached_teacher import FOLDER
from autoformer.training.choosing import only_one
from autoformer.training.config import FinetuneConfig, SupernetConfig
from autoformer.training.curriculum import chooser_over
from autoformer.training.distributed import World
from autoformer.training.subjects import check_images, subject_of
from autoformer.training.trainer import Surroundings, Trained, Trainer, check_unlabelled, plan_for

STEPS, SECONDS, WARMUP = 30, 20.0, 2  # of a rehearsal: measured steps, or as many as fit in this time, after a warm-up


def train_supernet(
    space: SearchSpace,
    parts: DataParts,
    config: SupernetConfig,
    out: Path,
    *,
    start: Supernet | None = None,
    seed: int = 0,
    metric: Metric = "top1",
    around: Surroundings | None = None,
) -> Supernet:
    """Trains all networks of `space` at once and writes the folder `out` that `load_supernet` reads.

    `start`: a supernet of `space` whose weights it starts from; it is trained in place, with `config.cut_images` after
    `cut_by_images`. Raises `OutputExistsError` when
    `out` holds something else, and what `Trainer.run` raises.
    """
    around = around or Surroundings()
    check_images(space.image_size, space.in_chans, space.num_classes, parts)
    check_unlabelled(parts, config, "train")
    if start is not None and start.space != space:
        raise DataError(f"the weights to start from are of space {start.space.name!r}, which is not the one to train")
    supernet = fresh_supernet(space, config, seed) if start is None else start
    supernet.set_drop_path(config.drop_path_rate)
    identity = {
        "kind": "supernet",
        "space": space.to_dict(),
        "data": parts.digest,
        "seed": seed,
        "metric": metric,
        "start": None if start is None else tensors_digest(start.state_dict()),
        "train": config.identity,
    }
    if _is_finished(out, "supernet.json", identity, parts, around.world):
        return load_supernet(out)
    with sole_worker(out) if around.world.leads else nullcontext():
        supernet.to(around.world.device)
        if start is not None and config.cut_images and not any((out / "checkpoints").glob("*")):
            _cut(start, parts, config.cut_images, around.world)
        choose = chooser_over(config.subnets, space, seed, plan_for(parts, config, seed).steps)
        trainer = Trainer(
            supernet, parts, config, out, choose, dict(space.anchors), parts.preprocessing, seed=seed, metric=metric,
            around=around, work="train supernet",
        )  # fmt: skip
        trained = trainer.run()
        if around.world.leads:
            shutil.rmtree(out / FOLDER, ignore_errors=True)
            write_tensors(trained.network.state_dict(), out / "model.safetensors")
            record = {"format": "autoformer/supernet/1", "space": space.to_dict(), **_record(trainer, trained, parts)}
            write_class_map(parts.classes, out)
            write_json(record, out / "supernet.json")
            _keep_best(trainer, out)
    network = trained.network
    assert isinstance(network, Supernet)
    return network


def _cut(start: Supernet, parts: DataParts, count: int, world: World) -> None:
    """Turns and orders the weights by `count` images of the train part, evenly spaced; the same in all processes."""
    weight, shown = next(start.parameters()), parts.train.spaced(count)
    images = (
        torch.from_numpy(parts.preprocessing.prepare(part.pixels(parts.preprocessing))).to(weight) for part in shown.batches(64)
    )
    if world.leads:
        start.eval()
        cut_by_images(start, images)
    start.load_state_dict(world.from_leader(start.state_dict()))


def fresh_supernet(space: SearchSpace, config: SupernetConfig, seed: int) -> Supernet:
    """A supernet of random weights, a function of the seed."""
    torch.manual_seed(seed)
    supernet = Supernet(space)
    with torch.no_grad():
        kept = kernels_of(supernet)  # which begin as ones that change nothing
        for name, weight in supernet.named_parameters():
            if weight.ndim > 1 and name not in kept and not name.startswith("patch_embed") and not name.endswith("bias"):
                weight.mul_(config.init_std / INIT_STD)
    return supernet


def finetune(
    network: Subnet | Classifier,
    parts: DataParts,
    config: FinetuneConfig,
    out: Path,
    *,
    seed: int = 0,
    metric: Metric = "top1",
    around: Surroundings | None = None,
    until: int | None = None,
) -> nn.Module:
    """Trains one network further on `parts.train` and writes the folder `out` that `open_network` reads.

    `until` stops after this many epochs of the same schedule; the network is given as it is by then, and a later call goes on.

    With `config.patience` the best epoch's weights are kept, else the last one's; scores on the search part are in the record.
    With `config.fold_search` the search part is trained on as well. Raises as `train_supernet` does.
    """
    around = around or Surroundings()
    check_unlabelled(parts, config, "finetune")
    subject = subject_of(network)
    identity = {**subject.identity, "data": parts.digest, "seed": seed, "metric": metric, "train": config.identity}
    parts = subject.parts_of(parts)
    if _is_finished(out, subject.record_name, identity, parts, around.world):
        return subject.load(out)
    with sole_worker(out) if around.world.leads else nullcontext():
        trainer = trainer_of(network, parts, config, out, seed=seed, metric=metric, around=around)
        trained = trainer.run(until)
        if around.world.leads and trainer.is_finished:
            shutil.rmtree(out / FOLDER, ignore_errors=True)
            made = {"format": subject.record_format, "made_by": "finetune", "folded": config.fold_search}
            record = {**made, **_record(trainer, trained, parts)}
            subject.write(trained.network, out, trainer.preprocessing, parts.classes, record)
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return trained.network


def trainer_of(
    network: Subnet | Classifier,
    parts: DataParts,
    config: FinetuneConfig,
    out: Path,
    *,
    seed: int = 0,
    metric: Metric = "top1",
    around: Surroundings | None = None,
) -> Trainer:
    """What `finetune` trains with; nothing is written yet."""
    around, subject = around or Surroundings(), subject_of(network)
    parts = subject.parts_of(parts)
    trainee = around.world.with_shared_statistics(subject.network(config.drop_path_rate).to(around.world.device))
    return Trainer(
        trainee, folded(parts) if config.fold_search else parts, config, out, only_one, {"network": None},
        subject.preprocessing(parts), seed=seed, metric=metric, around=around, work="finetune",
    )  # fmt: skip


def _is_finished(out: Path, result: str, identity: Mapping[str, Any], parts: DataParts, world: World) -> bool:
    """Makes `out` the folder of this training; whether it holds the `result` already."""
    if world.leads:
        claim_folder(out, identity)
        write_json(parts.record, out / "data.json")
    return world.from_leader((out / result).exists())


def _record(trainer: Trainer, trained: Trained, parts: DataParts) -> dict[str, Any]:
    """What a finished training says of itself."""
    return {
        "data": parts.record,
        "seed": trainer.seed,
        "metric": trainer.metric,
        "train": trainer.config.model_dump(mode="json"),
        "processes": trainer.world.size,
        "weights_digest": tensors_digest(trained.network.state_dict()),
        "history": trained.history,
        "best": trainer.state.best,
    }


def _keep_best(trainer: Trainer, out: Path) -> None:
    """Removes the checkpoints; the best weights stay as `best.safetensors` where an epoch before the last scored higher."""
    best, checkpoints = trainer.state.best, out / "checkpoints"
    if best is not None and best["epoch"] != trainer.state.epoch and (checkpoints / "best.safetensors").exists():
        (checkpoints / "best.safetensors").replace(out / "best.safetensors")
    shutil.rmtree(checkpoints, ignore_errors=True)


def folded(parts: DataParts) -> DataParts:
    """The parts with the search images in the train part too; only once nothing is chosen by them any more."""
    train, search = parts.train, parts.search
    if train.images is search.images:
        return replace(parts, train=Part("train", train.images, tuple(sorted((*train.indices, *search.indices)))))
    return replace(parts, train=Part("train", JoinedImages(train, search), tuple(range(len(train) + len(search)))))


@dataclass(frozen=True)
class Rehearsal:
    """The measured price of a training."""

    steps: int
    steps_measured: int
    seconds_per_step: float  # median; waiting for images included
    wait_share: float  # of that, waiting for images
    hours: float  # of all steps and of a teacher that is asked before them; scoring and saving come on top
    teacher_hours: float  # of those, a teacher that is asked before
    logits_bytes: int  # what it says
    checkpoint_bytes: int  # one checkpoint
    disk_bytes: int  # all that is kept at one time
    free_bytes: int  # on the disk of the output folder

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def rehearse(trainer: Trainer, out: Path) -> Rehearsal:
    """Runs some steps of `trainer`, whose weights they change; nothing is written.

    `out` is where the training would write; it need not exist.
    """
    times, waits, teacher_s, logits_bytes = [], [], 0.0, 0
    if trainer.cached is not None:
        files, classes = trainer.cached.files, len(trainer.parts.classes)
        teacher_s = trainer.plan.num_views * files.chunks * trainer.cached.seconds_of_chunk() / trainer.world.size
        logits_bytes = trainer.plan.num_views * files.bytes_of_view
        trainer.steps.known = lambda step, members: torch.zeros(len(members), classes)  # as quick to have as those of files
    forward = trainer.world.wrap(trainer.steps.trained, some_unused=True)
    trainer.network.train()
    began = time.perf_counter()
    loader = trainer.loader(0)
    for step in range(min(STEPS + WARMUP, trainer.plan.steps)):
        asked = time.perf_counter()
        pixels, facts = next(loader)
        waited = time.perf_counter() - asked
        loss: Tensor = trainer.steps.run(forward, pixels, facts, step)
        float(loss)  # waits for the device
        if step >= WARMUP or trainer.plan.steps <= WARMUP:
            times.append(time.perf_counter() - asked)
            waits.append(waited)
        if time.perf_counter() - began > SECONDS and times:
            break
    checkpoint = trainer.state.bytes
    weights = sum(weight.numel() * weight.element_size() for weight in trainer.network.parameters())
    seconds = statistics.median(times)
    place = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    return Rehearsal(
        steps=trainer.plan.steps,
        steps_measured=len(times),
        seconds_per_step=seconds,
        wait_share=sum(waits) / sum(times),
        hours=(seconds * trainer.plan.steps + teacher_s) / 3600,
        teacher_hours=teacher_s / 3600,
        logits_bytes=logits_bytes,
        checkpoint_bytes=checkpoint,
        # One checkpoint more while one is written; the best weights and the result.
        disk_bytes=(trainer.config.keep_checkpoints + 1) * checkpoint + 2 * weights + logits_bytes,
        free_bytes=shutil.disk_usage(place).free,
    )
