"""What the operating system says of the machine in files and programs: one text, or none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def usable_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def text_of(path: Path) -> str | None:
    """The words of a small file of the system, or None when it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip(" \t\n\0") or None
    except OSError:
        return None


def _output(*command: str) -> str | None:
    """What a program prints, or None when it is absent or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def cpu_temperature_c(root: Path = Path("/")) -> float | None:
    """The temperature of the processor as the system's thermal zones say it."""
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        kind, value = text_of(zone / "type") or "", text_of(zone / "temp") or ""
        if any(word in kind.lower() for word in ("cpu", "x86_pkg", "soc", "tj")) and value.lstrip("-").isdigit():
            return int(value) / 1000
    return None
