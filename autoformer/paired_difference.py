"""By how much two networks' scores on the same images differ, with a 95 % interval.

Image by image, since two networks are mostly right and wrong about the same images: the interval is far narrower than those of
the two scores suggest. For top-1, with n images of which the first network alone has b right and the second alone c, the
difference is (c - b) / n and its interval Newcombe's (Statistics in Medicine 1998, method 10): Wilson's intervals of both shares
put together with their correlation, sound also where nothing differs. For the means over classes it is 1.96 standard errors
to first order, with the images of each class fixed; where not one answer differs, these networks cannot tell how wide it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.evaluate import Z95, ClassTable, Metric, Pairs, score, tied, wilson


@dataclass(frozen=True)
class Difference:
    """The second network's score less the first's, in shares of 1."""

    value: float
    low: float | None  # None: the images do not tell
    high: float | None
    tied: bool  # not told apart by the paired test of `tied`

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{100 * self.value:+.2f}"
        return f"{100 * self.value:+.2f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def paired_difference(
    first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.int64], metric: Metric = "top1"
) -> Difference:
    """Compares guesses [n] of the same images of the classes `labels` [n]."""
    same = tied(first, second, labels, metric)
    if metric == "top1":
        found, low, high = newcombe(first == labels, second == labels)
        return Difference(found, low, high, same)
    value = score(second, labels, metric).value - score(first, labels, metric).value
    pairs = Pairs.of(ClassTable.of(first, labels), ClassTable.of(second, labels))
    _, variance = pairs.moments(np.zeros((1, len(pairs.sizes)), np.int64), metric)
    spread = Z95 * sqrt(max(0.0, float(variance[0]))) / len(pairs.first.images)
    return Difference(value, value - spread if spread else None, value + spread if spread else None, same)


def newcombe(right: NDArray[np.bool_], also: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The second share less the first, and its 95 % interval, from what was right [n] in either."""
    n = len(right)
    both, neither = int((right & also).sum()), int((~right & ~also).sum())
    lost, gained = int((right & ~also).sum()), int((~right & also).sum())
    p, q = (both + gained) / n, (both + lost) / n  # of the second, of the first
    (p_low, p_high), (q_low, q_high) = wilson(p, n), wilson(q, n)
    product = (both + gained) * (neither + lost) * (both + lost) * (neither + gained)
    # The correlation of the two, drawn towards 0 where it is positive, as Newcombe has it.
    excess = both * neither - gained * lost
    phi = 0.0 if not product else (max(excess - n / 2, 0.0) if excess > 0 else float(excess)) / sqrt(product)
    below = (p - p_low) ** 2 - 2 * phi * (p - p_low) * (q_high - q) + (q_high - q) ** 2
    above = (p_high - p) ** 2 - 2 * phi * (p_high - p) * (q - q_low) + (q - q_low) ** 2
    value = p - q
    return value, value - sqrt(max(0.0, below)), value + sqrt(max(0.0, above))
