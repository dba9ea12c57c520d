"""The formulas a latency table may be, and which of them predicts networks it has not seen.

Latency is a sum of loads (`loads.py`), each with a price that is never negative. Which loads tell most depends on the device and
on the sizes of the space: large networks on a GPU may be all blocks, small ones on a CPU all activations. A kind with `+local` or
`+stem` prices the depthwise convolutions and the convolutional stem of a space that has them apart from other FLOPs, one with
`+attention` blocks with attention apart from those with an MLP, of which either may be absent. A kind with
`× shape` has a smooth factor of width, depth and image size on top (`prior.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from autoformer.architecture import Architecture
from autoformer.profiling.tables.loads import PRICES, Numbers, features, loads_in
from autoformer.profiling.tables.prior import ShapeFactors, cross_validation_variances, shape_of
from autoformer.space import SearchSpace

ACTIVATIONS = ("attention", "hidden", "residual")
PLAIN: dict[str, tuple[str, ...]] = {  # the plainer before the others
    "constant+flops": ("constant", "flops"),
    "constant+depth+flops": ("constant", "depth", "flops"),
    "activations": ACTIVATIONS,
    "activations+flops": (*ACTIVATIONS, "flops"),
    "depth+activations+flops": ("depth", *ACTIVATIONS, "flops"),
    "channels+weights+flops": ("channels", "weights", "flops"),
    "activations+channels+weights+flops": (*ACTIVATIONS, "channels", "weights", "flops"),
    "depth+activations+channels+weights+flops": ("depth", *ACTIVATIONS, "channels", "weights", "flops"),
}
RICHER = (  # those that there are with more on top
    "constant+depth+flops",
    "activations+flops",
    "channels+weights+flops",
    "activations+channels+weights+flops",
    "depth+activations+channels+weights+flops",
)
EXTRAS = {"+local": ("local blocks", "local"), "+taps": ("local flops",), "+stem": ("stem",), "+attention": ("attention blocks",)}
PER_BLOCK = ("local blocks", "attention blocks")  # have a price where blocks have one
SHAPED = " × shape"


def _kinds(endings: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Every kind where loads of these names may stand on top; the plainer before the others."""
    found = dict(PLAIN)
    for ending in endings:
        more = [load for extra, loads in EXTRAS.items() if extra in ending for load in loads]
        for kind in RICHER:
            added = [load for load in more if load not in PER_BLOCK or "depth" in PLAIN[kind]]
            if added:
                found[kind + ending] = (*PLAIN[kind], *added)
    richer = [kind + ending for ending in ("", *endings) for kind in RICHER if kind + ending in found]
    return found | {kind + SHAPED: found[kind] for kind in richer}


def kinds_of(space: SearchSpace) -> dict[str, tuple[str, ...]]:
    """The kinds a table of this space may be: what it asks for beyond the article's choices stands on top, all together."""
    there = [extra for extra, loads in EXTRAS.items() if loads[-1] in loads_in(space)]
    endings = dict.fromkeys(("".join(extra for extra in there if extra != "+taps"), "".join(there)))
    return _kinds([ending for ending in endings if ending])


KINDS = _kinds(["".join(chosen) for count in (1, 2, 3, 4) for chosen in combinations(EXTRAS, count)])
TO_SPARE = 2  # networks beyond coefficients that a fit needs: one to leave out, one more
FEWEST_SHAPED = 12
FEWEST = {
    kind: max(len(loads) + TO_SPARE, 2 * len(loads), FEWEST_SHAPED if kind.endswith(SHAPED) else 0)
    for kind, loads in KINDS.items()
}
SAME = 0.0005  # cross-validation errors this near each other do not differ significantly, whatever their scatter
CHANCE = 0.25  # standard errors of the mean difference that a formula must be better by than a plainer one


@dataclass(frozen=True)
class Fit:
    """Prices with the least squared relative error, and what they predict of each network, seen and left out."""

    kind: str
    prices: tuple[float, ...]  # of the loads of the kind, in their order
    times: Numbers
    predicted: Numbers
    left_out: Numbers
    weights: Numbers  # how much each cross-validation error tells of networks as a search draws them; 1 in all
    shapes: ShapeFactors | None = None  # of a kind with a factor of the shape

    @classmethod
    def of(
        cls, kind: str, architectures: Sequence[Architecture], space: SearchSpace, times: Numbers, weights: Numbers
    ) -> Fit | None:
        """None where the networks are too few, or do not determine the price of every load."""
        from scipy.optimize import nnls

        if len(times) < FEWEST[kind]:
            return None
        loads = features(KINDS[kind], architectures, space)
        scale = loads.max(axis=0)
        if not scale.all():
            return None
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
        """Whether the cross-validation errors are smaller on average, by more than a part of what their differences scatter.

        An error counts the more, the more the other networks say of the one left out: a corner of the space with nothing near it
        tells little of networks that a search draws. Only a part of the scatter, because too plain a formula is the worse
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
    for kind in kinds_of(space):
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
