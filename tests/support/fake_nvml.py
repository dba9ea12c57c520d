"""NVIDIA's management library as nvidia-ml-py 13.615 names its parts, for a GPU whose clock moves until it is locked."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType, SimpleNamespace

BASE_MHZ, IDLE_MHZ, BOOST_MHZ = 1065, 300, 1980


class NvmlError(Exception):
    """What the library raises, with nvml.h's number."""

    def __init__(self, value: int, words: str) -> None:
        super().__init__(words)
        self.value = value


class FakeNvml(ModuleType):
    """`refuses` maps a function to the number of the error that it ends with; `calls` are the changes that were made."""

    NVMLError = NvmlError
    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    def __init__(self, refuses: Mapping[str, int] | None = None) -> None:
        super().__init__("pynvml")
        self.refuses, self.calls = dict(refuses or {}), list[tuple[object, ...]]()
        self.opened = self.questions = 0
        self.locked = False

    def _do(self, function: str, *what: object) -> None:
        if function in self.refuses:
            number = self.refuses[function]
            raise NvmlError(number, {4: "Insufficient Permissions", 3: "Not Supported", 15: "GPU is lost"}[number])
        self.calls.append((function, *what))

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"gpu {index}"

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "NVIDIA Test"

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:
        return 9, 0

    def nvmlDeviceGetPersistenceMode(self, handle: str) -> int:
        return 1

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(total=2**34, used=2**30)

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        self.questions += 1
        return BASE_MHZ if self.locked else IDLE_MHZ if self.questions == 1 else BOOST_MHZ

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        assert kind == self.NVML_TEMPERATURE_GPU
        return 60

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return 0x02 if self.locked else 0  # clocks were set by somebody, which is no slowdown

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 100_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return 0

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[object]:
        return [object()]

    def nvmlDeviceSetGpuLockedClocks(self, handle: str, lowest: int, highest: int) -> None:
        self._do("nvmlDeviceSetGpuLockedClocks", handle, lowest, highest)
        self.locked = True

    def nvmlDeviceResetGpuLockedClocks(self, handle: str) -> None:
        self._do("nvmlDeviceResetGpuLockedClocks", handle)
        self.locked = False
