"""What `trtexec` of TensorRT 8.6 to 11 writes and prints, read: times run by run, its summary, its errors.

The file of times is JSON, one object a run:

    {"startEnqMs", "endEnqMs", "startH2dMs", …, "h2dMs", "computeMs", "d2hMs", "latencyMs"}

"computeMs" is between two CUDA events around the run, "latencyMs" that plus the copies, where copies are made. Standard
library only; works on Python 3.10.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoformer.errors import CheckpointError, MeasurementError, short

VERSION = re.compile(r"TensorRT\.trtexec \[TensorRT v(?:(\d+)\.(\d+)\.(\d+)[.\d]*|(\d+))\]")
NUMBER = r"([0-9.eE+-]+)"
RUN = re.compile(rf"Average on 1 runs - GPU latency: {NUMBER} ms - Host latency: {NUMBER} ms \(.*?enqueue {NUMBER} ms\)")
MEDIAN = re.compile(rf"\] GPU Compute Time: .*?median = {NUMBER} ms")
WARMUP = re.compile(r"Warmup completed (\d+) queries over")
TRACE = re.compile(rf"Timing trace has \d+ queries over {NUMBER} s")
GPU = re.compile(r"\] Selected Device: (.+)")


def read_times(path: Path) -> list[tuple[float, float, float]]:
    """Latency, GPU time and enqueue time of every run in a file that `--exportTimes` wrote, in ms.

    Raises `CheckpointError` when it is not such a file.
    """
    found = read_json_file(path)
    try:
        return [
            _positive(float(run["latencyMs"]), float(run["computeMs"]), float(run["endEnqMs"]) - float(run["startEnqMs"]))
            for run in found
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds no times as trtexec writes them ({error}); time the engine again") from error


def read_log(said: str) -> list[tuple[float, float, float]]:
    """The same from what trtexec printed with `--avgRuns=1`: one line for each run. Raises `MeasurementError` for no times."""
    try:
        return [_positive(float(host), float(gpu), float(enqueue)) for gpu, host, enqueue in RUN.findall(said)]
    except ValueError as error:
        raise MeasurementError(f"trtexec printed an impossible time ({error}); time the engine again") from error


def _positive(latency: float, gpu: float, enqueue: float) -> tuple[float, float, float]:
    if not (0 < latency < math.inf and 0 < gpu < math.inf and math.isfinite(enqueue)):
        raise ValueError(f"a run of {latency} ms, {gpu} ms on the GPU")
    return latency, gpu, enqueue


def check_summary(said: str, gpu_ms: Sequence[float]) -> None:
    """Compares the printed median with that of the runs. Raises `MeasurementError` when the runs mean something else."""
    printed = MEDIAN.search(said)
    if printed is None:
        return
    ordered, middle = sorted(gpu_ms), len(gpu_ms) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    if abs(median - float(printed[1])) > 0.001 * median + 1e-4:  # it prints six digits
        raise MeasurementError(
            f"trtexec prints a median of {printed[1]} ms, its {len(gpu_ms)} runs have {median:.6g} ms; this version writes its "
            "times in an unknown way"
        )


def read_version(said: str) -> tuple[int, int, int] | None:
    """The version in the first line it prints: v8601 is 8.6.1, v100300 is 10.3.0, and v11.1.0.106 is possible; None without."""
    named = VERSION.search(said)
    if named is None:
        return None
    if named[1]:
        return int(named[1]), int(named[2]), int(named[3])
    number = int(named[4])
    return (number // 10000, number // 100 % 100, number % 100) if number >= 100000 else (
        number // 1000, number // 100 % 10, number % 100,
    )  # fmt: skip


def read_warmup(said: str) -> int:
    """How many runs came before those that count."""
    named = WARMUP.search(said)
    return int(named[1]) if named else 0


def read_trace_s(line: str) -> float | None:
    """How long the runs that count took together, in the line that it prints as soon as they are done; None in others."""
    named = TRACE.search(line)
    try:
        seconds = float(named[1]) if named else math.nan
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


def read_gpu(said: str) -> str | None:
    """The name of the GPU it ran on."""
    named = GPU.search(said)
    return named[1].strip() if named else None


def read_warnings(said: str) -> tuple[str, ...]:
    """Its warnings, each once."""
    return tuple(dict.fromkeys(short(line) for line in _lines(said, "W")))[:10]


def reason_of(said: str) -> str:
    """The last errors it printed, in one line; without any, its last words."""
    errors = list(dict.fromkeys(_lines(said, "E")))
    last = [line.strip() for line in said.splitlines() if line.strip()]
    return short("; ".join(errors[-3:]) or (last[-1] if last else "it said nothing"), 400)


def read_json_file(path: Path) -> Any:
    """A JSON file it wrote. Raises `CheckpointError` when it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON as trtexec writes it ({short(error)}); run it again") from error


def _lines(said: str, letter: str) -> list[str]:
    """What it says in lines of one severity, without time and severity."""
    found = re.findall(rf"^\[[^\]]*\] \[{letter}\](.*)$", said, re.MULTILINE)
    return [words for line in found if (words := " ".join(line.split()))]
