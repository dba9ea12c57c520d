"""Processes that begin with torch, timm and the rest imported: importing takes longer than most of what they are started for.

They are forked off a server (multiprocessing's) that does nothing but import, so each is what a new interpreter is after that.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from autoformer.cli.app import main

ROOT = str(Path(__file__).parents[2])  # pytest does not put it where modules are looked for
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["autoformer.cli.chain.steps", "autoformer.cli.chain.race", "autoformer.cli.commands.train", "sklearn.metrics"]
)


@dataclass(frozen=True)
class Forked:
    """A process, with what it writes to the terminal in two files."""

    process: ForkServerProcess
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self.process.exitcode

    def wait(self, limit_s: float = 240) -> int:
        self.process.join(limit_s)
        code = self.poll()
        if code is None:
            self.kill()
            raise AssertionError(f"it has not ended in {limit_s} s: {self.err.read_text()}")
        return code

    def finish(self, limit_s: float = 240) -> tuple[int, str]:
        """Exit code and standard error."""
        return self.wait(limit_s), self.err.read_text()

    def send_signal(self, kind: signal.Signals) -> None:
        os.kill(self.pid, kind)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def killed_when(self, moment: Callable[[], bool], limit_s: float = 240) -> bool:
        """Kills it as soon as `moment` has come; False when it ended before."""
        end = time.monotonic() + limit_s
        try:
            while time.monotonic() < end:
                if come(moment):
                    return True
                if self.poll() is not None:
                    return False
                time.sleep(0.002)
        finally:
            self.kill()
        raise AssertionError(f"the moment to kill never came: {self.err.read_text()}")


def come(moment: Callable[[], bool]) -> bool:
    """Whether it has come; what vanishes while it is looked at, as checkpoints do, is looked at again later."""
    try:
        return moment()
    except FileNotFoundError:
        return False


def forked(target: Callable[..., object], *arguments: object, environment: Mapping[str, str] | None = None) -> Forked:
    """`target(*arguments)` in a process of its own, in this working directory; both have to be of modules, to be pickled."""
    cache = Path(os.environ["XDG_CACHE_HOME"])  # which pytest removes
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="forked-", dir=cache))
    found = {**os.environ, **(environment or {})}
    process = SERVER.Process(target=_call, args=(folder, found, target, arguments))
    for name in ("out", "err"):
        (folder / name).touch()
    sys.path.append(ROOT)
    try:
        process.start()
    finally:
        sys.path.remove(ROOT)
    return Forked(process, folder / "out", folder / "err")


def program(*words: object) -> Forked:
    """`autoformer WORDS`."""
    return forked(_program, [str(word) for word in words])


def _program(words: list[str]) -> None:
    sys.argv = ["autoformer", *words]
    main()


def _call(folder: Path, environment: dict[str, str], target: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(folder / name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    target(*arguments)
