"""`CachedTeacher`: a teacher that says once what it has to say of each view of the images, into files (`logit_files`).

Before the first epoch that takes a view, the teacher sees the whole of it, in chunks that are always the same, and from then on
its logits are read. So what is learned depends neither on where a training was interrupted nor on how many processes share it.
The folder is named after all that the logits follow from: trainings that agree in it may share one, even while both run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoformer.errors import OutputExistsError, RecipeError, TrainingError
from autoformer.files import IDENTITY, json_digest, sole_worker, write_json
from autoformer.progress import Progress
from autoformer.training.batches import Key, Plan
from autoformer.training.config import TrainConfig
from autoformer.training.distributed import World
from autoformer.training.logit_files import ROWS, LogitFiles

FOLDER = "logits"
FORMAT = "autoformer/logits/1"
WAIT_S = 0.5  # between looks at what another training of the same folder fills

Answer = Callable[[list[list[Key]]], Generator[Tensor, None, None]]  # the teacher's logits [b, classes] of each list of images


class CachedTeacher:
    """The logits of a teacher for the views of `plan`, in a folder of `place` that is named after `identity`."""

    def __init__(self, place: Path, identity: Mapping[str, Any], plan: Plan, classes: int, answer: Answer) -> None:
        self.identity = {"format": FORMAT, **identity}
        self.files = LogitFiles(place / json_digest(self.identity)[:16], plan.images, classes)
        self.plan, self.answer = plan, answer
        self.opened: dict[int, NDArray[np.float16]] = {}

    def fill(self, epoch: int, world: World, progress: Progress, stopped: Callable[[], bool]) -> bool:
        """Sees to it that the logits of an epoch's views are there; whether they are, or a process was `stopped` before.

        All processes must ask. Raises `TrainingError` when they cannot be written, or read by every process.
        """
        return all(view in self.opened or self._fill(view, world, progress, stopped) for view in self.plan.views_of(epoch))

    def _fill(self, view: int, world: World, progress: Progress, stopped: Callable[[], bool]) -> bool:
        with ExitStack() as stack:
            while not world.from_leader(not world.leads or self._is_locked(stack)):
                if world.any(stopped())[0]:
                    return False
                time.sleep(WAIT_S)
            missing = world.from_leader(self.files.missing(view) if world.leads else [])
            own = missing[world.rank :: world.size]
            answers = stack.enter_context(closing(self._rows(view, own)))
            for first in range(0, len(missing), world.size):
                if world.any(stopped())[0]:
                    return False
                found = world.gather([next(answers)] if first + world.rank < len(missing) else [])
                for chunk, rows in found if world.leads else ():
                    self.files.keep(view, chunk, rows)
                done = self.files.members(self.files.chunks - len(missing) + first + len(found) - 1).stop
                progress(f"teacher's logits, view {view + 1} of {self.plan.num_views}", done, self.plan.images, "images taught")
        world.any(False)  # the last of them are written
        self.opened[view] = self.files.rows(view)
        return True

    def _is_locked(self, stack: ExitStack) -> bool:
        """Makes the folder this process's own for the block; False: another one writes to it."""
        self.files.folder.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(sole_worker(self.files.folder))
        except OutputExistsError:
            return False
        if not (self.files.folder / IDENTITY).exists():
            write_json(self.identity, self.files.folder / IDENTITY)
        return True

    def _rows(self, view: int, chunks: Sequence[int]) -> Generator[tuple[int, NDArray[np.float16]], None, None]:
        """Each of the chunks with the rows of its images."""
        with closing(self.answer([self.plan.view(view, self.files.members(chunk)) for chunk in chunks])) as answers:
            for chunk, logits in zip(chunks, answers, strict=True):
                rows = logits.half()
                if not bool(rows.isfinite().all()):
                    raise TrainingError(
                        f"the teacher gives logits up to {float(logits.abs().max()):g} for images {self.files.members(chunk)}, "
                        "which 16 bits cannot hold; leave teacher.views out"
                    )
                yield chunk, rows.cpu().numpy()

    def seconds_of_chunk(self) -> float:
        """How long the teacher takes for a chunk, the second where there are two, its images included. Nothing is written."""
        times = [time.perf_counter()]
        for _ in self._rows(0, range(min(2, self.files.chunks))):
            times.append(time.perf_counter())
        return times[-1] - times[-2]

    def logits(self, step: int, members: Sequence[int]) -> Tensor:
        """What the teacher says of those `members` of the batch of a step, [members, classes]."""
        views, positions = (column[members] for column in self.plan.places(step))
        found = np.empty((len(members), self.files.classes), ROWS)
        for view in np.unique(views).tolist():
            found[views == view] = self.opened[view][positions[views == view]]
        return torch.from_numpy(found)


def check_views(config: TrainConfig, plan: Plan, classes: int) -> None:
    """Raises `RecipeError` where a teacher's logits cannot be kept, or take more room than the limit."""
    if config.teacher is None or not plan.views:
        return
    if config.against_views is not None:
        raise RecipeError(config.against_views)
    of_view = LogitFiles(Path(), plan.images, classes).bytes_of_view
    limit, needed = config.teacher.cache_mib, plan.num_views * of_view
    if needed > limit << 20:
        fitting = (limit << 20) // of_view
        advice = f"lower views to {fitting} or raise cache_mib" if fitting else "raise cache_mib"
        raise RecipeError(
            f"teacher.views={plan.views} keeps {plan.num_views} rows of {classes} logits for each of {plan.images} images, "
            f"{needed / 2**20:.0f} MiB, and teacher.cache_mib is {limit}; {advice} of the teacher, or leave views out"
        )


def size_line(plan: Plan, classes: int) -> Iterator[str]:
    """What is to be said of a teacher's logits before they are kept."""
    if plan.views:
        size = plan.num_views * LogitFiles(Path(), plan.images, classes).bytes_of_view
        views = f"{plan.num_views} view{'s' if plan.num_views > 1 else ''}"
        yield f"the teacher's logits of {views} of {plan.images} images take {size / 2**20:.1f} MiB while it trains"
