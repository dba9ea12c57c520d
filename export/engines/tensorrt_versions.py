"""What differs between TensorRT 8.6, 10 and 11, in one place; and the logger that keeps what TensorRT says.

Enum members move between versions, so flags are always taken by name and never stored as numbers. Runs on boards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

from autoformer.errors import MeasurementError, MissingPackageError
from autoformer.export.engines.cuda_runtime import Cuda, Gpu
from autoformer.export.graphs.onnx_file import OnnxFile, module_scopes

MAX_WARNINGS = 20  # different ones kept of a build
# What computes numbers and can be held in a type; moving and shaping layers take the type of their neighbours.
COMPUTING_LAYERS = (
    "ACTIVATION", "CONVOLUTION", "ELEMENTWISE", "MATRIX_MULTIPLY", "NORMALIZATION", "REDUCE", "SCALE", "SOFTMAX", "UNARY",
)  # fmt: skip
PRECISION_FLAGS = {  # of 8.6
    "fp16": ("FP16", "OBEY_PRECISION_CONSTRAINTS"),
    "int8": ("INT8",),
}
SHARED_PROFILES = "PROFILE_SHARING_0806"
ON_A_BOARD = "on a Jetson it comes with JetPack (python3-libnvinfer); elsewhere: pip install tensorrt cuda-python"


def where() -> str:
    """Where TensorRT is to be had: for this toolchain as an extra of it, for the program of a board as a package."""
    if not _has_toolchain():
        return ON_A_BOARD
    return "install the extra: pip install 'autoformer-toolchain[tensorrt]'; on a Jetson use the one of JetPack"


def how_to_build_one() -> str:
    """The command that builds engines: of this toolchain, or of the program of a board."""
    return "autoformer export --format tensorrt" if _has_toolchain() else "python3 board.pyz build"


def how_to_rebuild() -> str:
    """What to do about a plan that is not for here."""
    return f"build it again on this device: {how_to_build_one()}"


def _has_toolchain() -> bool:
    try:
        metadata.distribution("autoformer-toolchain")
    except metadata.PackageNotFoundError:
        return False
    return True


def import_tensorrt() -> Any:
    """The module `tensorrt`. Raises `MissingPackageError` saying whether the package or its libraries are missing."""
    try:
        import tensorrt as trt
    except ModuleNotFoundError as error:
        if error.name == "tensorrt":
            raise MissingPackageError(f"TensorRT is not installed; {where()}") from error
        raise MissingPackageError(f"TensorRT is installed, but needs {error.name!r}, which is missing; {where()}") from error
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MissingPackageError(f"TensorRT's libraries cannot be loaded ({reason}); {where()}") from error
    if not hasattr(trt, "Builder"):
        raise MissingPackageError(f"the module 'tensorrt' found here is not NVIDIA's TensorRT; {where()}")
    return trt


def tensorrt_missing() -> str | None:
    """Why engines cannot be built or run here, in one line; None when they can. Looks at package, libraries and device."""
    try:
        import_tensorrt()
        devices = Cuda().device_count()
    except (MissingPackageError, MeasurementError) as error:
        return str(error)
    return None if devices else "there is no CUDA device; TensorRT needs an NVIDIA GPU and its driver"


class Here(NamedTuple):
    """What a build and a refit begin with: TensorRT, its logger without what was said before, and the device."""

    trt: Any
    logger: Any
    gpu: Gpu

    @classmethod
    def begin(cls) -> Here:
        """Raises `MissingPackageError` without TensorRT, `MeasurementError` without a device."""
        trt = import_tensorrt()
        gpu = Cuda().gpu()
        logger = collecting_logger(trt)
        logger.take()
        return cls(trt, logger, gpu)

    def made(self) -> dict[str, str]:
        """Their part of the record in `Artefact.made`; `read_plan` compares version and device with it."""
        gpu = self.gpu
        return {
            "tensorrt": self.trt.__version__, "gpu": gpu.name, "compute_capability": gpu.compute_capability,
            "driver": gpu.driver, "cuda": gpu.cuda,
        }  # fmt: skip


def network_flags(trt: Any) -> int:
    """Bits for `create_network`: strongly typed where that exists, so that precision is what the graph says.

    8.6 knows no strong typing and must be told that the batch is a dimension; without precision flags it computes in fp32.
    """
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        flag = getattr(trt.NetworkDefinitionCreationFlag, name, None)
        if flag is not None:
            return 1 << int(flag)
    raise MissingPackageError(f"TensorRT {trt.__version__} is neither 8.6 nor 10 or newer; {where()}")


def set_precision(trt: Any, config: Any, network: Any, precision: str, file: OnnxFile) -> None:
    """Lets the engine compute in what the ONNX file says, `precision` being the word for it.

    10 and 11 do so by themselves (strong typing). 8.6 chooses types freely within flags. For fp16 it gets the flag, and every
    layer that the file computes in float32 is held there, layer normalisation always; what softmax computes in is the file's
    choice like everything else, since held in float32 it would keep attention from being one kernel. For int8 the flag is
    enough: the Q/DQ nodes say what is quantised, and without the flag of fp16 the rest stays in float32.
    """
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    if is_strongly_typed(trt) or precision in ("fp32", "tf32"):
        return
    for flag in PRECISION_FLAGS[precision]:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if precision == "int8":
        return
    nodes, exact = {node.name for node in file.nodes}, file.computed_in_float32()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        computes = any(layer.type == getattr(trt.LayerType, kind) for kind in COMPUTING_LAYERS)
        # The parser numbers layers of equal name.
        node = layer.name if layer.name in nodes else re.sub(r"_\d+$", "", layer.name)
        if layer.type == trt.LayerType.NORMALIZATION or (computes and node in exact):
            layer.precision = trt.DataType.FLOAT
            for output in range(layer.num_outputs):
                layer.set_output_type(output, trt.DataType.FLOAT)


def share_profiles(trt: Any, config: Any) -> None:
    """Lets two contexts of an engine use one profile, as those that time layers do: 8.6 has to be told, 10 and 11 always do."""
    if not is_strongly_typed(trt):
        config.set_preview_feature(getattr(trt.PreviewFeature, SHARED_PROFILES), True)


def is_strongly_typed(trt: Any) -> bool:
    """Whether this version computes in the types that the file states: 10 and newer."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def parser_errors(parser: Any, file: OnnxFile) -> str:
    """What a parser says against a file, in one line: operator, node and torch module of each error; empty for nothing."""
    names, scopes = [node.name for node in file.nodes], module_scopes(file.path)
    errors = [parser_error_line(parser.get_error(index), names, scopes) for index in range(parser.num_errors)]
    return "; ".join(dict.fromkeys(errors))


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
    """The one logger of the process (TensorRT uses the first it is given); `take()` empties it and gives what was wrong."""

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
            said = self.errors[-3:] or list(self.warnings)[-1:]  # 8.6 calls a GPU that it cannot use a warning
            self.errors, self.warnings = [], {}
            return "; ".join(said) or "TensorRT gave no reason"

    return CollectingLogger()


def created(trt: Any, kind: str, *arguments: Any) -> Any:
    """A TensorRT object of class `kind`. Raises `MeasurementError` where its library gives none.

    Ask CUDA for a device first: 8.6 crashes when it makes a Runtime without one.
    """
    logger = collecting_logger(trt)
    try:
        return getattr(trt, kind)(*arguments)
    except TypeError as error:  # "factory function returned nullptr"
        raise MeasurementError(f"TensorRT {trt.__version__} gives no {kind}: {logger.take()}; is the GPU usable?") from error
