"""Augmented training images whose pixels are a pure function of a key, and the order an epoch takes them in."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from autoformer.data import Part
from autoformer.preprocessing import Preprocessing, convert

RAND_AUGMENT = re.compile(r"rand(-(m[0-9.]+|n[0-9]+|mstd[0-9.]+|mmax[0-9.]+|inc[01]|w[0-9]+|p[0-9.]+|t\w+))*")


class AugmentConfig(BaseModel):
    """What training does to an image. The defaults are mild: right for digits and other small images that must not flip."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    crop: Literal["center", "random_resized"] = Field("center", description="random_resized: timm's crop, for photographs")
    crop_scale: tuple[float, float] = Field((0.35, 1.0), description="share of the area a random crop keeps")
    rotate_degrees: float = Field(10.0, ge=0, description="rotation by up to this, either way")
    translate: float = Field(0.1, ge=0, lt=1, description="shift by up to this share of the side")
    scale: tuple[float, float] = Field((0.9, 1.1), description="zoom range")
    shear_degrees: float = Field(0.0, ge=0, description="shear by up to this, either way")
    flip: float = Field(0.0, ge=0, le=1, description="probability of a horizontal flip; keep 0 for digits and text")
    color_jitter: float = Field(0.0, ge=0, description="strength of brightness, contrast and saturation changes")
    rand_augment: str | None = Field(None, description="timm's string, e.g. rand-m9-mstd0.5-inc1")
    erase: float = Field(0.0, ge=0, le=1, description="probability of erasing a rectangle")

    @field_validator("scale", "crop_scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float], field: ValidationInfo) -> tuple[float, float]:
        highest = 1.0 if field.field_name == "crop_scale" else 10.0
        if not 0 < value[0] <= value[1] <= highest:
            raise ValueError(f"expected two numbers, 0 < first <= second <= {highest:g}")
        return value

    @field_validator("rand_augment")
    @classmethod
    def _understood(cls, value: str | None) -> str | None:
        if value is not None and not RAND_AUGMENT.fullmatch(value):
            raise ValueError("expected timm's words, like rand-m9-mstd0.5-inc1")
        return value


class TrainingImages:
    """Augmented training images as uint8 [C, H, W], by key (position, seed): the same key gives the same pixels.

    Nothing depends on a process's own random state, so neither the number of loader processes nor an interruption
    changes what is trained on. Small sets are decoded once and kept in memory.
    """

    memory_limit = 1 << 30  # bytes of decoded images kept in memory

    def __init__(self, part: Part, preprocessing: Preprocessing, config: AugmentConfig) -> None:
        self.part, self.preprocessing = part, preprocessing
        self.transform = _augmentation(preprocessing, config)
        self.cropped = config.crop == "center"
        needed = len(part) * preprocessing.image_size**2 * preprocessing.in_chans
        self.kept = part.pixels(preprocessing) if self.cropped and needed <= self.memory_limit else None

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, key: tuple[int, int]) -> tuple[NDArray[np.uint8], int]:
        import torch

        position, seed = key
        if self.kept is not None:
            pixels = self.kept[position]
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        elif self.cropped:
            image = self.preprocessing.to_pil(self.part[position][0])
        else:
            image = convert(self.part[position][0], self.preprocessing.in_chans)
        torch.default_generator.manual_seed(seed)  # torchvision draws from torch, timm from random and numpy
        random.seed(seed)
        np.random.seed(seed % 2**32)
        array = np.array(self.transform(image), dtype=np.uint8)
        array = array.reshape(*array.shape[:2], self.preprocessing.in_chans)
        return np.ascontiguousarray(np.moveaxis(array, -1, 0)), int(self.part.labels[position])


def _augmentation(preprocessing: Preprocessing, config: AugmentConfig) -> Callable[[Image.Image], Image.Image]:
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision.transforms import ColorJitter, Compose, InterpolationMode, RandomAffine, RandomHorizontalFlip

    steps: list[Any] = []
    fill = tuple(round(255 * value) for value in preprocessing.mean)
    if config.crop == "random_resized":
        steps.append(
            RandomResizedCropAndInterpolation(
                preprocessing.image_size, scale=config.crop_scale, interpolation=preprocessing.interpolation
            )
        )
    if config.rotate_degrees or config.translate or config.scale != (1.0, 1.0) or config.shear_degrees:
        shear = config.shear_degrees
        steps.append(
            RandomAffine(
                config.rotate_degrees,
                (config.translate, config.translate),
                config.scale,
                (-shear, shear, -shear, shear) if shear else None,
                InterpolationMode.BILINEAR,
                fill=0 if preprocessing.in_chans == 1 else fill,
            )
        )
    if config.flip:
        steps.append(RandomHorizontalFlip(config.flip))
    if config.rand_augment:
        steps.append(_rand_augment(config.rand_augment, fill))
    if config.color_jitter:
        steps.append(ColorJitter(*[config.color_jitter] * 3))
    return Compose(steps)  # type: ignore[no-any-return]


def _rand_augment(spec: str, fill: tuple[int, ...]) -> Any:
    """timm's RandAugment. Its strongest posterising asks for 0 bits, which Pillow refuses since version 13: one bit is kept."""
    from timm.data.auto_augment import rand_augment_transform

    transform = rand_augment_transform(spec, {"img_mean": fill})
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            level = operation.level_fn
            operation.level_fn = lambda strength, hparams, level=level: (max(1, *level(strength, hparams)),)
    return transform


def epoch_order(images: int, batch_size: int, seed: int, epoch: int) -> list[list[tuple[int, int]]]:
    """The batches of an epoch as keys (position, seed) for `TrainingImages`: a pure function of its arguments.

    Every image once, shuffled; the last, smaller batch is left out unless it is the only one (as timm's loaders do).
    """
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(images)
    seeds = np.random.Generator(np.random.PCG64([seed, epoch, 1])).integers(0, 2**31, images)
    keys = [(int(position), int(seeds[position])) for position in order]
    whole = max(1, images // batch_size)
    return [keys[start * batch_size : (start + 1) * batch_size] for start in range(whole)]
