"""How wrong predictions are about networks they have not seen: relative errors, and how well they order the networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

from autoformer.profiling.tables.formulas import Fit

NEAR = 0.05  # pairs whose times differ by no more than this, relative to the shorter
NORMAL = NormalDist()
WIDTH = 2 * NORMAL.inv_cdf(0.975)  # of a 95 % interval in standard errors


@dataclass(frozen=True, kw_only=True)
class RankAgreement:
    """Kendall's tau of predictions over some pairs of networks; None where there are no pairs, or no intervals for a ceiling."""

    pairs: int
    tau: float | None  # concordant less discordant pairs, over all; a tie among the predictions counts neither way
    ceiling: float | None  # expected of a model without any error

    def __str__(self) -> str:
        if self.tau is None:
            return "no such pairs"
        most = "" if self.ceiling is None else f" of {self.ceiling:.2f} that noise leaves"
        return f"{self.tau:.2f}{most} ({self.pairs} pairs)"


def rank_agreement(
    measured_ms: Sequence[float],
    predicted_ms: Sequence[float],
    errors: Sequence[float] | None = None,
    within: float | None = None,
) -> RankAgreement:
    """The agreement over all pairs, or over those within the share `within` of each other.

    `errors` are the relative standard errors of the measurements (`standard_error`); None gives no ceiling.
    """
    pairs = [
        (first, second)
        for first, second in combinations(range(len(measured_ms)), 2)
        if within is None or _apart(measured_ms[first], measured_ms[second]) <= math.log1p(within) + 1e-12
    ]
    if not pairs:
        return RankAgreement(pairs=0, tau=None, ceiling=None)
    signs = [
        _sign(measured_ms[first] - measured_ms[second]) * _sign(predicted_ms[first] - predicted_ms[second])
        for first, second in pairs
    ]
    ceiling = None
    if errors is not None:
        ceiling = math.fsum(
            _certainty(_apart(measured_ms[first], measured_ms[second]), math.hypot(errors[first], errors[second]))
            for first, second in pairs
        ) / len(pairs)
    return RankAgreement(pairs=len(pairs), tau=sum(signs) / len(pairs), ceiling=ceiling)


def standard_error(low_ms: float, high_ms: float) -> float:
    """The relative standard error of a time from its 95 % interval."""
    return math.log(high_ms / low_ms) / WIDTH


def _apart(first: float, second: float) -> float:
    return abs(math.log(first / second))


def _certainty(apart: float, error: float) -> float:
    """2 Φ(apart / error) − 1."""
    if error == 0:
        return float(apart > 0)
    return 2 * NORMAL.cdf(apart / error) - 1


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


@dataclass(frozen=True, kw_only=True)
class CrossValidationErrors:
    """How wrong one kind of formula is about networks it has not seen, relative. Raises `ValueError` for negative errors."""

    mape: float  # mean absolute error
    worst: float
    tau: float | None = None  # Kendall's, over all pairs of networks
    tau_near: float | None = None  # among pairs measured within 5 % of each other; None where there are none

    def __post_init__(self) -> None:
        if not all(0 <= error < math.inf for error in (self.mape, self.worst)):
            raise ValueError(f"cross-validation errors {self.mape} and {self.worst}")

    @classmethod
    def of(cls, fit: Fit) -> CrossValidationErrors:
        """Those of one fit."""
        errors, times, left_out = fit.cross_validation_errors, fit.times.tolist(), fit.left_out.tolist()
        return cls(
            mape=float(errors.mean()),
            worst=float(errors.max()),
            tau=rank_agreement(times, left_out).tau,
            tau_near=rank_agreement(times, left_out, within=NEAR).tau,
        )
