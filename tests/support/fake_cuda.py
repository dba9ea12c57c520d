"""A strict stand-in for `cuda.bindings.runtime`: device memory is host memory, and what is not given back is seen.

Handles, memory and graphs are known by number; a CUDA graph is the list of what was put into its stream. That the functions and
their arguments are the real ones is compared with NVIDIA's package in `test_tensorrt_bindings.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

ERRORS = {
    2: b"cudaErrorMemoryAllocation",
    35: b"cudaErrorInsufficientDriver",
    801: b"cudaErrorNotSupported",
    901: b"cudaErrorStreamCaptureInvalidated",
}


class FakeCuda(ModuleType):
    """One device, unless `devices` says otherwise; -1 stands for a driver that is too old."""

    def __init__(self, devices: int = 1, *, gpu: str = "Fake Orin", capability: tuple[int, int] = (8, 7)) -> None:
        super().__init__("cuda.bindings.runtime")
        self.devices, self.gpu, self.capability = devices, gpu, capability
        self.memory, self.handles, self.clock_ms = dict[int, Any](), set[int](), 0.0
        self.capturing: dict[int, list[Callable[[], object]] | None] = {}  # by stream; None: spoiled
        self.graphs: dict[int, list[Callable[[], object]]] = {}
        self.fails: set[str] = set()  # names of functions that answer with an error
        self.last_error = 0
        self.launches = 0
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def enqueue(self, stream: int, work: Callable[[], object]) -> None:
        """Work for the device: done at once, or recorded while the stream is captured."""
        assert stream in self.handles, "work in a stream that does not exist"
        recorded = self.capturing.get(stream, ...)
        if recorded is ...:
            work()
        elif recorded is not None:
            recorded.append(work)

    def _error(self, number: int) -> tuple[int, None]:
        self.last_error = number
        return number, None

    def cudaGetErrorName(self, error: int) -> tuple[int, bytes]:
        return 0, ERRORS[error]

    def cudaGetLastError(self) -> tuple[int]:
        last, self.last_error = self.last_error, 0
        return (last,)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (0, self.devices) if self.devices >= 0 else (35, None)

    def cudaGetDevice(self) -> tuple[int, int]:
        return 0, 0

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        assert device == 0
        return 0, SimpleNamespace(name=self.gpu.encode() + b"\0" * 8, major=self.capability[0], minor=self.capability[1])

    def cudaDriverGetVersion(self) -> tuple[int, int]:
        return 0, 12080

    def cudaRuntimeGetVersion(self) -> tuple[int, int]:
        return 0, 12060

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if size > 1 << 30 or "cudaMalloc" in self.fails:
            return self._error(2)
        block = ctypes.create_string_buffer(b"\xff" * size, size)  # NaN wherever nothing was written
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, devPtr: int) -> tuple[int]:
        del self.memory[devPtr]
        return (0,)

    def _handle(self) -> tuple[int, int]:
        handle = 1000
        while handle in self.handles:
            handle += 1
        self.handles.add(handle)
        return 0, handle

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == 1, "the default stream would synchronise with everything"
        return self._handle()

    def cudaEventCreate(self) -> tuple[int, int]:
        return self._handle()

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        assert stream not in self.capturing, "a stream destroyed in the middle of a capture"
        self.handles.remove(stream)
        return (0,)

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        self.handles.remove(event)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream in self.handles
        assert stream not in self.capturing, "waited for a stream that only records"
        return (0,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: int, stream: int) -> tuple[int]:
        device = dst if kind == 1 else src
        assert len(self.memory[device]) == count, f"copy of {count} bytes, memory of {len(self.memory[device])}"
        self.enqueue(stream, lambda: ctypes.memmove(dst, src, count))
        return (0,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        assert {event, stream} <= self.handles
        self.clock_ms += 0.25
        return (0,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:
        assert start != end
        return 0, 0.25

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        assert stream not in self.capturing
        assert mode == 1
        if "cudaStreamBeginCapture" in self.fails:
            return self._error(801)
        self.capturing[stream] = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        recorded = self.capturing.pop(stream)
        if recorded is None:
            return self._error(901)
        _, graph = self._handle()
        self.graphs[graph] = recorded
        return 0, graph

    def cudaGraphInstantiateWithFlags(self, graph: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        if "cudaGraphInstantiateWithFlags" in self.fails:
            return self._error(801)
        _, ready = self._handle()
        self.graphs[ready] = self.graphs[graph]
        return 0, ready

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[int]:
        assert stream in self.handles
        self.launches += 1
        for work in self.graphs[graphExec]:
            work()
        return (0,)

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        self.handles.remove(graph)
        return (0,)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[int]:
        del self.graphs[graphExec]
        self.handles.remove(graphExec)
        return (0,)
