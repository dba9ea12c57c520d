"""How long work reports where it stands: one callable, which the command line turns into a bar and a test into a list."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the name of the work, how much of how much is done, and a short note (loss, best so far)."""

    def __call__(self, work: str, done: int, total: int, note: str = "") -> None: ...


def silent(work: str, done: int, total: int, note: str = "") -> None:
    """Reports nothing."""
