"""`LatencyTable`: what one device says about a whole search space, from one to three dozen measured networks.

A candidate of a search cannot be exported and measured (that takes seconds); its latency is predicted. Networks that cover the
range of FLOPs and every choice are measured as a whole, and formulas of a few coefficients are fitted (`formulas.py`) by least
squares of the relative error. Every network is also predicted by a fit that has not seen it. The kind with the smaller errors in
this cross-validation is kept (the plainer one where noise could make the difference); the errors say how far to trust the table
and by how much a limit should be undercut (`margin`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import LinearCost, Outline, Terms, count_flops
from autoformer.errors import ArchitectureError, MeasurementError, short
from autoformer.files import believing, read_document, write_json
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.verdict import VALID
from autoformer.profiling.tables.errors import NEAR, CrossValidationErrors, RankAgreement, rank_agreement, standard_error
from autoformer.profiling.tables.formulas import KINDS, SHAPED, fits_of, in_words, kept_of, kinds_of
from autoformer.profiling.tables.loads import PRICES, UNITS, load, loads_of, terms_of, weighted_sum
from autoformer.profiling.tables.prior import ShapeFactors, shape_of_outline
from autoformer.records import fields_to_json, from_json, stored_as, to_json
from autoformer.space import SearchSpace

FORMAT = "autoformer/latency-table/3"
OLDER = (
    "autoformer/latency-table/1",  # without intervals, instances, orders and why it has so many networks
    "autoformer/latency-table/2",  # without shape factors
)
DERIVED = ("left_out", "rebuilding")  # stand in the file for readers
MIN_NETWORKS = 4  # two coefficients, one network left out, one to spare
REACH = 0.05  # FLOPs may lie this far outside the measured range, relative
ANCHORS = 6  # networks of the table that run beside others, for the machine speed factor (`speed_factor.py`)
MEDIAN_OF_NORMAL = math.sqrt(math.pi / 2)  # a median's standard error over a mean's, of many normal values


@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork:
    """One network the table was fitted on. Raises `ValueError` for times that are not positive."""

    architecture: Architecture
    flops: int  # multiply-adds of one image, canonical form
    measured_ms: float
    predicted_ms: float  # by the table
    left_out_ms: float  # predicted by the fit on all the others
    verdict: str = VALID  # of its measurement
    low_ms: float | None = None  # 95 % interval of the measured time; None where the runs give none
    high_ms: float | None = None
    instances_ms: tuple[float, ...] = ()  # of each session or build that was measured apart, where there were several

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.low_ms, self.high_ms) if bound is not None]
        times = (self.measured_ms, self.predicted_ms, self.left_out_ms, *bounds, *self.instances_ms)
        if not all(0 < time < math.inf for time in times):
            raise ValueError(f"{self.architecture.slug} with times of {min(times)} to {max(times)} ms; expected positive ones")

    @property
    def cross_validation_error(self) -> float:
        """Prediction against measurement, relative; negative where the prediction was too low."""
        return self.left_out_ms / self.measured_ms - 1


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """A fitted model of latency for one space, with what its milliseconds mean and how wrong it may be.

    Raises `ValueError` for what no fit gives.
    """

    space: SearchSpace
    measurement_conditions: MeasurementConditions = field(metadata=stored_as("qualification"))
    kind: str  # of formula, one of `KINDS`
    coefficients: Mapping[str, float]  # constant_ms, ms_per_gflop, ...
    networks: tuple[MeasuredNetwork, ...]
    device: DeviceFacts
    created: str  # ISO 8601, UTC
    compared: Mapping[str, CrossValidationErrors] = field(default_factory=dict)  # by kind, of all that were fitted
    stopped: str = ""  # why no more networks were measured
    shapes: ShapeFactors | None = None  # on top of the formula, for kinds that have it
    ends_by_fit: bool = False  # how the ends of the space count in the margin; tables of earlier versions keep theirs

    def __post_init__(self) -> None:
        if self.kind not in (known := kinds_of(self.space)):
            raise ValueError(f"kind of model is {short(self.kind, 40)!r}, known are {', '.join(known)}")
        if missing := [PRICES[load][0] for load in KINDS[self.kind] if PRICES[load][0] not in self.coefficients]:
            raise ValueError(f"{missing[0]!r} is missing")
        if (self.shapes is None) == self.kind.endswith(SHAPED):
            raise ValueError(f"{self.kind} {'with' if self.shapes else 'without'} shape factors")
        prices = [price for name, price in self.coefficients.items() if name != PRICES["constant"][0]]
        if not (all(0 <= price < math.inf for price in prices) and any(prices)):
            raise ValueError(f"latency that does not grow: {self.model}")
        if len(self.networks) < MIN_NETWORKS:
            raise ValueError(f"{len(self.networks)} networks, expected {MIN_NETWORKS} or more")
        if odd := [network.architecture.slug for network in self.networks if not self.space.contains(network.architecture)]:
            raise ValueError(f"{odd[0]} is not in space {self.space.name!r}")

    # --- making --------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        measurement_conditions: MeasurementConditions,
        measured: Sequence[tuple[Architecture, float]],
        *,
        device: DeviceFacts,
        verdicts: Sequence[str] | None = None,
        intervals: Sequence[tuple[float, float] | None] | None = None,
        instances: Sequence[Sequence[float]] | None = None,
        stopped: str = "",
    ) -> LatencyTable:
        """Fits the pairs of architecture and milliseconds in `measured`.

        `verdicts` are those of the measurements, `intervals` their 95 % intervals and `instances` the times of sessions or builds
        that were measured apart, of each network in this order. Kinds with more coefficients need more networks, and are kept
        where their cross-validation errors are smaller.

        Raises `MeasurementError` when fewer than four different networks are given, when their FLOPs are all alike, or when
        latency does not grow with FLOPs, and `ArchitectureError` for a network outside `space`.
        """
        if len({architecture for architecture, _ in measured}) < max(MIN_NETWORKS, len(measured)):
            raise MeasurementError(f"a latency table needs at least {MIN_NETWORKS} networks, each once; got {len(measured)}")
        for architecture, _ in measured:
            space.check(architecture)
        architectures = [architecture for architecture, _ in measured]
        flops = [count_flops(architecture, space) for architecture in architectures]
        times = np.array([time_ms for _, time_ms in measured], dtype=np.float64)
        if not (np.isfinite(times).all() and (times > 0).all()):
            raise MeasurementError(f"latencies must be positive, got {times.min()} ms")
        fits = fits_of(architectures, space, times)
        if not fits:
            raise MeasurementError("the measured networks have the same FLOPs; a table needs networks of different size")
        kept = kept_of(fits)
        if not kept.grows:
            raise MeasurementError(
                f"latency does not grow with FLOPs in space {space.name!r} ({times.min():.3g} to {times.max():.3g} ms, fitted "
                f"{in_words(kept.kind, kept.coefficients)}); measure again on a quiet machine, or longer"
            )
        return cls(
            space=space,
            measurement_conditions=measurement_conditions,
            kind=kept.kind,
            coefficients=kept.coefficients,
            networks=tuple(
                MeasuredNetwork(
                    architecture=architecture,
                    flops=flops[index],
                    measured_ms=float(times[index]),
                    predicted_ms=float(kept.predicted[index]),
                    left_out_ms=float(kept.left_out[index]),
                    verdict=verdicts[index] if verdicts else VALID,
                    low_ms=interval[0] if interval else None,
                    high_ms=interval[1] if interval else None,
                    instances_ms=tuple(instances[index]) if instances else (),
                )
                for index, (architecture, interval) in enumerate(
                    zip(architectures, intervals or [None] * len(flops), strict=True)
                )
            ),
            device=device,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            compared={name: CrossValidationErrors.of(fit) for name, fit in fits.items()},
            stopped=stopped,
            shapes=kept.shapes,
            ends_by_fit=True,
        )

    # --- using ---------------------------------------------------------------------------------------------------

    def predict(self, architecture: Architecture) -> float:
        """Milliseconds, as the measurement conditions say. Microseconds of work.

        Raises `MeasurementError` for an architecture outside the space, or with FLOPs beyond the measured range.
        """
        try:
            self.space.check(architecture)
        except ArchitectureError as error:
            raise MeasurementError(f"the latency table cannot predict: {error}") from error
        return self.time_of(architecture, count_flops(architecture, self.space))

    def time_of(self, architecture: Architecture, flops: int) -> float:
        """As `predict`, of an architecture known to be of the space and to have so many FLOPs."""
        low, high = self.flops_range
        if not low * (1 - REACH) <= flops <= high * (1 + REACH):
            raise MeasurementError(
                f"architecture {architecture.slug} has {flops / 1e9:.4g} GFLOPs, the latency table measured {low / 1e9:.4g} to "
                f"{high / 1e9:.4g}; measure a table that includes it"
            )
        if not self.space.is_plain:
            return self.outline_latency(Outline.of(architecture, self.space)).of(architecture)
        size = self.space.image_size_of(architecture)
        return load(self.latency_terms(architecture.embed_dim, architecture.depth, size), architecture)

    def latency_terms(self, embed_dim: int, depth: int, image_size: int) -> Terms:
        """See `LinearLatency`; of a space that asks for nothing."""
        space = self.space
        assert space.is_plain, "width, depth and image size do not tell what this space asks for: outline_latency does"
        return self.outline_latency(Outline(embed_dim, depth, image_size, space.patch_size, space.head_dim, 0, 0)).of_all_blocks(
            depth
        )

    def outline_latency(self, outline: Outline) -> LinearCost:
        """See `OutlineLatency`."""
        if outline not in self._of_outlines:
            self._of_outlines[outline] = self._priced(outline)
        return self._of_outlines[outline]

    def _priced(self, outline: Outline) -> LinearCost:
        loads = loads_of(outline, self.space)
        factor = 1.0 if self.shapes is None else self.shapes(shape_of_outline(outline, self.space))
        prices = {name: self.coefficients[PRICES[name][0]] for name in KINDS[self.kind]}
        if not self.space.is_plain:
            return weighted_sum((factor * price / UNITS[name], loads[name]) for name, price in prices.items())
        terms = [(price, terms_of(loads[name], outline.depth, UNITS[name])) for name, price in prices.items()]
        base, per_head, per_hidden = (factor * sum(price * own[index] for price, own in terms) for index in range(3))
        return LinearCost(base, {(False, 0): (0.0, per_head, per_hidden)})

    @cached_property
    def _of_outlines(self) -> dict[Outline, LinearCost]:
        return {}

    @cached_property
    def flops_range(self) -> tuple[int, int]:
        """Least and most FLOPs of the measured networks."""
        counts = [network.flops for network in self.networks]
        return min(counts), max(counts)

    @property
    def cross_validation_mape(self) -> float:
        """Mean absolute error on networks that the fit has not seen, relative."""
        return float(np.mean([abs(network.cross_validation_error) for network in self.networks]))

    @property
    def cross_validation_worst(self) -> float:
        """Largest absolute error on a network that the fit has not seen, relative."""
        return max(abs(network.cross_validation_error) for network in self.networks)

    def cross_validation_quantile(self, quantile: float) -> float:
        """The absolute relative error that this share of the networks keeps, each left out of the fit (inverted_cdf)."""
        errors = [abs(network.cross_validation_error) for network in self.networks]
        return float(np.quantile(errors, quantile, method="inverted_cdf"))

    @property
    def rebuilding(self) -> float | None:
        """By how much one session or build of a network differs from the next (standard deviation, relative), pooled over the
        networks that were measured as several; None where none was.
        """
        logs = [np.log(network.instances_ms) for network in self.networks if len(network.instances_ms) > 1]
        free = sum(len(own) - 1 for own in logs)
        return math.sqrt(sum(float(((own - own.mean()) ** 2).sum()) for own in logs) / free) if free else None

    def cross_validation_order(self, within: float | None = None) -> RankAgreement:
        """How well predictions by the other networks order them, over all pairs or those within this share of each other.

        The ceiling counts the intervals of the measurements and, divided among its instances, what rebuilding changes.
        """
        errors = []
        for network in self.networks:
            if network.low_ms is None or network.high_ms is None:
                break
            again = (self.rebuilding or 0.0) / math.sqrt(max(1, len(network.instances_ms)))
            errors.append(math.hypot(standard_error(network.low_ms, network.high_ms), again))
        return rank_agreement(
            [network.measured_ms for network in self.networks],
            [network.left_out_ms for network in self.networks],
            errors if len(errors) == len(self.networks) else None,
            within,
        )

    @cached_property
    def margin(self) -> float:
        """By how much a network may be slower than predicted, relative to the prediction: what 39 in 40 keep.

        The one-sided 97.5 % prediction bound of a further network (Student's t) from the cross-validation errors, when its time
        is divided by a machine speed factor of `ANCHORS` networks; and at least what nine in ten networks keep in the
        cross-validation. With ten networks or fewer that is the worst of them. The smallest and the largest network of the
        space count with the error of the fit itself: as predicted from the others they lie beyond all, as no other network does.
        """
        from scipy.special import stdtrit

        ends = (self.space.smallest, self.space.largest) if self.ends_by_fit else ()
        errors = np.array(
            [
                network.measured_ms / (network.predicted_ms if network.architecture in ends else network.left_out_ms) - 1
                for network in self.networks
            ]
        )
        count = len(errors)
        spread = errors.std(ddof=1) * math.sqrt(1 + 1 / count + MEDIAN_OF_NORMAL**2 / ANCHORS)
        bound = errors.mean() + stdtrit(count - 1, 0.975) * spread
        return max(0.0, float(bound), float(np.quantile(errors, 0.9, method="inverted_cdf")))

    @property
    def doubtful(self) -> tuple[MeasuredNetwork, ...]:
        """The networks whose measurement was not VALID."""
        return tuple(network for network in self.networks if network.verdict != VALID)

    @property
    def model(self) -> str:
        """The fitted formula in words."""
        return in_words(self.kind, self.coefficients, self.shapes)

    def __str__(self) -> str:
        others = [
            f"{kind}: {100 * errors.mape:.2g} %, worst {100 * errors.worst:.2g} %"
            for kind, errors in self.compared.items()
            if kind != self.kind
        ]
        compared = f"; {self.kind} kept over {', '.join(others)}" if others else ""
        near = self.cross_validation_order(NEAR)
        order = f", order of near pairs {near}" if near.pairs else ""
        again = "" if self.rebuilding is None else f", another session changes {100 * self.rebuilding:.2g} %"
        return (
            f"{self.model} ({self.measurement_conditions}; {len(self.networks)} networks, cross-validation error "
            f"{100 * self.cross_validation_mape:.2g} %, worst {100 * self.cross_validation_worst:.2g} %{order}{again}{compared})"
        )

    # --- file ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. What derives from the networks stands there for readers."""
        left_out = {
            "mape": self.cross_validation_mape,
            "worst": self.cross_validation_worst,
            **{f"p{percent}": self.cross_validation_quantile(percent / 100) for percent in (50, 90, 95)},
            "margin": self.margin,
            "order": to_json(self.cross_validation_order()),
            "order_near": to_json(self.cross_validation_order(NEAR)),
            "near": NEAR,
        }
        values = fields_to_json(self)
        if not self.ends_by_fit:  # as it was written
            del values["ends_by_fit"]
        return {"format": FORMAT, **values, "left_out": left_out, "rebuilding": self.rebuilding}

    def save(self, path: Path) -> None:
        """Writes the JSON file, whole or not at all."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Reads a file, of earlier versions too. Raises `CheckpointError` naming it when it is missing, damaged or foreign."""
        values = read_document(path, FORMAT, *OLDER, expected="a table of `profile table --out`")
        with believing(path, "measure the table anew"):
            return from_json(cls, values, beside=("format", *DERIVED))
