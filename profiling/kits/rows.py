"""The rows of a kit's measurement: one for each build and each finished visit, on disk before the next begins.

A line that was being written when the device went down is dropped. Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autoformer.errors import MeasurementError, short
from autoformer.files import append_line, believing, unsealed, whole_lines
from autoformer.profiling.measuring.machine_state import MachineState
from autoformer.profiling.measuring.measure import KINDS_OF_SAMPLES, Measurement
from autoformer.records import from_json, to_json

FORMAT = "autoformer/kit-rows/1"


@dataclass(frozen=True, order=True)
class Setting:
    """What is the same for all networks of one table."""

    precision: str
    batch: int

    def __str__(self) -> str:
        return f"{self.precision}, batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a row is of: one build of one network under one setting."""

    precision: str
    batch: int
    network: str
    build: int

    @property
    def setting(self) -> Setting:
        """Whose table it is for."""
        return Setting(self.precision, self.batch)


@dataclass(frozen=True, kw_only=True)
class Build(Row):
    """An engine that was built before the visits."""

    row: Literal["build"] = "build"
    seconds: float | None = None
    sha256: str | None = None
    gpu: str | None = None  # as the runtime names it


@dataclass(frozen=True, kw_only=True)
class Visit(Row):
    """One visit, compact: microseconds with two digits. Raises `ValueError` without times, or for impossible ones."""

    row: Literal["visit"] = "visit"
    round: int
    threads: int | None
    settings: Mapping[str, str]
    warmup_runs: int
    settled: bool
    conditions: MachineState | None
    samples_us: tuple[float, ...]
    cpu_samples_us: tuple[float, ...]
    device_samples_us: tuple[float, ...]
    enqueue_samples_us: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples_us or not all(0 < time < 1e15 for time in self.samples_us):
            raise ValueError(f"a visit with times of {short(self.samples_us, 60)} µs")

    @classmethod
    def of(cls, taken: Measurement, number: int, **built: Any) -> Visit:
        """A measurement as the visit of this round to what is `built` (see `Row`)."""
        samples: dict[str, Any] = {
            kind.replace("_ms", "_us"): tuple(round(1000 * time, 2) for time in getattr(taken, kind)) for kind in KINDS_OF_SAMPLES
        }
        return cls(
            round=number, threads=taken.threads, settings=taken.settings, warmup_runs=taken.warmup.runs,
            settled=taken.warmup.settled, conditions=taken.conditions, **built, **samples,
        )  # fmt: skip


KINDS: dict[Any, type[Build | Visit]] = {"build": Build, "visit": Visit}


@dataclass
class Rows:
    """The file of finished visits. Its first line says of which kit, device and runtime they are."""

    path: Path
    head: Mapping[str, Any]
    rows: list[Build | Visit] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, head: Mapping[str, Any]) -> Rows:
        """Reads what is there, or begins the file. Raises `MeasurementError` when it is of something else, `CheckpointError`
        naming a line that is damaged.
        """
        wanted = {"format": FORMAT, **json.loads(json.dumps(head))}
        lines, rows = whole_lines(path), cls(path, wanted)
        if not lines:
            append_line(wanted, path)
        for number, line in enumerate(lines, 1):
            with believing(f"line {number} of {path}", "move the file away to measure from the beginning"):
                values = unsealed({**json.loads(line)}, f"line {number}")
                if number > 1:
                    rows.rows.append(from_json(KINDS.get(values.get("row"), Build), values))
            if number == 1:
                _check_same(path, values, wanted)
        return rows

    def append(self, row: Build | Visit) -> None:
        """Adds a row; it is on disk when this returns."""
        append_line(to_json(row), self.path)
        self.rows.append(row)


def _check_same(path: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key in sorted(set(wanted) | set(held)):
        if held.get(key) != wanted.get(key):
            raise MeasurementError(
                f"{path} was measured with another {key} ({short(held.get(key), 60)}, now {short(wanted.get(key), 60)}); "
                "put the device back as it was, or measure from the beginning in another folder, --work FOLDER"
            )


def visits_of(rows: Iterable[Build | Visit], setting: Setting) -> dict[tuple[str, int], list[Visit]]:
    """The visits of one setting by network and build, in the order of the rows."""
    found: dict[tuple[str, int], list[Visit]] = {}
    for row in rows:
        if isinstance(row, Visit) and row.setting == setting:
            found.setdefault((row.network, row.build), []).append(row)
    return found
