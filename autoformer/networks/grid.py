"""What is done to tokens as the grid of patches that they are: a depthwise convolution, and halving.

Tokens before the patches (the class token) pass by. Letters: B images, N tokens, P = R·C patches, M channels, k side of a kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from autoformer.networks.relative_position import Geometry


def convolve(x: Tensor, weight: Tensor, where: Geometry) -> Tensor:
    """A depthwise convolution over the patches of [B, N, M] with kernels [M, 1, k, k]; what lies outside the grid is 0."""
    prefix, channels, side = where.prefix, weight.shape[0], weight.shape[-1]
    grid = x[:, prefix:].transpose(1, 2).unflatten(2, (where.rows, where.columns))
    patches = F.conv2d(grid, weight, padding=side // 2, groups=channels).flatten(2).transpose(1, 2)
    return torch.cat([x[:, :prefix], patches], 1) if prefix else patches


def identity_kernels(channels: int, side: int) -> Tensor:
    """Kernels [M, 1, k, k] that change nothing."""
    kernels = torch.zeros(channels, 1, side, side)
    kernels[:, :, side // 2, side // 2] = 1
    return kernels


def centre(weight: Tensor, side: int) -> Tensor:
    """The centre, `side` wide, of kernels [M, 1, k, k]."""
    margin = (weight.shape[-1] - side) // 2
    return weight[..., margin : margin + side, margin : margin + side]


def halve(x: Tensor, where: Geometry) -> Tensor:
    """[B, N, E] with the means of 2 × 2 patches in their place."""
    prefix = where.prefix
    grid = x[:, prefix:].unflatten(1, (where.rows // 2, 2, where.columns // 2, 2))
    patches = grid.mean((2, 4)).flatten(1, 2)
    return torch.cat([x[:, :prefix], patches], 1) if prefix else patches
