"""A result of a bundle's program, as it comes back from a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoformer.profiling.measuring.measure import Measurement, Warmup
from autoformer.profiling.measuring.order_statistics import LatencyStats
from autoformer.profiling.measuring.verdict import Verdict
from tests.support.run_folder import DEVICE

SAMPLES = (2.0, 2.5, 2.25, 2.0, 2.0, 2.25, 2.0)


def measurement(backend: str, **settings: str) -> Measurement:
    stats = LatencyStats.from_samples(SAMPLES)
    return Measurement(
        name="x", backend=backend, precision="fp16", batch=1, threads=None, settings=settings, device=DEVICE,
        warmup=Warmup(20, 1.0, True), stats=stats, cpu_stats=None, device_stats=None, verdict=Verdict("VALID"),
        samples_ms=SAMPLES, cpu_samples_ms=(), device_samples_ms=(), round_runs=(7,),
    )  # fmt: skip


def result(path: Path, **changed: Any) -> Path:
    """A result file as `board.pyz bench --out` writes it."""
    taken = {"onnx fp32": measurement("onnxruntime-cpu"), "tensorrt fp16": measurement("trtexec")}
    written = {
        "format": "autoformer/board/1", "command": "bench", "bundle": "animals", "model": "0" * 64,
        "created": "2026-11-22T12:00:00+00:00", "device": DEVICE.to_dict(),
        "versions": {"onnxruntime": "1.31.1", "trtexec": "10.3.0"},
        "answer": {"measurements": {name: one.to_dict() for name, one in taken.items()}, "not measured": {"onnx int8": "why"}},
        **changed,
    }  # fmt: skip
    path.write_text(json.dumps(written))
    return path
