"""What is known of latencies before any is measured, and the factor of a network's shape that measurements then tell.

Networks of similar width, depth and image size are off by a similar factor: its logarithm is a Gaussian process over the shape
(Rasmussen and Williams 2006). The price of a load scatters around what it is for the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoformer.architecture import Architecture, is_whole
from autoformer.cost import Outline
from autoformer.errors import CheckpointError
from autoformer.profiling.tables.loads import Numbers, features, loads_in
from autoformer.records import from_json
from autoformer.space import SearchSpace

Shape = tuple[int, int, int]  # width, depth, image size in pixels (see `shape_of_outline`)
SPREAD = 0.06  # of the factor, relative, before anything is measured
PRICE_SPREAD = 0.3  # of the price of each load, relative to the mean of all
NOISE = 0.01  # of a measurement, relative
MOST = 2.0  # a factor beyond this, either way, is not believed
LENGTH = 0.7  # in e-folds of width, depth or tokens: networks this far apart say little about each other


def shape_of(architecture: Architecture, space: SearchSpace) -> Shape:
    """What a shape factor depends on."""
    return shape_of_outline(Outline.of(architecture, space), space)


def shape_of_outline(outline: Outline, space: SearchSpace) -> Shape:
    """The shape of the networks of one outline.

    Patches of other sizes and a halved grid change the tokens, not the images. The image size of a shape is the one whose patches
    of the stored size would be as many as a block sees on average; it is the networks' own where nothing changes their number.
    """
    patches = sum(grid**2 for grid in outline.grids) / outline.depth
    return outline.embed_dim, outline.depth, round(math.sqrt(patches) * space.patch_size)


@dataclass(frozen=True)
class ShapeFactors:
    """The factor of every shape, from the measured ones and their weights in it. Raises `ValueError` for impossible values."""

    shapes: tuple[Shape, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.shapes or len(self.shapes) != len(self.weights):
            raise ValueError(f"{len(self.weights)} weights of {len(self.shapes)} shapes")
        if odd := [shape for shape in self.shapes if not all(is_whole(size, 10**6) for size in shape)]:
            raise ValueError(f"a shape of {odd[0]}")

    @classmethod
    def fitted(cls, shapes: Sequence[Shape], ratios: Sequence[float]) -> ShapeFactors:
        """From measured over predicted latency of networks of these shapes, of which several may be alike."""
        likeness = covariance(shapes, shapes) + NOISE**2 * np.eye(len(shapes))
        weights = np.linalg.solve(likeness, np.log(np.asarray(ratios, np.float64)))
        return cls(tuple(shapes), tuple(float(weight) for weight in weights))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ShapeFactors:
        """Reads the JSON form. Raises `CheckpointError` for what is missing or impossible, factors beyond `MOST` among it."""
        found = from_json(cls, values)
        try:
            factors = found.range()
        except OverflowError:
            factors = 0.0, math.inf
        if not all(1 / MOST < factor < MOST for factor in factors):
            raise CheckpointError(f"factors of {factors}")
        return found

    def __call__(self, shape: Shape) -> float:
        """The factor of one shape."""
        return math.exp(float(covariance([shape], self.shapes)[0] @ np.asarray(self.weights)))

    def range(self) -> tuple[float, float]:
        """The least and the largest factor of the measured shapes."""
        factors = [self(shape) for shape in self.shapes]
        return min(factors), max(factors)


def covariance(some: Sequence[Shape], others: Sequence[Shape]) -> Numbers:
    """The covariance of the logarithms of the factors of two lists of shapes, [some, others]."""
    first, second = (np.log(np.asarray(shapes, np.float64)) * (1, 1, 2) for shapes in (some, others))  # tokens: pixels squared
    apart = ((first[:, None] - second[None]) ** 2).sum(axis=-1)
    found: Numbers = SPREAD**2 * np.exp(-apart / (2 * LENGTH**2))
    return found


def prior_covariance(networks: Sequence[Architecture], space: SearchSpace) -> Numbers:
    """Of the logarithms of the latencies of networks, [networks, networks]."""
    every = features(loads_in(space), networks, space)
    means = every.mean(axis=0)
    shares = every / np.where(means > 0, means, 1)  # a load that none of these has is no share of any
    shares /= shares.mean(axis=1, keepdims=True)
    shapes = [shape_of(network, space) for network in networks]
    found: Numbers = PRICE_SPREAD**2 * shares @ shares.T + covariance(shapes, shapes)
    return found


def cross_validation_variances(networks: Sequence[Architecture], space: SearchSpace) -> Numbers:
    """The variance with which each network is predicted from all others (Rasmussen and Williams 2006, section 5.4.2)."""
    noisy = prior_covariance(networks, space) + NOISE**2 * np.eye(len(networks))
    found: Numbers = 1 / np.diag(np.linalg.inv(noisy))
    return found
