"""What the operating system says of the machine: the text of a small file, its number, the answer of a program; None for nothing.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROCESSOR_ZONES = ("cpu", "x86_pkg", "soc", "tj")  # words in the names of thermal zones


def usable_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def text_of(path: Path) -> str | None:
    """The words of a small file."""
    try:
        return path.read_bytes().decode(errors="replace").strip(" \t\n\0") or None
    except OSError:
        return None


def number_of(path: Path) -> float | None:
    """The whole number that a small file holds."""
    text = text_of(path) or ""
    return float(text) if text.lstrip("-").isdigit() else None


def output_of(*command: str) -> str | None:
    """What a program prints; None where it is absent or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def temperatures_c(root: Path = Path("/")) -> Iterator[tuple[str, float]]:
    """Name in lower case and temperature of each thermal zone that tells one."""
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        if (millidegrees := number_of(zone / "temp")) is not None:
            yield (text_of(zone / "type") or "").lower(), millidegrees / 1000


def cpu_temperature_c(root: Path = Path("/")) -> float | None:
    """The temperature of the processor, of the first thermal zone that is about it."""
    return next((value for name, value in temperatures_c(root) if any(word in name for word in PROCESSOR_ZONES)), None)
