"""What a training will cost, measured before it begins: seconds per step on this machine, hours, disk."""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from autoformer.trainer import Trainer

STEPS, SECONDS, WARMUP = 30, 20.0, 2  # measured steps, or as many as fit in this time, after so many to warm up


@dataclass(frozen=True)
class Rehearsal:
    """The measured price of a training."""

    steps: int
    steps_measured: int
    seconds_per_step: float  # median; waiting for images included
    wait_share: float  # of that, waiting for images
    hours: float  # of all steps; scoring and saving come on top
    checkpoint_bytes: int  # one checkpoint
    disk_bytes: int  # all that is kept at one time
    free_bytes: int  # on the disk of the output folder

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def rehearse(trainer: Trainer, out: Path) -> Rehearsal:
    """Runs some steps of `trainer`, whose weights they change; nothing is written.

    `out` is where the training would write; it need not exist.
    """
    times, waits = [], []
    forward = trainer.world.wrap(trainer.network, some_unused=True)
    trainer.network.train()
    began = time.perf_counter()
    loader = trainer._loader(0)
    for step in range(min(STEPS + WARMUP, trainer.plan.steps)):
        asked = time.perf_counter()
        pixels, facts = next(loader)
        waited = time.perf_counter() - asked
        loss: Tensor = trainer.steps.run(forward, pixels, facts, step)
        float(loss)  # waits for the device
        if step >= WARMUP or trainer.plan.steps <= WARMUP:
            times.append(time.perf_counter() - asked)
            waits.append(waited)
        if time.perf_counter() - began > SECONDS and times:
            break
    checkpoint = trainer.state.bytes
    weights = sum(weight.numel() * weight.element_size() for weight in trainer.network.parameters())
    seconds = statistics.median(times)
    place = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    return Rehearsal(
        steps=trainer.plan.steps,
        steps_measured=len(times),
        seconds_per_step=seconds,
        wait_share=sum(waits) / sum(times),
        hours=seconds * trainer.plan.steps / 3600,
        checkpoint_bytes=checkpoint,
        disk_bytes=(trainer.config.keep_checkpoints + 1) * checkpoint
        + 2 * weights,  # one more while one is written; best, result
        free_bytes=shutil.disk_usage(place).free,
    )
