"""A trained network or supernet for other images: another size, other channels, other classes. What it learned is kept.

* Classes: another number of classes gets a classifier of zeros. It learns as fast as a random one, and the same start
  gives the same weights without a seed.
* Image size: the patch sizes stay; absolute positions are resampled. Table rows for distances that no image was wide enough
  for so far start as copies of the farthest that some image had.
* Channels and normalisation: images at hand are normalised with their own mean and standard deviation. Where the ones of the
  pretraining are known, the first layer makes up for the difference (`first_layer`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from autoformer.data.parts import DataParts
from autoformer.data.preprocessing import Normalisation
from autoformer.errors import ArchitectureError
from autoformer.networks.stem import ConvStem, NormalisedConv, SuperConvStem
from autoformer.networks.subnet import Subnet
from autoformer.networks.super_layers import super_head
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.first_layer import first_convolution, patch_embedding
from autoformer.pretrained.refit import refit


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The images and classes that a trained network is to serve. None keeps what the network has."""

    num_classes: int | None = None
    image_size: int | None = None  # pixels; of a space with several sizes the largest
    in_chans: int | None = None
    normalisation: Normalisation | None = None  # of the images; None: the first layer takes no notice

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

    `trained_with` is how its images were normalised so far; None: the first layer takes no notice of normalisation.
    Where the space has several image sizes, the others keep their ratio to the largest, rounded to whole patches.
    Raises `ArchitectureError` when the patches do not divide the wanted image size, or a convolutional stem cannot make up for
    the difference of the images.
    """
    adapted = copy.deepcopy(supernet)
    old, size = supernet.space, wanted.image_size
    step = math.lcm(*old.patch_choices) * (2 if old.pool_after[-1] else 1)
    new = replace(
        old,
        num_classes=old.num_classes if wanted.num_classes is None else wanted.num_classes,
        in_chans=old.in_chans if wanted.in_chans is None else wanted.in_chans,
        image_sizes=old.image_sizes if size is None else _scaled_sizes(old.image_sizes, size, old.patch_choices, step),
    )
    with torch.no_grad():
        if new.num_classes != old.num_classes:
            adapted.head = super_head(new).to(supernet.head.weight)
            nn.init.zeros_(adapted.head.weight)
        images, stem = (new.in_chans, trained_with, wanted.normalisation), adapted.patch_embed
        if isinstance(stem, SuperConvStem):
            first = stem.halvings[0]
            assert isinstance(first, NormalisedConv)
            stem.halvings[0] = first_convolution(first, *images)
        else:
            stem.proj = patch_embedding(stem.proj, *images)
    refit(adapted, new)
    return adapted


def _scaled_sizes(sizes: tuple[int, ...], largest: int, patch_sizes: tuple[int, ...], step: int) -> tuple[int, ...]:
    _check_divides(largest, patch_sizes, step)
    steps = (max(1, int(size * largest / (sizes[-1] * step) + 0.5)) for size in sizes)
    return tuple(number * step for number in steps)


def _check_divides(image_size: int, patch_sizes: tuple[int, ...], step: int) -> None:
    """Raises `ArchitectureError` for images that are not a multiple of `step` pixels, which patches of these sizes want."""
    if image_size < 1 or image_size % step:
        nearest = max(1, round(image_size / step)) * step
        patches = f"the pretrained {'patch' if len(patch_sizes) == 1 else 'patches'} of {' and '.join(map(str, patch_sizes))} px"
        halved = "" if step == math.lcm(*patch_sizes) else f"{step} px: a grid that can be halved of "
        stays = "which stays" if len(patch_sizes) == 1 else "which stay"
        raise ArchitectureError(
            f"images of {image_size} px are not a multiple of {halved}{patches}, {stays}; set data.image_size to {nearest}, say"
        )


def adapt_subnet(subnet: Subnet, wanted: Wanted, trained_with: Normalisation | None = None) -> Subnet:
    """A copy of `subnet` for the images and classes that are wanted, as `adapt_supernet` does it.

    Raises `ArchitectureError` as that does.
    """
    adapted, geometry = copy.deepcopy(subnet), subnet.geometry
    in_chans, side = wanted.in_chans or geometry.in_chans, wanted.image_size
    with torch.no_grad():
        if wanted.num_classes not in (None, geometry.num_classes):
            adapted.reset_classifier(wanted.num_classes)
            for weight in adapted.head.parameters():
                nn.init.zeros_(weight)
        adapted.geometry = replace(adapted.geometry, in_chans=in_chans)
        images, stem = (in_chans, trained_with, wanted.normalisation), adapted.patch_embed
        if isinstance(stem, ConvStem):
            first = stem.convs[0]
            assert isinstance(first, nn.Conv2d)
            stem.convs[0] = first_convolution(first, *images)
            other = ConvStem(adapted.geometry, adapted.embed_dim, adapted.architecture.stem_depth or 0)
            other.to(first.weight).load_state_dict(stem.state_dict())
            adapted.patch_embed = other.train(subnet.training)
        else:
            stem.proj = patch_embedding(stem.proj, *images)
    if side is not None and (side, side) != geometry.img_size:
        _check_divides(side, (geometry.patch_size,), geometry.patch_size * (2 if subnet.architecture.pool_after else 1))
        adapted.set_input_size(side)
    return adapted
