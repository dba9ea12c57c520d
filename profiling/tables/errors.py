"""What a latency table knows of the networks it was fitted on, and how wrong its kinds of formula are about others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from statistics import NormalDist
from typing import Any

from autoformer.architecture import Architecture
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
class MeasuredNetwork:
    """One network the table was fitted on."""

    architecture: Architecture
    flops: int  # multiply-adds of one image, canonical form
    measured_ms: float
    predicted_ms: float  # by the table
    left_out_ms: float  # by the fit on all the others
    verdict: str = "VALID"  # of its measurement
    low_ms: float | None = None  # 95 % interval of the measured time; None where the runs give none
    high_ms: float | None = None
    instances_ms: tuple[float, ...] = ()  # of each opening or build that was measured apart, where there were several

    @property
    def times(self) -> tuple[float, ...]:
        """Milliseconds: measured, predicted, predicted without it, and whatever else there is of its interval and instances."""
        bounds = [bound for bound in (self.low_ms, self.high_ms) if bound is not None]
        return (self.measured_ms, self.predicted_ms, self.left_out_ms, *bounds, *self.instances_ms)

    @property
    def cross_validation_error(self) -> float:
        """Prediction against measurement, relative; negative where the prediction was too low."""
        return self.left_out_ms / self.measured_ms - 1

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return {
            **{item.name: getattr(self, item.name) for item in fields(self)},
            "architecture": self.architecture.to_dict(),
            "instances_ms": list(self.instances_ms),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MeasuredNetwork:
        """Reads the JSON form. Raises `KeyError` or `TypeError` where something is missing or unknown."""
        read = {
            "architecture": Architecture.from_dict(values["architecture"]),
            "instances_ms": tuple(values.get("instances_ms", ())),
        }
        return cls(**{**values, **read})


@dataclass(frozen=True, kw_only=True)
class CrossValidationErrors:
    """How wrong one kind of model is about networks it has not seen, relative."""

    mape: float  # mean absolute error
    worst: float
    tau: float | None = None  # Kendall's, over all pairs of networks
    tau_near: float | None = None  # among pairs measured within 5 % of each other; None where there are none

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
