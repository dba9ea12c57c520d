"""`LatencyBackend`: the one thing the measurement asks of whatever runs a network.

Final implementations: `OnnxRuntimeBackend`, `TorchBackend`, `TensorRTBackend`, each in a module of its own. Imports the
standard library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol


class LatencyBackend(Protocol):
    """A network that is loaded, has its input in place and can be run again and again. Leaving the context releases it."""

    @property
    def name(self) -> str:
        """ "onnxruntime-cpu", "onnxruntime-cuda", "torch-cpu", "torch-cuda" or "tensorrt"."""

    @property
    def precision(self) -> str:
        """ "fp32", "fp16" or "int8"."""

    @property
    def batch(self) -> int:
        """Images in one run."""

    @property
    def threads(self) -> int | None:
        """CPU threads that compute; None where the work is done elsewhere."""

    @property
    def settings(self) -> Mapping[str, str]:
        """Whatever else changes the time, e.g. {"spinning": "off"}; part of the record."""

    def run(self) -> float | None:
        """One inference, including the wait for the device. Gives the time by the device's own clock in ms, or None."""

    def __enter__(self) -> LatencyBackend: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
