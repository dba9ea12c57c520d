"""Measurements at the pace of a latency table: its own networks run beside the others, and what befell all of them is taken out.

A machine is some per cent faster or slower from one half minute to the next (frequency, neighbours, temperature), all networks
alike; what a table says about them relative to each other stays. A limit in milliseconds means them as the table does. So a few
networks of the table, the anchors, are measured in the same rounds, and every time is divided by the median of theirs now to
then. A machine that differs by more than `REACH` is not drifting but another one (its power mode was changed, say): its raw
times count, and the table is wrong about it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from autoformer.architecture import Architecture
from autoformer.profiling.latency_table import LatencyTable

ANCHORS = 6  # networks of the table that run beside the others
REACH = 0.15  # of the pace either way, relative


def anchors_of(
    table: LatencyTable, near_ms: float, without: Sequence[Architecture] = (), count: int = ANCHORS
) -> list[Architecture]:
    """The `count` networks of the table that were measured nearest to `near_ms`, those in `without` left out."""
    networks = [network for network in table.networks if network.architecture not in without]
    networks.sort(key=lambda network: abs(math.log(network.measured_ms / near_ms)))
    return [network.architecture for network in networks[:count]]


def pace_of(table: LatencyTable, now_ms: Mapping[Architecture, float]) -> float:
    """How much longer than in the table its networks take now, as a factor; 1 beyond `REACH`, and where there are none."""
    then = {network.architecture: network.measured_ms for network in table.networks}
    ratios = [time_ms / then[network] for network, time_ms in now_ms.items()]
    pace = statistics.median(ratios) if ratios else 1.0
    return pace if abs(math.log(pace)) <= math.log(1 + REACH) else 1.0
