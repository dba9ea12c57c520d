"""A GPU's clock, heat, power, throttling and processes: of a PC through NVIDIA's management library, of a Jetson from its files.

The library is the package nvidia-ml-py. Which of its questions a GPU answers depends on the GPU; one without an answer leaves its
value None. That library does not know a Jetson's GPU: its clock is in devfreq, its heat in a thermal zone, and the power of the
whole module is what INA3221 monitors say of its rails.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autoformer.profiling.measuring.system_files import number_of, temperatures_c, text_of

# By bit of nvmlClocksEventReason… in nvml.h; the package has changed its names ("throttle" became "event"). Idle, application
# clocks and sync boost are not slowdowns.
THROTTLE_BITS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "heat (driver)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
JETSON_GPUS = {"ga10b", "gv11b", "gp10b", "gpu"}  # Orin, Xavier, TX2, later ones
TOTAL_RAIL = "VDD_IN"


@dataclass(frozen=True)
class GpuReading:
    """One look at a GPU; on a Jetson `power_w` is that of the whole module."""

    clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    energy_j: float | None = None  # since the driver was loaded
    memory_mib: float | None = None  # in use, by everybody
    throttle: tuple[str, ...] = ()  # why it runs slower than it was asked to
    processes: int | None = None  # that compute on it, this one included


class GpuSensors(Protocol):
    """The part of the sensors that is about the GPU."""

    def read(self) -> GpuReading:
        """How the GPU is now."""


def gpu_sensors(root: Path = Path("/")) -> GpuSensors | None:
    """Those of the Jetson, or of the first GPU; None where neither answers."""
    return JetsonSensors.open(root) or NvmlSensors.open()


class NvmlSensors:
    """The sensors of GPU number `index` of a PC."""

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
        milliwatts = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        millijoules = ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
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

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except self._library.NVMLError:
            return None


class JetsonSensors:
    """The sensors of one Jetson; `gpu` is the devfreq folder of its GPU."""

    def __init__(self, root: Path, gpu: Path) -> None:
        self._root, self.gpu = root, gpu

    @classmethod
    def open(cls, root: Path = Path("/")) -> JetsonSensors | None:
        """None where no Jetson's GPU is found."""
        for place in sorted((root / "sys/class/devfreq").glob("*")):
            if text_of(place / "device/of_node/name") in JETSON_GPUS:
                return cls(root, place)
        return None

    def read(self) -> GpuReading:
        """How the Jetson is now."""
        hertz = number_of(self.gpu / "cur_freq")
        return GpuReading(
            clock_mhz=None if hertz is None else hertz / 1e6,
            temperature_c=next((value for name, value in temperatures_c(self._root) if name.startswith("gpu")), None),
            power_w=power_w(self._root),
        )


def power_w(root: Path = Path("/")) -> float | None:
    """What a Jetson's module draws now; None where no monitor answers."""
    rails = dict(_rails(root))
    return rails.get(TOTAL_RAIL, sum(rails.values())) if rails else None


def _rails(root: Path) -> Iterator[tuple[str, float]]:
    """Name and watts of each connected rail."""
    for device in sorted((root / "sys/bus/i2c/devices").glob("*")):
        if "ina3221" not in (text_of(device / "name") or ""):
            continue
        for monitor in sorted(device.glob("hwmon/hwmon*")):
            for index in range(1, 7):
                label = text_of(monitor / f"in{index}_label")
                millivolts, milliamperes = number_of(monitor / f"in{index}_input"), number_of(monitor / f"curr{index}_input")
                if label is not None and label != "NC" and millivolts is not None and milliamperes is not None:
                    yield label, millivolts * milliamperes / 1e6


def clocks_locked(root: Path = Path("/")) -> bool | None:
    """Whether no clock of a Jetson can move: of its GPU and every core least, greatest and present are one. None elsewhere."""
    sensors = JetsonSensors.open(root)
    if sensors is None:
        return None
    cores = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    clocks = [
        {number_of(place / f"{prefix}{which}_freq") for which in ("min", "max", "cur")}
        for place, prefix in ((sensors.gpu, ""), *((core, "scaling_") for core in cores))
    ]
    return all(None not in three and len(three) == 1 for three in clocks)
