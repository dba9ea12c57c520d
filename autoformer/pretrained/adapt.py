"""A trained network or supernet for other images: another size, other channels, other classes. What it learned is kept.

* Classes: another number of classes gets a classifier of zeros. It learns as fast as a random one, and the same start
  gives the same weights without a seed.
* Image size: the patch size stays; absolute positions are resampled. Table rows for distances that no image was wide enough
  for so far start as copies of the farthest that some image had.
* Channels: the patch embedding is summed for grey images, and repeated and scaled for several, as timm does it.
* Normalisation: images at hand are normalised with their own mean and standard deviation. Where the ones of the pretraining are
  known, the patch embedding makes up for the difference exactly, so that the network sees the colours that it knows.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from timm.models import adapt_input_conv
from torch import nn

from autoformer.errors import ArchitectureError
from autoformer.networks.positions import resample_positions
from autoformer.networks.relative_position import Tables, spread_edge
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import SuperBlock, SuperLinear, Supernet


class Normalisation(NamedTuple):
    """What pixels from 0 to 1 are normalised with, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def adapt_supernet(
    supernet: Supernet,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    in_chans: int | None = None,
    trained_with: Normalisation | None = None,
    normalisation: Normalisation | None = None,
) -> Supernet:
    """A copy of `supernet` for these images and classes; None keeps what it has.

    `trained_with` is how its images were normalised so far, `normalisation` how they will be; without either, the patch
    embedding takes no notice. `image_size` is the largest size in pixels. Where the space has several, the others keep their
    ratio to it, rounded to whole patches. Raises `ArchitectureError` when the patch does not divide `image_size`.
    """
    adapted = copy.deepcopy(supernet)
    old = supernet.space
    new = replace(
        old,
        num_classes=old.num_classes if num_classes is None else num_classes,
        in_chans=old.in_chans if in_chans is None else in_chans,
        image_sizes=old.image_sizes if image_size is None else _scaled_sizes(old.image_sizes, image_size, old.patch_size),
    )
    adapted.space = new
    with torch.no_grad():
        if new.num_classes != old.num_classes:
            head = SuperLinear(old.stored_embed_dim, new.num_classes)
            adapted.head = head.to(supernet.head.weight)
            nn.init.zeros_(adapted.head.weight)
        adapted.patch_embed.proj = _for_images(adapted.patch_embed.proj, new.in_chans, trained_with, normalisation)
        grid, old_grid = new.image_size // new.patch_size, old.image_size // old.patch_size
        if old.absolute_position and grid != old_grid:
            adapted.pos_embed = nn.Parameter(resample_positions(adapted.pos_embed, (old_grid, old_grid), (grid, grid)).clone())
        if old.relative_position and grid > old_grid:
            for block in (module for module in adapted.modules() if isinstance(module, SuperBlock)):
                for name in Tables._fields:
                    spread_edge(getattr(block.attn, name), old_grid - 1)
    return adapted


def _scaled_sizes(sizes: tuple[int, ...], largest: int, patch_size: int) -> tuple[int, ...]:
    _check_divides(largest, patch_size)
    patches = (max(1, int(size * largest / (sizes[-1] * patch_size) + 0.5)) for size in sizes)
    return tuple(number * patch_size for number in patches)


def _check_divides(image_size: int, patch_size: int) -> None:
    if image_size < 1 or image_size % patch_size:
        nearest = max(1, round(image_size / patch_size)) * patch_size
        raise ArchitectureError(
            f"images of {image_size} px are not a multiple of the pretrained patch of {patch_size} px, which stays; "
            f"set data.image_size to {nearest}, say"
        )


def _for_images(
    conv: nn.Conv2d, in_chans: int, trained_with: Normalisation | None, normalisation: Normalisation | None
) -> nn.Conv2d:
    """The same patch embedding for images of `in_chans` channels, normalised in another way."""
    weight, bias, channels = conv.weight, conv.bias, conv.in_channels
    assert bias is not None
    if in_chans != 1:  # channels that share weights may be normalised each in its own way
        weight = adapt_input_conv(in_chans, weight, base_chans=channels)
    if trained_with is not None and normalisation is not None:
        old_mean, old_std, mean, std = (
            torch.tensor([values[index % len(values)] for index in range(weight.shape[1])], dtype=torch.float64).to(weight)
            for values in (*trained_with, *normalisation)
        )
        # (pixel - old_mean) / old_std, with pixel = std · x + mean
        bias = bias + torch.einsum("ecij,c->e", weight, (mean - old_mean) / old_std)
        weight = weight * (std / old_std).view(-1, 1, 1)
    if in_chans == 1:
        weight = adapt_input_conv(1, weight, base_chans=channels)
    size = (conv.kernel_size[0], conv.kernel_size[1])
    adapted = nn.Conv2d(in_chans, conv.out_channels, size, size)
    adapted.weight, adapted.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return adapted


def adapt_subnet(
    subnet: Subnet,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    in_chans: int | None = None,
    trained_with: Normalisation | None = None,
    normalisation: Normalisation | None = None,
) -> Subnet:
    """A copy of `subnet` for these images and classes, as `adapt_supernet` does it; None keeps what it has.

    Raises `ArchitectureError` when the patch does not divide `image_size` (pixels).
    """
    adapted = copy.deepcopy(subnet)
    with torch.no_grad():
        if num_classes is not None and num_classes != subnet.num_classes:
            adapted.reset_classifier(num_classes)
            for weight in adapted.head.parameters():
                nn.init.zeros_(weight)
        adapted.in_chans = subnet.in_chans if in_chans is None else in_chans
        adapted.patch_embed.proj = _for_images(adapted.patch_embed.proj, adapted.in_chans, trained_with, normalisation)
    if image_size is not None and (image_size, image_size) != tuple(subnet.patch_embed.img_size):
        _check_divides(image_size, subnet.patch_size)
        adapted.set_input_size(image_size)
    return adapted
