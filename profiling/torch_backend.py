"""A torch network run eagerly in inference mode, on the CPU or a CUDA device.

On a CUDA device the input is resident and the device's own clock (events around the forward) is given beside the wall time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

from autoformer.errors import MeasurementError
from autoformer.profiling.device import usable_cores

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


class TorchBackend:
    """`network` in evaluation mode with a seeded random input [batch, *image_shape], or with `images` as they are.

    `threads` None means the cores this process may use; torch's thread count belongs to the whole process and is put back
    when the context is left, as is the network's mode. Raises `MeasurementError` when the device is absent.
    """

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        *,
        batch: int = 1,
        device: str = "cpu",
        threads: int | None = None,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        if device not in ("cpu", "cuda"):
            raise MeasurementError(f"unknown device {device!r} for torch; known are cpu, cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise MeasurementError("torch finds no CUDA device here")
        parameter = next(network.parameters())
        self._precision, self._device = PRECISIONS[parameter.dtype], device
        self._old_threads, self._was_training, self._old_device = torch.get_num_threads(), network.training, parameter.device
        self._threads = threads or usable_cores()
        torch.set_num_threads(self._threads)
        self._network = network.to(device).eval()
        if images is None:
            generator = torch.Generator().manual_seed(seed)
            images = torch.randn((batch, *image_shape), generator=generator)
        self._images = images.to(device, parameter.dtype)
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device == "cuda":
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))

    @property
    def name(self) -> str:
        """ "torch-cpu" or "torch-cuda"."""
        return f"torch-{self._device}"

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
        """Eager execution, and how float32 products are rounded on a GPU."""
        if self._device == "cpu":
            return {"mode": "eager"}
        return {"mode": "eager", "float32_matmul_precision": torch.get_float32_matmul_precision()}

    @torch.inference_mode()
    def run(self) -> float | None:
        """One forward, waited for; milliseconds by CUDA events on a CUDA device, None on the CPU."""
        if self._events is None:
            self._network(self._images)
            return None
        start, end = self._events
        start.record()
        self._network(self._images)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def __enter__(self) -> TorchBackend:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        torch.set_num_threads(self._old_threads)
        self._network.to(self._old_device).train(self._was_training)
        del self._network, self._images, self._events
