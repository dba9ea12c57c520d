"""A supernet of a micro space and the words of a search of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.files import read_json
from autoformer.networks.folders import save_supernet
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet for the digits that has learned nothing: its networks differ all the same."""
    out = tmp_path_factory.mktemp("super") / "net"
    torch.manual_seed(0)
    save_supernet(Supernet(SPACE), out, source="nothing")
    record = read_json(out / "supernet.json")
    (out / "supernet.json").write_text(json.dumps({**record, "data": load_parts(DataConfig()).record}))
    return out


def words(**settings: object) -> list[str]:
    short = {"population": 6, "generations": 2, "parents": 3, "mutated": 3, "crossed": 3, "uniform_shapes": 2, **settings}
    return [word for name, value in short.items() for word in ("--set", f"{name}={value}")]
