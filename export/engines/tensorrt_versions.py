"""What differs between TensorRT 8.6, 10 and 11, and between TensorRT and TensorRT-RTX, in one place; and the logger of both.

TensorRT-RTX is NVIDIA's TensorRT for PCs and workstations with RTX GPUs: the same calls under another module's name, and engines
that are built ahead of time, on a machine without a GPU, for one or several compute capabilities. Its versions are its own (1.7).

Enum members move between versions, so flags are always taken by name and never stored as numbers. Runs on boards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

from autoformer.errors import ExportError, MeasurementError, MissingPackageError
from autoformer.export.engines.cuda_runtime import Cuda, Gpu
from autoformer.export.graphs.onnx_file import OnnxFile, module_scopes

OLDEST_RTX = (1, 5)  # of TensorRT-RTX
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


@dataclass(frozen=True)
class Product:
    """One of the two products that build engines."""

    title: str
    format: str  # of its engines, in manifests and on command lines; also the extra that installs it
    module: str
    on_a_board: str  # where it is to be had on a device
    ahead_of_time: bool  # whether it builds where no GPU is


TENSORRT = Product(
    "TensorRT", "tensorrt", "tensorrt",
    "on a Jetson it comes with JetPack (python3-libnvinfer); elsewhere: pip install tensorrt cuda-python", ahead_of_time=False,
)  # fmt: skip
TENSORRT_RTX = Product("TensorRT-RTX", "tensorrt-rtx", "tensorrt_rtx", "pip install tensorrt-rtx cuda-python", ahead_of_time=True)
PRODUCTS = {product.format: product for product in (TENSORRT, TENSORRT_RTX)}


def product_named(format: str) -> Product:
    """The product of this format; TensorRT for any other."""
    return PRODUCTS.get(format, TENSORRT)


def product_of(trt: Any) -> Product:
    """The product of a module, which may be called like the package of its bindings."""
    return TENSORRT_RTX if TENSORRT_RTX.module in trt.__name__ else TENSORRT


def titled(trt: Any) -> str:
    """A product's module with its version, in words: "TensorRT 10.3.0"."""
    return f"{product_of(trt).title} {trt.__version__}"


def where(product: Product = TENSORRT) -> str:
    """Where a product is to be had: for this toolchain as an extra of it, for the program of a board as a package."""
    if not _has_toolchain():
        return product.on_a_board
    jetson = "; on a Jetson use the one of JetPack" if product is TENSORRT else ""
    return f"install the extra: pip install 'autoformer-toolchain[{product.format}]'{jetson}"


def how_to_build_one(product: Product = TENSORRT) -> str:
    """The command that builds engines: of this toolchain, or of the program of a board."""
    if _has_toolchain():
        return f"autoformer export --format {product.format}"
    return "python3 board.pyz build" + ("" if product is TENSORRT else f" --format {product.format}")


def how_to_rebuild(product: Product = TENSORRT) -> str:
    """What to do about a plan that is not for here."""
    return f"build it again on this device: {how_to_build_one(product)}"


def _has_toolchain() -> bool:
    try:
        metadata.distribution("autoformer-toolchain")
    except metadata.PackageNotFoundError:
        return False
    return True


def import_tensorrt(product: Product = TENSORRT) -> Any:
    """The module of a product. Raises `MissingPackageError` saying whether the package or its libraries are missing."""
    try:
        if product is TENSORRT_RTX:
            import tensorrt_rtx

            trt: Any = tensorrt_rtx
        else:
            import tensorrt

            trt = tensorrt
    except ModuleNotFoundError as error:
        if error.name == product.module:
            raise MissingPackageError(f"{product.title} is not installed; {where(product)}") from error
        raise MissingPackageError(
            f"{product.title} is installed, but needs {error.name!r}, which is missing; {where(product)}"
        ) from error
    except Exception as error:  # whatever a module of that name does that is damaged, or somebody else's
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MissingPackageError(f"{product.title}'s libraries cannot be loaded ({reason}); {where(product)}") from error
    if not hasattr(trt, "Builder") or not hasattr(trt, "__version__"):
        raise MissingPackageError(f"the module {product.module!r} found here is not NVIDIA's {product.title}; {where(product)}")
    if product is TENSORRT_RTX and tuple(map(int, re.findall(r"\d+", trt.__version__)[:2])) < OLDEST_RTX:
        raise MissingPackageError(f"{titled(trt)} is too old; expected 1.5 or newer; {where(product)}")
    return trt


def builder_missing(product: Product = TENSORRT) -> str | None:
    """Why engines of a product cannot be built here, in one line; None when they can."""
    if not product.ahead_of_time:
        return tensorrt_missing(product)
    try:
        import_tensorrt(product)
    except MissingPackageError as error:
        return str(error)
    return None


def tensorrt_missing(product: Product = TENSORRT) -> str | None:
    """Why engines of a product cannot be run here, in one line; None when they can. Looks at package, libraries and device."""
    try:
        import_tensorrt(product)
        devices = Cuda().device_count()
    except (MissingPackageError, MeasurementError) as error:
        return str(error)
    return None if devices else f"there is no CUDA device; {product.title} needs an NVIDIA GPU and its driver"


class Here(NamedTuple):
    """What a build and a refit begin with: the product, its logger without what was said before, the device where one is used."""

    product: Product
    trt: Any
    logger: Any
    gpu: Gpu | None

    @classmethod
    def begin(cls, product: Product = TENSORRT) -> Here:
        """Raises `MissingPackageError` without the product, `MeasurementError` without a device where one is needed."""
        trt = import_tensorrt(product)
        gpu = None if product.ahead_of_time else Cuda().gpu()
        logger = collecting_logger(trt)
        if hasattr(trt, "init_libnvinfer_plugins"):  # operators of a parser that are plugins
            trt.init_libnvinfer_plugins(logger, "")
        logger.take()
        return cls(product, trt, logger, gpu)

    @property
    def title(self) -> str:
        """Product and version in words."""
        return titled(self.trt)

    def made(self) -> dict[str, str]:
        """Their part of the record in `Artefact.made`; `read_plan` compares version and device with it."""
        version = {self.product.format: str(self.trt.__version__)}
        if self.gpu is None:
            return version
        gpu = self.gpu
        return {
            **version, "gpu": gpu.name, "compute_capability": gpu.compute_capability, "driver": gpu.driver, "cuda": gpu.cuda,
        }  # fmt: skip


def network_flags(trt: Any) -> int:
    """Bits for `create_network`: strongly typed where that exists, so that precision is what the graph says.

    8.6 knows no strong typing and must be told that the batch is a dimension; without precision flags it computes in fp32.
    """
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        flag = getattr(trt.NetworkDefinitionCreationFlag, name, None)
        if flag is not None:
            return 1 << int(flag)
    raise MissingPackageError(f"{titled(trt)} is neither 8.6 nor 10 or newer; {where()}")


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
    """Lets two contexts of an engine use one profile, as those that time layers do: 8.6 has to be told, the others always do."""
    if not is_strongly_typed(trt):
        config.set_preview_feature(getattr(trt.PreviewFeature, SHARED_PROFILES), True)


def set_gpus(trt: Any, config: Any, gpus: Sequence[str]) -> None:
    """Says for which compute capabilities an engine of TensorRT-RTX is ("8.9"); without any it keeps its own choice.

    Raises `ExportError` for one that this version does not know.
    """
    known = sorted(member for member in dir(trt.ComputeCapability) if member.startswith("SM"))
    config.num_compute_capabilities = len(gpus)
    for index, capability in enumerate(gpus):
        member = f"SM{capability.replace('.', '')}"
        if member not in known or not config.set_compute_capability(getattr(trt.ComputeCapability, member), index):
            raise ExportError(f"{titled(trt)} builds for {', '.join(known)}, asked for {member}")


def new_context(trt: Any, engine: Any) -> Any:
    """What runs an engine; None without memory for it.

    TensorRT-RTX makes the kernels for a batch that it meets in the background, beside runs with slower ones; here it is told to
    make them first, so that all runs of a batch are alike.
    """
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    settings = engine.create_runtime_config()
    settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(runtime_config=settings)


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
    where = f"node {name}" if name else f"node number {number}" if number >= 0 else "the file"  # -1: of no node
    module = f" (module {scopes[name]})" if scopes.get(name) else ""
    what = " ".join(parser_error.desc().split())
    if what in ("", "false"):  # of a check without words
        what = parser_error.code().name.lower().replace("_", " ")
    return f"operator {operator} of {where}{module}: {what}" if operator else f"{where}{module}: {what}"


@cache
def collecting_logger(trt: Any) -> Any:
    """The one logger of the process (TensorRT uses the first it is given); `take()` empties it and gives what was wrong."""

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: dict[str, None] = {}
            self.listener: Callable[[str], None] | None = None  # is told everything, in TensorRT's own words

        def log(self, severity: Any, msg: str) -> None:  # called from several threads
            if self.listener is not None:
                self.listener(msg)
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
        raise MeasurementError(f"{titled(trt)} gives no {kind}: {logger.take()}; is the GPU usable?") from error
