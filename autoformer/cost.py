"""What an architecture costs, in closed form, and the budget it must fit.

FLOPs are multiply-adds, as fvcore and the paper count them, of one canonical form: the subnet with relative position in
the bias form (relative_position.py), whichever form or device runs. The terms are those fvcore's counter gives for that
network, operator by operator, its 5 per LayerNorm element included; softmax, GELU, additions and scalings count nothing.

Letters: P patches (grid²), N = P + 1 tokens, E width, d depth, Q = heads × head width, M = int(E × ratio), p patch size, c
channels, C classes, g grid, m max_relative_position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

from autoformer.architecture import Architecture
from autoformer.errors import BudgetError
from autoformer.space import SearchSpace


def count_params(architecture: Architecture, space: SearchSpace) -> int:
    """Parameters of the subnet; equal to its real count and to fvcore's. Microseconds."""
    embed = architecture.embed_dim
    total = _params_around_blocks(embed, space.grid_of(architecture), space)
    for heads, hidden in zip(architecture.num_heads, architecture.hidden_dims, strict=True):
        total += _params_of_block(embed, heads * space.head_dim, hidden, space)
    return total


def count_supernet_params(space: SearchSpace) -> int:
    """Parameters of the supernet, entangled or with classical sharing as the space says; equal to its real count."""
    total = _params_around_blocks(space.stored_embed_dim, space.image_size // space.patch_size, space)
    if space.sharing == "entangled":
        sizes = [(space.stored_embed_dim, space.stored_qkv_dim, space.stored_hidden_dim)]
    else:  # a block per choice; ratios that give the same MLP width are one choice
        sizes = [
            (embed, heads * space.head_dim, hidden)
            for embed in space.embed_dims
            for heads in space.num_heads
            for hidden in {int(embed * ratio) for ratio in space.mlp_ratios}
        ]
    return total + space.depths[-1] * sum(_params_of_block(*size, space) for size in sizes)


def _params_around_blocks(embed: int, grid: int, space: SearchSpace) -> int:
    total = embed * space.in_chans * space.patch_size**2 + embed  # patch embedding
    total += embed  # class token
    total += (grid**2 + 1) * embed if space.absolute_position else 0
    total += 2 * embed  # final LayerNorm
    return total + space.num_classes * embed + space.num_classes


def _params_of_block(embed: int, qkv: int, hidden: int, space: SearchSpace) -> int:
    total = 3 * qkv * embed + 3 * qkv  # query, key, value
    total += qkv * embed + embed  # projection
    total += 2 * (2 * embed)  # two LayerNorms
    total += 2 * embed * hidden + hidden + embed  # MLP
    if space.relative_position:  # rows and columns, for keys and for values
        total += 4 * (2 * space.max_relative_position + 2) * space.head_dim
    return total


def count_flops(architecture: Architecture, space: SearchSpace) -> int:
    """Multiply-adds of one image through the canonical form; equal to fvcore's count. Microseconds."""
    widths = [heads * space.head_dim for heads in architecture.num_heads]
    return _flops(architecture.embed_dim, widths, architecture.hidden_dims, space.grid_of(architecture), space)


def alignment_waste(architecture: Architecture, space: SearchSpace, *, multiple: int = 32) -> float:
    """The share of work that widths beside the multiples of `multiple` cost on hardware that pads them.

    Tensor cores and TensorRT's kernels work on tiles: a width of 216 takes the time of 224. The value is the FLOPs
    (multiply-adds) with embedding, query and MLP widths rounded up, over the FLOPs as they are, minus 1; 0 is no waste.
    """

    def up(width: int) -> int:
        return -(-width // multiple) * multiple

    widths = [up(heads * space.head_dim) for heads in architecture.num_heads]
    hidden = [up(width) for width in architecture.hidden_dims]
    padded = _flops(up(architecture.embed_dim), widths, hidden, space.grid_of(architecture), space)
    return padded / count_flops(architecture, space) - 1


def _flops(embed: int, widths: Sequence[int], hidden_dims: Sequence[int], grid: int, space: SearchSpace) -> int:
    patches, tokens = grid**2, grid**2 + 1
    total = patches * space.in_chans * space.patch_size**2 * embed  # patch embedding
    total += 5 * tokens * embed * (2 * len(widths))  # LayerNorms of the blocks, 5 an element in fvcore
    total += 5 * tokens * embed  # final LayerNorm
    for qkv, hidden in zip(widths, hidden_dims, strict=True):
        total += 4 * tokens * embed * qkv  # query, key, value, projection
        total += 2 * tokens * embed * hidden  # MLP
        total += 2 * tokens**2 * qkv  # attention logits, and the sum over values
        if space.relative_position:
            total += 4 * grid**3 * qkv  # rows and columns, for keys and for values
            total += tokens * qkv  # the class token's row of the tables
    return total + space.num_classes * embed


def linear_costs(embed: int, depth: int, grid: int, space: SearchSpace) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Params and FLOPs of all networks of one width, depth and grid, as three numbers each.

    Without any heads and hidden channels; for every head; for every hidden channel, summed over the blocks.
    """
    around, empty = _params_around_blocks(embed, grid, space), _params_of_block(embed, 0, 0, space)
    params = (
        around + depth * empty,
        _params_of_block(embed, space.head_dim, 0, space) - empty,
        _params_of_block(embed, 0, 1, space) - empty,
    )
    bare, block = _flops(embed, [0] * depth, [0] * depth, grid, space), _flops(embed, [0], [0], grid, space)
    flops = (
        bare,
        _flops(embed, [space.head_dim], [0], grid, space) - block,
        _flops(embed, [0], [1], grid, space) - block,
    )
    return params, flops


# --- measured cost -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MeasurementConditions:
    """What a latency in milliseconds means. Two latencies are comparable only when these are equal."""

    statistic: str  # "p50", "p90", "p99", ...
    batch: int  # images in one call
    precision: str  # "fp32", "fp16", "int8"
    backend: str  # "onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "torch-cpu", ...
    device: str  # as the device names itself, e.g. "AMD EPYC 9B45, 1 thread"

    def __str__(self) -> str:
        return f"{self.statistic}, batch {self.batch}, {self.precision}, {self.backend}, {self.device}"


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
    Costs grow with every choice, so the smallest and the largest architecture decide.
    """
    for architecture, kind, word in ((space.smallest, "max", "cheapest"), (space.largest, "min", "most expensive")):
        cost = costs(architecture)
        broken = {name: by for name, by in budget.excess(cost).items() if name.startswith(kind)}
        if broken:
            name = max(broken, key=lambda limit: broken[limit])
            measure = name[4:]
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
