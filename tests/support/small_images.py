"""A folder of small images that a network of a few thousand weights can tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


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
