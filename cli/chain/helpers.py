"""`--workers`: further processes of a command, which share the work of a search through its study, or that of a race."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from autoformer.architecture import whole_number
from autoformer.cli.chain.helped import HELPED
from autoformer.cli.console import note
from autoformer.errors import RecipeError, short
from autoformer.profiling.measuring.system_files import usable_cores

MOST_PROCESSES = 4  # of a race on a CPU


@contextmanager
def helpers(workers: str, *own_words: str, command: Sequence[str] | None = None) -> Iterator[None]:
    """Runs a command in further processes while the block runs, `workers` in all, and waits for them.

    `command` are its words; None means those of this process. `own_words` are options for the further processes alone, about what
    this one does after the block.

    "auto" is one per GPU, or one where there is none (`shared_by` knows more of a recipe). With GPUs each process gets its own,
    in turn; without, the cores are shared out until the block ends. A process that fails is named on stderr, and the others do
    its work. All end when the block fails.
    """
    count, devices = processes(workers)
    if count == 1:
        yield
        return
    import torch

    whole = torch.get_num_threads()
    threads = max(1, whole // count)
    torch.set_num_threads(threads)
    running = []
    for index in range(1, count):
        own = {"OMP_NUM_THREADS": str(threads), HELPED: str(os.getpid())}
        if devices:
            own["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
        words = [*(sys.argv[1:] if command is None else command), *own_words, "--workers", "1", "--quiet"]  # the last counts
        call = [sys.executable, "-m", "autoformer.cli", *words]
        running.append(subprocess.Popen(call, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    is_done = False
    try:
        yield
        is_done = True
    finally:
        for process in () if is_done else running:
            process.terminate()
        for number, process in enumerate(running, 2):
            _, errors = process.communicate()
            if is_done and process.returncode:
                reason = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
                note(f"worker {number} ended early ({reason[:200]}); the others did its work")
        torch.set_num_threads(whole)


def shared_by(workers: str, threads: int | None) -> str:
    """`workers` for the race of a recipe that trains with so many threads.

    Networks that gain nothing from a second thread leave cores idle: without a GPU "auto" gives each of the others a process, up
    to `MOST_PROCESSES`, since each loads torch anew.
    """
    if workers != "auto" or threads is None or processes(workers)[0] > 1:
        return workers
    return str(max(1, min(usable_cores() // threads, MOST_PROCESSES)))


def check_workers(workers: str) -> None:
    """Raises `RecipeError` for what is neither a number nor auto."""
    if workers != "auto" and not whole_number(workers):
        raise RecipeError(f"--workers takes a number from 1 or auto, got {short(workers, 40)!r}")


def processes(workers: str) -> tuple[int, list[str]]:
    """How many processes, and the GPUs they may see. Raises `RecipeError` as `check_workers` does."""
    check_workers(workers)
    if workers == "1":
        return 1, []
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    devices = visible[:found] if visible else [str(index) for index in range(found)]
    return (max(1, found) if workers == "auto" else int(workers)), devices
