"""A space, the digits and a trainer that take seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace
from autoformer.training.choosing import chooser
from autoformer.training.config import SupernetConfig
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
