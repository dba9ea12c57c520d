"""The process that a further process of a command helps: its number, handed on in a variable."""

from __future__ import annotations

import os
import signal

HELPED = "AUTOFORMER_HELPED"


def end_with_helped() -> None:
    """From now on this process is asked to end when the one that it helps is gone; nothing for a process that helps none."""
    helped = os.environ.pop(HELPED, "")  # not of those that this one starts
    if helped.isdecimal():
        from autoformer.export.engines.trial_worker import end_with_parent

        end_with_parent(int(helped), signal.SIGTERM)
