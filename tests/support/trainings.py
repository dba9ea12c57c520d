"""A space, the digits and a trainer that take seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.networks.folders import save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace
from autoformer.training.choosing import chooser
from autoformer.training.config import SupernetConfig
from autoformer.training.step import TrainStep
from autoformer.training.trainer import Trainer

SPACE = SearchSpace(
    name="small digits", embed_dims=(16, 24), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8,
    image_sizes=(8,), patch_size=4, in_chans=1, num_classes=10, max_relative_position=3,
)  # fmt: skip
QUICK = SupernetConfig(epochs=2, batch_size=64, evaluate_every=2)


@pytest.fixture(scope="module")
def parts() -> DataParts:
    return load_parts(DataConfig())


def trainer_of(parts: DataParts, folder: Path, config: SupernetConfig = QUICK, network: Supernet | None = None) -> Trainer:
    torch.manual_seed(0)
    network = network or Supernet(SPACE)
    choose = chooser(config.subnets, SPACE, 0)
    return Trainer(network, parts, config, folder, choose, dict(SPACE.anchors), parts.preprocessing)


def write_teacher(parts: DataParts, folder: Path, space: SearchSpace = SPACE) -> str:
    """The folder of a network of fresh weights, the largest of the space, that knows the classes of the parts."""
    torch.manual_seed(1)
    network = Subnet.from_space(space, space.largest)
    nn.init.normal_(network.head.get_parameter("weight"), std=0.5)  # so that it has an opinion
    save_subnet(network, folder, preprocessing=parts.preprocessing, classes=parts.classes, record={"data": parts.record})
    return str(folder)


@contextmanager
def dying_at(fatal_step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What trains in the block dies before its step `fatal_step`, as if memory ran out."""
    steps = TrainStep.run

    def dying(self: TrainStep, forward: nn.Module, pixels: Tensor, facts: Tensor, step: int) -> Tensor:
        if step == fatal_step:
            raise MemoryError("died")
        return steps(self, forward, pixels, facts, step)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):  # noqa: PT012
        patch.setattr(TrainStep, "run", dying)
        yield
