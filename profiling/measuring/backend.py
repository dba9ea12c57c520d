"""`LatencyBackend`: the one thing the measurement asks of whatever runs a network.

Final implementations: `OnnxRuntimeBackend`, `TorchBackend`, `TensorRTBackend`, each in a module of its own. Imports the
standard library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, runtime_checkable

BACKENDS = (
    "onnxruntime-cpu", "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx", "torch-cpu",
    "torch-compiled-cpu", "torch-cuda", "torch-compiled-cuda", "torch-graph-cuda", "tensorrt", "tensorrt-graph", "tensorrt-rtx",
    "tensorrt-rtx-graph",
)  # fmt: skip
# The others compile first, or are another way to run the same kernels.
USUAL_BACKENDS = (
    "onnxruntime-cpu", "onnxruntime-cuda", "torch-cpu", "torch-cuda", "tensorrt", "tensorrt-graph", "tensorrt-rtx",
    "tensorrt-rtx-graph",
)  # fmt: skip


class LatencyBackend(Protocol):
    """A network that is loaded, has its input in place and can be run again and again. Leaving the context releases it."""

    @property
    def name(self) -> str:
        """ "onnxruntime-cpu", "torch-cuda", "tensorrt" and others; those that end in "-cpu" compute on it."""

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


@runtime_checkable
class Enqueues(Protocol):
    """A backend that hands its work to a GPU and goes on, as the final ones on GPUs may be besides."""

    @property
    def enqueue_ms(self) -> float | None:
        """Host time that handing over the work of the last run took."""


@runtime_checkable
class CopiesImages(Protocol):
    """A backend on a GPU that can also run from the host's memory to the host's memory."""

    def run_with_copies(self) -> None:
        """One inference: images to the GPU, the work, its answer back, waited for."""


class WithCopies:
    """The same network with the copies between host and GPU in its time: what an application sees. The inner one stays open."""

    def __init__(self, inner: LatencyBackend) -> None:
        assert isinstance(inner, CopiesImages)
        self._copies, self._inner = inner, inner
        self.name, self.precision, self.batch, self.threads = inner.name, inner.precision, inner.batch, inner.threads
        self.settings: Mapping[str, str] = {**inner.settings, "copies": "included"}

    def run(self) -> None:
        """One inference with its copies."""
        self._copies.run_with_copies()

    def __enter__(self) -> WithCopies:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing: whoever opened the inner one closes it."""
