"""The machine speed factor: how much longer than in its latency table networks take now, all of them alike.

A machine is some per cent faster or slower from one half minute to the next (frequency, neighbours, temperature); what a table
says about networks relative to each other stays. A limit in milliseconds means them as the table does. So a few networks of the
table, the anchors, are measured in the same rounds, and every time is divided by the median of theirs now to then. A machine that
differs by more than `REACH` is not drifting but another one (its power mode was changed, say): its raw times count, and the table
is wrong about it. (A guest on a busy host was seen at 0.80 to 0.96 of its table within ten minutes.)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoformer.architecture import Architecture
from autoformer.profiling.tables.table import ANCHORS, MEDIAN_OF_NORMAL, LatencyTable

REACH = 0.30  # of the factor either way, relative


@dataclass(frozen=True)
class SpeedFactor:
    """How much longer than in the table its networks take now."""

    factor: float = 1.0
    error: float = 0.0  # standard error of the factor, relative, from how the networks differ in it


def anchors_of(
    table: LatencyTable, near_ms: float, without: Sequence[Architecture] = (), count: int = ANCHORS
) -> list[Architecture]:
    """The `count` networks of the table that were measured nearest to `near_ms`, apart from those in `without`."""
    networks = [network for network in table.networks if network.architecture not in without]
    networks.sort(key=lambda network: abs(math.log(network.measured_ms / near_ms)))
    return [network.architecture for network in networks[:count]]


def speed_factor_of(table: LatencyTable, now_ms: Mapping[Architecture, float]) -> SpeedFactor:
    """The factor of the networks whose times are given; 1 beyond `REACH`, and where there are none."""
    then = {network.architecture: network.measured_ms for network in table.networks}
    ratios = [time_ms / then[network] for network, time_ms in now_ms.items()]
    factor = statistics.median(ratios) if ratios else 1.0
    if abs(math.log(factor)) > math.log(1 + REACH):
        return SpeedFactor()
    spread = statistics.stdev(ratios) if len(ratios) > 1 else 0.0
    return SpeedFactor(factor, MEDIAN_OF_NORMAL * spread / factor / math.sqrt(max(1, len(ratios))))
