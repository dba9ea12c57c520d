"""What each process of the distributed tests runs: one training of a small supernet on digits, in float64.

python ddp_worker.py FOLDER CONFIG_AS_JSON; alone, or as one of those that the environment describes. It may name another
space, as JSON in SPACE_TO_TRAIN, and images without labels in IMAGES_WITHOUT_LABELS.
"""

from __future__ import annotations

import json
import os
import sys
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

SPACE = SearchSpace(
    name="small digits", embed_dims=(16, 24), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8,
    image_sizes=(8,), patch_size=4, in_chans=1, num_classes=10, max_relative_position=3,
)  # fmt: skip


def main(folder: Path, config: SupernetConfig) -> None:
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


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), SupernetConfig.model_validate_json(sys.argv[2]))
    except AutoformerError as error:
        fail(str(error), error.exit_code)
