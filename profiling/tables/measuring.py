"""Measures a latency table: chooses the networks, exports each once, times all of them interleaved, fits.

Weights are fresh, because latency does not depend on their values. Graphs that are already in the folder are used again,
so an interrupted measurement goes on where its exports stopped; the timing itself is always made in one piece, all networks
in every round, each in eight sessions (`of_spaces.py`), and drift that is common to all is taken out of it (`drift.py`). Where no
number of networks is asked for, more are measured while that lowers the table's cross-validation error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from autoformer.architecture import Architecture
from autoformer.errors import MeasurementError
from autoformer.files import append_line, believing, json_digest, unsealed, whole_lines
from autoformer.profiling.backends.of_spaces import INSTANCES, Exporter, Setup, opened_networks
from autoformer.profiling.measuring.backend import LatencyBackend
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.drift import ROUNDS, measure_together
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement
from autoformer.profiling.measuring.order_statistics import interval_of
from autoformer.profiling.tables.design import designed_architectures, extended_design
from autoformer.profiling.tables.table import LatencyTable
from autoformer.progress import Progress
from autoformer.space import SearchSpace

SAME_DEVICE = ("cpu", "cores", "gpus", "versions")  # what must be as it was for an interrupted measurement to go on
FIRST, STEP, MOST = 12, 12, 36  # networks of a table that grows
SMALL = 0.001  # a mean cross-validation error that is small enough, relative
ATTEMPTS = 3
FALLING = 0.1  # a step must lower the error by this share of it to be followed by another


@dataclass(frozen=True, kw_only=True)
class TableConfig(Setup):
    """What a latency table is measured of, and how."""

    networks: int | None = 8  # None: as many as lower the cross-validation error
    statistic: str = "p50"
    config: MeasureConfig = field(default_factory=lambda: MeasureConfig(rounds=ROUNDS))
    attempts: int = field(default_factory=lambda: ATTEMPTS)  # at VALID measurements; each is as long, and all count together


@dataclass(frozen=True)
class PassFile:
    """The passes of what `asked` describes, among those of other questions in the same file."""

    path: Path
    asked: Any  # JSON: networks, backend, batch, threads, how long, on which device

    def read(self) -> list[dict[str, Measurement]]:
        """The finished passes, first to last. Raises `CheckpointError` naming a line that is damaged."""
        found = []
        for number, line in enumerate(whole_lines(self.path), 1):
            with believing(f"line {number} of {self.path}", "move the file away to measure from the beginning"):
                row = unsealed(json.loads(line), f"line {number}")
                if row["asked"] == json_digest(self.asked):
                    found.append({name: Measurement.from_dict(one).with_samples() for name, one in row["taken"].items()})
        return found

    def append(self, taken: Mapping[str, Measurement]) -> None:
        """Adds a pass; it is on disk when this returns."""
        row = {"asked": json_digest(self.asked), "taken": {name: one.to_dict() for name, one in taken.items()}}
        append_line(row, self.path)


def measure_table(
    space: SearchSpace,
    how: TableConfig = TableConfig(),
    *,
    folder: Path | None = None,
    exporter: Exporter | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measures networks of `space` on this machine and fits a table.

    Minutes: each export takes 2 to 20 s. `folder` keeps exported graphs and finished measurements, so that an interrupted
    table goes on where it was, on the same machine; None puts the graphs into a temporary one. `exporter` replaces the
    export to ONNX. torch's random state is left as it was.

    Raises `MeasurementError` for a backend that is absent here, or as `LatencyTable.fit` does.
    """

    def measured(architectures: Sequence[Architecture]) -> LatencyTable:
        passes = None
        if folder is not None:
            networks = [architecture.to_dict() for architecture in architectures]
            device = {key: value for key, value in DeviceFacts.collect().to_dict().items() if key in SAME_DEVICE}
            asked = [
                space.to_dict(), networks, how.backend, how.batch, how.threads, asdict(how.config), how.seed, INSTANCES, device,
            ]  # fmt: skip
            passes = PassFile(folder / "passes.jsonl", asked)
        with opened_networks(space, architectures, how, folder=folder, exporter=exporter, progress=progress) as opened:
            return _fitted_while_measuring(space, opened, how, passes, progress)

    if how.networks is None:
        return grown_table(space, measured, how.seed)
    wanted = designed_architectures(space, how.networks, how.seed)
    return replace(measured(wanted), stopped=f"{how.networks} networks were asked for")


def _fitted_while_measuring(
    space: SearchSpace,
    opened: Mapping[Architecture, Sequence[LatencyBackend]],
    how: TableConfig,
    passes: PassFile | None,
    progress: Progress | None,
) -> LatencyTable:
    """Measures until every network is VALID and the fit grows with FLOPs, `attempts` times at most; the best fit there was."""
    table: LatencyTable | None = None
    backends = {str(architecture): instances for architecture, instances in opened.items()}
    earlier = () if passes is None else passes.read()
    keep = None if passes is None else passes.append
    steps = measure_together(backends, how.config, how.attempts, progress, earlier=earlier, keep=keep)
    for attempt, steady in enumerate(steps, 1):
        of = list(steady.values())
        try:
            table = LatencyTable.fit(
                space,
                of[0].measurement_conditions(how.statistic),
                [(architecture, one.stats.value(how.statistic)) for architecture, one in zip(opened, of, strict=True)],
                device=of[0].device,
                verdicts=[one.verdict.level for one in of],
                intervals=[interval_of(one.samples_ms, how.statistic) for one in of],
                instances=[one.instances_ms for one in of],
            )
        except MeasurementError:
            if table is None and attempt == how.attempts:
                raise
        if table is not None and not table.doubtful:
            break
    assert table is not None, "an attempt that gave no table was the last and has raised"
    return table


def grown_table(space: SearchSpace, measured: Callable[[Sequence[Architecture]], LatencyTable], seed: int = 0) -> LatencyTable:
    """The table of the last step; `measured` measures and fits the networks it is given. Its `stopped` says how it went.

    Raises `MeasurementError` as `designed_architectures` and `measured` do.
    """
    architectures = designed_architectures(space, min(FIRST, space.size), seed)
    table = measured(architectures)
    steps = [_words(table)]
    while True:
        if table.cross_validation_mape < SMALL:
            return replace(table, stopped=f"the cross-validation error is below {100 * SMALL:g} % ({', '.join(steps)})")
        if len(architectures) >= MOST:
            return replace(table, stopped=f"{MOST} networks are the most ({', '.join(steps)})")
        wider = extended_design(space, architectures, min(STEP, MOST - len(architectures)), seed)
        if len(wider) == len(architectures):
            return replace(table, stopped=f"the space has no more networks ({', '.join(steps)})")
        before, architectures = table.cross_validation_mape, wider
        table = measured(architectures)
        steps.append(_words(table))
        if table.cross_validation_mape >= SMALL and table.cross_validation_mape > (1 - FALLING) * before:
            return replace(table, stopped=f"the cross-validation error fell no more by a tenth ({', '.join(steps)})")


def _words(table: LatencyTable) -> str:
    return f"{len(table.networks)} networks {100 * table.cross_validation_mape:.2f} %"
