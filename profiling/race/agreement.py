"""Whether scores with inherited weights order networks as their scores after training do: Kendall's tau with its interval.

The networks are those that were raced; the interval is about the images: they are drawn anew with replacement, the same ones for
all networks and both scores (bootstrap, percentiles).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoformer.metric import Metric, kendall_tau, score

LEAST = 3  # networks; of two the order is one coin
DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Kendall's tau between two scores of the same networks, from −1 to 1, with its 95 % interval."""

    tau: float
    low: float
    high: float
    networks: int

    def __post_init__(self) -> None:
        if not -1 <= self.low <= self.tau <= self.high <= 1 or self.networks < LEAST:
            raise ValueError(f"tau {self.tau} from {self.low} to {self.high} of {self.networks} networks")

    def __str__(self) -> str:
        return f"{self.tau:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    @classmethod
    def of(
        cls,
        before: Sequence[NDArray[np.int64]],
        after: Sequence[NDArray[np.int64]],
        labels: NDArray[np.int64],
        metric: Metric = "top1",
    ) -> Agreement | None:
        """From the predictions [n] of each network before and after; None of fewer than three networks."""
        if len(before) < LEAST:
            return None

        def tau(images: NDArray[np.int64]) -> float:
            scores = [[score(one[images], labels[images], metric).value for one in found] for found in (before, after)]
            return kendall_tau(*scores)

        every, rng = np.arange(len(labels)), np.random.default_rng(0)
        drawn = [tau(rng.choice(every, len(every))) for _ in range(DRAWS)]
        found = tau(every)
        low, high = np.quantile(drawn, (0.025, 0.975))
        return cls(tau=found, low=min(found, float(low)), high=max(found, float(high)), networks=len(before))
