"""What differs between TensorRT 8.6, 10 and 11, in one place; and the logger that keeps what TensorRT says.

Enum members move between versions, so flags are always taken by name and never stored as numbers. Runs on boards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from autoformer.errors import MeasurementError, MissingPackageError

MAX_WARNINGS = 20  # different ones kept of a build
# What computes numbers and can be held in a type; moving and shaping layers take the type of their neighbours.
COMPUTING_LAYERS = (
    "ACTIVATION", "CONVOLUTION", "ELEMENTWISE", "MATRIX_MULTIPLY", "NORMALIZATION", "REDUCE", "SCALE", "SOFTMAX", "UNARY",
)  # fmt: skip
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


def set_precision(trt: Any, config: Any, network: Any, precision: str, float32_nodes: Collection[str]) -> None:
    """Lets the engine compute in what the ONNX file says, `precision` being the word for it.

    10 and 11 do so by themselves (strong typing). 8.6 chooses types freely within flags: it gets the flag of `precision`, and
    every layer that the file computes in float32 is held there, layer normalisation always. What softmax computes in is the
    file's choice like everything else: held in float32 it would keep attention from being one kernel.
    """
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    if is_strongly_typed(trt) or precision in ("fp32", "tf32"):
        return
    config.set_flag(trt.BuilderFlag.FP16 if precision == "fp16" else trt.BuilderFlag.INT8)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        computes = any(layer.type == getattr(trt.LayerType, kind) for kind in COMPUTING_LAYERS)
        node = re.sub(r"_\d+$", "", layer.name)  # the parser numbers layers of equal name
        if layer.type == trt.LayerType.NORMALIZATION or (computes and {layer.name, node} & set(float32_nodes)):
            layer.precision = trt.DataType.FLOAT
            for output in range(layer.num_outputs):
                layer.set_output_type(output, trt.DataType.FLOAT)


def is_strongly_typed(trt: Any) -> bool:
    """Whether this version computes in the types that the file states: 10 and newer."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def parser_error_line(parser_error: Any, nodes: Sequence[str] = (), scopes: Mapping[str, str] = {}) -> str:
    """One parser error as a line: operator, node, torch module, and what was wrong.

    8.6 gives a node's number alone: `nodes` are the names by number. `scopes` are the torch modules by node.
    """
    operator = parser_error.node_operator() if hasattr(parser_error, "node_operator") else ""
    number = parser_error.node()
    known = nodes[number] if 0 <= number < len(nodes) else ""
    name = (parser_error.node_name() if hasattr(parser_error, "node_name") else "") or known
    where = f"node {name}" if name else f"node number {number}"
    module = f" (module {scopes[name]})" if scopes.get(name) else ""
    what = " ".join(parser_error.desc().split())
    return f"operator {operator} of {where}{module}: {what}" if operator else f"{where}{module}: {what}"


@cache
def collecting_logger(trt: Any) -> Any:
    """The one logger of the process (TensorRT uses the first it is given); `take()` empties it and gives the errors said."""

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: dict[str, None] = {}

        def log(self, severity: Any, msg: str) -> None:  # called from several threads
            said = " ".join(msg.split())
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(said)
            elif severity <= trt.ILogger.Severity.WARNING and len(self.warnings) < MAX_WARNINGS:
                self.warnings[said] = None

        def take(self) -> str:
            said, self.errors = self.errors, []
            self.warnings = {}
            return "; ".join(said[-3:]) or "TensorRT gave no reason"

    return CollectingLogger()


def created(trt: Any, kind: str, *arguments: Any) -> Any:
    """A TensorRT object of class `kind`. Raises `MeasurementError` where its library gives none, as without a usable GPU."""
    logger = collecting_logger(trt)
    try:
        return getattr(trt, kind)(*arguments)
    except TypeError as error:  # "factory function returned nullptr"
        raise MeasurementError(f"TensorRT {trt.__version__} gives no {kind}: {logger.take()}; is the GPU usable?") from error
