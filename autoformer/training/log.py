"""What a training says about itself: lines of JSON in `log.jsonl`, and the same records to anyone who asks for them.

A record holds event ("step" or "epoch"), step, epoch, loss, learning_rate, images_per_s, seconds and wait_share, which is the
share of the time spent waiting for images: high, and the loader starves the device. A resumed training drops the lines behind its
checkpoint, so the file reads as that of an undisturbed one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autoformer.files import replacing

Hook = Callable[[dict[str, Any]], None]


class TrainingLog:
    """The records of one training. `folder` None: no file (only the leading process writes one)."""

    def __init__(self, folder: Path | None, first_step: int, hooks: Sequence[Hook] = ()) -> None:
        self.path = None if folder is None else folder / "log.jsonl"
        self.hooks = hooks
        if self.path is not None:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.exists() else []
            kept = [line for line in lines if _step(line) <= first_step]
            with replacing(self.path) as beside:
                beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record and hands it on."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, sort_keys=True) + "\n")
        for hook in self.hooks:
            hook(record)


def _step(line: str) -> float:
    """The step of a line; a line that was cut off by a crash counts as behind everything."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Stopwatch:
    """Where the time of an epoch goes: waiting for images, and everything else."""

    def __init__(self) -> None:
        self.images, self.waited_s, self.started = 0, 0.0, time.perf_counter()

    def count(self, images: int, waited_s: float) -> None:
        self.images += images
        self.waited_s += waited_s

    def read(self) -> dict[str, float]:
        """Images per second, share of the time waited for images, and seconds so far."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return {"images_per_s": self.images / seconds, "wait_share": self.waited_s / seconds, "seconds": seconds}
