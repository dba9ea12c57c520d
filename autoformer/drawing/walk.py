"""`Walk`: an architecture that changes one choice at a time, with its params and FLOPs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cached_property

from autoformer.architecture import Architecture
from autoformer.cost import LinearCost, Outline, linear_costs
from autoformer.drawing.outlines import made
from autoformer.space import SearchSpace

PER_NETWORK = ("width", "size", "depth", "patch", "head", "stem", "pool")


class Prices:
    """Params and FLOPs of the outlines of a space, worked out when first asked for."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._known: dict[Outline, tuple[LinearCost, LinearCost]] = {}

    def __call__(self, outline: Outline) -> tuple[LinearCost, LinearCost]:
        if outline not in self._known:
            self._known[outline] = linear_costs(outline, self.space)
        return self._known[outline]


class Walk:
    """An architecture as places in the lists of choices, each list from the cheapest up. Depth steps at the last block."""

    def __init__(self, space: SearchSpace, prices: Prices, start: Architecture) -> None:
        self.space, self._prices = space, prices
        own = Outline.of(start, space)
        self.choices: dict[str, tuple[int, ...]] = {
            "width": space.embed_dims, "size": space.image_sizes, "depth": space.depths,
            "patch": space.asked_choices["patch_size"], "head": space.head_dim_choices, "stem": space.stem_depths,
            "pool": space.asked_choices["pool_after"],
        }  # fmt: skip
        values = (own.embed_dim, own.image_size, own.depth, own.patch_size, own.head_dim, own.stem_depth, own.pool_after)
        self.at = {name: self.choices[name].index(value) for name, value in zip(PER_NETWORK, values, strict=True)}
        self.blocks = {
            "heads": [space.num_heads.index(heads) for heads in start.num_heads],
            "ratios": [space.mlp_ratios.index(ratio) for ratio in start.mlp_ratio],
            "kernels": [space.mlp_kernels.index(kernel) for kernel in start.kernels]
            if "mlp_kernel" in space.asks_for
            else [0] * start.depth,
        }
        self._count()

    def _count(self) -> None:
        width, size, depth, *others = (self.choices[name][self.at[name]] for name in PER_NETWORK)
        self.outline = Outline(width, depth, size, *others)
        space = self.space
        self.heads = [space.num_heads[index] for index in self.blocks["heads"]]
        self.hidden = [int(width * space.mlp_ratios[index]) for index in self.blocks["ratios"]]
        params, flops = self._prices(self.outline)
        self.params, self.flops = round(self.total(params)), round(self.total(flops))

    def total(self, cost: LinearCost) -> float:
        """What the architecture costs now, of a cost of its outline."""
        if self.space.blocks_cost_alike:
            around, per_head, per_hidden = cost.of_all_blocks(self.outline.depth)
            return around + per_head * sum(self.heads) + per_hidden * sum(self.hidden)
        whole = self.outline.pool_after or self.outline.depth
        kernels = [self.space.mlp_kernels[index] for index in self.blocks["kernels"]]
        blocks = enumerate(zip(self.heads, self.hidden, kernels, strict=True))
        return cost.around + sum(cost.of_block(index >= whole, *block) for index, block in blocks)

    def architecture(self) -> Architecture:
        """The architecture as it is now."""
        space = self.space
        return made(
            space,
            self.outline,
            tuple(self.heads),
            tuple([space.mlp_ratios[index] for index in self.blocks["ratios"]]),
            tuple([space.mlp_kernels[index] for index in self.blocks["kernels"]]),
        )

    def step(self, sign: int, rng: random.Random) -> bool:
        """One choice, any that can, goes one down (sign −1) or up (+1). False: none can."""
        moves = list(self._moves(sign))
        if not moves:
            return False
        name, block = rng.choice(moves)
        if name in self.blocks:
            self.blocks[name][block] += sign
        else:
            self.at[name] += sign
            depth = self.choices["depth"][self.at["depth"]]
            for blocks in self.blocks.values():  # a new block begins with the least of everything
                blocks[depth:] = [0] * max(0, depth - len(blocks))
        self._count()
        return True

    def _moves(self, sign: int) -> Iterator[tuple[str, int]]:
        for name in PER_NETWORK:
            if 0 <= self.at[name] + sign < len(self.choices[name]):
                yield name, 0
        for name, count in self._counts.items():
            for block, index in enumerate(self.blocks[name]):
                if 0 <= index + sign < count:
                    yield name, block

    @cached_property
    def _counts(self) -> dict[str, int]:
        """How many choices a block has of each kind."""
        space = self.space
        return {"heads": len(space.num_heads), "ratios": len(space.mlp_ratios), "kernels": len(space.mlp_kernels)}
