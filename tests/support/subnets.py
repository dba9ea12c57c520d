"""A small network with preprocessing and classes, its folder, and a copy of it to be damaged."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoformer.data.preprocessing import Preprocessing
from autoformer.networks.folders import save_subnet
from autoformer.networks.subnet import Subnet
from tests.support.small_spaces import shrunk

PREPROCESSING = Preprocessing(
    image_size=16, in_chans=3, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), interpolation="bilinear", crop_pct=0.9
)
CLASSES = ("ape", "bee", "cat", "dog", "eel")


def make_subnet(image_size: int = 16, seed: int = 0, **changes: Any) -> Subnet:
    """Four patches a side, three blocks, every weight random."""
    space = replace(shrunk("tiny"), image_sizes=(image_size,), depths=(3,), **changes)
    subnet = Subnet.from_space(space, space.sample(random.Random(0)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in subnet.parameters():
            weight.normal_(0, 0.3, generator=generator)
    return subnet.eval()


def images(count: int = 2, side: int = 16, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("saved") / "subnet"
    save_subnet(make_subnet(), target, preprocessing=PREPROCESSING, classes=CLASSES, record={"made_by": "a test"})
    return target


def damaged(folder: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    return copied
