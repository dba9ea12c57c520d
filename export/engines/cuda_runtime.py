"""The few calls of the CUDA runtime that an engine needs, each checked: memory, one stream, events, graphs, the device.

Through NVIDIA's cuda-python, because boards have no torch. Standard library and numpy only beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoformer.errors import MeasurementError, MissingPackageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STREAM_NON_BLOCKING = 1  # cudaStreamNonBlocking: the default stream would add synchronisation to every call
HINTS = {  # by the name of an error
    "cudaErrorMemoryAllocation": "; free memory of the device, or choose a smaller batch",
    "cudaErrorInsufficientDriver": "; it takes an NVIDIA GPU and its driver, one that is as new as this CUDA",
    "cudaErrorNoDevice": "; it takes an NVIDIA GPU and its driver",
}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The device that engines are built for and run on, and the CUDA that drives it."""

    name: str
    compute_capability: str  # "8.7"
    driver: str  # newest CUDA version that the driver knows
    cuda: str  # version of the CUDA runtime in use


class Cuda:
    """The CUDA runtime. Raises `MissingPackageError` when cuda-python is absent; calls raise `MeasurementError`."""

    def __init__(self) -> None:
        try:
            try:
                from cuda.bindings import runtime
            except ImportError:
                from cuda import cudart as runtime  # cuda-python before 12.6
        except ImportError as error:
            raise MissingPackageError(
                f"CUDA's bindings cannot be imported ({error}); install them: pip install cuda-python, or the extra "
                "'autoformer-toolchain[tensorrt]' of the toolchain"
            ) from error
        self._runtime = runtime

    def _check(self, what: str, result: tuple[Any, ...]) -> Any:
        status, *values = result
        if int(status) != 0:
            self.forget_error()  # whoever asks for the last error next is not to find this one
            _, name = self._runtime.cudaGetErrorName(status)
            word = name.decode() if isinstance(name, bytes) else str(name)
            hint = HINTS.get(word, "")
            raise MeasurementError(f"CUDA could not {what}: {word} ({int(status)}){hint}")
        return values[0] if values else None

    def device_count(self) -> int:
        """Number of CUDA devices. Raises `MeasurementError` when the driver is missing or too old."""
        return int(self._check("count devices", self._runtime.cudaGetDeviceCount()))

    def gpu(self) -> Gpu:
        """The device in use. Raises `MeasurementError` when there is none."""
        if not self.device_count():
            raise MeasurementError("there is no CUDA device; engines are built and run on NVIDIA GPUs only")
        facts = self._check("ask for the device", self._runtime.cudaGetDeviceProperties(self._device()))
        name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
        return Gpu(
            name=name.strip("\x00 "),
            compute_capability=f"{int(facts.major)}.{int(facts.minor)}",
            driver=_version(self._check("ask for the driver", self._runtime.cudaDriverGetVersion())),
            cuda=_version(self._check("ask for the runtime", self._runtime.cudaRuntimeGetVersion())),
        )

    def _device(self) -> int:
        return int(self._check("ask for the device in use", self._runtime.cudaGetDevice()))

    def allocate(self, num_bytes: int) -> int:
        """Address of new device memory."""
        return int(self._check(f"allocate {num_bytes} bytes", self._runtime.cudaMalloc(num_bytes)))

    def give_back(self, address: int) -> None:
        """Gives device memory back."""
        self._check("free memory", self._runtime.cudaFree(address))

    def create_stream(self) -> Any:
        """A stream of its own."""
        return self._check("create a stream", self._runtime.cudaStreamCreateWithFlags(STREAM_NON_BLOCKING))

    def destroy_stream(self, stream: Any) -> None:
        """Ends a stream."""
        self._check("destroy a stream", self._runtime.cudaStreamDestroy(stream))

    def synchronise(self, stream: Any) -> None:
        """Waits until everything in `stream` is done."""
        self._check("wait for the device", self._runtime.cudaStreamSynchronize(stream))

    def to_device(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Copies a contiguous array to device memory, in `stream`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        copied = self._runtime.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, stream)
        self._check("copy to the device", copied)

    def to_host(self, array: NDArray[np.float32], address: int, stream: Any) -> None:
        """Copies device memory into a contiguous array, in `stream`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        copied = self._runtime.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, stream)
        self._check("copy from the device", copied)

    def create_event(self) -> Any:
        """An event that can be timed."""
        return self._check("create an event", self._runtime.cudaEventCreate())

    def destroy_event(self, event: Any) -> None:
        """Ends an event."""
        self._check("destroy an event", self._runtime.cudaEventDestroy(event))

    def record(self, event: Any, stream: Any) -> None:
        """Marks this point of `stream`."""
        self._check("record an event", self._runtime.cudaEventRecord(event, stream))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that the device has passed."""
        return float(self._check("time events", self._runtime.cudaEventElapsedTime(start, end)))

    def begin_capture(self, stream: Any) -> None:
        """From here on, what is put into `stream` is recorded instead of run."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check("begin a capture", self._runtime.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: Any) -> Any:
        """The graph of what was recorded. Raises when something in it could not be."""
        return self._check("capture a graph", self._runtime.cudaStreamEndCapture(stream))

    def instantiate(self, graph: Any) -> Any:
        """A graph that can be launched, from one that was captured."""
        return self._check("make a graph ready", self._runtime.cudaGraphInstantiateWithFlags(graph, 0))

    def launch(self, ready: Any, stream: Any) -> None:
        """Runs a graph in `stream`."""
        self._check("launch a graph", self._runtime.cudaGraphLaunch(ready, stream))

    def destroy_graph(self, graph: Any) -> None:
        """Ends a captured graph; one made ready from it stays."""
        self._check("destroy a graph", self._runtime.cudaGraphDestroy(graph))

    def destroy_ready(self, ready: Any) -> None:
        """Ends a graph that was made ready."""
        self._check("destroy a graph", self._runtime.cudaGraphExecDestroy(ready))

    def forget_error(self) -> None:
        """Clears the error that the last failed call left behind."""
        self._runtime.cudaGetLastError()


def _version(number: Any) -> str:
    """CUDA's version number in words: 12060 is "12.6"."""
    return f"{int(number) // 1000}.{int(number) % 1000 // 10}"
