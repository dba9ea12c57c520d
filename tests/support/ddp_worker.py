"""What each process of the distributed tests runs: one training of a small supernet on digits, in float64.

Alone, or as one of those that the environment describes. It may name another space, as JSON in SPACE_TO_TRAIN, and images without
labels in IMAGES_WITHOUT_LABELS.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import torch

from autoformer.cli.app import fail
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.errors import AutoformerError
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace
from autoformer.training.config import SupernetConfig
from autoformer.training.distributed import joined
from autoformer.training.runs import train_supernet
from autoformer.training.trainer import Surroundings
from tests.support.forked import Forked, forked

SPACE = SearchSpace(
    name="small digits", embed_dims=(16, 24), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8,
    image_sizes=(8,), patch_size=4, in_chans=1, num_classes=10, max_relative_position=3,
)  # fmt: skip


def start(folder: Path, config: SupernetConfig, size: int) -> list[Forked]:
    """`size` processes of one training; one alone has no world. Each writes its steps."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    processes = []
    for rank in range(size):
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {key: str(value) for key, value in world.items()} if size > 1 else {}
        processes.append(forked(_train, folder, config.model_dump_json(), environment=environment))
    return processes


def _train(folder: Path, config: str) -> None:
    try:
        _train_within_world(folder, SupernetConfig.model_validate_json(config))
    except AutoformerError as error:
        fail(str(error), error.exit_code)


def _train_within_world(folder: Path, config: SupernetConfig) -> None:
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as world:
        torch.manual_seed(0)
        space = SearchSpace.from_dict(json.loads(os.environ["SPACE_TO_TRAIN"])) if "SPACE_TO_TRAIN" in os.environ else SPACE
        start = Supernet(space).double()
        parts = load_parts(DataConfig.model_validate({"unlabelled": os.environ.get("IMAGES_WITHOUT_LABELS")}))

        def told(record: dict[str, object]) -> None:
            if world.leads:
                print(record["step"], flush=True)

        train_supernet(space, parts, config, folder, start=start, around=Surroundings(world, hooks=[told]))
