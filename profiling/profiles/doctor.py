"""What a machine can do: torch, GPU, ONNX Runtime providers, TensorRT, versions, and what to install for the rest."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from typing import Any

from autoformer.errors import to_install
from autoformer.escaping import one_line
from autoformer.export.engines.tensorrt_versions import TENSORRT_RTX, builder_missing, tensorrt_missing
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.gpu_sensors import gpu_sensors

LONGEST = 200  # letters of another's error


@dataclass(frozen=True)
class Finding:
    """One thing that works here or does not."""

    what: str
    works: bool
    found: str
    advice: str = ""  # what to install or change; empty when nothing is missing
    needed: bool = False  # whether nothing goes without it

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def version_of(*packages: str) -> str | None:
    """Name and version of the first installed package."""
    for package in packages:
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def examine() -> list[Finding]:
    """Looks at this machine; imports torch and ONNX Runtime, changes nothing."""
    facts = DeviceFacts.collect()
    new, python = sys.version_info >= (3, 11), ".".join(map(str, sys.version_info[:3]))
    findings = [
        Finding("python", new, python, "" if new else "Python 3.11 or newer", needed=True),
        Finding("processor", True, facts.short_name),
    ]
    findings += [_torch(), *_onnxruntime(), _tensorrt(), *_tensorrt_rtx()]
    if facts.has_gpu:
        works = gpu_sensors() is not None
        advice = "" if works else "pip install nvidia-ml-py, so that measurements see clocks, heat, power and other processes"
        findings.append(Finding("sensors of the GPU", works, "found" if works else "missing", advice))
    return [*findings, *map(_loaded, ("torchvision", "timm", "onnx", "optuna", "fvcore"))]


def _loaded(package: str) -> Finding:
    """Whether a package can be imported, which its presence does not say."""
    found = version_of(package)
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            return Finding(package, False, "missing", f"pip install {package}", needed=True)
        return Finding(package, False, f"{found}, which does not load", to_install(error.name), needed=True)
    except Exception as error:  # whatever a package that does not fit the others raises
        return Finding(package, False, f"{found}, which does not load", unfit_pair(error) or one_line(str(error))[:LONGEST], True)
    return Finding(package, True, found or "found", needed=True)


def unfit_pair(error: Exception) -> str:
    """That torch and torchvision were not built for each other, where an error of an import says so; else nothing.

    It happens where one comes from an index of packages without CUDA, and the other from elsewhere.
    """
    text = str(error)
    if not isinstance(error, RuntimeError | ImportError | OSError) or "torchvision" not in text:
        return ""
    if not ("operator torchvision::" in text or "undefined symbol" in text):
        return ""
    pair = f"torch {metadata.version('torch')} and torchvision {metadata.version('torchvision')}"
    index = " --index-url https://download.pytorch.org/whl/cpu" if metadata.version("torch").endswith("+cpu") else ""
    other = "; where that index is not to be had, without it" if index else ""
    both = f"pip install --force-reinstall torch torchvision{index}{other}"
    return f"{pair} do not fit together; install both from one index: {both}"


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", False, str(error), "pip install torch torchvision", needed=True)
    if torch.cuda.is_available():
        return Finding("torch on a GPU", True, f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    return Finding(
        "torch on a GPU", False, f"torch {torch.__version__}, CPU only", "an NVIDIA GPU with its driver; training works without"
    )


def _onnxruntime() -> list[Finding]:
    found = version_of("onnxruntime-gpu", "onnxruntime")
    if found is None:
        return [Finding("ONNX Runtime", False, "missing", "pip install onnxruntime-gpu (macOS, arm64: onnxruntime)", needed=True)]
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    findings = [Finding("ONNX Runtime on the CPU", "CPUExecutionProvider" in providers, found, needed=True)]
    for name, provider, needs in (
        ("ONNX Runtime on CUDA", "CUDAExecutionProvider", "onnxruntime-gpu and an NVIDIA GPU with CUDA and cuDNN"),
        ("ONNX Runtime on TensorRT", "TensorrtExecutionProvider", "onnxruntime-gpu, an NVIDIA GPU and TensorRT 10 libraries"),
    ):
        works = provider in providers and DeviceFacts.collect().has_gpu
        state = "provider is built in" if provider in providers else "provider is not in this build"
        findings.append(Finding(name, works, f"{found}, {state}", "" if works else needs))
    return findings


def _tensorrt() -> Finding:
    missing = tensorrt_missing()
    found = version_of("tensorrt", "tensorrt-cu13", "tensorrt-cu12") or "missing"
    note = ""
    if found != "missing" and found.split()[-1].startswith("11"):
        note = "; ONNX Runtime's TensorRT provider wants 10.x"
    return Finding("TensorRT", missing is None, found + note, missing or "")


def _tensorrt_rtx() -> list[Finding]:
    """It builds without a GPU; only running an engine needs one."""
    found = version_of("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12") or "missing"
    builds, runs = builder_missing(TENSORRT_RTX), tensorrt_missing(TENSORRT_RTX)
    findings = [Finding("TensorRT-RTX, building", builds is None, found, builds or "")]
    return findings if builds is not None else [*findings, Finding("TensorRT-RTX, running", runs is None, found, runs or "")]
