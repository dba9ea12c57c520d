"""What relative position costs in each form that computes it, beside the canonical count of `cost.py`.

The canonical FLOPs belong to the network and say nothing about a device. The forms of `relative_position.py` are exact but
multiply different amounts: `bias` the canonical one, `fused` and `tiled` more, in products that hardware likes better. The
published code multiplies the N×N embedding as it is. LayerNorm counts as in the canonical form.

Letters: N tokens, g grid, K channels per head, H heads of a block, Q = H·K, F = 2g features.
"""

from __future__ import annotations

from typing import Literal

from autoformer.architecture import Architecture
from autoformer.cost import count_flops
from autoformer.space import SearchSpace

ExecutedForm = Literal["bias", "fused", "tiled"]
WHERE = {"bias": "what counters see", "tiled": "torch on a CPU", "fused": "exported graphs, torch on an accelerator"}  # of `auto`


def count_executed_flops(architecture: Architecture, space: SearchSpace, form: ExecutedForm) -> int:
    """Multiply-adds of one image with relative position in this form; equal to the canonical count for `bias`."""
    total = count_flops(architecture, space)
    if not space.relative_position or form == "bias":
        return total
    grid, channels = space.grid_of(architecture), space.head_dim
    tokens, features = grid**2 + 1, 2 * grid
    total -= count_relative_position_flops(architecture, space)
    for heads in architecture.num_heads:
        qkv = heads * channels
        if form == "fused":
            padding = -(channels + features) % 8
            total += 2 * tokens**2 * (features + padding) * heads  # longer keys in the logits, longer values in the sum
            total += 4 * grid**3 * qkv  # rows and columns, for keys and for values
        else:
            distances = 2 * (2 * grid - 1)
            total += 2 * tokens**2 * features * heads
            total += 2 * tokens * distances * qkv  # every token with every distance, for keys and for values
    return total


def count_relative_position_flops(architecture: Architecture, space: SearchSpace) -> int:
    """The share of relative position in the canonical count."""
    grid = space.grid_of(architecture)
    widths = [heads * space.head_dim for heads in architecture.num_heads] if space.relative_position else []
    return sum(4 * grid**3 * qkv + (grid**2 + 1) * qkv for qkv in widths)


def count_unfactorised_flops(architecture: Architecture, space: SearchSpace) -> int:
    """What relative position costs as the official code multiplies it: queries and attention with an N×N×K embedding."""
    tokens = space.grid_of(architecture) ** 2 + 1
    return sum(2 * tokens**2 * heads * space.head_dim for heads in architecture.num_heads) if space.relative_position else 0


def count_layer_norm_flops(architecture: Architecture, space: SearchSpace) -> int:
    """The share of LayerNorm in the canonical count: 5 an element, as fvcore has it."""
    return 5 * (space.grid_of(architecture) ** 2 + 1) * architecture.embed_dim * (2 * architecture.depth + 1)
