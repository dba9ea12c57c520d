"""Latency tables of micro spaces, fitted to known latencies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autoformer.conditions import MeasurementConditions
from autoformer.cost import count_flops
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace
from tests.support.measurements import FACTS
from tests.support.small_spaces import designed

MICRO = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
WIDE = replace(MICRO, embed_dims=(32, 256), depths=(2, 10))  # FLOPs 1 to 200: no noise turns the order of its ends round
MEANING = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="torch-cpu", device="Test CPU")


def fitted(
    latency_ms: Callable[[int, int], float],
    space: SearchSpace = MICRO,
    count: int = 8,
    conditions: MeasurementConditions = MEANING,
) -> LatencyTable:
    """A table on `latency_ms(index, flops)` of the designed networks."""
    architectures = designed(space, count)
    measured = [(a, latency_ms(index, count_flops(a, space))) for index, a in enumerate(architectures)]
    return LatencyTable.fit(space, conditions, measured, device=FACTS)
