"""Normalisation moved into the patch embedding, so that a file takes uint8 pixels and computes what the network computes.

A patch embedding is a convolution without padding, and normalising is affine in each channel, so the two are one convolution
with other weights: with pixels p, w * ((p / 255 - mean) / std) + b is w' * p + b'. The new weights are computed in float64 and
rounded once. Padding would break this, as zeros mean the average colour before and black after; it is refused. Of our own
convolutional stems, which pad, the average colour is taken off first, by one subtraction, and only the division is folded.

Pixels are not centred first. Symmetric int8 would then use its negative steps too, but the int8 files of trained networks (on
digits, on four classes of CIFAR-10) came no closer to fp32 by that.

Letters: B images, C channels, H × W pixels.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoformer.data.preprocessing import Preprocessing, resize_matrix
from autoformer.errors import ExportError
from autoformer.networks.stem import ConvStem


def fold_normalisation(network: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """A copy that takes float pixel values [B, C, H, W], 0 to 255, and gives what `network` gives of normalised ones.

    Raises `ExportError` when the patch embedding is not one plain convolution of the images, without padding.
    """
    folded = copy.deepcopy(network)
    embed, name = getattr(folded, "patch_embed", None), type(network).__name__
    if isinstance(embed, ConvStem):
        first = embed.convs[0]
        assert isinstance(first, nn.Conv2d)
        embed.convs[0] = Centred(first, preprocessing)
        return folded
    proj = getattr(embed, "proj", None)
    cannot = f"the normalisation cannot be folded into {name}"
    # Exactly Conv2d: its subclasses pad, or change their weights as they run. Behind a backbone it would not see the images.
    if embed is None or type(proj) is not nn.Conv2d or hasattr(embed, "backbone"):
        raise ExportError(
            f"{cannot}: it has no patch embedding that is one Conv2d (patch_embed.proj); export it with float32 input"
        )
    if proj.padding not in ((0, 0), "valid") or getattr(embed, "dynamic_img_pad", False):
        raise ExportError(f"{cannot}: its patch embedding pads images, and zeros mean another colour there; use float32 input")
    if proj.groups != 1 or proj.in_channels != preprocessing.in_chans:
        raise ExportError(
            f"{cannot}: its patch embedding takes {proj.in_channels} channels in {proj.groups} groups, "
            f"the preprocessing gives {preprocessing.in_chans}; export it with float32 input"
        )
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    weight = proj.weight.detach().double().cpu()  # [width, C, patch, patch]
    bias = torch.zeros(len(weight), dtype=torch.float64) if proj.bias is None else proj.bias.detach().double().cpu()
    bias = bias - (weight * (mean / std)).sum((1, 2, 3))
    with torch.device("meta"):
        made = nn.Conv2d(proj.in_channels, proj.out_channels, proj.kernel_size, proj.stride, dilation=proj.dilation)  # type: ignore[arg-type]
    made.weight = nn.Parameter((weight / (255 * std)).to(proj.weight))
    made.bias = nn.Parameter(bias.to(proj.weight))
    if not (made.weight.isfinite().all() and made.bias.isfinite().all()):
        raise ExportError(f"{cannot}: weights over std {preprocessing.std} are infinite; export it with float32 input")
    embed.proj = made.train(proj.training)
    return folded


def first_conv_of(network: nn.Module) -> str:
    """The name of the convolution that takes the images."""
    return str(getattr(network, "first_conv", "patch_embed.proj"))


class Centred(nn.Module):
    """A convolution that pads, for float pixel values, 0 to 255: what it pads with is the average colour all the same."""

    colour: Tensor

    def __init__(self, convolution: nn.Conv2d, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean, std = (
            torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
        )
        weight = convolution.weight.detach()
        self.register_buffer("colour", (255 * mean).to(weight))
        convolution.weight = nn.Parameter((weight.double().cpu() / (255 * std)).to(weight))
        self.convolution = convolution

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.convolution(pixels - self.colour)
        return found


class PixelInput(nn.Module):
    """Gives `network`, whose normalisation is folded, the uint8 pixels [B, C, H, W] of `image_size`.

    A network of a searched, smaller resolution has them resized first: linear and of weights that add up to 1, so that
    resizing before normalising is the same as after.
    """

    resize: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.preprocessing = network, preprocessing
        self.resizes = preprocessing.network_size not in (None, preprocessing.image_size)
        if self.resizes:
            assert preprocessing.network_size is not None
            matrix = resize_matrix(preprocessing.image_size, preprocessing.network_size)
            self.register_buffer("resize", torch.from_numpy(matrix))

    def forward(self, pixels: Tensor) -> Tensor:
        values = pixels.float()  # the cast comes first: no runtime computes in uint8
        if self.resizes:
            values = self.resize @ values @ self.resize.T
        logits: Tensor = self.network(values)
        return logits


def network_images(images: NDArray[Any], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """What the torch network takes for `images` [n, C, H, W] as `preprocessing` gives them."""
    if preprocessing.input_type == "float32":
        return images
    return replace(preprocessing, input_type="float32").normalise(np.moveaxis(images, 1, -1))
