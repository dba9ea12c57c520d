"""Small data and one small finished run that many tests look at."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

os.environ.setdefault("COLUMNS", "160")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def draw_images(root: Path, classes: tuple[str, ...] = ("circle", "cross", "stripes"), each: int = 14, size: int = 20) -> Path:
    """A folder of colour images that a small network can tell apart: a hue and a pattern per class, with noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:size, 0:size]
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(each):
            pixels = rng.integers(0, 80, (size, size, 3))
            mask = ((rows * (number + 1) + columns + index) // 4) % 2 == 0
            pixels[mask, number % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index:03d}.png")
    return root


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images") / "shapes")
