"""What differs between TensorRT 8.6, 10 and 11, in one place; and the logger that keeps what TensorRT says.

Enum members move between versions, so flags are always taken by name and never stored as numbers. Runs on boards.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from autoformer.errors import MeasurementError, MissingPackageError

WHERE = "install the extra: pip install 'autoformer-toolchain[tensorrt]'; on a Jetson use the one of JetPack"


def import_tensorrt() -> Any:
    """The module `tensorrt`. Raises `MissingPackageError` saying whether the package or its libraries are missing."""
    try:
        import tensorrt as trt
    except ModuleNotFoundError as error:
        if error.name == "tensorrt":
            raise MissingPackageError(f"TensorRT is not installed; {WHERE}") from error
        raise MissingPackageError(f"TensorRT is installed, but needs {error.name!r}, which is missing; {WHERE}") from error
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MissingPackageError(f"TensorRT's libraries cannot be loaded ({reason}); {WHERE}") from error
    if not hasattr(trt, "Builder"):
        raise MissingPackageError(f"the module 'tensorrt' found here is not NVIDIA's TensorRT; {WHERE}")
    return trt


def tensorrt_missing() -> str | None:
    """Why engines cannot be built or run here, in one line; None when they can. Looks at package, libraries and device."""
    from autoformer.export.cuda_runtime import Cuda

    try:
        import_tensorrt()
        devices = Cuda().device_count()
    except (MissingPackageError, MeasurementError) as error:
        return str(error)
    return None if devices else "there is no CUDA device; TensorRT needs an NVIDIA GPU and its driver"


def network_flags(trt: Any) -> int:
    """Bits for `create_network`: strongly typed where that exists, so that precision is what the graph says.

    8.6 knows no strong typing and must be told that the batch is a dimension; without precision flags it computes in fp32.
    """
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        flag = getattr(trt.NetworkDefinitionCreationFlag, name, None)
        if flag is not None:
            return 1 << int(flag)
    raise MissingPackageError(f"TensorRT {trt.__version__} is neither 8.6 nor 10 or newer; {WHERE}")


def parser_error_line(error: Any) -> str:
    """One parser error as a line: operator, node, and what was wrong (8.6 does not name the node)."""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    name = error.node_name() if hasattr(error, "node_name") else f"number {error.node()}"
    what = " ".join(error.desc().split())
    return f"operator {operator} of node {name}: {what}" if operator else f"node {name}: {what}"


@cache
def collecting_logger(trt: Any) -> Any:
    """The one logger of the process (TensorRT uses the first it is given); `take()` empties it and gives the errors said."""

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(" ".join(msg.split()))

        def take(self) -> str:
            said, self.errors = self.errors, []
            return "; ".join(said[-3:]) or "TensorRT gave no reason"

    return CollectingLogger()
