"""`--workers`: further processes of the same command, which share its work through the study."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from autoformer.cli.console import note


@contextmanager
def helpers(workers: str, *own_words: str) -> Iterator[None]:
    """Runs this command in further processes while the block runs, `workers` in all, and waits for them.

    `own_words` are options that only they get, for what this process does alone after the block.

    "auto" is one per GPU, or one where there is none. With GPUs each process gets its own, in turn; without, the cores are
    shared out. A helper that fails is named on stderr: the others do its work. They end with the block if that fails.
    """
    count, devices = _count(workers)
    if count == 1:
        yield
        return
    import torch

    threads = max(1, torch.get_num_threads() // count)
    torch.set_num_threads(threads)
    running = []
    for index in range(1, count):
        own = {"OMP_NUM_THREADS": str(threads)} | ({"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} if devices else {})
        words = [
            sys.executable,
            "-m",
            "autoformer.cli",
            *sys.argv[1:],
            *own_words,
            "--workers",
            "1",
            "--quiet",
        ]  # the last of an option counts
        running.append(
            subprocess.Popen(words, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    try:
        yield
    except BaseException:
        for process in running:
            process.terminate()
        raise
    finally:
        for number, process in enumerate(running, 2):
            _, errors = process.communicate()
            if process.returncode:
                reason = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
                note(f"worker {number} ended early ({reason[:200]}); the others did its work")


def _count(workers: str) -> tuple[int, list[str]]:
    """How many processes, and the GPUs they may see."""
    if workers != "auto" and not (workers.isdecimal() and int(workers) > 0):
        raise typer.BadParameter(f"--workers takes a number from 1 or auto, got {workers!r}")
    if workers == "1":
        return 1, []
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    devices = visible[:found] if visible else [str(index) for index in range(found)]
    return (max(1, found) if workers == "auto" else int(workers)), devices
