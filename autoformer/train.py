"""The two trainings, each into a folder of its own: `train_supernet` and `finetune`.

The folder holds `identity.json` (what the training is), `data.json` (its images), `checkpoints/` while it runs, `log.jsonl`, and,
when finished, the weights with their record. The same call again goes on where it stopped, or loads what is finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from autoformer.checkpoint import claim_folder, sole_worker, tensors_digest, write_json, write_tensors
from autoformer.data import DataParts, JoinedImages, Part
from autoformer.distributed import World, best_device
from autoformer.errors import DataError
from autoformer.evaluate import Metric
from autoformer.preprocessing import Preprocessing
from autoformer.progress import Progress, silent
from autoformer.sampling import chooser, only_one
from autoformer.space import SearchSpace
from autoformer.subnet import Subnet
from autoformer.subnet_folder import fill_folder, load_subnet
from autoformer.supernet import INIT_STD, Supernet
from autoformer.supernet_folder import load_supernet
from autoformer.trainer import Trainer
from autoformer.training_config import FinetuneConfig, SupernetConfig
from autoformer.training_log import Hook


def train_supernet(
    space: SearchSpace,
    parts: DataParts,
    config: SupernetConfig,
    out: Path,
    *,
    start: Supernet | None = None,
    seed: int = 0,
    metric: Metric = "top1",
    world: World | None = None,
    progress: Progress = silent,
    hooks: Sequence[Hook] = (),
) -> Supernet:
    """Trains all networks of `space` at once and writes the folder `out` that `load_supernet` reads.

    `start`: a supernet of `space` whose weights it starts from; it is trained in place. Raises `OutputExistsError` when
    `out` holds something else, and what `Trainer.run` raises.
    """
    world = world or World(device=best_device())
    check_images(space.image_size, space.in_chans, space.num_classes, parts)
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
    if world.leads:
        claim_folder(out, identity)
        write_json(parts.record, out / "data.json")
    if world.from_leader((out / "supernet.json").exists()):
        return load_supernet(out)
    with sole_worker(out) if world.leads else nullcontext():
        supernet.to(world.device)
        trainer = Trainer(
            supernet, parts, config, out, chooser(config.subnets, space, seed), dict(space.anchors), parts.preprocessing,
            seed=seed, metric=metric, world=world, progress=progress, work="train supernet", hooks=hooks,
        )  # fmt: skip
        trained = trainer.run()
        if world.leads:
            weights = trained.network.state_dict()
            write_tensors(weights, out / "model.safetensors")
            record = {
                "format": "autoformer/supernet/1",
                "space": space.to_dict(),
                "data": parts.record,
                "seed": seed,
                "metric": metric,
                "train": config.model_dump(mode="json"),
                "processes": world.size,
                "weights_digest": tensors_digest(weights),
                "history": trained.history,
                "best": trainer.state.best,
            }
            write_json(record, out / "supernet.json")
            keep_best(trainer, out)
    network = trained.network
    assert isinstance(network, Supernet)
    return network


def fresh_supernet(space: SearchSpace, config: SupernetConfig, seed: int) -> Supernet:
    """A supernet of random weights, a function of the seed."""
    torch.manual_seed(seed)
    supernet = Supernet(space)
    with torch.no_grad():
        for name, weight in supernet.named_parameters():
            if weight.ndim > 1 and not name.startswith("patch_embed") and not name.endswith("bias"):
                weight.mul_(config.init_std / INIT_STD)
    return supernet


def finetune(
    subnet: Subnet,
    parts: DataParts,
    config: FinetuneConfig,
    out: Path,
    *,
    seed: int = 0,
    metric: Metric = "top1",
    world: World | None = None,
    progress: Progress = silent,
    hooks: Sequence[Hook] = (),
) -> Subnet:
    """Trains one network further on `parts.train` and writes the folder `out` that `load_subnet` reads.

    With `config.patience` the best epoch's weights are kept, else the last one's; scores on the search part are in the record.
    With `config.fold_search` the search part is trained on as well. Raises as `train_supernet` does.
    """
    world = world or World(device=best_device())
    stored_size = subnet.patch_embed.img_size[0] if subnet.architecture.image_size is None else parts.preprocessing.image_size
    check_images(stored_size, subnet.in_chans, subnet.num_classes, parts)
    identity = {
        "kind": "subnet",
        "weights": tensors_digest(subnet.state_dict()),
        "architecture": subnet.architecture.to_dict(),
        "data": parts.digest,
        "seed": seed,
        "metric": metric,
        "train": config.identity,
    }
    if world.leads:
        claim_folder(out, identity)
        write_json(parts.record, out / "data.json")
    if world.from_leader((out / "subnet.json").exists()):
        return load_subnet(out)[0]
    with sole_worker(out) if world.leads else nullcontext():
        subnet.to(world.device)
        subnet.set_drop_path(config.drop_path_rate)
        preprocessing = preprocessing_of(subnet, parts)
        trainer = Trainer(
            subnet, folded(parts) if config.fold_search else parts, config, out, only_one, {"network": None}, preprocessing,
            seed=seed, metric=metric, world=world, progress=progress, work="finetune", hooks=hooks,
        )  # fmt: skip
        trained = trainer.run()
        network = trained.network
        assert isinstance(network, Subnet)
        if world.leads:
            record = {
                "format": "autoformer/subnet/1",
                "made_by": "finetune",
                "data": parts.record,
                "folded": config.fold_search,
                "seed": seed,
                "metric": metric,
                "train": config.model_dump(mode="json"),
                "processes": world.size,
                "weights_digest": tensors_digest(network.state_dict()),
                "history": trained.history,
                "best": trainer.state.best,
            }
            fill_folder(network, out, preprocessing=preprocessing, classes=parts.classes, record=record)
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return network


def keep_best(trainer: Trainer, out: Path) -> None:
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


def preprocessing_of(subnet: Subnet, parts: DataParts) -> Preprocessing:
    """The data's preprocessing, followed by the resize to the network's own input where the search chose a smaller one."""
    size = subnet.patch_embed.img_size[0]
    return replace(parts.preprocessing, network_size=None if size == parts.preprocessing.image_size else size)


def check_images(image_size: int, in_chans: int, num_classes: int, parts: DataParts) -> None:
    """Raises `DataError` when the data do not suit a network."""
    have = (parts.preprocessing.image_size, parts.preprocessing.in_chans, len(parts.classes))
    if have != (image_size, in_chans, num_classes):
        raise DataError(
            f"{parts.source} has images of {have[0]} px, {have[1]} channels, {have[2]} classes; the network takes "
            f"{image_size} px, {in_chans} channels, {num_classes} classes"
        )
