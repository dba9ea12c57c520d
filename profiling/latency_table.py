"""`LatencyTable`: what one device says about a whole search space, from about eight measured networks.

A candidate of a search cannot be exported and measured (that takes seconds); its latency is predicted. Networks that
cover the range of FLOPs and every choice are measured as a whole, and latency is fitted as a constant plus FLOPs times a
slope, by least squares of the relative error. Every network is also predicted by a fit that has not seen it: the
left-out errors say how far to trust the table, and the largest one upwards is the margin a limit should keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from autoformer.architecture import Architecture
from autoformer.checkpoint import read_json, write_json
from autoformer.cost import Budget, Cost, LatencyQualification, count_flops, count_params
from autoformer.errors import ArchitectureError, AutoformerError, CheckpointError, MeasurementError
from autoformer.profiling.device import DeviceFacts
from autoformer.space import SearchSpace

FORMAT = "autoformer/latency-table/1"
KIND = "constant+flops"
MIN_NETWORKS = 4  # two coefficients, one network left out, one to spare
REACH = 0.05  # FLOPs may lie this far outside the measured range, relative


@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork:
    """One network the table was fitted on."""

    architecture: Architecture
    flops: int  # multiply-adds of one image, canonical form
    measured_ms: float
    predicted_ms: float  # by the table
    left_out_ms: float  # by the fit on all the others
    verdict: str = "VALID"  # of its measurement

    @property
    def times(self) -> tuple[float, float, float]:
        """Milliseconds: measured, predicted, and predicted without it."""
        return self.measured_ms, self.predicted_ms, self.left_out_ms

    @property
    def left_out_error(self) -> float:
        """Prediction against measurement, relative; negative where the prediction was too low."""
        return self.left_out_ms / self.measured_ms - 1


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """A fitted model of latency for one space, with what its milliseconds mean and how wrong it may be."""

    space: SearchSpace
    qualification: LatencyQualification
    constant_ms: float
    ms_per_gflop: float
    networks: tuple[MeasuredNetwork, ...]
    device: DeviceFacts
    created: str  # ISO 8601, UTC
    kind: str = KIND

    # --- making --------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        qualification: LatencyQualification,
        measured: Sequence[tuple[Architecture, float]],
        *,
        device: DeviceFacts,
        verdicts: Sequence[str] | None = None,
    ) -> LatencyTable:
        """Fits the pairs of architecture and milliseconds in `measured`; `verdicts` are those of the measurements.

        Raises `MeasurementError` when fewer than four different networks are given, when their FLOPs are all alike, or when
        latency does not grow with FLOPs, and `ArchitectureError` for a network outside `space`.
        """
        if len({architecture for architecture, _ in measured}) < max(MIN_NETWORKS, len(measured)):
            raise MeasurementError(f"a latency table needs at least {MIN_NETWORKS} networks, each once; got {len(measured)}")
        for architecture, _ in measured:
            space.check(architecture)
        flops = np.array([count_flops(architecture, space) for architecture, _ in measured], dtype=np.float64)
        times = np.array([time_ms for _, time_ms in measured], dtype=np.float64)
        if not (np.isfinite(times).all() and (times > 0).all()):
            raise MeasurementError(f"latencies must be positive, got {times.min()} ms")
        constant, slope = _fit(flops, times)
        kept = ~np.eye(len(times), dtype=bool)
        left_out = [_predict(*_fit(flops[rows], times[rows]), flops[index]) for index, rows in enumerate(kept)]
        table = cls(
            space=space,
            qualification=qualification,
            constant_ms=constant,
            ms_per_gflop=slope,
            networks=tuple(
                MeasuredNetwork(
                    architecture=architecture,
                    flops=int(flops[index]),
                    measured_ms=float(times[index]),
                    predicted_ms=_predict(constant, slope, flops[index]),
                    left_out_ms=left_out[index],
                    verdict=verdicts[index] if verdicts else "VALID",
                )
                for index, (architecture, _) in enumerate(measured)
            ),
            device=device,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if slope <= 0 or min(time for network in table.networks for time in network.times) <= 0:
            raise MeasurementError(
                f"latency does not grow with FLOPs in space {space.name!r} ({times.min():.3g} to {times.max():.3g} ms, fitted "
                f"{constant:.3g} ms + {slope:.3g} ms per GFLOP); measure again on a quiet machine, or longer"
            )
        return table

    # --- using ---------------------------------------------------------------------------------------------------

    def predict(self, architecture: Architecture) -> float:
        """Milliseconds, as the qualification says. Microseconds of work.

        Raises `MeasurementError` for an architecture outside the space, or with FLOPs beyond the measured range.
        """
        try:
            self.space.check(architecture)
        except ArchitectureError as error:
            raise MeasurementError(f"the latency table cannot predict: {error}") from error
        flops = count_flops(architecture, self.space)
        low, high = self.flops_range
        if not low * (1 - REACH) <= flops <= high * (1 + REACH):
            raise MeasurementError(
                f"architecture {architecture.slug} has {flops / 1e9:.4g} GFLOPs, the latency table measured {low / 1e9:.4g} to "
                f"{high / 1e9:.4g}; measure a table that includes it"
            )
        return _predict(self.constant_ms, self.ms_per_gflop, flops)

    @property
    def flops_range(self) -> tuple[int, int]:
        """Least and most FLOPs of the measured networks."""
        counts = [network.flops for network in self.networks]
        return min(counts), max(counts)

    @property
    def left_out_mape(self) -> float:
        """Mean absolute error on left-out networks, relative."""
        return float(np.mean([abs(network.left_out_error) for network in self.networks]))

    @property
    def left_out_worst(self) -> float:
        """Largest absolute error on a left-out network, relative."""
        return max(abs(network.left_out_error) for network in self.networks)

    def left_out_quantile(self, quantile: float) -> float:
        """The absolute relative error that this share of the left-out networks keeps (inverted_cdf)."""
        errors = [abs(network.left_out_error) for network in self.networks]
        return float(np.quantile(errors, quantile, method="inverted_cdf"))

    @property
    def margin(self) -> float:
        """By how much a left-out network was slower than predicted at worst, relative to the prediction; 0 if none was.

        A network predicted at `limit / (1 + margin)` or below kept the limit wherever that was tried.
        """
        return max(0.0, *(network.measured_ms / network.left_out_ms - 1 for network in self.networks))

    @property
    def doubtful(self) -> tuple[MeasuredNetwork, ...]:
        """The networks whose measurement was not VALID."""
        return tuple(network for network in self.networks if network.verdict != "VALID")

    def __str__(self) -> str:
        return (
            f"{self.constant_ms:.3g} ms + {self.ms_per_gflop:.3g} ms per GFLOP ({self.qualification}; {len(self.networks)} "
            f"networks, left-out error {100 * self.left_out_mape:.2g} %, worst {100 * self.left_out_worst:.2g} %)"
        )

    # --- file ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back. What derives from the networks stands there for readers."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "space": self.space.to_dict(),
            "qualification": asdict(self.qualification),
            "coefficients": {"constant_ms": self.constant_ms, "ms_per_gflop": self.ms_per_gflop},
            "networks": [
                {**{item.name: getattr(network, item.name) for item in fields(network)}, "architecture": architecture}
                for network in self.networks
                for architecture in (network.architecture.to_dict(),)
            ],
            "left_out": {
                "mape": self.left_out_mape,
                "worst": self.left_out_worst,
                "p50": self.left_out_quantile(0.5),
                "p90": self.left_out_quantile(0.9),
                "margin": self.margin,
            },
            "device": self.device.to_dict(),
            "created": self.created,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyTable:
        """Reads the JSON form. Raises `CheckpointError` when it is of another format or something is missing or impossible."""
        if values.get("format") != FORMAT:
            raise CheckpointError(f"format is {values.get('format')!r}, expected {FORMAT!r}; measure the table anew")
        if values.get("kind") != KIND:
            raise CheckpointError(f"kind of model is {values.get('kind')!r}, known is {KIND!r}; measure the table anew")
        try:
            table = cls(
                space=SearchSpace.from_dict(values["space"]),
                qualification=LatencyQualification(**values["qualification"]),
                constant_ms=float(values["coefficients"]["constant_ms"]),
                ms_per_gflop=float(values["coefficients"]["ms_per_gflop"]),
                networks=tuple(
                    MeasuredNetwork(**{**network, "architecture": Architecture.from_dict(network["architecture"])})
                    for network in values["networks"]
                ),
                device=DeviceFacts.from_dict(values["device"]),
                created=values["created"],
            )
            times = [time for network in table.networks for time in network.times]
            if len(table.networks) < MIN_NETWORKS or not all(math.isfinite(time) and time > 0 for time in times):
                raise ValueError(f"{len(table.networks)} networks, expected {MIN_NETWORKS} or more with positive times")
        except (KeyError, TypeError, ValueError, AttributeError, AutoformerError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise CheckpointError(f"damaged ({what}); measure the table anew") from error
        return table

    def save(self, path: Path) -> None:
        """Writes the JSON file, whole or not at all."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Reads a file. Raises `CheckpointError` naming it when it is missing, damaged or of another format."""
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except CheckpointError as error:
            raise CheckpointError(f"{path} is no latency table that can be used: {error}") from error


@dataclass(frozen=True)
class TableCosts:
    """The cost model with latency: exact params and FLOPs, milliseconds as the table predicts them (without its margin).

    Raises `MeasurementError` when `table` was measured for another space.
    """

    space: SearchSpace
    table: LatencyTable

    def __post_init__(self) -> None:
        if self.space != self.table.space:
            other = [
                item.name
                for item in fields(SearchSpace)
                if getattr(self.space, item.name) != getattr(self.table.space, item.name)
            ]
            name = other[0]
            raise MeasurementError(
                f"the latency table was measured for another space: {name} is {getattr(self.table.space, name)} there and "
                f"{getattr(self.space, name)} here; measure one for this space"
            )

    @property
    def qualification(self) -> LatencyQualification:
        """What the milliseconds mean."""
        return self.table.qualification

    def __call__(self, architecture: Architecture) -> Cost:
        return Cost(
            params=count_params(architecture, self.space),
            flops=count_flops(architecture, self.space),
            latency_ms=self.table.predict(architecture),
        )


def within_margin(budget: Budget, table: LatencyTable | None) -> Budget:
    """The budget to search with so that the stated one is kept as measured: the latency limit less the table's margin."""
    if table is None or budget.max_latency_ms is None:
        return budget
    return replace(budget, max_latency_ms=budget.max_latency_ms / (1 + table.margin))


def _fit(flops: np.ndarray[Any, np.dtype[np.float64]], times: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Constant in ms and ms per GFLOP with the least squared relative error."""
    rows = np.stack([1 / times, flops / 1e9 / times], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(rows, np.ones(len(times)), rcond=None)
    if rank < 2:
        raise MeasurementError("the measured networks have the same FLOPs; a table needs networks of different size")
    return float(solution[0]), float(solution[1])


def _predict(constant_ms: float, ms_per_gflop: float, flops: float) -> float:
    return float(constant_ms + ms_per_gflop * flops / 1e9)
