"""Ctrl-C and a scheduler's SIGTERM, taken as a wish: the work ends at its next safe place. A later one ends it at once.

Within two seconds further signals count as the same wish: a terminal and torchrun both pass one on.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

SAME_WISH_S = 2.0


@dataclass
class StopWish:
    """The number of the signal that asked for the end, or 0."""

    signal_number: int = 0
    noted: float = 0.0  # when, on the monotonic clock


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Collects SIGINT and SIGTERM while the block runs; elsewhere than in the main thread nothing is collected."""
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def note(number: int, frame: FrameType | None) -> None:
        if wish.signal_number and time.monotonic() - wish.noted > SAME_WISH_S:
            raise KeyboardInterrupt
        if not wish.signal_number:
            wish.signal_number, wish.noted = number, time.monotonic()

    before: dict[signal.Signals, Any] = {kind: signal.signal(kind, note) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
