"""Brings a latency table up to date with its machine: a few of its networks measured again, and one factor for all.

A machine is some per cent faster or slower from one hour to the next (frequency, neighbours, temperature), all networks
alike; what a table says about them relative to each other stays. So the networks of the table that lie nearest to the limit
are measured once more just before a choice, and every prediction is multiplied by the median of now to then.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from autoformer.architecture import Architecture
from autoformer.profiling.latency_table import Calibration, LatencyTable
from autoformer.profiling.statistics import VALID

if TYPE_CHECKING:
    from autoformer.profiling.latency_answer import Timing

ANCHORS = 3  # networks that are measured again

Measurer = Callable[[Sequence[Architecture]], Mapping[Architecture, "Timing"]]


def anchors_of(table: LatencyTable, near_ms: float | None = None, count: int = ANCHORS) -> list[Architecture]:
    """The `count` networks of the table that were measured nearest to `near_ms`; None: spread evenly over the range."""
    networks = sorted(table.networks, key=lambda network: network.measured_ms)
    if near_ms is not None:
        then_ms = near_ms / table.factor
        networks = sorted(networks, key=lambda network: abs(math.log(network.measured_ms / then_ms)))[:count]
    elif count < len(networks):
        networks = [networks[round((index + 0.5) * len(networks) / count - 0.5)] for index in range(count)]
    return [network.architecture for network in networks]


def calibrated(table: LatencyTable, measurer: Measurer, *, near_ms: float | None = None, count: int = ANCHORS) -> LatencyTable:
    """The table with the factor that `measurer` finds on this machine now; as it was where no measurement is VALID.

    The factor replaces an earlier one. Raises what `measurer` raises.
    """
    wanted = anchors_of(table, near_ms, count)
    then = {network.architecture: network.measured_ms for network in table.networks}
    steady = {network: timing for network, timing in measurer(wanted).items() if timing.verdict.level == VALID}
    if not steady:
        return table
    ratios = [timing.measured_ms / then[network] for network, timing in steady.items()]
    calibration = Calibration(
        factor=statistics.median(ratios), ratios=tuple(ratios), created=datetime.now(UTC).isoformat(timespec="seconds")
    )
    return replace(table, calibration=calibration)
