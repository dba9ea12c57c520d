"""Augmented training images whose pixels are a pure function of a key, and the erasing of rectangles, keyed likewise."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationInfo, field_validator

from autoformer.data.parts import Part
from autoformer.data.preprocessing import Preprocessing, convert
from autoformer.errors import DataError
from autoformer.settings import Settings
from autoformer.training.batches import Key

if TYPE_CHECKING:
    from torch import Tensor

RAND_AUGMENT = re.compile(r"rand(-(m[0-9.]+|n[0-9]+|mstd[0-9.]+|mmax[0-9.]+|inc[01]|w[0-9]+|p[0-9.]+|t\w+))*")


class AugmentConfig(Settings):
    """What training does to an image. The defaults are mild: right for digits and other small images that must not flip."""

    crop: Literal["center", "random_resized", "padded"] = Field(
        "center", description="random_resized: timm's crop, for photographs; padded: padded by an eighth, then cropped, for 32 px"
    )
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

    def __init__(self, part: Part, preprocessing: Preprocessing, config: AugmentConfig, *, skip_unreadable: bool = False) -> None:
        self.part, self.preprocessing, self.skip_unreadable = part, preprocessing, skip_unreadable
        self.transform = _augmentation(preprocessing, config)
        self.cropped = config.crop != "random_resized"
        needed = len(part) * preprocessing.image_size**2 * preprocessing.in_chans
        self.kept = part.pixels(preprocessing) if self.cropped and needed <= self.memory_limit else None

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, key: Key) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Pixels, and three numbers: the label, the seed, and the position of an image that could not be read or -1.

        Where the config of the data allows it, the next image that can be read takes the place of one that cannot.
        """
        position, seed = key
        unreadable = -1
        while True:
            try:
                image = self._image(position)
                break
            except DataError:
                if not self.skip_unreadable or position == (key[0] - 1) % len(self):
                    raise
                unreadable, position = key[0], (position + 1) % len(self)
        seed_torch(seed)  # torchvision draws from torch, timm from random and numpy
        random.seed(seed)
        np.random.seed(seed)
        array = np.array(self.transform(image), dtype=np.uint8)
        array = array.reshape(*array.shape[:2], self.preprocessing.in_chans)
        facts = np.array([self.part.labels[position], seed, unreadable], np.int64)
        return np.ascontiguousarray(np.moveaxis(array, -1, 0)), facts

    def _image(self, position: int) -> Image.Image:
        if self.kept is not None:
            pixels = self.kept[position]
            return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        if self.cropped:
            return self.part.made(position, self.preprocessing.to_pil)
        return self.part.made(position, self._whole)

    def _whole(self, image: Image.Image) -> Image.Image:
        return convert(image, self.preprocessing.in_chans, self.preprocessing.value_range)


def _augmentation(preprocessing: Preprocessing, config: AugmentConfig) -> Callable[[Image.Image], Image.Image]:
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision.transforms import ColorJitter, Compose, InterpolationMode, RandomAffine, RandomCrop, RandomHorizontalFlip

    steps: list[Any] = []
    fill: Any = tuple(round(255 * value) for value in preprocessing.mean)
    if preprocessing.in_chans == 1:
        fill = 0
    if config.crop == "random_resized":
        steps.append(
            RandomResizedCropAndInterpolation(
                preprocessing.image_size, scale=config.crop_scale, interpolation=preprocessing.interpolation
            )
        )
    if config.crop == "padded":
        steps.append(RandomCrop(preprocessing.image_size, padding=preprocessing.image_size // 8, fill=fill))
    if config.rotate_degrees or config.translate or config.scale != (1.0, 1.0) or config.shear_degrees:
        shear = config.shear_degrees
        steps.append(
            RandomAffine(
                config.rotate_degrees,
                (config.translate, config.translate),
                config.scale,
                (-shear, shear, -shear, shear) if shear else None,
                InterpolationMode.BILINEAR,
                fill=fill,
            )
        )
    if config.flip:
        steps.append(RandomHorizontalFlip(config.flip))
    if config.rand_augment:
        steps.append(_rand_augment(config.rand_augment, fill, preprocessing.interpolation))
    if config.color_jitter:
        steps.append(ColorJitter(*[config.color_jitter] * 3))
    return Compose(steps)  # type: ignore[no-any-return]


def _rand_augment(spec: str, fill: Any, interpolation: str) -> Any:
    """timm's RandAugment. Its strongest posterising asks for 0 bits, which Pillow refuses since version 13: one bit is kept."""
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.transforms import str_to_pil_interp

    transform = rand_augment_transform(spec, {"img_mean": fill, "interpolation": str_to_pil_interp(interpolation)})
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            level = operation.level_fn
            operation.level_fn = lambda strength, hparams, level=level: (max(1, *level(strength, hparams)),)
    return transform


def erase(images: Tensor, seeds: list[int], probability: float) -> Tensor:
    """Replaces a random rectangle of normalised images [B, C, H, W] by noise (timm's RandomErasing), each by its seed."""
    from timm.data.random_erasing import RandomErasing

    erasing = RandomErasing(probability, mode="pixel", device=images.device.type)
    for image, seed in zip(images, seeds, strict=True):
        random.seed(seed)
        seed_torch(seed)
        erasing(image)
    return images


def seed_torch(seed: int) -> None:
    """Seeds torch's own random numbers on the CPU and the GPUs, without the record that `torch.manual_seed` keeps of callers."""
    import torch

    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized() and torch.utils.data.get_worker_info() is None:
        torch.cuda.manual_seed(seed)
