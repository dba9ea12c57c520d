"""What a network makes a device do: eight loads, whose prices a latency table fits, and five more in spaces that ask for more.

Of one outline (all that is not chosen block by block) every load is linear in the heads and hidden channels of each block, as
params and FLOPs are, so a limit on latency leaves a region that is drawn from exactly (`LinearLatency`, `OutlineLatency`). Where
blocks cost alike it is linear in those of all blocks together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from autoformer.architecture import Architecture
from autoformer.cost import LinearCost, Outline, Spared, Terms, linear_costs, stem_flops, tokens_of
from autoformer.space import SearchSpace

Numbers = np.ndarray[Any, np.dtype[np.float64]]
PRICES = {  # of each load: the name of its coefficient, and how people say it
    "constant": ("constant_ms", "ms"),
    "depth": ("ms_per_block", "ms per block"),
    "attention": ("ms_per_mega_attention", "ms per million attention weights"),
    "hidden": ("ms_per_mega_hidden", "ms per million hidden values"),
    "residual": ("ms_per_mega_residual", "ms per million residual values"),
    "channels": ("ms_per_mega_channel", "ms per million attention channels"),
    "weights": ("ms_per_mega_weight", "ms per million weights"),
    "flops": ("ms_per_gflop", "ms per GFLOP"),
    # Of spaces with depthwise convolutions in the MLPs, and with a convolutional stem.
    "local blocks": ("ms_per_local_block", "ms per block with a depthwise convolution"),
    "local": ("ms_per_mega_local", "ms per million values of depthwise convolutions"),
    "local flops": ("ms_per_local_gflop", "ms more per GFLOP of depthwise convolutions"),
    "stem": ("ms_per_stem_gflop", "ms more per GFLOP of the stem"),
    # Of spaces whose blocks may lack their attention or their MLP; there a block counts for "depth" that has an MLP.
    "attention blocks": ("ms_per_attention_block", "ms per block with attention"),
}
UNITS = dict.fromkeys(PRICES, 1e6) | {"flops": 1e9, "local flops": 1e9, "stem": 1e9}  # FLOPs in 1e9, values in 1e6
UNITS |= dict.fromkeys(("constant", "depth", "local blocks", "attention blocks"), 1.0)
EVERYWHERE = tuple(PRICES)[:8]


def loads_in(space: SearchSpace) -> tuple[str, ...]:
    """The loads that networks of the space differ in. Convolutions that are alike in every block are told by other loads."""
    some, several = 0 in space.mlp_kernels and len(space.mlp_kernels) > 1, len(set(space.mlp_kernels) - {0}) > 1
    has = {"local blocks": some, "local": some, "local flops": several, "stem": space.stem == "conv"}
    has["attention blocks"] = space.lacks_parts
    return (*EVERYWHERE, *(load for load, differs in has.items() if differs))


def loads_of(outline: Outline, space: SearchSpace) -> dict[str, LinearCost]:
    """Each load of the networks of one outline; whole numbers, of which `UNITS` make one that is priced."""
    params, flops = linear_costs(outline, space)
    grids = {False: outline.grids[0], True: outline.grids[-1]}
    head, embed = outline.head_dim, outline.embed_dim

    def by_block(terms: Callable[[int, int, int], Terms], around: float = 0, of_mlp: float = 0) -> LinearCost:
        """`terms` of the tokens and the patches that a block sees, and of its kernel; `of_mlp` is the share of what is fixed
        that a block without an MLP is spared, the rest belongs to its attention."""
        found = {}
        for halved, kernel in flops.blocks:
            grid = grids[halved]
            found[halved, kernel] = terms(tokens_of(grid, space), grid**2, kernel)
        spared = {place: ((1 - of_mlp) * fixed, of_mlp * fixed) for place, (fixed, _, _) in found.items()}
        return LinearCost(around, found, spared)

    every = {
        "constant": by_block(lambda tokens, patches, kernel: (0, 0, 0), around=1),
        "depth": by_block(lambda tokens, patches, kernel: (1, 0, 0), of_mlp=1),
        "attention": by_block(lambda tokens, patches, kernel: (0, tokens**2, 0)),
        "hidden": by_block(lambda tokens, patches, kernel: (0, 0, tokens)),
        "residual": by_block(lambda tokens, patches, kernel: (embed * tokens, 0, 0), of_mlp=0.5),
        "channels": by_block(lambda tokens, patches, kernel: (0, head * tokens, 0)),
        "weights": params,
        "flops": flops,
        "local blocks": by_block(lambda tokens, patches, kernel: (int(kernel > 0), 0, 0), of_mlp=1),
        "local": by_block(lambda tokens, patches, kernel: (0, 0, patches * (kernel > 0))),
        "local flops": by_block(lambda tokens, patches, kernel: (0, 0, patches * kernel**2)),
        "stem": by_block(lambda tokens, patches, kernel: (0, 0, 0), around=stem_flops(outline, space)),
        "attention blocks": by_block(lambda tokens, patches, kernel: (1, 0, 0)),
    }
    return {load: every[load] for load in loads_in(space)}


def terms_of(cost: LinearCost, depth: int, unit: float) -> Terms:
    """In units, of a space that asks for nothing: for the heads and hidden channels of all blocks together."""
    base, per_head, per_hidden = cost.of_all_blocks(depth)
    return base / unit, per_head / unit, per_hidden / unit


def load(terms: Terms, architecture: Architecture) -> float:
    """What the terms of an architecture's width, depth and image size come to with its heads and hidden channels."""
    return terms[0] + terms[1] * sum(architecture.num_heads) + terms[2] * sum(architecture.hidden_dims)


def weighted_sum(parts: Iterable[tuple[float, LinearCost]]) -> LinearCost:
    """The sum of costs of one outline, each times its factor."""
    given = list(parts)
    blocks: dict[tuple[bool, int], Terms] = {}
    spared: dict[tuple[bool, int], Spared] = {}
    for place in given[0][1].blocks:
        fixed, per_head, per_hidden = (sum(factor * cost.blocks[place][index] for factor, cost in given) for index in range(3))
        attention, mlp = (sum(factor * cost.spared.get(place, (0.0, 0.0))[index] for factor, cost in given) for index in range(2))
        blocks[place], spared[place] = (fixed, per_head, per_hidden), (attention, mlp)
    return LinearCost(sum(factor * cost.around for factor, cost in given), blocks, spared)


def features(loads: Sequence[str], architectures: Sequence[Architecture], space: SearchSpace) -> Numbers:
    """These loads of each architecture, [networks, loads]."""
    of = cache(lambda outline: loads_of(outline, space))
    rows = []
    for network in architectures:
        every = of(Outline.of(network, space))
        if not space.is_plain:
            rows.append([every[name].of(network) / UNITS[name] for name in loads])
        else:
            rows.append([load(terms_of(every[name], network.depth, UNITS[name]), network) for name in loads])
    return np.asarray(rows, np.float64)
