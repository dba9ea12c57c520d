"""A GPU's clocks, heat, power and processes through NVIDIA's management library (the package nvidia-ml-py).

Which of its questions a GPU answers depends on the GPU; one that it does not answer leaves its value None. The numbers of the
reasons are those of nvml.h, since the package has renamed its constants ("throttle" became "event").

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autoformer.profiling.measuring.system_files import text_of


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
    """Those of the first GPU, or of the Jetson; None where neither answers."""

    return JetsonSensors.open(root) or NvmlSensors.open()


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


CHIPS = {"ga10b", "gv11b", "gp10b", "gpu"}  # Orin, Xavier, TX2, later ones
TOTAL_RAIL = "VDD_IN"


class JetsonSensors:
    """The sensors of one Jetson: its GPU's devfreq folder and the files of its power monitors."""

    def __init__(self, root: Path, gpu: Path) -> None:
        self._root, self._gpu = root, gpu

    @classmethod
    def open(cls, root: Path = Path("/")) -> JetsonSensors | None:
        """None where no Jetson's GPU is found."""
        for place in sorted((root / "sys/class/devfreq").glob("*")):
            if text_of(place / "device/of_node/name") in CHIPS:
                return cls(root, place)
        return None

    def read(self) -> GpuReading:
        """How the Jetson is now."""
        clock = number(self._gpu / "cur_freq")  # Hz
        return GpuReading(
            clock_mhz=None if clock is None else clock / 1e6,
            temperature_c=self._temperature_c(),
            power_w=power_w(self._root),
        )

    def _temperature_c(self) -> float | None:
        for zone in sorted((self._root / "sys/class/thermal").glob("thermal_zone*")):
            if (text_of(zone / "type") or "").lower().startswith("gpu"):
                value = number(zone / "temp")
                return None if value is None else value / 1000
        return None


def clocks_locked(root: Path = Path("/")) -> bool | None:
    """Whether the GPU's clock and every CPU's cannot move (least, greatest and present are one); None on other machines."""
    sensors = JetsonSensors.open(root)
    if sensors is None:
        return None
    found = [tuple(number(sensors._gpu / f"{which}_freq") for which in ("min", "max", "cur"))]
    for core in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        found.append(tuple(number(core / f"scaling_{which}_freq") for which in ("min", "max", "cur")))
    return all(None not in three and len(set(three)) == 1 for three in found)


def power_w(root: Path = Path("/")) -> float | None:
    """What the module draws now; None where no monitor answers."""
    rails = dict(_rails(root))
    if TOTAL_RAIL in rails:
        return rails[TOTAL_RAIL]
    return sum(rails.values()) if rails else None


def _rails(root: Path) -> Iterator[tuple[str, float]]:
    """Name and watts of each connected rail."""
    for device in sorted((root / "sys/bus/i2c/devices").glob("*")):
        if "ina3221" not in (text_of(device / "name") or ""):
            continue
        for monitor in sorted(device.glob("hwmon/hwmon*")):
            for index in range(1, 7):
                label = text_of(monitor / f"in{index}_label")
                millivolts, milliamperes = number(monitor / f"in{index}_input"), number(monitor / f"curr{index}_input")
                if label is not None and label != "NC" and millivolts is not None and milliamperes is not None:
                    yield label, millivolts * milliamperes / 1e6


def number(path: Path) -> float | None:
    """A file that holds one whole number."""
    text = text_of(path) or ""
    return float(text) if text.lstrip("-").isdigit() else None
