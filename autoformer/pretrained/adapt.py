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
from dataclasses import dataclass, replace

import torch
from timm.models import adapt_input_conv
from torch import nn

from autoformer.data.parts import DataParts
from autoformer.data.preprocessing import Normalisation
from autoformer.errors import ArchitectureError
from autoformer.networks.positions import resample_positions
from autoformer.networks.relative_position import Tables, spread_edge
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import SuperBlock, SuperLinear, Supernet


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The images and classes that a trained network is to serve. None keeps what the network has."""

    num_classes: int | None = None
    image_size: int | None = None  # pixels; of a space with several sizes the largest
    in_chans: int | None = None
    normalisation: Normalisation | None = None  # of the images; None: the patch embedding takes no notice

    @classmethod
    def by(cls, parts: DataParts) -> Wanted:
        """What these images want."""
        own = parts.preprocessing
        return cls(
            num_classes=len(parts.classes),
            image_size=own.image_size,
            in_chans=own.in_chans,
            normalisation=own.normalisation,
        )


def adapt_supernet(supernet: Supernet, wanted: Wanted, trained_with: Normalisation | None = None) -> Supernet:
    """A copy of `supernet` for the images and classes that are wanted.

    `trained_with` is how its images were normalised so far; None: the patch embedding takes no notice of normalisation.
    Where the space has several image sizes, the others keep their ratio to the largest, rounded to whole patches.
    Raises `ArchitectureError` when the patch does not divide the wanted image size.
    """
    adapted = copy.deepcopy(supernet)
    old, size = supernet.space, wanted.image_size
    new = replace(
        old,
        num_classes=old.num_classes if wanted.num_classes is None else wanted.num_classes,
        in_chans=old.in_chans if wanted.in_chans is None else wanted.in_chans,
        image_sizes=old.image_sizes if size is None else _scaled_sizes(old.image_sizes, size, old.patch_size),
    )
    adapted.space = new
    with torch.no_grad():
        if new.num_classes != old.num_classes:
            head = SuperLinear(old.stored_embed_dim, new.num_classes)
            adapted.head = head.to(supernet.head.weight)
            nn.init.zeros_(adapted.head.weight)
        adapted.patch_embed.proj = _for_images(adapted.patch_embed.proj, new.in_chans, trained_with, wanted.normalisation)
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


def adapt_subnet(subnet: Subnet, wanted: Wanted, trained_with: Normalisation | None = None) -> Subnet:
    """A copy of `subnet` for the images and classes that are wanted, as `adapt_supernet` does it.

    Raises `ArchitectureError` when the patch does not divide the wanted image size.
    """
    adapted, geometry = copy.deepcopy(subnet), subnet.geometry
    in_chans, side = wanted.in_chans or geometry.in_chans, wanted.image_size
    with torch.no_grad():
        if wanted.num_classes not in (None, geometry.num_classes):
            adapted.reset_classifier(wanted.num_classes)
            for weight in adapted.head.parameters():
                nn.init.zeros_(weight)
        adapted.geometry = replace(adapted.geometry, in_chans=in_chans)
        adapted.patch_embed.proj = _for_images(adapted.patch_embed.proj, in_chans, trained_with, wanted.normalisation)
    if side is not None and (side, side) != geometry.img_size:
        _check_divides(side, geometry.patch_size)
        adapted.set_input_size(side)
    return adapted
