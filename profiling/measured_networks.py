"""What a latency table knows of the networks it was fitted on, and how wrong its kinds of formula are about others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from autoformer.architecture import Architecture
from autoformer.profiling.latency_models import Fit
from autoformer.profiling.rank_agreement import NEAR, rank_agreement


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
    def left_out_error(self) -> float:
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
class LeftOutErrors:
    """How wrong one kind of model is about networks it has not seen, relative."""

    mape: float  # mean absolute error
    worst: float
    tau: float | None = None  # Kendall's, over all pairs of networks
    tau_near: float | None = None  # among pairs measured within 5 % of each other; None where there are none

    @classmethod
    def of(cls, fit: Fit) -> LeftOutErrors:
        """Those of one fit."""
        errors, times, left_out = fit.left_out_errors, fit.times.tolist(), fit.left_out.tolist()
        return cls(
            mape=float(errors.mean()),
            worst=float(errors.max()),
            tau=rank_agreement(times, left_out).tau,
            tau_near=rank_agreement(times, left_out, within=NEAR).tau,
        )
