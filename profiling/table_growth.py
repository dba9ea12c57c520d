"""How many networks a latency table needs: about a dozen, then more until the left-out error stops falling.

Each step goes on with the design (`network_design.py`) and measures all networks anew in common rounds, so that no step lies
apart from the others in time.
It ends when the mean left-out error is below a tenth of a per cent, when a step lowers it by less than a tenth of it, when
the most networks are reached, or when the space has no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from autoformer.architecture import Architecture
from autoformer.profiling.latency_table import LatencyTable
from autoformer.profiling.network_design import designed_architectures, extended_design
from autoformer.space import SearchSpace

FIRST, STEP, MOST = 12, 12, 36  # networks
SMALL = 0.001  # a mean left-out error that is small enough, relative
FALLING = 0.1  # a step must lower the error by this share of it to be followed by another


def grown_table(
    space: SearchSpace, measured: Callable[[Sequence[Architecture]], LatencyTable], seed: int = 0, first: int = FIRST
) -> LatencyTable:
    """The table of the last step; `measured` measures and fits the networks it is given. Its `stopped` says how it went.

    Raises `MeasurementError` as `designed_architectures` and `measured` do.
    """
    architectures = designed_architectures(space, min(first, space.size), seed)
    table = measured(architectures)
    steps = [_words(table)]
    while True:
        if table.left_out_mape < SMALL:
            return replace(table, stopped=f"the left-out error is below {100 * SMALL:g} % ({', '.join(steps)})")
        if len(architectures) >= MOST:
            return replace(table, stopped=f"{MOST} networks are the most ({', '.join(steps)})")
        wider = extended_design(space, architectures, min(STEP, MOST - len(architectures)), seed)
        if len(wider) == len(architectures):
            return replace(table, stopped=f"the space has no more networks ({', '.join(steps)})")
        before, architectures = table.left_out_mape, wider
        table = measured(architectures)
        steps.append(_words(table))
        if table.left_out_mape >= SMALL and table.left_out_mape > (1 - FALLING) * before:
            return replace(table, stopped=f"the left-out error fell no more by a tenth ({', '.join(steps)})")


def _words(table: LatencyTable) -> str:
    return f"{len(table.networks)} networks {100 * table.left_out_mape:.2f} %"
