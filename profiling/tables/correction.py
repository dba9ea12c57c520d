"""`CorrectedTable`: a latency table after the finalists of a search were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autoformer.architecture import Architecture
from autoformer.errors import MeasurementError
from autoformer.profiling.measuring.verdict import VALID
from autoformer.profiling.tables.limit import Correction, Timing
from autoformer.profiling.tables.loads import Numbers
from autoformer.profiling.tables.table import LatencyTable


@dataclass(frozen=True, kw_only=True)
class CorrectedTable:
    """A latency table as corrected by measurements, and the margin that its predictions keep from a limit."""

    table: LatencyTable
    factor: float = 1.0
    margin: float
    correction: Correction = "none"

    @classmethod
    def by(cls, table: LatencyTable, timings: Mapping[Architecture, Timing]) -> CorrectedTable:
        """The correction of `table` that predicts each VALID measurement best from the others, or none.

        None where every prediction lies in its measurement's interval, or no correction predicts better than the table does.
        The margin is the largest error upwards that it made in this.
        """
        steady = {network: timing for network, timing in timings.items() if timing.verdict.level == VALID}
        plain = cls(table=table, margin=table.margin)
        if all(_agrees(plain.predict(network), timing) for network, timing in steady.items()):
            return plain
        times = np.array([timing.measured_ms for timing in steady.values()])
        ratios = times / np.array([plain.predict(network) for network in steady])
        factor = float(np.exp(np.log(ratios).mean()))
        if len(steady) == 1:
            return cls(table=table, factor=factor, margin=table.margin, correction="local factor")
        others = (np.log(ratios).sum() - np.log(ratios)) / (len(ratios) - 1)
        left_out: dict[Correction, Numbers] = {
            "none": times / ratios,
            "local factor": times / ratios * np.exp(others),
        }
        refitted: LatencyTable | None = None
        try:
            refitted = _refitted(table, steady)
            found = {network.architecture: network.left_out_ms for network in refitted.networks}
            left_out["refit"] = np.array([found[network] for network in steady])
        except MeasurementError:  # a fit that does not grow with FLOPs corrects nothing
            pass
        best = min(left_out, key=lambda name: float(np.abs(left_out[name] / times - 1).mean()))
        margin = max(0.0, float((times / left_out[best] - 1).max()))
        return cls(
            table=refitted if best == "refit" and refitted is not None else table,
            factor=factor if best == "local factor" else 1.0,
            margin=margin,
            correction=best,
        )

    def predict(self, architecture: Architecture) -> float:
        """Milliseconds, as the table's measurement conditions say. Raises as `LatencyTable.predict` does."""
        return self.factor * self.table.predict(architecture)

    def cautious(self, architecture: Architecture) -> float:
        """The prediction with the margin on top; a network that is at the limit with this is one to choose."""
        return self.predict(architecture) * (1 + self.margin) * (1 - 1e-12)  # the limit less the margin, but for rounding

    def __str__(self) -> str:
        return self.table.model if self.factor == 1 else f"{self.factor:.4g} × ({self.table.model})"


def _agrees(predicted_ms: float, timing: Timing) -> bool:
    return timing.low_ms is not None and timing.high_ms is not None and timing.low_ms <= predicted_ms <= timing.high_ms


def _refitted(table: LatencyTable, timings: Mapping[Architecture, Timing]) -> LatencyTable:
    """The table fitted anew with these networks added; one it has already counts as measured now."""
    known = {network.architecture: (network.measured_ms, network.verdict) for network in table.networks}
    known |= {network: (timing.measured_ms, timing.verdict.level) for network, timing in timings.items()}
    return LatencyTable.fit(
        table.space,
        table.measurement_conditions,
        [(network, time_ms) for network, (time_ms, _) in known.items()],
        device=table.device,
        verdicts=[verdict for _, verdict in known.values()],
    )
