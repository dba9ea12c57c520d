"""A torch network in inference mode, on the CPU or a CUDA device: eagerly, compiled, or replayed as a CUDA graph.

On a CUDA device the input is resident, and the device's own clock (events around the forward) and the host's time for handing the
work over are given beside the wall time. How it runs is part of the name, because the times mean different things:
"torch-cuda", "torch-compiled-cuda", "torch-graph-cuda".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

from autoformer.errors import MeasurementError, short
from autoformer.profiling.measuring.system_files import usable_cores

MODES = {"eager": "torch", "compiled": "torch-compiled", "graph": "torch-graph"}
GRAPH_WARMUP = 3  # runs on the stream of the capture, which libraries need before it
PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


class TorchBackend:
    """`network` in evaluation mode with a random input [batch, *image_shape] from `seed`.

    `threads` None means the cores this process may use; torch's thread count belongs to the whole process and is put back
    when the context is left, as is the network's mode. `mode` is one of `MODES`; a CUDA graph needs a CUDA device. A
    compiled network is compiled here, which takes up to minutes. Raises `MeasurementError` when the device is absent or the
    network cannot be compiled or captured.
    """

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        *,
        batch: int = 1,
        device: str = "cpu",
        mode: str = "eager",
        threads: int | None = None,
        seed: int = 0,
    ) -> None:
        if device not in ("cpu", "cuda"):
            raise MeasurementError(f"unknown device {device!r} for torch; known are cpu, cuda")
        if mode not in MODES:
            raise MeasurementError(f"unknown mode {mode!r} for torch; known are {', '.join(MODES)}")
        if mode == "graph" and device != "cuda":
            raise MeasurementError("a CUDA graph needs a CUDA device; choose the mode eager or compiled on the CPU")
        if device == "cuda" and not torch.cuda.is_available():
            raise MeasurementError("torch finds no CUDA device here")
        parameter = next(network.parameters())
        self._precision, self._device, self._mode = PRECISIONS[parameter.dtype], device, mode
        self._enqueue_ms: float | None = None
        self._old_threads, self._was_training, self._old_device = torch.get_num_threads(), network.training, parameter.device
        self._threads = threads or usable_cores()
        torch.set_num_threads(self._threads)
        self._network = network.to(device).eval()
        try:
            images = torch.randn((batch, *image_shape), generator=torch.Generator().manual_seed(seed))
            self._images = images.to(device, parameter.dtype)
        except (RuntimeError, TypeError) as error:  # torch's ways to say that memory is short, or a number too large
            torch.set_num_threads(self._old_threads)
            self._network.to(self._old_device).train(self._was_training)
            raise MeasurementError(f"{batch} images of {list(image_shape)} do not fit here: {_words(error)}") from error
        self._host_images: Tensor | None = None
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device == "cuda":
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        try:
            self._call = self._prepared()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    @property
    def name(self) -> str:
        """ "torch-cpu", "torch-compiled-cuda" and so on."""
        return f"{MODES[self._mode]}-{self._device}"

    @property
    def precision(self) -> str:
        """That of the network's first parameter."""
        return self._precision

    @property
    def batch(self) -> int:
        """Images in one run."""
        return len(self._images)

    @property
    def threads(self) -> int | None:
        """CPU threads within an operator; None on a CUDA device."""
        return self._threads if self._device == "cpu" else None

    @property
    def settings(self) -> Mapping[str, str]:
        """How it runs, and how float32 products are rounded on a GPU."""
        if self._device == "cpu":
            return {"mode": self._mode}
        return {"mode": self._mode, "copies": "none", "float32_matmul_precision": torch.get_float32_matmul_precision()}

    @property
    def enqueue_ms(self) -> float | None:
        """Host time of the last run until the call came back, before the wait; None on the CPU."""
        return self._enqueue_ms

    @torch.inference_mode()
    def _prepared(self) -> Callable[[], Tensor]:
        """What one run calls."""
        network, images = self._network, self._images
        if self._mode == "compiled":
            compiled = torch.compile(network)
            try:
                compiled(images)
            except Exception as error:  # whatever Dynamo, Inductor and the compiler below them raise
                reason = _words(error)
                raise MeasurementError(f"torch cannot compile {type(network).__name__} here: {reason}") from error
            return lambda: compiled(images)
        if self._mode == "graph":
            return self._captured()
        return lambda: network(images)

    def _captured(self) -> Callable[[], Tensor]:
        """A replay of one forward."""
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(GRAPH_WARMUP):
                    self._network(self._images)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                answer = self._network(self._images)
        except RuntimeError as error:
            reason = _words(error)
            raise MeasurementError(f"{type(self._network).__name__} cannot be captured as a CUDA graph: {reason}") from error

        def replay() -> Tensor:
            graph.replay()
            return answer  # type: ignore[no-any-return]

        return replay

    @torch.inference_mode()
    def run(self) -> float | None:
        """One forward, waited for; milliseconds by CUDA events on a CUDA device, None on the CPU.

        Raises `MeasurementError` when it fails, for want of memory for instance.
        """
        try:
            if self._events is None:
                self._call()
                return None
            start, end = self._events
            start.record()
            before = time.perf_counter_ns()
            self._call()
            self._enqueue_ms = (time.perf_counter_ns() - before) / 1e6
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end))
        except RuntimeError as error:
            raise MeasurementError(f"{type(self._network).__name__} fails at batch {self.batch}: {_words(error)}") from error

    @torch.inference_mode()
    def run_with_copies(self) -> None:
        """One forward with images from pinned memory and the answer back in the host's memory, waited for."""
        if self._host_images is None:
            self._host_images = self._images.to("cpu").pin_memory()
        self._images.copy_(self._host_images, non_blocking=True)
        self._call().to("cpu")  # waits

    def __enter__(self) -> TorchBackend:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        torch.set_num_threads(self._old_threads)
        self._network.to(self._old_device).train(self._was_training)
        self._call = _released
        del self._network, self._images, self._host_images, self._events


def _released() -> Tensor:
    raise MeasurementError("this backend was released; open another")


def _words(error: Exception) -> str:
    return short(" ".join(str(error).split()), 300)
