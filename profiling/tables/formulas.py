"""The formulas a latency table may be, and which of them predicts networks it has not seen.

Latency is a sum of loads (`latency_loads.py`), each with a price that is never negative. Which loads tell most depends on the
device and on the sizes of the space: large networks on a GPU may be all blocks, small ones on a CPU all activations. A kind with
`× shape` has a smooth factor of width, depth and image size on top (`shape_factors.py`).

Of one width, depth and image size every load is linear in the heads and hidden channels of all blocks together, so a limit on
latency leaves a region that is drawn from exactly (`LinearLatency`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoformer.architecture import Architecture, is_whole
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


def shape_of(architecture: Architecture, space: SearchSpace) -> Shape:
    """What a shape factor depends on."""
    return architecture.embed_dim, architecture.depth, space.image_size_of(architecture)


def features(loads: Sequence[str], architectures: Sequence[Architecture], space: SearchSpace) -> Numbers:
    """These loads of each architecture, [networks, loads]."""
    rows = []
    for network in architectures:
        every = loads_of(network.embed_dim, network.depth, space.image_size_of(network), space)
        rows.append([load(every[name], network) for name in loads])
    return np.asarray(rows, np.float64)


Shape = tuple[int, int, int]  # width, depth, image size in pixels
SPREAD = 0.06  # of the factor, relative, before anything is measured
NOISE = 0.01  # of a measurement, relative
MOST = 2.0  # a factor beyond this, either way, is no correction
LENGTH = 0.7  # in e-folds of width, depth or tokens: networks this far apart say little about each other


@dataclass(frozen=True)
class ShapeFactors:
    """The factor of every shape, from the measured ones and their weights in it."""

    shapes: tuple[Shape, ...]
    weights: tuple[float, ...]

    @classmethod
    def fitted(cls, shapes: Sequence[Shape], ratios: Sequence[float]) -> ShapeFactors:
        """From measured over predicted latency of networks of these shapes, of which several may be alike."""
        likeness = covariance(shapes, shapes) + NOISE**2 * np.eye(len(shapes))
        weights = np.linalg.solve(likeness, np.log(np.asarray(ratios, np.float64)))
        return cls(tuple(shapes), tuple(float(weight) for weight in weights))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ShapeFactors:
        """Reads what `dataclasses.asdict` gives. Raises `ValueError` for what cannot be, `KeyError` for what is missing."""
        shapes, weights = values["shapes"], values["weights"]
        if not shapes or len(shapes) != len(weights):
            raise ValueError(f"{len(weights)} weights of {len(shapes)} shapes")
        for shape in shapes:
            if len(shape) != 3 or not all(is_whole(size, 10**6) for size in shape):
                raise ValueError(f"a shape of {str(shape)[:80]}")
        if not all(isinstance(weight, int | float) and math.isfinite(weight) for weight in weights):
            raise ValueError(f"weights of {str(weights)[:80]}")
        found = cls(tuple((int(a), int(b), int(c)) for a, b, c in shapes), tuple(float(weight) for weight in weights))
        try:
            factors = found.range()
        except OverflowError:
            factors = 0.0, math.inf
        if not all(1 / MOST < factor < MOST for factor in factors):
            raise ValueError(f"factors of {factors}")
        return found

    def __call__(self, shape: Shape) -> float:
        """The factor of one shape."""
        return math.exp(float(covariance([shape], self.shapes)[0] @ np.asarray(self.weights)))

    def range(self) -> tuple[float, float]:
        """The least and the largest factor of the measured shapes."""
        factors = [self(shape) for shape in self.shapes]
        return min(factors), max(factors)


def covariance(some: Sequence[Shape], others: Sequence[Shape]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The covariance of the logarithms of the factors of two lists of shapes, [some, others]."""
    first, second = (np.log(np.asarray(shapes, np.float64)) * (1, 1, 2) for shapes in (some, others))  # tokens: pixels squared
    apart = ((first[:, None] - second[None]) ** 2).sum(axis=-1)
    found: np.ndarray[Any, np.dtype[np.float64]] = SPREAD**2 * np.exp(-apart / (2 * LENGTH**2))
    return found


PRICE_SPREAD = 0.3  # of the price of each load, relative to the mean of all


def prior_covariance(networks: Sequence[Architecture], space: SearchSpace) -> Numbers:
    """Of the logarithms of the latencies of networks, [networks, networks]."""
    every = features(tuple(PRICES), networks, space)
    shares = every / every.mean(axis=0)
    shares /= shares.mean(axis=1, keepdims=True)
    shapes = [shape_of(network, space) for network in networks]
    found: Numbers = PRICE_SPREAD**2 * shares @ shares.T + covariance(shapes, shapes)
    return found


def cross_validation_variances(networks: Sequence[Architecture], space: SearchSpace) -> Numbers:
    """The variance with which each network is predicted from all others (Rasmussen and Williams 2006, section 5.4.2)."""
    noisy = prior_covariance(networks, space) + NOISE**2 * np.eye(len(networks))
    found: Numbers = 1 / np.diag(np.linalg.inv(noisy))
    return found


ACTIVATIONS = ("attention", "hidden", "residual")
KINDS: dict[str, tuple[str, ...]] = {  # the plainer before the others
    "constant+flops": ("constant", "flops"),
    "constant+depth+flops": ("constant", "depth", "flops"),
    "activations": ACTIVATIONS,
    "activations+flops": (*ACTIVATIONS, "flops"),
    "depth+activations+flops": ("depth", *ACTIVATIONS, "flops"),
    "channels+weights+flops": ("channels", "weights", "flops"),
    "activations+channels+weights+flops": (*ACTIVATIONS, "channels", "weights", "flops"),
    "depth+activations+channels+weights+flops": ("depth", *ACTIVATIONS, "channels", "weights", "flops"),
}
SHAPED = " × shape"
KINDS |= {
    kind + SHAPED: KINDS[kind]
    for kind in (
        "constant+depth+flops",
        "activations+flops",
        "channels+weights+flops",
        "activations+channels+weights+flops",
        "depth+activations+channels+weights+flops",
    )
}
TO_SPARE = 2  # networks beyond coefficients that a fit needs: one to leave out, one more
FEWEST_SHAPED = 12
FEWEST = {
    kind: max(len(loads) + TO_SPARE, 2 * len(loads), FEWEST_SHAPED if kind.endswith(SHAPED) else 0)
    for kind, loads in KINDS.items()
}
SAME = 0.0005  # left-out errors this near each other are not told apart, whatever their scatter
CHANCE = 0.25  # standard errors of the mean difference that a formula must be better by than a plainer one


@dataclass(frozen=True)
class Fit:
    """Prices with the least squared relative error, and what they say of each network, seen and left out."""

    kind: str
    prices: tuple[float, ...]  # of the loads of the kind, in their order
    times: Numbers
    predicted: Numbers
    left_out: Numbers
    weights: Numbers  # how much each left-out error tells of networks as a search draws them; 1 in all
    shapes: ShapeFactors | None = None  # of a kind with a factor of the shape

    @classmethod
    def of(
        cls, kind: str, architectures: Sequence[Architecture], space: SearchSpace, times: Numbers, weights: Numbers
    ) -> Fit | None:
        """None where the networks are too few, or do not tell the loads apart."""
        from scipy.optimize import nnls

        if len(times) < FEWEST[kind]:
            return None
        loads = features(KINDS[kind], architectures, space)
        scale = loads.max(axis=0)
        loads = loads / scale

        def solve(rows: Numbers | slice) -> Numbers:
            return np.asarray(nnls(loads[rows] / times[rows, None], np.ones(len(times[rows])))[0], np.float64)

        others = ~np.eye(len(times), dtype=bool)
        if any(np.linalg.matrix_rank(loads[rows]) < loads.shape[1] for rows in others):
            return None
        whole = solve(slice(None))
        predicted, without = loads @ whole, [loads @ solve(rows) for rows in others]
        left_out = np.array([prediction[index] for index, prediction in enumerate(without)])
        prices = tuple(float(price) for price in whole / scale)
        if not kind.endswith(SHAPED):
            return cls(kind, prices, times, predicted, left_out, weights)
        if not all((prediction > 0).all() for prediction in (predicted, *without)):
            return None
        shapes = [shape_of(architecture, space) for architecture in architectures]

        def factors(prediction: Numbers, rows: Numbers) -> ShapeFactors:
            seen = [shape for shape, used in zip(shapes, rows, strict=True) if used]
            return ShapeFactors.fitted(seen, (times[rows] / prediction[rows]).tolist())

        found = factors(predicted, np.ones(len(times), dtype=bool))
        for index, (prediction, rows) in enumerate(zip(without, others, strict=True)):
            left_out[index] *= factors(prediction, rows)(shapes[index])
        predicted = predicted * np.array([found(shape) for shape in shapes])
        return cls(kind, prices, times, predicted, left_out, weights, found)

    def predict(self, architectures: Sequence[Architecture], space: SearchSpace) -> Numbers:
        """Milliseconds of each architecture of `space`."""
        sums: Numbers = features(KINDS[self.kind], architectures, space) @ np.asarray(self.prices)
        if self.shapes is None:
            return sums
        factors: Numbers = np.array([self.shapes(shape_of(architecture, space)) for architecture in architectures])
        return sums * factors

    @property
    def coefficients(self) -> dict[str, float]:
        """The prices by name."""
        return {PRICES[load][0]: price for load, price in zip(KINDS[self.kind], self.prices, strict=True)}

    @property
    def cross_validation_errors(self) -> Numbers:
        """Absolute, relative to the measurement, [networks]."""
        errors: Numbers = np.abs(self.left_out / self.times - 1).astype(np.float64)
        return errors

    @property
    def grows(self) -> bool:
        """Whether anything but the constant has a price, and every time is positive."""
        priced = any(price > 0 for load, price in zip(KINDS[self.kind], self.prices, strict=True) if load != "constant")
        return priced and bool((self.predicted > 0).all() and (self.left_out > 0).all())

    def better_than(self, other: Fit) -> bool:
        """Whether the left-out errors are smaller on average, by more than a part of what their differences scatter.

        An error counts the more, the more the other networks say of the one left out: a corner of the space with nothing near it
        tells little of networks that a search draws. Only a part of the scatter, because too plain a formula is the dearer
        mistake: prices that tell nothing come out near zero, factors near 1.
        """
        gains = other.cross_validation_errors - self.cross_validation_errors
        mean = float(self.weights @ gains)
        scatter = math.sqrt(float((self.weights**2) @ (gains - mean) ** 2))
        return mean > max(SAME, CHANCE * scatter)


def fits_of(architectures: Sequence[Architecture], space: SearchSpace, times: Numbers) -> dict[str, Fit]:
    """Every kind that these networks can be fitted with, by its name; what does not grow only if it is the plainest."""
    found: dict[str, Fit] = {}
    certainties = 1 / cross_validation_variances(architectures, space)
    for kind in KINDS:
        fit = Fit.of(kind, architectures, space, times, certainties / certainties.sum())
        if fit is not None and (fit.grows or not found):
            found[kind] = fit
    return found


def kept_of(fits: Mapping[str, Fit]) -> Fit:
    """The kind to predict with: the plainest, unless another is better by more than chance.

    Where latency does not even grow with FLOPs something is wrong with the measurements, and no other kind mends that.
    """
    kept, *others = fits.values()
    for fit in others if kept.grows else ():
        if fit.better_than(kept):
            kept = fit
    return kept


def in_words(kind: str, coefficients: Mapping[str, float], shapes: ShapeFactors | None = None) -> str:
    """The formula as people read it."""
    sums = " + ".join(f"{coefficients[PRICES[load][0]]:.3g} {PRICES[load][1]}" for load in KINDS[kind])
    if shapes is None:
        return sums
    least, most = shapes.range()
    return f"({sums}) × {least:.3g} to {most:.3g} by width, depth and image size"
