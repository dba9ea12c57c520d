"""How well a device runs networks of one width, depth and image size, as a smooth factor on a formula of loads.

Matrix products of some sizes run nearer to a device's peak than others, and no price per operation says so: wide networks and
short sequences come out faster or slower than their loads by some per cent. What a formula leaves of the measured networks is
smoothed over the logarithms of width, depth and tokens (kriging: Gaussian process regression with a zero mean), so it is near 1
where nothing like it was measured. The factor is the same for all heads and hidden channels of one width, depth and image size,
so that latency stays linear in those (`LinearLatency`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoformer.architecture import is_whole

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
