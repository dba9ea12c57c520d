"""Augmentation by key, and epochs that take every image once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.errors import DataError
from autoformer.training.augment import AugmentConfig, TrainingImages
from autoformer.training.batches import Plan


def test_the_same_key_gives_the_same_augmented_pixels_and_another_key_others() -> None:
    parts = load_parts(DataConfig())
    images = TrainingImages(parts.train, parts.preprocessing, AugmentConfig())
    first, again, other = images[(5, 77)][0], images[(5, 77)][0], images[(5, 78)][0]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_augmentation_training_sees_the_images_as_they_are() -> None:
    parts = load_parts(DataConfig())
    plain = AugmentConfig(rotate_degrees=0, translate=0, scale=(1, 1))
    images = TrainingImages(parts.train, parts.preprocessing, plain)
    assert np.array_equal(images[(3, 0)][0][0], np.asarray(parts.train[3][0]))


@pytest.mark.parametrize(
    "config",
    [AugmentConfig(crop="random_resized", flip=0.5, color_jitter=0.3), AugmentConfig(rand_augment="rand-m9-mstd0.5-inc1")],
)
def test_photograph_augmentation_gives_images_of_the_right_shape(image_folder: Path, config: AugmentConfig) -> None:
    parts = load_parts(DataConfig(source=str(image_folder)))
    images = TrainingImages(parts.train, parts.preprocessing, config)
    assert images[(0, 1)][0].shape == (3, 16, 16)


def test_flips_happen_only_when_asked_for(image_folder: Path) -> None:
    parts = load_parts(DataConfig(source=str(image_folder)))
    still = {"rotate_degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0)}
    never = TrainingImages(parts.train, parts.preprocessing, AugmentConfig(**still))
    always = TrainingImages(parts.train, parts.preprocessing, AugmentConfig(**still, flip=1.0))
    assert np.array_equal(never[(0, 0)][0][..., ::-1], always[(0, 0)][0])


def test_an_epoch_takes_every_image_once_in_an_order_of_its_own() -> None:
    plan = Plan(images=100, batch_size=10, epochs=2, repeats=1, seed=7)
    first, second = ([position for step in range(e * 10, e * 10 + 10) for position, _ in plan.batch(step)] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_a_batch_larger_than_the_part_is_refused() -> None:
    with pytest.raises(DataError, match="batch_size 64 is larger than the train part of 7 images"):
        Plan(images=7, batch_size=64, epochs=1, repeats=1, seed=0)
