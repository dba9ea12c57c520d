"""What a network makes a device do: eight loads, whose prices a latency table fits.

Of one width, depth and image size every load is linear in the heads and hidden channels of all blocks together, so a limit on
latency leaves a region that is drawn from exactly (`LinearLatency`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoformer.architecture import Architecture
from autoformer.cost import linear_costs
from autoformer.space import SearchSpace

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Terms = tuple[float, float, float]  # without heads and hidden channels, for every head, for every hidden channel
PRICES = {  # of each load: the name of its coefficient, and how people say it
    "constant": ("constant_ms", "ms"),
    "depth": ("ms_per_block", "ms per block"),
    "attention": ("ms_per_mega_attention", "ms per million attention weights"),
    "hidden": ("ms_per_mega_hidden", "ms per million hidden values"),
    "residual": ("ms_per_mega_residual", "ms per million residual values"),
    "channels": ("ms_per_mega_channel", "ms per million attention channels"),
    "weights": ("ms_per_mega_weight", "ms per million weights"),
    "flops": ("ms_per_gflop", "ms per GFLOP"),
}


def loads_of(embed: int, depth: int, image_size: int, space: SearchSpace) -> dict[str, Terms]:
    """Each load of the networks of one width, depth and image size; FLOPs in 1e9, values in 1e6."""
    grid = image_size // space.patch_size
    tokens = grid**2 + 1
    params, flops = linear_costs(embed, depth, grid, space)
    return {
        "constant": (1.0, 0.0, 0.0),
        "depth": (float(depth), 0.0, 0.0),
        "attention": (0.0, tokens**2 / 1e6, 0.0),
        "hidden": (0.0, 0.0, tokens / 1e6),
        "residual": (depth * embed * tokens / 1e6, 0.0, 0.0),
        "channels": (0.0, space.head_dim * tokens / 1e6, 0.0),
        "weights": (params[0] / 1e6, params[1] / 1e6, params[2] / 1e6),
        "flops": (flops[0] / 1e9, flops[1] / 1e9, flops[2] / 1e9),
    }


def load(terms: Terms, architecture: Architecture) -> float:
    """What the terms of an architecture's width, depth and image size come to with its heads and hidden channels."""
    return terms[0] + terms[1] * sum(architecture.num_heads) + terms[2] * sum(architecture.hidden_dims)


def features(loads: Sequence[str], architectures: Sequence[Architecture], space: SearchSpace) -> Numbers:
    """These loads of each architecture, [networks, loads]."""
    rows = []
    for network in architectures:
        every = loads_of(network.embed_dim, network.depth, space.image_size_of(network), space)
        rows.append([load(every[name], network) for name in loads])
    return np.asarray(rows, np.float64)
