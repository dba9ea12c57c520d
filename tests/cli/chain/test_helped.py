"""A process that helps another one does not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from autoformer.cli.chain.helped import HELPED

STARTED = "from autoformer.cli.chain.helped import end_with_helped; end_with_helped()"
HELPING = f"import time; {STARTED}; print('here', flush=True); time.sleep(60)"
STARTER = f"""
import os, subprocess, sys, time
env = {{**os.environ, {HELPED!r}: str(os.getpid())}}
child = subprocess.Popen([sys.executable, "-c", {HELPING!r}], env=env, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
ASKED = f"import ctypes; {STARTED}; found = ctypes.c_int(-1); ctypes.CDLL(None).prctl(2, ctypes.byref(found)); print(found.value)"


def test_it_ends_when_the_helped_process_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True) as helped:
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
    env = {name: value for name, value in os.environ.items() if name != HELPED}
    assert subprocess.run([sys.executable, "-c", ASKED], env=env, capture_output=True, text=True, check=True).stdout == "0\n"


def test_one_whose_helped_process_is_gone_already_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", HELPING], env={**os.environ, HELPED: "1"}, capture_output=True, timeout=30)
    assert done.returncode == -signal.SIGTERM
