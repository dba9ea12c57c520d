"""A folder of small images that a network of a few thousand weights can tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


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


def draw_digits(root: Path, count: int = 120) -> Path:
    """A folder, two deep, of 8 × 8 digits mirrored left to right: none of them is among scikit-learn's."""
    for index, image in enumerate(load_digits().images[:count]):
        folder = root / f"{index % 3}" / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image[:, ::-1] * (255 / 16)).astype(np.uint8)).save(folder / f"{index:04d}.png")
    return root
