"""Measurements of many networks that a process may be killed in: every finished pass is a line in a file.

A pass is what `measure` gave for all networks of a table in common rounds, before anything is taken out of it. A line that was
being written when the process was killed is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoformer.checkpoint import believing, json_digest
from autoformer.profiling.measure import Measurement


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
