"""`Preprocessing` against timm's own evaluation transform, and what it does to unusual images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

from autoformer.data.preprocessing import Preprocessing, convert

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_image(rng: np.random.Generator, mode: str = "RGB") -> Image.Image:
    width, height = (int(side) for side in rng.integers(9, 90, 2))
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def timms(preprocessing: Preprocessing) -> Any:
    return create_transform(
        (preprocessing.in_chans, preprocessing.image_size, preprocessing.image_size),
        is_training=False,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_pct,
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("image_size", [8, 31, 32])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9, 0.875])
def test_it_equals_timms_evaluation_transform_on_images_of_any_size(interpolation: str, image_size: int, crop_pct: float) -> None:
    rng = np.random.default_rng(0)
    preprocessing = Preprocessing(image_size, 3, MEAN, STD, interpolation, crop_pct)
    transform = timms(preprocessing)
    for _ in range(25):
        image = random_image(rng)
        np.testing.assert_allclose(preprocessing(image), transform(image).numpy(), rtol=0, atol=1e-5, err_msg=str(image.size))


def test_grey_images_equal_timms_too() -> None:
    rng = np.random.default_rng(1)
    preprocessing = Preprocessing(16, 1, (0.3,), (0.4,))
    transform = timms(preprocessing)
    for _ in range(10):
        image = random_image(rng, "L")
        np.testing.assert_allclose(preprocessing(image), transform(image).numpy(), rtol=0, atol=1e-5)


def test_the_input_is_a_contiguous_float32_block_of_the_stated_shape() -> None:
    found = Preprocessing(12, 3, MEAN, STD)(random_image(np.random.default_rng(2)))
    assert found.shape == (3, 12, 12)
    assert found.dtype == np.float32
    assert found.flags["C_CONTIGUOUS"]
    pixels = Preprocessing(12, 1, (0.5,), (0.5,)).pixels(random_image(np.random.default_rng(2)))
    assert pixels.shape == (12, 12, 1)
    assert pixels.dtype == np.uint8


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    image = random_image(np.random.default_rng(3)).resize((16, 16))
    assert np.array_equal(Preprocessing(16, 3, MEAN, STD).pixels(image), np.asarray(image))


def test_normalising_a_batch_is_normalising_each_image() -> None:
    preprocessing = Preprocessing(4, 3, MEAN, STD)
    pixels = np.random.default_rng(4).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    batch = preprocessing.normalise(pixels)
    expected = (pixels.transpose(0, 3, 1, 2) / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    np.testing.assert_allclose(batch, expected, rtol=0, atol=1e-6)


def test_transparent_images_are_laid_on_white() -> None:
    clear = Image.fromarray(np.zeros((4, 4, 4), dtype=np.uint8))  # black, fully transparent
    assert np.asarray(convert(clear, 3)).tolist() == np.full((4, 4, 3), 255).tolist()
    half = Image.fromarray(np.full((4, 4, 4), (0, 0, 0, 51), dtype=np.uint8))  # a fifth of black
    assert np.asarray(convert(half, 1))[0, 0] == 204
    palette = Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).convert("P")
    palette.info["transparency"] = 0
    assert np.asarray(convert(palette, 3)).min() == 255


def test_sixteen_bit_images_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values: NDArray[np.uint16] = np.array([[0, 256, 32768, 65535]] * 4, dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        assert np.asarray(convert(image, 1))[0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P", "YCbCr"])
def test_other_colour_modes_become_grey_or_rgb(mode: str) -> None:
    image = random_image(np.random.default_rng(5)).convert(mode)
    assert convert(image, 1).mode == "L"
    assert convert(image, 3).mode == "RGB"


def test_json_gives_the_same_value_back() -> None:
    value = Preprocessing(12, 3, MEAN, STD, "bilinear", 0.9)
    assert Preprocessing.from_dict(json.loads(json.dumps(value.to_dict()))) == value
