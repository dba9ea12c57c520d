"""Small random networks of timm, and supernets and logits made from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from autoformer.networks.super_layers import SuperBlock
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace

# TMP

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 7}


def random_vit(name: str, seed: int = 0, **options: Any) -> Any:
    """timm's model `name`, small, every weight random, norms and biases included."""
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False, **{**SMALL, **options}).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    return model


def pixels(model: Any, count: int = 3, size: int = 32, seed: int = 1) -> Tensor:
    channels = model.patch_embed.proj.in_channels
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def largest_logits(supernet: Supernet, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = supernet(images, supernet.space.largest)
    return logits


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=atol)


# --- order -------------------------------------------------------------------------------------------------------


def blocks(supernet: Supernet) -> list[SuperBlock]:
    return [block for block in supernet.blocks if isinstance(block, SuperBlock)]


# --- other images ------------------------------------------------------------------------------------------------


def trained_like(space: SearchSpace) -> Supernet:
    """A supernet of `space` with random weights everywhere, in evaluation mode."""
    torch.manual_seed(3)
    supernet = Supernet(space).double().eval()
    with torch.no_grad():
        for weight in supernet.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return supernet


SPACE = SearchSpace(
    name="toy", embed_dims=(16, 24), depths=(2, 3), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8, image_sizes=(16,),
    patch_size=4, num_classes=5, max_relative_position=6,
)  # fmt: skip
