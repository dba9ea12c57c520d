"""`TiltedRegion`: exact draws from the part of a space that keeps limits, where blocks do not cost alike.

With kernels in the MLPs, or a grid that is halved on the way, what a head or a hidden channel costs depends on its block, and the
networks inside a limit can no longer be counted by two sums (`region.py`). Costs are still sums over the blocks, so networks are
proposed with every choice weighted by exp(-λ · its cost) and one that keeps the limits is accepted with the probability
exp(λ · (its cost - the limit)) ≤ 1. What is accepted is distributed as `SearchSpace.sample` under the condition that the
limits are kept: the two exponentials cancel. λ, one of each limit, is where most proposals are accepted; the share of the space
inside is at most exp(λ · limit) · E[exp(-λ · cost)] (Chernoff's bound), and λ makes this bound least, a convex problem.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import Budget, LinearCost, OutlineLatency, linear_costs
from autoformer.drawing.outlines import made, outlines_of
from autoformer.errors import BudgetError
from autoformer.space import SearchSpace

Numbers = NDArray[np.float64]
BATCH = 64  # proposals at a time
MOST_BATCHES = 1024  # of one draw
TRIED = 4096  # proposals, none of them accepted, before a region is taken to be empty; and those its share is estimated from
CLIMBED = 8  # of the most expensive of many draws, how many are made more expensive block by block


class Option(NamedTuple):
    """What a block can be."""

    heads: int
    ratio: float
    kernel: int


class Outlines:
    """The costs of every outline of a space and of what its blocks can be, made once; regions share them.

    Costs stand as [outlines] around the blocks, and as [outlines, 2, options] of a block before and after the halving.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.options = [
            Option(heads, ratio, kernel)
            for heads in space.num_heads
            for ratio in space.mlp_ratios
            for kernel in space.mlp_kernels
        ]
        self.all = outlines_of(space)
        self.depths = np.asarray([outline.depth for outline in self.all])
        self.whole = np.asarray([outline.pool_after or outline.depth for outline in self.all])  # blocks before the halving

    @cached_property
    def counts(self) -> tuple[tuple[Numbers, Numbers], tuple[Numbers, Numbers]]:
        """Params and FLOPs: around, and of the options."""
        params, flops = zip(*[linear_costs(outline, self.space) for outline in self.all], strict=True)
        return self._arrays(params), self._arrays(flops)

    def latencies(self, latency: OutlineLatency) -> tuple[Numbers, Numbers]:
        """Milliseconds, likewise."""
        return self._arrays([latency.outline_latency(outline) for outline in self.all])

    def _arrays(self, costs: Sequence[LinearCost]) -> tuple[Numbers, Numbers]:
        around = np.asarray([cost.around for cost in costs], np.float64)
        blocks = np.zeros((len(costs), 2, len(self.options)))
        for row, (cost, outline) in enumerate(zip(costs, self.all, strict=True)):
            for column, option in enumerate(self.options):
                hidden = int(outline.embed_dim * option.ratio)
                for halved in (False, True):
                    if (halved, option.kernel) in cost.blocks:
                        blocks[row, int(halved), column] = cost.of_block(halved, option.heads, hidden, option.kernel)
        return around, blocks


class TiltedRegion:
    """The networks that keep the limits of a budget on params and FLOPs, and with `latency` also those on latency.

    `space`'s blocks may differ in all they cost. The same interface as `Region`'s; its `share` is an estimate.
    """

    def __init__(self, outlines: Outlines, budget: Budget, latency: OutlineLatency | None = None) -> None:
        self.outlines = outlines
        (params, flops), self._limits = outlines.counts, []
        costs = {"params": params, "flops": flops}
        if latency is not None:
            costs["latency_ms"] = outlines.latencies(latency)
        around, blocks = [], []
        for measure, (of_outline, of_options) in costs.items():
            for kind, sign in (("max", 1.0), ("min", -1.0)):  # each as sign · cost / limit ≤ sign
                limit = getattr(budget, f"{kind}_{measure}")
                if limit is not None:
                    self._limits.append(sign)
                    around.append(sign * of_outline / limit)
                    blocks.append(sign * of_options / limit)
        self._around = np.stack(around) if around else np.zeros((0, len(outlines.all)))
        self._blocks = np.stack(blocks) if blocks else np.zeros((0, *flops[1].shape))
        self._most = np.asarray(self._limits)
        self._tilt = self._best_tilt()
        self._prepare()

    # --- the tilt ------------------------------------------------------------------------------------------------

    def _weights(self, tilt: Numbers) -> tuple[Numbers, Numbers]:
        """Logarithms of the weights of outlines, [outlines], and of options within a block, [outlines, 2, options]."""
        options = -np.tensordot(tilt, self._blocks, 1)
        most = options.max(-1, keepdims=True)
        block = np.log(np.exp(options - most).mean(-1)) + most[..., 0]  # [outlines, 2]
        whole, depth = self.outlines.whole, self.outlines.depths
        return -tilt @ self._around + whole * block[:, 0] + (depth - whole) * block[:, 1], options - block[..., None]

    def _bound(self, tilt: Numbers) -> tuple[float, Numbers]:
        """The logarithm of Chernoff's bound of the share, and its gradient."""
        of_outlines, of_options = self._weights(tilt)
        most = of_outlines.max()
        shares = np.exp(of_outlines - most)
        value = math.log(shares.mean()) + most + float(tilt @ self._most)
        shares /= shares.sum()
        option = np.exp(of_options) / of_options.shape[-1]
        of_block = np.einsum("cosi,osi->cos", self._blocks, option)  # mean cost of a block, [limits, outlines, 2]
        whole, depth = self.outlines.whole, self.outlines.depths
        mean = self._around + whole * of_block[..., 0] + (depth - whole) * of_block[..., 1]
        return value, np.asarray(self._most - mean @ shares, np.float64)

    def _best_tilt(self) -> Numbers:
        from scipy.optimize import minimize

        if not len(self._most):
            return np.zeros(0)
        start, bounds = np.ones(len(self._most)), [(0.0, 1e4)] * len(self._most)
        return np.asarray(minimize(self._bound, start, jac=True, method="L-BFGS-B", bounds=bounds).x, np.float64)

    def _prepare(self) -> None:
        of_outlines, of_options = self._weights(self._tilt)
        shares = np.exp(of_outlines - of_outlines.max())
        self._outline_steps = np.cumsum(shares / shares.sum())
        self._option_steps = np.cumsum(np.exp(of_options), -1) / of_options.shape[-1]

    # --- drawing -------------------------------------------------------------------------------------------------

    def _proposed(self, count: int, rng: random.Random) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Proposals: outlines [count], options [count, deepest], and which are accepted."""
        outlines, numbers = self.outlines, np.random.default_rng(rng.getrandbits(64))
        outline = np.searchsorted(self._outline_steps, numbers.random(count), side="right").clip(max=len(outlines.all) - 1)
        deepest = int(outlines.depths.max())
        options = np.zeros((count, deepest), np.int64)
        spent = self._around[:, outline]
        for index, drawn in enumerate(numbers.random((deepest, count))):
            exists = index < outlines.depths[outline]
            halved = (index >= outlines.whole[outline]).astype(np.int64)
            option = (drawn[:, None] > self._option_steps[outline, halved]).sum(-1).clip(max=len(outlines.options) - 1)
            options[:, index] = option
            spent = spent + np.where(exists, self._blocks[:, outline, halved, option], 0.0)
        room = self._most[:, None] - spent  # not negative where a limit is kept
        inside = (room >= -1e-12).all(0)  # rounding is settled by whoever asks for the cost
        accepted = inside & (numbers.random(count) <= np.exp(-self._tilt @ np.maximum(room, 0.0)))
        return outline, options, accepted

    @cached_property
    def share(self) -> float:
        """An estimate of the probability that a network drawn by `SearchSpace.sample` lies inside; 0 where none was found."""
        if not len(self._most):
            return 1.0
        accepted = self._proposed(TRIED, random.Random("share"))[2].mean()
        return min(1.0, float(accepted) * math.exp(self._bound(self._tilt)[0]))

    def draw(self, rng: random.Random) -> tuple[Architecture, int, int]:
        """A network with its params and FLOPs. The region must not be empty (`share` above 0).

        Raises `BudgetError` when limits from both sides leave so little that none of very many proposals is inside.
        """
        for _ in range(MOST_BATCHES):
            outline, options, accepted = self._proposed(BATCH, rng)
            if accepted.any():
                return self._made(int(outline[first := int(accepted.argmax())]), options[first])
        raise BudgetError(
            f"none of {MOST_BATCHES * BATCH} networks of space {self.outlines.space.name!r} that were drawn towards the limits "
            "keeps them all; widen the limits"
        )

    def most_expensive(self, rng: random.Random) -> tuple[Architecture, int, int]:
        """A network with nearly the most FLOPs inside: of many draws the most expensive, made more so block by block."""
        found: dict[tuple[int, ...], tuple[int, int]] = {}
        for _ in range(TRIED // BATCH):
            outline, options, accepted = self._proposed(BATCH, rng)
            for row in np.nonzero(accepted)[0]:
                place = int(outline[row])
                blocks = tuple(int(option) for option in options[row, : self.outlines.depths[place]])
                found[place, *blocks] = self._counts(place, blocks)[::-1]
        if not found:
            architecture, *counts = self.draw(rng)
            return architecture, counts[0], counts[1]
        best = sorted(found, key=lambda key: found[key])[-CLIMBED:]
        top = max((self._climbed(key) for key in best), key=lambda key: self._counts(key[0], key[1:])[::-1])
        return self._made(top[0], top[1:])

    def _climbed(self, key: tuple[int, ...]) -> tuple[int, ...]:
        """The same outline with options of more FLOPs that keep the limits, changed one and two blocks at a time."""
        place, blocks = key[0], list(key[1:])
        flops = self.outlines.counts[1][1][place]
        stages = [int(index >= self.outlines.whole[place]) for index in range(len(blocks))]
        spent = self._around[:, place] + sum(self._blocks[:, place, s, o] for s, o in zip(stages, blocks, strict=True))
        pairs = [(one, other) for one in range(len(blocks)) for other in range(one, len(blocks))]
        while True:
            best, change = 0.0, None
            for one, other in pairs:
                (a, b), (of_one, of_other) = (stages[one], stages[other]), (blocks[one], blocks[other])
                gain = (flops[a] - flops[a, of_one])[:, None]
                more = (self._blocks[:, place, a] - self._blocks[:, place, a, of_one, None])[:, :, None]
                if other != one:
                    gain = gain + (flops[b] - flops[b, of_other])[None]
                    more = more + (self._blocks[:, place, b] - self._blocks[:, place, b, of_other, None])[:, None]
                gain = np.where((spent[:, None, None] + more <= self._most[:, None, None]).all(0), gain, 0.0)
                if (most := float(gain.max())) > best:
                    row, column = divmod(int(gain.argmax()), gain.shape[1])
                    best, change = most, (one, row, other, column)
            if change is None:
                return (place, *blocks)
            one, first, other, second = change
            for index, option in ((one, first), (other, second))[: 1 if one == other else 2]:
                stage = stages[index]
                spent = spent + self._blocks[:, place, stage, option] - self._blocks[:, place, stage, blocks[index]]
                blocks[index] = option

    def _counts(self, place: int, blocks: Sequence[int]) -> tuple[int, int]:
        """Params and FLOPs of an outline and the options of its blocks."""
        whole = int(self.outlines.whole[place])
        params, flops = (
            round(around[place] + sum(float(of[place, int(index >= whole), option]) for index, option in enumerate(blocks)))
            for around, of in self.outlines.counts
        )
        return params, flops

    def _made(self, place: int, options: Sequence[int] | NDArray[np.int64]) -> tuple[Architecture, int, int]:
        outline = self.outlines.all[place]
        blocks = [int(option) for option in options[: outline.depth]]
        heads, ratios, kernels = zip(*[self.outlines.options[option] for option in blocks], strict=True)
        return made(self.outlines.space, outline, heads, ratios, kernels), *self._counts(place, blocks)
