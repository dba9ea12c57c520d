"""What an architecture costs, in closed form, and the budget it must fit.

FLOPs are multiply-adds, as fvcore and the paper count them, of one canonical form: the subnet with relative position in
the bias form (relative_position.py), whichever form or device runs. The terms are those fvcore's counter gives for that
network, operator by operator, its 5 per LayerNorm element included; softmax, GELU, additions and scalings count nothing.

Of one outline (all that is not chosen block by block) params and FLOPs are linear in the heads and hidden channels of each block.

Letters: P patches (grid²), N tokens (P, the class token and registers), E width, d depth, Q = heads × head width,
M = int(E × ratio), p patch size, c channels, C classes, g grid, m max_relative_position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

from autoformer.architecture import Architecture, halvings_of
from autoformer.conditions import MeasurementConditions
from autoformer.errors import BudgetError
from autoformer.space import SearchSpace


class Outline(NamedTuple):
    """Of an architecture all that is not chosen block by block."""

    embed_dim: int
    depth: int
    image_size: int  # pixels
    patch_size: int  # pixels
    head_dim: int  # channels per head
    stem_depth: int
    pool_after: int  # blocks before the grid is halved; 0: it never is

    @classmethod
    def of(cls, architecture: Architecture, space: SearchSpace) -> Outline:
        size, patch, head = space.image_size_of(architecture), space.patch_size_of(architecture), space.head_dim_of(architecture)
        stem, pool = architecture.stem_depth or 0, architecture.pool_after or 0
        return cls(architecture.embed_dim, architecture.depth, size, patch, head, stem, pool)

    @property
    def grids(self) -> tuple[int, ...]:
        """Patches along one side that each block sees."""
        grid, whole = self.image_size // self.patch_size, self.pool_after or self.depth
        return (grid,) * whole + (grid // 2,) * (self.depth - whole)


def tokens_of(grid: int, space: SearchSpace) -> int:
    """Tokens of a block that sees this grid."""
    return grid**2 + space.prefix_tokens


def features_of(space: SearchSpace) -> int:
    """Tokens, or means of tokens, that the classifier reads."""
    return 2 if space.distilled and space.pooling == "token" else 1


def norm_flops_around(outline: Outline, space: SearchSpace) -> int:
    """Multiply-adds of the LayerNorms outside of blocks, 5 an element."""
    before = tokens_of(outline.grids[0], space) if space.pre_norm else 0
    after = (features_of(space) if space.fc_norm else tokens_of(outline.grids[-1], space)) if space.final_norm else 0
    return 5 * (before + after) * outline.embed_dim


def count_params(architecture: Architecture, space: SearchSpace) -> int:
    """Parameters of the subnet; equal to its real count and to fvcore's. Microseconds."""
    outline = Outline.of(architecture, space)
    total = _params_around_blocks(outline, space)
    for heads, hidden, kernel in _blocks(architecture):
        total += _params_of_attention(outline, heads, space) if heads else 0
        total += _params_of_mlp(outline.embed_dim, hidden, kernel, space) if hidden else 0
    return total


def count_supernet_params(space: SearchSpace) -> int:
    """Parameters of the supernet, entangled or with classical sharing as the space says; equal to its real count."""
    embed, patch = space.stored_embed_dim, space.patch_size
    stored = Outline(embed, space.depths[-1], space.stored_grid * patch, patch, space.head_dim, 0, 0)  # of the finest grid
    total = _params_around_blocks(stored, space)
    if space.stem == "conv":  # every depth of every patch size, and a gain beside each bias
        total -= _params_of_conv_stem(halvings_of(patch), space)
        total += _params_of_conv_stem(halvings := halvings_of(space.patch_choices[-1]), space)
        further = len(space.patch_choices) * space.stem_depths[-1]
        total += further * (9 * space.stem_dim**2 + space.stem_dim) + (halvings + further) * space.stem_dim
    if space.sharing == "entangled":
        sizes = [(space.stored_embed_dim, space.num_heads[-1], space.stored_hidden_dim)]
    else:  # a block per choice; ratios that give the same MLP width are one choice
        sizes = [
            (embed, heads, hidden)
            for embed in space.embed_dims
            for heads in space.num_heads
            for hidden in {int(embed * ratio) for ratio in space.mlp_ratios}
        ]
    kernel = space.mlp_kernels[-1]
    return total + space.depths[-1] * sum(
        _params_of_attention(stored._replace(embed_dim=embed), heads, space) + _params_of_mlp(embed, hidden, kernel, space)
        for embed, heads, hidden in sizes
    )


def _blocks(architecture: Architecture) -> Iterator[tuple[int, int, int]]:
    """Heads, hidden channels and kernel of each block."""
    return zip(architecture.num_heads, architecture.hidden_dims, architecture.kernels, strict=True)


def _params_of_conv_stem(convolutions: int, space: SearchSpace) -> int:
    """Of so many 3 × 3 convolutions, the first of which takes images."""
    channels = space.stem_dim
    return 9 * space.in_chans * channels + (convolutions - 1) * 9 * channels**2 + convolutions * channels


def _params_around_blocks(outline: Outline, space: SearchSpace) -> int:
    embed, grid, patch = outline.embed_dim, outline.image_size // outline.patch_size, outline.patch_size
    if space.stem == "conv":
        total = _params_of_conv_stem(halvings_of(patch) + outline.stem_depth, space) + space.stem_dim * embed + embed
    else:
        total = embed * space.in_chans * patch**2 + embed  # patch embedding
    total += embed * space.prefix_tokens
    total += tokens_of(grid, space) * embed if space.absolute_position else 0
    total += 2 * embed * (space.pre_norm + space.final_norm)  # LayerNorms outside of blocks
    return total + space.num_classes * embed * features_of(space) + space.num_classes


def _params_of_attention(outline: Outline, heads: int, space: SearchSpace) -> int:
    """Of a block's attention and the norms before it and inside."""
    embed, qkv = outline.embed_dim, heads * outline.head_dim
    total = 3 * qkv * embed + 3 * qkv  # query, key, value
    total += qkv * embed + embed  # projection
    total += 2 * embed + 2 * qkv * space.scale_attn_norm  # LayerNorms before attention and inside
    if space.relative_position:  # rows and columns, for keys and for values
        total += 4 * (2 * space.max_relative_position + 2) * outline.head_dim
    return total


def _params_of_mlp(embed: int, hidden: int, kernel: int, space: SearchSpace) -> int:
    """Of a block's MLP, its depthwise convolution and the norms before it and inside."""
    total = 2 * embed * hidden + hidden + embed
    total += (embed * hidden + hidden) * space.gated_mlp
    total += 2 * embed + 2 * hidden * space.scale_mlp_norm  # LayerNorms before the MLP and inside
    return total + kernel**2 * hidden  # depthwise convolution


def count_flops(architecture: Architecture, space: SearchSpace) -> int:
    """Multiply-adds of one image through the canonical form; equal to fvcore's count. Microseconds."""
    outline = Outline.of(architecture, space)
    total = _flops_around_blocks(outline, space)
    for (heads, hidden, kernel), grid in zip(_blocks(architecture), outline.grids, strict=True):
        total += _flops_of_attention(outline.embed_dim, heads * outline.head_dim, grid, space) if heads else 0
        total += _flops_of_mlp(outline.embed_dim, hidden, kernel, grid, space) if hidden else 0
    return total


def alignment_waste(architecture: Architecture, space: SearchSpace, *, multiple: int = 32) -> float:
    """The share of work that widths beside the multiples of `multiple` cost on hardware that pads them.

    Tensor cores and TensorRT's kernels work on tiles: a width of 216 takes the time of 224. The value is the FLOPs
    (multiply-adds) with embedding, query and MLP widths rounded up, over the FLOPs as they are, minus 1; 0 is no waste.
    """

    def up(width: int) -> int:
        return -(-width // multiple) * multiple

    outline = Outline.of(architecture, space)
    padded = _flops_around_blocks(outline._replace(embed_dim=up(outline.embed_dim)), space)
    for (heads, hidden, kernel), grid in zip(_blocks(architecture), outline.grids, strict=True):
        padded += _flops_of_attention(up(outline.embed_dim), up(heads * outline.head_dim), grid, space) if heads else 0
        padded += _flops_of_mlp(up(outline.embed_dim), up(hidden), kernel, grid, space) if hidden else 0
    return padded / count_flops(architecture, space) - 1


def stem_flops(outline: Outline, space: SearchSpace) -> int:
    """Multiply-adds of the stem."""
    side, grid = outline.image_size, outline.image_size // outline.patch_size
    if space.stem != "conv":
        return grid**2 * space.in_chans * outline.patch_size**2 * outline.embed_dim
    channels, total = space.stem_dim, 0
    for index in range(halvings_of(outline.patch_size)):
        side //= 2
        total += side**2 * 9 * (channels if index else space.in_chans) * channels
    total += outline.stem_depth * grid**2 * 9 * channels**2
    return total + grid**2 * channels * outline.embed_dim


def _flops_around_blocks(outline: Outline, space: SearchSpace) -> int:
    head = space.num_classes * features_of(space) * outline.embed_dim
    return stem_flops(outline, space) + norm_flops_around(outline, space) + head


def _flops_of_mlp(embed: int, hidden: int, kernel: int, grid: int, space: SearchSpace) -> int:
    """Of a block's MLP, its depthwise convolution and the norms before it and inside."""
    tokens = tokens_of(grid, space)
    total = (3 if space.gated_mlp else 2) * tokens * embed * hidden
    total += 5 * tokens * (embed + hidden * space.scale_mlp_norm)  # LayerNorms, 5 an element in fvcore
    return total + kernel**2 * grid**2 * hidden  # depthwise convolution


def _flops_of_attention(embed: int, qkv: int, grid: int, space: SearchSpace) -> int:
    """Of a block's attention and the norms before it and inside."""
    tokens = tokens_of(grid, space)
    total = 5 * tokens * (embed + qkv * space.scale_attn_norm)  # LayerNorms, 5 an element in fvcore
    total += 4 * tokens * embed * qkv  # query, key, value, projection
    total += 2 * tokens**2 * qkv  # attention logits, and the sum over values
    if space.relative_position:
        total += 4 * grid**3 * qkv  # rows and columns, for keys and for values
        total += tokens * qkv if space.prefix_tokens else 0  # the row of the tables for tokens before the patches
    return total


Terms = tuple[float, float, float]  # without heads and hidden channels, for every head, for every hidden channel
Spared = tuple[float, float]  # of a block's fixed cost: where it lacks its attention, where it lacks its MLP


@dataclass(frozen=True)
class LinearCost:
    """A cost that is linear in the heads and hidden channels of each block, of all networks of one outline.

    What a head and a hidden channel cost depends on the grid that the block sees and on its kernel; a block without heads, or
    without hidden channels, is spared what belongs to them all.
    """

    around: float
    blocks: Mapping[tuple[bool, int], Terms]  # by whether the grid was halved before the block, and its kernel
    spared: Mapping[tuple[bool, int], Spared] = field(default_factory=dict)  # likewise; nothing where it is not told

    def of_block(self, halved: bool, heads: int, hidden: int, kernel: int) -> float:
        """What one block costs."""
        fixed, per_head, per_hidden = self.blocks[halved, kernel]
        without_attention, without_mlp = self.spared.get((halved, kernel), (0.0, 0.0))
        spared = (0 if heads else without_attention) + (0 if hidden else without_mlp)
        return fixed - spared + per_head * heads + per_hidden * hidden

    def of(self, architecture: Architecture) -> float:
        """What a network of this outline costs."""
        whole = architecture.halved_after
        return self.around + sum(self.of_block(index >= whole, *block) for index, block in enumerate(_blocks(architecture)))

    def of_all_blocks(self, depth: int) -> Terms:
        """Of a space that asks for neither kernels nor halving: for the heads and hidden channels of all blocks together."""
        (fixed, per_head, per_hidden), *others = self.blocks.values()
        assert not others, "kernels or halving: blocks do not cost alike"
        return self.around + depth * fixed, per_head, per_hidden


def linear_costs(outline: Outline, space: SearchSpace) -> tuple[LinearCost, LinearCost]:
    """Params and FLOPs of all networks of one outline; whole numbers."""
    embed, width = outline.embed_dim, outline.head_dim
    costs = LinearCost(_params_around_blocks(outline, space), {}), LinearCost(_flops_around_blocks(outline, space), {})
    blocks: list[dict[tuple[bool, int], Terms]] = [{}, {}]
    spared: list[dict[tuple[bool, int], Spared]] = [{}, {}]
    for halved, grid in enumerate(dict.fromkeys(outline.grids)):
        heads = [
            (_params_of_attention(outline, many, space), _flops_of_attention(embed, many * width, grid, space)) for many in (0, 1)
        ]
        for kernel in space.mlp_kernels:
            channels = [
                (_params_of_mlp(embed, many, kernel, space), _flops_of_mlp(embed, many, kernel, grid, space)) for many in (0, 1)
            ]
            for index in (0, 1):  # params, FLOPs
                attention, mlp = heads[0][index], channels[0][index]
                place = bool(halved), kernel
                blocks[index][place] = attention + mlp, heads[1][index] - attention, channels[1][index] - mlp
                spared[index][place] = attention, mlp
    params, flops = (replace(cost, blocks=blocks[index], spared=spared[index]) for index, cost in enumerate(costs))
    return params, flops


# --- measured cost -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one architecture costs."""

    params: int
    flops: int  # multiply-adds of one image, canonical form
    latency_ms: float | None = None  # as the cost model's measurement conditions say; None: not part of the model


class CostModel(Protocol):
    """Anything that can price an architecture. One that is a `LinearLatency` as well makes searches under it quick."""

    @property
    def measurement_conditions(self) -> MeasurementConditions | None:
        """What `Cost.latency_ms` means, or None when this model gives no latency."""

    def __call__(self, architecture: Architecture) -> Cost: ...


@runtime_checkable
class LinearLatency(Protocol):
    """What a cost model may offer beside `CostModel`: latency that is linear, as params and FLOPs are.

    Of one width, depth and image size it is then linear in the heads and in the hidden channels of all blocks together, so that
    candidates are drawn exactly inside a latency limit instead of by rejection.
    """

    def latency_terms(self, embed_dim: int, depth: int, image_size: int) -> tuple[float, float, float]:
        """Milliseconds without any heads and hidden channels, for every head, for every hidden channel; none negative."""

    def latency_of(self, architecture: Architecture, flops: int) -> float:
        """`Cost.latency_ms` of a network that is known to have so many FLOPs."""


@runtime_checkable
class OutlineLatency(Protocol):
    """What a cost model may offer beside `CostModel` in any space, one that asks for patches, stems, kernels or halving too.

    Of one outline latency is linear in the heads and hidden channels of each block, as params and FLOPs are.
    """

    def outline_latency(self, outline: Outline) -> LinearCost:
        """Milliseconds of the networks of one outline; no term is negative.

        In a space that asks for nothing `of_all_blocks` of it gives the numbers of `LinearLatency.latency_terms`.
        """

    def latency_of(self, architecture: Architecture, flops: int) -> float:
        """`Cost.latency_ms` of a network that is known to have so many FLOPs."""


@dataclass(frozen=True)
class ExactCosts:
    """The cost model that only counts: params and FLOPs in closed form."""

    space: SearchSpace
    measurement_conditions: MeasurementConditions | None = None

    def __call__(self, architecture: Architecture) -> Cost:
        return Cost(params=count_params(architecture, self.space), flops=count_flops(architecture, self.space))


@dataclass(frozen=True)
class MeasuredCosts:
    """Exact params and FLOPs; latencies as measured where there are any, else as `predict` gives them (None: not known)."""

    space: SearchSpace
    measured_ms: Mapping[Architecture, float]
    predict: Callable[[Architecture], float | None]
    measurement_conditions: MeasurementConditions | None

    def __call__(self, architecture: Architecture) -> Cost:
        measured = self.measured_ms.get(architecture)
        latency_ms = self.predict(architecture) if measured is None else measured
        return replace(ExactCosts(self.space)(architecture), latency_ms=latency_ms)


# --- budget ------------------------------------------------------------------------------------------------------

LIMITS = ("params", "flops", "latency_ms")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits a network must keep; None is no limit. Raises `BudgetError` when a lower limit is above its upper one."""

    max_params: float | None = None
    min_params: float | None = None
    max_flops: float | None = None  # multiply-adds
    min_flops: float | None = None
    max_latency_ms: float | None = None  # under the cost model's measurement conditions
    min_latency_ms: float | None = None  # of a library's user: only networks that nearly use the limit up

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 < value < float("inf"):
                raise BudgetError(f"budget {name}={value} must be a positive number")
        for measure in LIMITS:
            low, high = getattr(self, f"min_{measure}"), getattr(self, f"max_{measure}")
            if low is not None and high is not None and low > high:
                raise BudgetError(f"budget min_{measure}={show(measure, low)} is above max_{measure}={show(measure, high)}")

    def excess(self, cost: Cost) -> dict[str, float]:
        """By how much `cost` breaks each limit, relative to the limit; empty when it fits. Keys are limit names."""
        broken = {}
        for measure in LIMITS:
            value = getattr(cost, measure)
            high, low = getattr(self, f"max_{measure}"), getattr(self, f"min_{measure}", None)
            if (high is not None or low is not None) and value is None:
                raise BudgetError(f"budget limits {measure}, but nothing measured it: give a latency table")
            if high is not None and value > high:
                broken[f"max_{measure}"] = value / high - 1
            if low is not None and value < low:
                broken[f"min_{measure}"] = 1 - value / low
        return broken

    def use_of(self, cost: Cost) -> dict[str, float]:
        """The share of each upper limit that `cost` uses, by the limit's name; above 1 breaks it. An unknown one is left out."""
        used = {}
        for measure in LIMITS:
            high, value = getattr(self, f"max_{measure}"), getattr(cost, measure)
            if high is not None and value is not None:
                used[f"max_{measure}"] = value / high
        return used

    def allows(self, cost: Cost) -> bool:
        """Whether `cost` keeps every limit."""
        return not self.excess(cost)

    def to_dict(self) -> dict[str, Any]:
        """The limits that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        limits = [f"{name}={show(name[4:], value)}" for name, value in self.to_dict().items()]
        return ", ".join(limits) or "no limits"


def check_feasible(budget: Budget, space: SearchSpace, costs: CostModel) -> None:
    """Raises `BudgetError` when even the cheapest network is too expensive, or the most expensive below a lower limit.

    The message names the tightest limit, the cheapest (most expensive) value of the space and the architecture that has it.
    Costs grow with every choice, so the smallest and the largest architecture decide, in each patch size.
    """
    for end, kind, word in ((space.smallest, "max", "cheapest"), (space.largest, "min", "most expensive")):
        found = [(budget.excess(cost := costs(one)), cost, one) for one in space.of_each_patch_size(end)]
        names = [f"{kind}_{measure}" for measure in LIMITS]
        nearest = {name: min(found, key=lambda entry: entry[0].get(name, 0.0)) for name in names}
        broken = {name: entry[0][name] for name, entry in nearest.items() if name in entry[0]}
        if broken:
            name = max(broken, key=lambda limit: broken[limit])
            measure, (_, cost, architecture) = name[4:], nearest[name]
            limit, value = getattr(budget, name), getattr(cost, measure)
            advice = "raise" if kind == "max" else "lower"
            meaning = f" ({costs.measurement_conditions})" if measure == "latency_ms" else ""
            raise BudgetError(
                f"budget {name}={show(measure, limit)}{meaning} cannot be met in space {space.name!r}: its {word} network "
                f"has {show(measure, value)} ({architecture}); {advice} the limit or choose another space"
            )


def use_words(limit: str, share: float) -> str:
    """A share that `Budget.use_of` gives, as people write it: 96 % of the FLOPs limit."""
    name = {"params": "parameter", "flops": "FLOPs", "latency_ms": "latency"}[limit.removeprefix("max_")]
    return f"{100 * share:.0f} % of the {name} limit"


def show(measure: str, value: float) -> str:
    """A value of `measure` ("params", "flops", "latency_ms") as people write it: 5.87M, 1.31G, 2.5 ms."""
    if measure == "latency_ms":
        return f"{value:.3g} ms"
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.4g}{unit}"
    return f"{value:.4g}"
