"""A process that helps another one does not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from autoformer.cli.company import PARENT

STARTED = "from autoformer.cli.company import end_with_parent; end_with_parent()"
HELPING = f"import time; {STARTED}; print('here', flush=True); time.sleep(60)"
HELPED = f"""
import os, subprocess, sys, time
env = {{**os.environ, {PARENT!r}: str(os.getpid())}}
child = subprocess.Popen([sys.executable, "-c", {HELPING!r}], env=env, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_it_ends_when_the_helped_process_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", HELPED], stdout=subprocess.PIPE, text=True) as helped:
        assert helped.stdout is not None
        helping = int(helped.stdout.readline())
        os.kill(helping, 0)  # it is there
        helped.send_signal(signal.SIGKILL)
    for _ in range(200):
        if not Path(f"/proc/{helping}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{helping}").exists()


def test_a_process_that_helps_none_is_left_alone() -> None:
    code = (
        "import threading; from autoformer.cli.company import end_with_parent; end_with_parent(); print(threading.active_count())"
    )
    env = {name: value for name, value in os.environ.items() if name != PARENT}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout == "1\n"
