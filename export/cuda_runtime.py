"""The few calls of the CUDA runtime that an engine needs, each checked: memory, one stream, events.

Through NVIDIA's cuda-python, because boards have no torch. Standard library and numpy only beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoformer.errors import MeasurementError, MissingPackageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STREAM_NON_BLOCKING = 1  # cudaStreamNonBlocking: the default stream would add synchronisation to every call


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
                f"CUDA's bindings cannot be imported ({error}); install the extra: pip install 'autoformer-toolchain[tensorrt]'"
            ) from error
        self._runtime = runtime

    def _check(self, what: str, result: tuple[Any, ...]) -> Any:
        status, *values = result
        if int(status) != 0:
            _, name = self._runtime.cudaGetErrorName(status)
            word = name.decode() if isinstance(name, bytes) else str(name)
            raise MeasurementError(f"CUDA could not {what}: {word} ({int(status)})")
        return values[0] if values else None

    def device_count(self) -> int:
        """Number of CUDA devices. Raises `MeasurementError` when the driver is missing or too old."""
        return int(self._check("count devices", self._runtime.cudaGetDeviceCount()))

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
