"""Ctrl-C and a scheduler's SIGTERM, taken as a wish: the work ends at its next safe place. A second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class StopWish:
    """The number of the signal that asked for the end, or 0."""

    signal_number: int = 0


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Collects SIGINT and SIGTERM while the block runs; elsewhere than in the main thread nothing is collected."""
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def note(number: int, frame: FrameType | None) -> None:
        if wish.signal_number:
            raise KeyboardInterrupt
        wish.signal_number = number

    before: dict[signal.Signals, Any] = {kind: signal.signal(kind, note) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
