"""A GPU's clocks, heat, power and processes through NVIDIA's management library (the package nvidia-ml-py).

Which of its questions a GPU answers depends on the GPU; one that it does not answer leaves its value None. The numbers of the
reasons are those of nvml.h, since the package has renamed its constants ("throttle" became "event").

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autoformer.profiling.sensors import GpuReading

THROTTLE_BITS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "heat (driver)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}  # nvmlClocksEventReason…; idle, application clocks and sync boost are no slowdown


class NvmlSensors:
    """The sensors of GPU number `index`."""

    def __init__(self, library: Any, index: int = 0) -> None:
        self._library = library
        self._handle = library.nvmlDeviceGetHandleByIndex(index)

    @classmethod
    def open(cls) -> NvmlSensors | None:
        """Those of the first GPU; None without the package, the driver or a GPU."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            return cls(pynvml) if pynvml.nvmlDeviceGetCount() else None
        except pynvml.NVMLError:
            return None

    def read(self) -> GpuReading:
        """How the GPU is now."""
        ask, handle, nvml = self._ask, self._handle, self._library
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None) or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        bits = ask(lambda: reasons(handle)) or 0
        milliwatts, millijoules = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle)), ask(self._energy_mj)
        memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        processes = ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        return GpuReading(
            clock_mhz=ask(lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            temperature_c=ask(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            power_w=None if milliwatts is None else milliwatts / 1000,
            energy_j=None if millijoules is None else millijoules / 1000,
            memory_mib=None if memory is None else memory.used / 2**20,
            throttle=tuple(word for bit, word in THROTTLE_BITS.items() if bits & bit),
            processes=None if processes is None else len(processes),
        )

    def _energy_mj(self) -> Any:
        return self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except self._library.NVMLError:
            return None
