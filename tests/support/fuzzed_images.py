"""Every way in which the product reads an image, for files that may be damaged: opening, `data check`, training, predictions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.data.check import check_data
from autoformer.data.examining import examine
from autoformer.data.images import FileImages
from autoformer.data.loading import check_readable, load_parts
from autoformer.data.parts import DataConfig, Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.data.reading import sampled_preprocessing
from autoformer.training.augment import AugmentConfig, TrainingImages
from tests.support.image_files import png

ENDINGS = (".jpg", ".JPEG", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
GREY = Preprocessing(8, 1, (0.5,), (0.5,), value_range=(0.0, 4095.0))
COLOUR = Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3)


def folder_with(content: bytes, place: Path, rng: random.Random) -> Path:
    """A data set of two classes with this file in the first; gives the path of the file."""
    for label, name in enumerate(("a", "b")):
        (place / "data" / name).mkdir(parents=True)
        for number in range(5):
            rows = b"".join(b"\0" + bytes((20 * row + 7 * number + 99 * label) % 256 for row in range(8)) for _ in range(8))
            (place / "data" / name / f"{number}.png").write_bytes(png(8, 8, 8, 0, rows))
    path = place / "data" / "a" / f"{rng.choice(('photo', 'a b'))}{rng.choice(ENDINGS)}"
    path.write_bytes(content)
    return path


def readings(path: Path, rng: random.Random) -> Iterator[Callable[[], object]]:
    """What reads the file; each may raise an error of one line, and no warning of Pillow may come through."""
    root = path.parents[1]
    images = FileImages(root, (path.relative_to(root), Path("a/0.png"), Path("b/0.png")), (0, 0, 1))
    works: list[Callable[[], object]] = [
        lambda: _finite(GREY.of_file(path)),
        lambda: _finite(COLOUR.of_file(path)),
        lambda: examine(images, 0, GREY.value_range),
        lambda: _trained(images),
    ]
    if rng.random() < 0.1:
        works.append(lambda: check_data(DataConfig(source=str(root), image_size=8)))
        works.append(lambda: check_readable(load_parts(DataConfig(source=str(root), image_size=8, unreadable="skip"))))
    yield from works


def _finite(values: NDArray[Any]) -> None:
    assert np.isfinite(values).all()


def _trained(images: FileImages) -> None:
    """Reading with `unreadable: skip` ends well whatever the first file is."""
    everything = {"image_size": 8, "max_image_size": 8, "crop_pct": 1.0}
    preprocessing, _ = sampled_preprocessing(images, (0, 1, 2), skip_unreadable=True, **everything)  # type: ignore[arg-type]
    part, config = Part("train", images, (0, 1, 2)), AugmentConfig(crop="random_resized", flip=0.5)
    pixels, _ = TrainingImages(part, preprocessing, config, skip_unreadable=True)[0, 7]
    assert pixels.shape == (preprocessing.in_chans, 8, 8)
