"""Measures a latency table: chooses the networks, exports each once, times all of them interleaved, fits.

Weights are fresh, because latency does not depend on their values. Graphs that are already in the folder are used again,
so an interrupted measurement goes on where its exports stopped; the timing itself is always made in one piece, all networks
in every round, each opened eight times (`instances.py`), and what befell all of them alike is taken out of it (`drift.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoformer.architecture import Architecture
from autoformer.errors import MeasurementError
from autoformer.files import believing, json_digest
from autoformer.profiling.backends.of_spaces import BACKENDS, INSTANCES, Exporter, opened_networks
from autoformer.profiling.measuring.backend import LatencyBackend
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.drift import ROUNDS, measure_together
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement
from autoformer.profiling.measuring.order_statistics import interval_of
from autoformer.profiling.tables.design import designed_architectures, extended_design
from autoformer.profiling.tables.table import LatencyTable
from autoformer.progress import Progress
from autoformer.space import SearchSpace


@dataclass(frozen=True)
class PassFile:
    """The passes of what `asked` describes, among those of other questions in the same file."""

    path: Path
    asked: Any  # JSON: networks, backend, batch, threads, how long, on which device

    def read(self) -> list[dict[str, Measurement]]:
        """The finished passes, first to last. Raises `CheckpointError` naming a line that is damaged."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        found = []
        for number, line in enumerate(whole.splitlines(), 1):
            with believing(f"line {number} of {self.path}", "move the file away to measure from the beginning"):
                row = json.loads(line)
                if row["asked"] == json_digest(self.asked):
                    found.append({name: Measurement.from_dict(one).with_samples() for name, one in row["taken"].items()})
        return found

    def append(self, taken: Mapping[str, Measurement]) -> None:
        """Adds a pass; it is on disk when this returns."""
        row = {"asked": json_digest(self.asked), "taken": {name: one.to_dict() for name, one in taken.items()}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


SAME_DEVICE = ("cpu", "cores", "gpus", "versions")  # what must be as it was for an interrupted measurement to go on


def check_backend(backend: str, precision: str) -> None:
    """Raises `MeasurementError` for an unknown backend, or a precision that only a kit measures."""
    if backend not in BACKENDS:
        raise MeasurementError(f"no table for backend {backend!r}; known are {', '.join(BACKENDS)}")
    if precision != "fp32":
        raise MeasurementError(
            f"tables are measured here in fp32, asked for {precision!r}; others come from a kit (`profile kit`), here too"
        )


def measure_table(
    space: SearchSpace,
    *,
    backend: str = "onnxruntime-cpu",
    count: int | None = 8,
    batch: int = 1,
    precision: str = "fp32",
    statistic: str = "p50",
    threads: int | None = None,
    config: MeasureConfig = MeasureConfig(rounds=ROUNDS),
    seed: int = 0,
    attempts: int = 3,
    folder: Path | None = None,
    exporter: Exporter | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measures `count` networks of `space` on this machine and fits a table; None: as many as it needs (`table_growth.py`).

    Minutes: each export takes 2 to 20 s. `folder` keeps exported graphs and finished measurements, so that an interrupted
    table goes on where it was, on the same machine; None puts the graphs into a temporary one. `exporter` replaces the
    export to ONNX. `threads` None means the cores this process may use. While the measurement of a network is not VALID, or
    latency does not grow with FLOPs, all are measured for as long again and count together, `attempts` times at most.
    torch's random state is left as it was.

    Raises `MeasurementError` for an unknown backend, one that is absent here, a precision other than fp32, or as
    `LatencyTable.fit` does.
    """
    check_backend(backend, precision)

    def measured(architectures: Sequence[Architecture]) -> LatencyTable:
        passes = None
        if folder is not None:
            networks = [architecture.to_dict() for architecture in architectures]
            device = {key: value for key, value in DeviceFacts.collect().to_dict().items() if key in SAME_DEVICE}
            asked = [space.to_dict(), networks, backend, batch, threads, asdict(config), seed, INSTANCES, device]
            passes = PassFile(folder / "passes.jsonl", asked)
        with opened_networks(
            space, architectures, backend, batch, threads, instances=INSTANCES, folder=folder, seed=seed, exporter=exporter,
            progress=progress,
        ) as opened:  # fmt: skip
            return _fitted_while_measuring(space, opened, statistic, config, attempts, passes, progress)

    if count is None:
        return grown_table(space, measured, seed)
    return replace(measured(designed_architectures(space, count, seed)), stopped=f"{count} networks were asked for")


def _fitted_while_measuring(
    space: SearchSpace,
    opened: Mapping[Architecture, Sequence[LatencyBackend]],
    statistic: str,
    config: MeasureConfig,
    attempts: int,
    passes: PassFile | None,
    progress: Progress | None,
) -> LatencyTable:
    """Measures until the fit can be trusted, `attempts` times at most; the best fit there was."""
    table: LatencyTable | None = None
    backends = {str(architecture): instances for architecture, instances in opened.items()}
    earlier = () if passes is None else passes.read()
    keep = None if passes is None else passes.append
    steps = measure_together(backends, config, attempts, progress, earlier=earlier, keep=keep)
    for attempt, steady in enumerate(steps, 1):
        of = list(steady.values())
        try:
            table = LatencyTable.fit(
                space,
                of[0].measurement_conditions(statistic),
                [(architecture, one.stats.value(statistic)) for architecture, one in zip(opened, of, strict=True)],
                device=of[0].device,
                verdicts=[one.verdict.level for one in of],
                intervals=[interval_of(one.samples_ms, statistic) for one in of],
                instances=[one.instances_ms for one in of],
            )
        except MeasurementError:
            if table is None and attempt == attempts:
                raise
        if table is not None and not table.doubtful:
            break
    assert table is not None, "an attempt that gave no table was the last and has raised"
    return table


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
        if table.cross_validation_mape < SMALL:
            return replace(table, stopped=f"the left-out error is below {100 * SMALL:g} % ({', '.join(steps)})")
        if len(architectures) >= MOST:
            return replace(table, stopped=f"{MOST} networks are the most ({', '.join(steps)})")
        wider = extended_design(space, architectures, min(STEP, MOST - len(architectures)), seed)
        if len(wider) == len(architectures):
            return replace(table, stopped=f"the space has no more networks ({', '.join(steps)})")
        before, architectures = table.cross_validation_mape, wider
        table = measured(architectures)
        steps.append(_words(table))
        if table.cross_validation_mape >= SMALL and table.cross_validation_mape > (1 - FALLING) * before:
            return replace(table, stopped=f"the left-out error fell no more by a tenth ({', '.join(steps)})")


def _words(table: LatencyTable) -> str:
    return f"{len(table.networks)} networks {100 * table.cross_validation_mape:.2f} %"
