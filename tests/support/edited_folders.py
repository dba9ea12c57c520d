"""A small saved network, edits of JSON files, and errors that must be one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError
from autoformer.files import read_json
from autoformer.networks.folders import save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=3)
PREPROCESSING = Preprocessing(8, 1, (0.3,), (0.4,))
CLASSES = ("ape", "bee", "cat")


def one_line(refused: Callable[[], object], *words: str) -> None:
    """Runs `refused`, which must raise a `CheckpointError` of one line with all of `words`."""
    with pytest.raises(CheckpointError) as caught:
        refused()
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    subnet = Subnet.from_space(SPACE, SPACE.smallest)
    save_subnet(subnet, tmp_path / "subnet", preprocessing=PREPROCESSING, classes=CLASSES, record={})
    return tmp_path / "subnet"


def edit(path: Path, *keys: str, **changes: Any) -> None:
    """Changes entries of a JSON file, at the place `keys` lead to."""
    whole = read_json(path)
    place = whole
    for key in keys:
        place = place[key]
    place.update(changes)
    path.write_text(json.dumps(whole))
