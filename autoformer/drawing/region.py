"""`Region`: the part of a space that keeps limits on params and FLOPs, in closed form, and exact draws from it.

For spaces whose blocks cost alike; `tilted.py` is for the others. Of one image size, width E and depth d (patch size and
stem, where there are several), params and FLOPs (and latency, where a `LinearLatency` prices it) are linear in two sums over
the blocks: H, the heads, and M, the hidden channels of the MLPs. So a limit leaves, for every (image size, E, d, H),
an interval of M, and how many networks lie in it follows from how often each sum occurs. An architecture is drawn row by row:
first (image size, E, d, H), then M, then the blocks with exactly these sums. Nothing is drawn and thrown away, however little
the limits leave.

The distribution is `SearchSpace.sample`'s (every choice independent and uniform) under the condition that the limits are
kept: what drawing until one fits would give. Every network inside the limits has a positive probability.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import Budget, LinearLatency, Outline, OutlineLatency, Terms, linear_costs
from autoformer.drawing.outlines import made, outlines_of
from autoformer.space import SearchSpace

NONE = 2**62  # no limit; far above any count, and its sums still fit 64 bits


class Sums:
    """Sums of `count` independent uniform draws from `values`: which there are, how likely each is, and draws given the sum.

    A sum is named by its step s: `count` × the smallest value + s × `unit`.
    """

    def __init__(self, values: Sequence[int], count: int) -> None:
        self.values, self.count, self.least = tuple(values), count, min(values)
        self.unit = math.gcd(*(value - self.least for value in values)) or 1
        self.steps = [(value - self.least) // self.unit for value in values]
        widest = max(self.steps)
        self.shares = [np.ones(1)]  # of the sums of k draws, by step
        for _ in range(count):
            longer = np.zeros(len(self.shares[-1]) + widest)
            for step in self.steps:
                longer[step : step + len(self.shares[-1])] += self.shares[-1] / len(values)
            self.shares.append(longer)
        self._ways: dict[tuple[int, int], list[float]] = {}
        # Cumulative from both ends: a difference of numbers near 1 would lose the small shares at the upper end.
        self.below = np.concatenate([[0.0], np.cumsum(self.share)])
        self.above = np.concatenate([np.cumsum(self.share[::-1])[::-1], [0.0]])
        self.reachable = self.share > 0
        self.reached = np.concatenate([[0], np.cumsum(self.reachable)])

    @property
    def share(self) -> NDArray[np.float64]:
        """The probability of each step, [steps]."""
        return self.shares[-1]

    def total(self, step: int) -> int:
        """The sum itself."""
        return self.count * self.least + step * self.unit

    def between(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.float64]:
        """The probability of a step in low..high, both counted, elementwise; 0 where no such sum occurs."""
        up, down = self.below[high + 1] - self.below[low], self.above[low] - self.above[high + 1]
        share = np.where(2 * low < len(self.share), up, down)
        occurs = (high >= low) & (self.reached[high + 1] > self.reached[low])
        return np.where(occurs, np.maximum(share, np.finfo(np.float64).tiny), 0.0)

    def draw_step(self, low: int, high: int, rng: random.Random) -> int:
        """One step of low..high, by its probability."""
        whole = list(accumulate(self.share[low : high + 1].tolist()))
        return low + bisect_right(whole, rng.random() * whole[-1], 0, len(whole) - 1)

    def draw(self, step: int, rng: random.Random) -> list[int]:
        """Indices into `values`, one per draw, of draws with this sum; all such are equally likely."""
        found = []
        for left in range(self.count, 0, -1):
            ways = self._ways.get((left, step))
            if ways is None:
                ways = self._ways[left, step] = self._ways_of(left, step)
            index = bisect_right(ways, rng.random() * ways[-1], 0, len(ways) - 1)
            found.append(index)
            step -= self.steps[index]
        return found

    def _ways_of(self, left: int, step: int) -> list[float]:
        """Cumulative shares of the values that may come next, when `left` draws must still add up to `step`."""
        rest = self.shares[left - 1]
        return list(accumulate(float(rest[step - s]) if 0 <= step - s < len(rest) else 0.0 for s in self.steps))


@dataclass(frozen=True, eq=False)
class Shape:
    """All networks of one outline."""

    outline: Outline
    heads: Sums
    hidden: Sums
    params: tuple[int, int, int]  # without heads and hidden channels, per head, per hidden channel
    flops: tuple[int, int, int]

    def counts(self, heads: int, hidden: int) -> tuple[int, int]:
        """Params and FLOPs of a network with so many heads and hidden channels in all its blocks together."""
        params, flops = self.params, self.flops
        return (
            params[0] + params[1] * heads + params[2] * hidden,
            flops[0] + flops[1] * heads + flops[2] * hidden,
        )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.outline.depth


class Shapes:
    """The shapes of a space, made once; regions of it share them."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._heads = cache(lambda depth: Sums(space.num_heads, depth))
        self._hidden = cache(lambda embed, depth: Sums([int(embed * ratio) for ratio in space.mlp_ratios], depth))

    @cached_property
    def all(self) -> list[Shape]:
        """Every shape, in the order of the space's choices."""
        space, found = self.space, []
        for outline in outlines_of(space):
            embed, depth = outline.embed_dim, outline.depth
            params, flops = (whole_numbers(cost.of_all_blocks(depth)) for cost in linear_costs(outline, space))
            found.append(Shape(outline, self._heads(depth), self._hidden(embed, depth), params, flops))
        return found


def whole_numbers(terms: Terms) -> tuple[int, int, int]:
    """The terms of a cost that is counted."""
    around, per_head, per_hidden = terms
    return int(around), int(per_head), int(per_hidden)


def latency_terms_of(latency: LinearLatency | OutlineLatency, outline: Outline, space: SearchSpace) -> Terms:
    """Milliseconds of the networks of one outline: without any heads and hidden channels, for every head, for every channel."""
    if space.is_plain and isinstance(latency, LinearLatency):
        return latency.latency_terms(outline.embed_dim, outline.depth, outline.image_size)
    assert isinstance(latency, OutlineLatency), "a latency of width, depth and image size, of which there is more"
    return latency.outline_latency(outline).of_all_blocks(outline.depth)


class Region:
    """The networks that keep the limits of a budget on params and FLOPs, and with `latency` also those on latency."""

    def __init__(
        self,
        shapes: Shapes,
        budget: Budget,
        latency: LinearLatency | OutlineLatency | None = None,
    ) -> None:
        self.shapes = shapes
        most = [NONE if limit is None else math.floor(limit) for limit in (budget.max_params, budget.max_flops)]
        least = [-NONE if limit is None else math.ceil(limit) for limit in (budget.min_params, budget.min_flops)]
        self._rows: list[tuple[Shape, int, int, int]] = []  # shape, step of heads, lowest and highest step of hidden channels
        weights: list[float] = []
        for shape in shapes.all:
            steps = np.nonzero(shape.heads.reachable)[0]
            heads = shape.depth * shape.heads.least + steps * shape.heads.unit
            low, high = np.zeros_like(steps), np.full_like(steps, len(shape.hidden.share) - 1)
            start = shape.depth * shape.hidden.least
            for (base, per_head, per_hidden), upper, lower in zip((shape.params, shape.flops), most, least, strict=True):
                spent = base + per_head * heads + per_hidden * start
                of_step = per_hidden * shape.hidden.unit
                high = np.minimum(high, (upper - spent) // of_step)
                low = np.maximum(low, -((spent - lower) // of_step))
            if latency is not None:
                terms = latency_terms_of(latency, shape.outline, shapes.space)
                place = (terms, heads, start, shape.hidden.unit, len(shape.hidden.share) - 1)
                if budget.max_latency_ms is not None:
                    high = np.minimum(high, steps_within(budget.max_latency_ms, *place))
                if budget.min_latency_ms is not None:
                    low = np.maximum(low, steps_within(math.nextafter(budget.min_latency_ms, 0.0), *place) + 1)
            high = np.maximum(high, low - 1)  # an empty interval
            low, high = np.minimum(low, len(shape.hidden.share)), np.minimum(high, len(shape.hidden.share) - 1)
            share = shape.heads.share[steps] * shape.hidden.between(low, high)
            for row in np.nonzero(share)[0]:
                self._rows.append((shape, int(steps[row]), int(low[row]), int(high[row])))
                weights.append(float(share[row]) / len(shapes.all))
        self._cumulative = list(accumulate(weights))

    @property
    def share(self) -> float:
        """The probability that a network drawn by `SearchSpace.sample` lies inside."""
        return min(1.0, self._cumulative[-1]) if self._cumulative else 0.0

    def draw(self, rng: random.Random) -> tuple[Architecture, int, int]:
        """A network with its params and FLOPs. The region must not be empty (`share` above 0)."""
        whole = self._cumulative
        shape, heads, low, high = self._rows[bisect_right(whole, rng.random() * whole[-1], 0, len(whole) - 1)]
        return self._made(shape, heads, shape.hidden.draw_step(low, high, rng), rng)

    def most_expensive(self, rng: random.Random) -> tuple[Architecture, int, int]:
        """A network with the most FLOPs inside, then the most params; which block gets what is drawn."""
        found: list[tuple[int, int, Shape, int, int]] = []
        for shape, heads, _, high in self._rows:
            step = int(np.nonzero(shape.hidden.reachable[: high + 1])[0][-1])
            params, flops = shape.counts(shape.heads.total(heads), shape.hidden.total(step))
            found.append((flops, params, shape, heads, step))
        _, _, shape, heads, step = max(found, key=lambda entry: entry[:2])
        return self._made(shape, heads, step, rng)

    def _made(self, shape: Shape, heads: int, hidden: int, rng: random.Random) -> tuple[Architecture, int, int]:
        space = self.shapes.space
        architecture = made(
            space,
            shape.outline,
            tuple([space.num_heads[index] for index in shape.heads.draw(heads, rng)]),
            tuple([space.mlp_ratios[index] for index in shape.hidden.draw(hidden, rng)]),
        )
        return architecture, *shape.counts(shape.heads.total(heads), shape.hidden.total(hidden))


def steps_within(
    limit_ms: float, terms: tuple[float, float, float], heads: NDArray[np.int64], start: int, unit: int, most: int
) -> NDArray[np.int64]:
    """The highest step of hidden channels, at most `most`, with which networks of so many heads keep a latency; −1: none does.

    Rounding is settled by the latency itself, computed as for a single network.
    """
    base, per_head, per_hidden = terms

    def keeps(steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(base + per_head * heads + per_hidden * (start + steps * unit) <= limit_ms, np.bool_)

    if not per_hidden:
        return np.where(keeps(np.zeros_like(heads)), most, -1).astype(np.int64)
    about = np.floor((limit_ms - base - per_head * heads - per_hidden * start) / (per_hidden * unit))
    steps = np.clip(about, -1, most).astype(np.int64)
    steps = np.where((steps < most) & keeps(steps + 1), steps + 1, steps)
    steps = np.where((steps >= 0) & ~keeps(steps), steps - 1, steps)
    return np.asarray(steps, np.int64)
