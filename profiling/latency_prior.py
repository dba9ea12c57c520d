"""What is known of latencies before anything is measured: what may differ from device to device, and about by how much.

The price of each load (`latency_loads.py`), and how well each width, depth and image size runs (`shape_factors.py`). So the
latencies of networks that are alike go together, and it can be said beforehand which networks tell of which others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoformer.architecture import Architecture
from autoformer.profiling.latency_loads import PRICES, Numbers, features, shape_of
from autoformer.profiling.shape_factors import NOISE, covariance
from autoformer.space import SearchSpace

PRICE_SPREAD = 0.3  # of the price of each load, relative to the mean of all


def prior_covariance(networks: Sequence[Architecture], space: SearchSpace) -> Numbers:
    """Of the logarithms of the latencies of networks, [networks, networks]."""
    every = features(tuple(PRICES), networks, space)
    shares = every / every.mean(axis=0)
    shares /= shares.mean(axis=1, keepdims=True)
    shapes = [shape_of(network, space) for network in networks]
    found: Numbers = PRICE_SPREAD**2 * shares @ shares.T + covariance(shapes, shapes)
    return found


def left_out_variances(networks: Sequence[Architecture], space: SearchSpace) -> Numbers:
    """The variance with which each network is predicted from all others (Rasmussen and Williams 2006, section 5.4.2)."""
    noisy = prior_covariance(networks, space) + NOISE**2 * np.eye(len(networks))
    found: Numbers = 1 / np.diag(np.linalg.inv(noisy))
    return found
