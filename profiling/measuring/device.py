"""`DeviceFacts`: what a latency was measured on, read from the system without loading any runtime.

A fact that the system does not give is None or empty. Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoformer.profiling.measuring.gpu_sensors import clocks_locked
from autoformer.profiling.measuring.system_files import cpu_temperature_c, output_of, text_of, usable_cores
from autoformer.records import fields_to_json, from_json
from autoformer.versions import installed

# Instructions that decide how fast int8 and half precision run on a CPU.
ISA_OF_INTEREST = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",  # x86
    "asimd", "asimddp", "i8mm", "bf16", "sve",  # Arm
)  # fmt: skip
PACKAGES = (
    "torch", "onnxruntime", "onnxruntime-gpu", "onnx", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "cuda-bindings",
    "numpy", "autoformer-toolchain",
)  # fmt: skip
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


@dataclass(frozen=True)
class GpuFacts:
    """One NVIDIA GPU."""

    name: str
    driver: str
    compute_capability: str  # "8.7"
    memory_mib: int | None  # None where GPU and CPU share it
    persistence: bool | None = None  # whether the driver stays loaded between programs


@dataclass(frozen=True)
class DeviceFacts:
    """The machine and the software that a measurement ran on. `versions` holds installed packages only."""

    cpu: str
    cores: int  # those this process may use
    governor: str | None  # of the first core's frequency
    load_average: float | None  # over the minute before
    isa: tuple[str, ...]  # those of `ISA_OF_INTEREST` that the CPU has
    memory_mib: int | None
    operating_system: str
    python: str
    gpus: tuple[GpuFacts, ...] = ()
    jetson: str | None = None  # model, from the device tree
    l4t: str | None = None  # first line of /etc/nv_tegra_release
    versions: Mapping[str, str] = field(default_factory=dict)
    power_mode: str | None = None  # of a Jetson, as nvpmodel names it
    clocks_locked: bool | None = None  # of a Jetson; a GPU of a PC does not say it, unless this program locked it (clock_lock.py)
    container: str | None = None  # that this process runs in, "docker" for instance
    cpu_temperature_c: float | None = None
    thread_settings: Mapping[str, str] = field(default_factory=dict)  # variables of the environment that set threads

    @property
    def short_name(self) -> str:
        """CPU and cores, e.g. "AMD EPYC 9B45, 2 cores"; a Jetson by its model."""
        return f"{self.jetson or self.cpu}, {self.cores} core{'' if self.cores == 1 else 's'}"

    @property
    def gpu_name(self) -> str:
        """The first GPU, or the Jetson that contains it."""
        if self.gpus and self.jetson is None:
            return self.gpus[0].name
        return self.jetson or "no NVIDIA GPU"

    @property
    def has_gpu(self) -> bool:
        """Whether an NVIDIA GPU was found."""
        return bool(self.gpus) or self.jetson is not None

    @classmethod
    def collect(cls, root: Path = Path("/")) -> DeviceFacts:
        """The facts of this machine. `root` is where its /proc, /sys and /etc are looked up."""
        cpuinfo = text_of(root / "proc/cpuinfo") or ""
        model = text_of(root / "proc/device-tree/model")
        flags = set(re.findall(r"\S+", " ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)[:1])))
        load = (text_of(root / "proc/loadavg") or "").split()
        memory = re.search(r"^MemTotal:\s*(\d+) kB", text_of(root / "proc/meminfo") or "", re.MULTILINE)
        release = text_of(root / "etc/nv_tegra_release")
        on_this_machine = root == Path("/")
        return cls(
            cpu=_cpu_name(cpuinfo, model),
            cores=usable_cores(),
            governor=text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load_average=float(load[0]) if load else None,
            isa=tuple(name for name in ISA_OF_INTEREST if name in flags),
            memory_mib=int(memory[1]) // 1024 if memory else None,
            operating_system=platform.platform(),
            python=platform.python_version(),
            gpus=_gpus(),
            jetson=model if model and release else None,
            l4t=release.splitlines()[0] if release else None,
            versions=installed(*PACKAGES),
            power_mode=power_mode(output_of("nvpmodel", "-q")) if release and on_this_machine else None,
            clocks_locked=clocks_locked(root),
            container=_container(root),
            cpu_temperature_c=cpu_temperature_c(root),
            thread_settings={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return fields_to_json(self)

    @classmethod
    def from_dict(cls, values: object) -> DeviceFacts:
        """Reads the JSON form, of earlier versions too. Raises `CheckpointError` for what device facts do not hold."""
        return from_json(cls, values, "device")


def _cpu_name(cpuinfo: str, model: str | None) -> str:
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if named:
        return " ".join(re.sub(r"\((?:R|TM|r|tm)\)", "", named[1]).split())
    if model:  # Arm boards name the board, and their cores by numbers only
        return model
    return output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()  # macOS


def _gpus() -> tuple[GpuFacts, ...]:
    """The GPUs, asked of NVIDIA's management library, or of `nvidia-smi` where its bindings are not installed."""
    try:
        import pynvml
    except ImportError:
        return parse_nvidia_smi(
            output_of("nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader,nounits")
        )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        return ()
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            try:
                memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) // 2**20
            except pynvml.NVMLError:  # not supported where the memory is shared
                memory = None
            try:
                persistence = bool(pynvml.nvmlDeviceGetPersistenceMode(handle))
            except pynvml.NVMLError:
                persistence = None
            name = str(pynvml.nvmlDeviceGetName(handle))
            found.append(GpuFacts(name, driver, f"{major}.{minor}", memory, persistence))
        return tuple(found)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def parse_nvidia_smi(text: str | None) -> tuple[GpuFacts, ...]:
    """The GPUs in nvidia-smi's answer to name, driver_version, compute_cap, memory.total as CSV without header and units."""
    found = []
    for line in (text or "").splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4:
            found.append(GpuFacts(parts[0], parts[1], parts[2], int(parts[3]) if parts[3].isdigit() else None))
    return tuple(found)


def power_mode(answer: str | None) -> str | None:
    """The mode in what `nvpmodel -q` prints, e.g. "MAXN" of "NV Power Mode: MAXN"."""
    named = re.search(r"^NV Power Mode:\s*(.+)$", answer or "", re.MULTILINE)
    return named[1].strip() if named else None


def _container(root: Path) -> str | None:
    """The kind of container this process runs in, by the files that the usual programs leave there; None for none known."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    named = re.search(r"\b(kubepods|docker|lxc|containerd|garden)\b", text_of(root / "proc/1/cgroup") or "")
    return named[1] if named else None
