"""Supernets of random weights, images for them, and how far two answers lie apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoformer.architecture import Architecture
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace


def randomised(space: SearchSpace, seed: int = 0, **options: Any) -> Supernet:
    """A supernet in evaluation mode whose every weight is random, biases, norms and means too."""
    supernet = Supernet(space, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (*supernet.parameters(), *supernet.buffers()):
            weight.normal_(0, 0.3, generator=generator)
    return supernet.eval()


def images_for(space: SearchSpace, architecture: Architecture, count: int = 2) -> Tensor:
    side = space.image_size_of(architecture)
    return torch.randn(count, space.in_chans, side, side, generator=torch.Generator().manual_seed(1))


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Relative to the largest logit, so that the bound means the same in every space."""
    return float((first - second).abs().max() / second.abs().max().clamp(min=1))
