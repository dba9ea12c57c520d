"""What the first inference costs: loading, the first run, a run after a rest, and memory, in a process of its own.

A process that has measured before has memory from earlier networks and its kernels loaded; so a fresh one is started
(`python -m autoformer.profiling.profiles.cold_start`), which imports the runtime first and then loads the network by the clock.
Memory on a CPU is the growth of the process's peak since before loading; on a GPU it is what the driver lists as more in use.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from autoformer.errors import MeasurementError
from autoformer.profiling.measuring.gpu_sensors import gpu_sensors
from autoformer.records import fields_to_json

WARM_RUNS = 10
TIME_LIMIT_S = 900  # of the process; engines and compiled networks take minutes to load


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """The beginning of one network on one backend in a fresh process."""

    name: str
    backend: str
    batch: int
    load_ms: float  # from the file to something that can run, without the import of the runtime
    first_ms: float
    warm_ms: float  # median of the ten runs after the first
    idle_s: float
    after_idle_ms: float  # the first run after doing nothing for `idle_s`
    memory_mib: float | None  # growth of the process's peak by loading and running
    gpu_memory_mib: float | None  # growth of what is in use on the GPU, by everybody

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return fields_to_json(self)


def cold_start(
    words: str, name: str, backend: str, *, batch: int, threads: int | None, spinning: bool = False, idle_s: float = 10.0
) -> ColdStart:
    """Starts a process that begins with the artefact `words` on `backend`. Raises `MeasurementError` when it fails."""
    asked = {"words": words, "backend": backend, "batch": batch, "threads": threads, "spinning": spinning, "idle_s": idle_s}
    command = [sys.executable, "-m", "autoformer.profiling.profiles.cold_start", json.dumps(asked)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S + idle_s)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"{name} on {backend} did not start within {TIME_LIMIT_S} s") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MeasurementError(f"{name} could not be started on {backend} in a process of its own: {reason[:300]}")
    return ColdStart(name=name, backend=backend, batch=batch, idle_s=idle_s, **json.loads(lines[-1]))


def begin(words: str, backend: str, batch: int, threads: int | None, spinning: bool, idle_s: float) -> dict[str, float | None]:
    """What the fresh process measures."""
    from autoformer.profiling.backends.of_artefacts import open_artefact, prepare_imports

    prepare_imports(backend)
    sensors = gpu_sensors() if not backend.endswith("-cpu") else None
    gpu_before = sensors.read().memory_mib if sensors is not None else None
    forget_peak()
    before_mib = memory_mib("VmRSS")
    start = time.perf_counter()
    with open_artefact(words, backend, batch=batch, threads=threads, spinning=spinning) as opened:
        loaded = time.perf_counter()

        def run_ms() -> float:
            begun = time.perf_counter()
            opened.run()
            return 1000 * (time.perf_counter() - begun)

        first_ms = run_ms()
        warm_ms = median(run_ms() for _ in range(WARM_RUNS))
        peak_mib = memory_mib("VmHWM")
        gpu_after = sensors.read().memory_mib if sensors is not None else None
        time.sleep(idle_s)
        after_idle_ms = run_ms()
    return {
        "load_ms": 1000 * (loaded - start),
        "first_ms": first_ms,
        "warm_ms": warm_ms,
        "after_idle_ms": after_idle_ms,
        "memory_mib": None if peak_mib is None or before_mib is None else max(0.0, peak_mib - before_mib),
        "gpu_memory_mib": None if gpu_before is None or gpu_after is None else gpu_after - gpu_before,
    }


def memory_mib(which: str, status: Path = Path("/proc/self/status")) -> float | None:
    """A memory figure of this process from Linux: "VmRSS" now, "VmHWM" the highest so far; None elsewhere."""
    with suppress(OSError):
        found = re.search(rf"^{which}:\s*(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        return int(found[1]) / 1024 if found else None
    return None


def forget_peak() -> None:
    """Lets the highest so far begin anew, where Linux permits it; where not, importing may have been higher than loading."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


if __name__ == "__main__":
    print(json.dumps(begin(**json.loads(sys.argv[1]))))
