"""A ridge regression that predicts a score from the choices of an architecture.

Features are one column per choice: each width, depth and image size of the space, and for every block each number of heads
and each MLP ratio; 1 where the architecture has it. Blocks that an architecture lacks have zeros, so that a block's
coefficients mean what its choices add where it is there. Choices add up and do not interact: few coefficients for few
evaluations. The strength of the penalty is chosen anew at every fit by leave-one-out error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.space import SearchSpace

PENALTIES = tuple(10.0**power for power in range(-2, 5))
DIGITS = 9  # of a prediction that count; more would be rounding errors, and decide differently on another machine


def features(architectures: Sequence[Architecture], space: SearchSpace) -> NDArray[np.float64]:
    """The choices of each architecture as zeros and ones, [n, features]."""
    blocks, heads, ratios = space.depths[-1], len(space.num_heads), len(space.mlp_ratios)
    around = len(space.embed_dims) + len(space.depths) + len(space.image_sizes)
    found = np.zeros((len(architectures), around + blocks * (heads + ratios)))
    for row, network in zip(found, architectures, strict=True):
        row[space.embed_dims.index(network.embed_dim)] = 1
        row[len(space.embed_dims) + space.depths.index(network.depth)] = 1
        row[len(space.embed_dims) + len(space.depths) + space.image_sizes.index(space.image_size_of(network))] = 1
        for block, (head, ratio) in enumerate(zip(network.num_heads, network.mlp_ratio, strict=True)):
            start = around + block * (heads + ratios)
            row[start + space.num_heads.index(head)] = 1
            row[start + heads + space.mlp_ratios.index(ratio)] = 1
    return found


class Predictor:
    """Fitted on at least two architectures with their scores."""

    def __init__(
        self, space: SearchSpace, architectures: Sequence[Architecture], scores: Sequence[float], images: Sequence[int]
    ) -> None:
        """`images` are how many each score was taken on; a score counts by them, as its variance is inverse to them."""
        from sklearn.linear_model import RidgeCV

        self.space = space
        weights = np.asarray(images, np.float64) / max(images)
        self._model = RidgeCV(alphas=PENALTIES).fit(features(architectures, space), np.asarray(scores, np.float64), weights)

    def __call__(self, architectures: Sequence[Architecture]) -> list[float]:
        """The scores it expects."""
        return [round(float(value), DIGITS) for value in self._model.predict(features(architectures, self.space))]
