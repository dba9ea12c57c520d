"""Locks the GPU's clock while something is measured, and frees it afterwards, however that ends.

NVIDIA's management library is asked to hold the base clock, which a GPU keeps under its power limit (nvml.h: both bounds
"TDP"); that takes administrator's rights. It cannot be asked for a lock that somebody else had set before, so such a lock is
gone afterwards. A Jetson has a program of its own for this.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from autoformer.errors import MeasurementError
from autoformer.profiling.measuring.device import DeviceFacts

BASE_CLOCK = 0xFFFFFF01  # NVML_CLOCK_LIMIT_ID_TDP
NO_PERMISSION = 4  # NVML_ERROR_NO_PERMISSION
LOCK_OPTION = "--lock-clocks"
LOCK_HELP = "lock the GPU's clock while it is measured, and free it afterwards; needs sudo"
NOT_HERE = f"{LOCK_OPTION} is for what runs on an NVIDIA GPU, and nothing that is measured here does; leave it out"
ON_A_JETSON = f"a Jetson's clocks are locked by its own program; run `sudo jetson_clocks` first and leave {LOCK_OPTION} out"
NO_LIBRARY = f"{LOCK_OPTION} needs NVIDIA's management library: pip install nvidia-ml-py, or leave it out"
ENDINGS = ("SIGTERM", "SIGHUP")  # a scheduler asks to stop, or the terminal was closed; Ctrl-C is an exception already


@contextmanager
def locked_clocks(device: DeviceFacts) -> Iterator[DeviceFacts]:
    """Holds the first GPU's clock while the block runs; gives `device` as it is then.

    SIGTERM and SIGHUP end the block as exceptions meanwhile, so that the clock is freed. Raises `MeasurementError` where there is
    no GPU or no library, without permission, and where the clock could not be freed.
    """
    if device.jetson is not None:
        raise MeasurementError(ON_A_JETSON)
    if not device.gpus:
        raise MeasurementError(NOT_HERE)
    try:
        import pynvml as nvml
    except ImportError as error:
        raise MeasurementError(NO_LIBRARY) from error
    name = device.gpus[0].name
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
    except nvml.NVMLError as error:
        raise MeasurementError(f"the clocks of {name} cannot be locked ({error}); leave {LOCK_OPTION} out") from error
    with _endings_raise():
        refused = False
        try:
            try:
                nvml.nvmlDeviceSetGpuLockedClocks(handle, BASE_CLOCK, BASE_CLOCK)
            except nvml.NVMLError as error:
                refused = True
                raise MeasurementError(_refusal(name, error)) from error
            yield replace(device, clocks_locked=True)
        finally:
            if not refused:
                _free(nvml, handle, name)
            nvml.nvmlShutdown()


def _free(nvml: Any, handle: Any, name: str) -> None:
    try:
        nvml.nvmlDeviceResetGpuLockedClocks(handle)
    except nvml.NVMLError as error:
        raise MeasurementError(
            f"the clocks of {name} are still locked ({error}); free them with: sudo nvidia-smi --reset-gpu-clocks"
        ) from error


def _refusal(name: str, error: Exception) -> str:
    if getattr(error, "value", None) == NO_PERMISSION:
        return f"the clocks of {name} may be locked by an administrator only; run this with sudo, or leave {LOCK_OPTION} out"
    return f"the clocks of {name} cannot be locked ({error}); leave {LOCK_OPTION} out"


@contextmanager
def _endings_raise() -> Iterator[None]:
    earlier: dict[int, Any] = {}

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for name in ENDINGS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            with suppress(ValueError):  # not in the main thread
                earlier[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
