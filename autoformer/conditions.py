"""`MeasurementConditions`: what a latency in milliseconds means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MeasurementConditions:
    """What a latency in milliseconds means. Two latencies are comparable only when these are equal."""

    statistic: str  # "p50", "p90", "p99", ...
    batch: int  # images in one call
    precision: str  # "fp32", "fp16", "int8"
    backend: str  # "onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "torch-cpu", ...
    device: str  # as the device names itself, e.g. "AMD EPYC 9B45, 1 thread"

    def __str__(self) -> str:
        return f"{self.statistic}, batch {self.batch}, {self.precision}, {self.backend}, {self.device}"
