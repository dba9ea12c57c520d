"""The images of the steps, loaded by this process or by processes of their own, and what becomes of a lost one.

torch tells of a lost loader process by an exception wherever the training happens to be. Here its signal is left alone: the loss
is found where the next images are asked for, so that nothing is half done when it is told.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.process import BaseProcess

from torch import Tensor
from torch.utils.data import DataLoader

from autoformer.errors import DataError, TrainingError
from autoformer.training.augment import TrainingImages
from autoformer.training.batches import Key

# Of torch's messages about shared memory and handles, which have no class of their own.
SHORT = (
    "shared memory",
    "shm",
    "no space left",
    "too many open files",
    "ancdata",
    "cannot allocate memory",
    "resource temporarily",
)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loaded(
    images: TrainingImages, shares: Iterable[list[Key]], *, workers: int, pinned: bool, setting: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of each share: uint8 [B, C, H, W] and facts [B, 3]. `setting` is what a recipe calls the `workers`.

    Raises `DataError` for an image that cannot be read, `TrainingError` where a loader process is lost or cannot work.
    """
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        images,  # type: ignore[arg-type]
        batch_sampler=shares,
        num_workers=min(workers, cores()),  # more would only wait, and torch warns of them
        pin_memory=pinned,
        worker_init_fn=_left_alone,
    )
    processes: Sequence[BaseProcess] = ()
    try:
        others = multiprocessing.active_children()
        batches = _started(loader)
        processes = [process for process in multiprocessing.active_children() if process not in others]
        yield from batches
    except DataError as error:  # from a loader process it arrives with that process's whole traceback as its text
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("autoformer.errors.DataError: ")) from error
    except (RuntimeError, OSError, EOFError) as error:
        if not workers or not (reason := _loss(error, processes)):
            raise
        raise TrainingError(
            f"{reason}; memory or shared memory (/dev/shm) may be short for {workers} of them: lower {setting} (0: none), then "
            "run the same command again to go on from the last checkpoint"
        ) from error
    finally:  # after the last batch torch has ended them
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _left_alone(_: int) -> None:
    """Ctrl-C in a terminal reaches loader processes too, and is for the training alone; of its own death torch says too much."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGBUS, signal.SIG_DFL)


def _started(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Its batches, without the handler that torch installs for the end of a process."""
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _loss(error: Exception, processes: Sequence[BaseProcess]) -> str | None:
    """What happened to the loader processes; None where they are well."""
    for process in processes:
        process.join(0.1)
        if (code := process.exitcode) is not None and code < 0:
            return f"a loader process was killed ({signal.Signals(-code).name})"
        if code:
            return f"a loader process ended with code {code}"
    words = str(error).lower()
    if any(word in words for word in SHORT) or isinstance(error, OSError | EOFError):
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
        return f"a loader process cannot work ({lines[-1].strip()[:160]})"
    return "a loader process is gone" if "dataloader worker" in words and "exited" in words else None
