"""What images meet first in a trained network, for other channels and another normalisation.

* Channels: the layer is summed for grey images, and repeated and scaled for several, as timm does it.
* Normalisation: weights and bias make up for the difference, so that the network sees the colours that it knows. A patch
  embedding does so exactly (where a space has patches smaller than the stored ones, nearly: they are resampled).

The first convolution of a convolutional stem pads its images with zeros, which are another colour after another normalisation:
what it makes up for exactly is another standard deviation. In a supernet its weight is normalised too: it has mean 0, so there
it is the same factor for all channels. Whatever has mean 0 it holds exactly, whatever its norm, by its gains. What cannot be made
up for exactly is refused.
"""

from __future__ import annotations

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from autoformer.data.preprocessing import Normalisation
from autoformer.errors import ArchitectureError
from autoformer.networks.stem import EPS, GAIN, NormalisedConv

MEAN_TOLERANCE = 1e-5  # of the largest weight; what rounding leaves of a mean of 0


def patch_embedding(
    conv: nn.Conv2d, in_chans: int, trained_with: Normalisation | None, normalisation: Normalisation | None
) -> nn.Conv2d:
    """The same patch embedding for images of `in_chans` channels, normalised in another way."""
    assert conv.bias is not None
    return _holding(conv, *_for_images(conv.weight, conv.bias, in_chans, trained_with, normalisation))


def first_convolution(
    conv: nn.Conv2d | NormalisedConv, in_chans: int, trained_with: Normalisation | None, normalisation: Normalisation | None
) -> nn.Conv2d | NormalisedConv:
    """The same first convolution of a stem. Raises `ArchitectureError` for what it cannot make up for exactly."""
    weight = conv.folded() if isinstance(conv, NormalisedConv) else conv.weight
    if None in (trained_with, normalisation) or trained_with == normalisation:
        trained_with = normalisation = None
        if in_chans == weight.shape[1]:
            return conv
    assert conv.bias is not None
    if trained_with is not None and normalisation is not None and not _same_means(trained_with, normalisation):
        raise _not_made_up_for(trained_with, normalisation)
    found, bias = _for_images(weight, conv.bias, in_chans, trained_with, normalisation)
    if isinstance(conv, nn.Conv2d):
        return _holding(conv, found, bias)
    variance, mean = torch.var_mean(found, dim=(1, 2, 3), correction=0, keepdim=True)
    if mean.abs().max() > MEAN_TOLERANCE * found.abs().max():
        if trained_with is not None and normalisation is not None:
            raise _not_made_up_for(trained_with, normalisation)
        raise ArchitectureError(
            f"the convolutional stem of this supernet takes {weight.shape[1]} channels, which do not repeat evenly in "
            f"{in_chans}; give images of 1 channel or as many as it has"
        )
    adapted = NormalisedConv(in_chans, found.shape[0], conv.stride)
    adapted.weight, adapted.bias = nn.Parameter(found.clone()), nn.Parameter(bias.clone())
    adapted.gain = nn.Parameter((variance * found[0].numel() + EPS).sqrt().flatten() / GAIN)
    return adapted


def _not_made_up_for(trained_with: Normalisation, normalisation: Normalisation) -> ArchitectureError:
    was, now = (f"mean {_numbers(how.mean)} and std {_numbers(how.std)}" for how in (trained_with, normalisation))
    return ArchitectureError(
        f"a convolutional stem cannot make up for another normalisation exactly: it was trained with {was}, the images have "
        f"{now}; train both with data.normalisation=imagenet, or give the images it was trained on"
    )


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _same_means(first: Normalisation, second: Normalisation) -> bool:
    channels = max(len(first.mean), len(second.mean))
    return all(_cycled(first.mean, channels)[index] == _cycled(second.mean, channels)[index] for index in range(channels))


def _cycled(values: tuple[float, ...], channels: int) -> list[float]:
    return [values[index % len(values)] for index in range(channels)]


def _for_images(
    weight: Tensor, bias: Tensor, in_chans: int, trained_with: Normalisation | None, normalisation: Normalisation | None
) -> tuple[Tensor, Tensor]:
    """Weight [E, c, k, k] and bias [E] for images of `in_chans` channels, normalised in another way, where nothing is padded."""
    channels = weight.shape[1]
    if in_chans != 1:  # channels that share weights may be normalised each in its own way
        weight = adapt_input_conv(in_chans, weight, base_chans=channels)
    if trained_with is not None and normalisation is not None:
        old_mean, old_std, mean, std = (
            torch.tensor(_cycled(values, weight.shape[1]), dtype=torch.float64).to(weight)
            for values in (*trained_with, *normalisation)
        )
        # (pixel - old_mean) / old_std, with pixel = std · x + mean
        bias = bias + torch.einsum("ecij,c->e", weight, (mean - old_mean) / old_std)
        weight = weight * (std / old_std).view(-1, 1, 1)
    if in_chans == 1:
        weight = adapt_input_conv(1, weight, base_chans=channels)
    return weight, bias


def _holding(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution like `conv` with these weights."""
    margin = conv.padding[0]
    assert isinstance(margin, int), "padding by a word"
    adapted = nn.Conv2d(weight.shape[1], conv.out_channels, conv.kernel_size[0], conv.stride[0], margin)
    adapted.weight, adapted.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return adapted
