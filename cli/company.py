"""A process that helps another one ends with it, also where that one was killed and could not say so."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT = "AUTOFORMER_PARENT"  # variable with the number of the process that is helped
LOOK_S = 1.0


def end_with_parent() -> None:
    """From now on this process is asked to end when the one that it helps is gone; nothing for a process that helps none."""
    parent = os.environ.pop(PARENT, "")  # not of those that this one starts
    if parent.isdecimal():
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
