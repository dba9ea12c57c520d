"""Where a Python 3.10 is, for what runs on boards."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def python310() -> str | None:
    """An interpreter of Python 3.10."""
    known = [shutil.which("python3.10"), *map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python"))]
    for path in known:
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return None
