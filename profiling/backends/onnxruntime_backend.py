"""An ONNX file under ONNX Runtime, on the CPU or a CUDA device.

Threads are always explicit, and spinning (threads that burn a core while they wait for work) is off unless asked for: on
small machines the two change the time by a factor of two. On a CUDA device input and output stay in its memory. The TensorRT
provider builds an engine when the file is loaded, which takes minutes, and leaves to CUDA what it cannot compute. NVIDIA's plugin
for RTX GPUs ("tensorrt-rtx") is a package of its own; ONNX Runtime loads it when it is asked for.

Imports the standard library at the top and numpy and onnxruntime inside; works on Python 3.10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autoformer.errors import CheckpointError, MeasurementError, MissingPackageError
from autoformer.export.graphs.external_data import check_external_data
from autoformer.export.graphs.onnx_model import PROVIDERS, import_onnxruntime
from autoformer.export.graphs.refusals import reason_of, refusal
from autoformer.export.manifest import check_described
from autoformer.profiling.measuring.system_files import usable_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

RTX = "tensorrt-rtx"
MAX_INPUT_VALUES = 1 << 28  # of one input, 1 GiB in float32; a damaged file must not exhaust a machine


def onnxruntime_with(provider: str) -> Any:
    """The module `onnxruntime`, which has this one of `PROVIDERS`.

    Raises `MissingPackageError` without it, and `MeasurementError` without the provider.
    """
    runtime = import_onnxruntime()
    if provider not in PROVIDERS:
        raise MeasurementError(f"unknown provider {provider!r}; known are {', '.join(PROVIDERS)}")
    if PROVIDERS[provider] not in (there := runtime.get_available_providers()):
        raise MeasurementError(f"this onnxruntime has no {PROVIDERS[provider]}, only {', '.join(there)}; install onnxruntime-gpu")
    return runtime


def rtx_devices() -> list[Any]:
    """The RTX GPUs, as ONNX Runtime with NVIDIA's plugin sees them.

    Raises `MissingPackageError` without the plugin or with an ONNX Runtime that takes none, and `MeasurementError` where it
    cannot be loaded or finds no GPU.
    """
    runtime = import_onnxruntime()
    try:
        import onnxruntime_ep_nv_tensorrt_rtx as plugin
    except ImportError as error:
        raise MissingPackageError(
            f"ONNX Runtime's plugin for TensorRT-RTX cannot be imported ({error}); pip install onnxruntime-ep-nv-tensorrt-rtx"
        ) from error
    if not hasattr(runtime, "register_execution_provider_library"):
        raise MissingPackageError(f"ONNX Runtime {runtime.__version__} takes no plugins; install 1.24 or newer")
    _register(runtime, plugin)
    devices = [device for device in runtime.get_ep_devices() if device.ep_name == plugin.get_ep_name()]
    if not devices:
        raise MeasurementError(f"{plugin.get_ep_name()} finds no RTX GPU here")
    return devices


@cache
def _register(runtime: Any, plugin: Any) -> None:
    """Once in a process: ONNX Runtime refuses a second time."""
    try:
        runtime.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    except Exception as error:  # of ONNX Runtime's own class
        raise MeasurementError(
            f"{plugin.get_ep_name()} cannot be loaded ({reason_of(error)}); an RTX GPU and NVIDIA's driver are needed"
        ) from error


class OnnxRuntimeBackend:
    """A loaded ONNX graph with its input in place.

    `graph` is a file or the bytes of one. Its input is random, from `seed`. A free first dimension becomes `batch`; a fixed one
    must equal it. `threads` None means the cores this process may use, `precision` None what the file says of itself (fp32 if
    nothing). `profile_into` is a folder for ONNX Runtime's profile of single nodes, which slows it down, and for the graph that
    it really runs, as executed.onnx.

    Raises `MissingPackageError` without ONNX Runtime, `CheckpointError` for a file it cannot read and `MeasurementError`
    when the provider is absent or the input has a shape that cannot be chosen.
    """

    def __init__(
        self,
        graph: Path | bytes,
        *,
        batch: int = 1,
        provider: str = "cpu",
        threads: int | None = None,
        spinning: bool = False,
        precision: str | None = None,
        seed: int = 0,
        profile_into: Path | None = None,
    ) -> None:
        devices = rtx_devices() if provider == RTX else []
        onnxruntime = import_onnxruntime() if provider == RTX else onnxruntime_with(provider)
        self._name = f"onnxruntime-{provider}"
        self._threads = threads or usable_cores()
        self._batch = batch
        self._spinning = spinning

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails is raised, and said once
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        if profile_into is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_into / "profile")
            options.optimized_model_filepath = str(profile_into / "executed.onnx")
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        wanted = devices[0].ep_name if devices else PROVIDERS[provider]
        chain: list[Any] | None = [wanted]
        if devices:
            options.add_provider_for_devices(devices[:1], {})
            chain = None
        if provider == "tensorrt":  # what it cannot compute falls to CUDA
            asked = {"trt_fp16_enable": str(precision == "fp16"), "trt_int8_enable": str(precision == "int8")}
            chain = [(PROVIDERS[provider], asked), PROVIDERS["cuda"]]
        shown = str(graph) if isinstance(graph, Path) else "the given ONNX graph"
        self._shown = shown
        try:
            if isinstance(graph, Path):
                check_described(graph)
                check_external_data(graph)
            self._session = onnxruntime.InferenceSession(
                str(graph) if isinstance(graph, Path) else graph, options, providers=chain, enable_fallback=0
            )
        except CheckpointError:
            raise
        except Exception as error:  # ONNX Runtime raises classes of its own, most of them unrelated to each other
            runtime = f"ONNX Runtime {onnxruntime.__version__}"
            otherwise = f"cannot be run by {runtime} on {wanted}"
            raise refusal(Path(shown), error, runtime, otherwise=otherwise) from error
        if self._session.get_providers()[0] != wanted:  # it falls back in silence when a library is missing
            raise MeasurementError(f"{wanted} could not be started; are the CUDA libraries and a GPU there?")
        try:
            self._precision = precision or self._session.get_modelmeta().custom_metadata_map.get("autoformer.precision", "fp32")
            self._outputs = [output.name for output in self._session.get_outputs()]
            self._feed = {
                node.name: _input(node, batch, seed + index, shown) for index, node in enumerate(self._session.get_inputs())
            }
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{shown} has names that are not text; export it again") from error
        if not any(value.ndim for value in self._feed.values()):
            raise MeasurementError(f"{shown} has no input with a first dimension, so no batch of images can be given to it")
        self._binding: Any = None
        self._on_host = provider in ("cpu", RTX)  # images and answers; a plugin's memory is its own
        if not self._on_host:
            self._binding = self._session.io_binding()
            for name, value in self._feed.items():
                self._binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
            for name in self._outputs:
                self._binding.bind_output(name, "cuda")

    @property
    def name(self) -> str:
        """ "onnxruntime-cpu", "onnxruntime-cuda", "onnxruntime-tensorrt" or "onnxruntime-tensorrt-rtx"."""
        return self._name

    @property
    def precision(self) -> str:
        """As given, or as the file says."""
        return self._precision

    @property
    def batch(self) -> int:
        """Images in one run."""
        return self._batch

    @property
    def threads(self) -> int | None:
        """CPU threads within an operator; None on a CUDA device."""
        return self._threads if self._name == "onnxruntime-cpu" else None

    @property
    def settings(self) -> Mapping[str, str]:
        """Spinning of the threads of a CPU; of GPUs, whether the time holds the copies to it and back."""
        if self._name == "onnxruntime-cpu":
            return {"spinning": "on" if self._spinning else "off"}
        return {"copies": "included" if self._on_host else "none"}

    def run_with_copies(self) -> None:
        """One inference from arrays of the host to arrays of the host; on a CUDA device the runtime copies both ways."""
        try:
            self._session.run(self._outputs, self._feed)
        except Exception as error:
            raise CheckpointError(f"{self._shown} fails when it runs: {reason_of(error)}") from error

    def end_profiling(self) -> Path:
        """Ends the profile that `profile_into` asked for, and gives its JSON file."""
        return Path(self._session.end_profiling())

    def run(self) -> None:
        """One inference; on a CUDA device it waits until the outputs are complete.

        Raises `CheckpointError` when the graph fails on its own input.
        """
        if self._binding is None:
            self.run_with_copies()
            return
        try:
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
        except Exception as error:
            raise CheckpointError(f"{self._shown} fails when it runs: {reason_of(error)}") from error

    def __enter__(self) -> OnnxRuntimeBackend:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._binding, self._feed, self._session  # frees its memory and threads


def _input(node: Any, batch: int, seed: int, shown: str) -> NDArray[Any]:
    """Random values for one graph input, of the shape that the graph asks for."""
    import numpy as np

    types = {
        "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
        "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8,
    }  # fmt: skip
    if node.type not in types:
        raise MeasurementError(f"{shown}: input {node.name!r} is a {node.type}; expected one of {', '.join(types)}")
    dimensions = list(node.shape)
    if dimensions and not isinstance(dimensions[0], int):
        dimensions[0] = batch
    if free := [dimension for dimension in dimensions if not isinstance(dimension, int)]:
        raise MeasurementError(f"{shown}: input {node.name!r} leaves {free[0]!r} open; only the first dimension may be free")
    if math.prod(dimensions) > MAX_INPUT_VALUES or min(dimensions, default=1) < 0:
        raise MeasurementError(
            f"{shown}: input {node.name!r} of sizes {dimensions} is impossible or larger than {MAX_INPUT_VALUES} values"
        )
    if dimensions and dimensions[0] != batch:
        raise MeasurementError(
            f"{shown}: input {node.name!r} is fixed to batch {dimensions[0]}, asked for {batch}; export it with a free batch"
        )
    generator = np.random.default_rng(seed)
    if types[node.type] is np.uint8:
        return generator.integers(0, 256, dimensions, np.uint8)  # pixels; other whole numbers are mostly indices
    if np.issubdtype(types[node.type], np.integer):
        return generator.integers(0, 2, dimensions).astype(types[node.type])
    return generator.standard_normal(dimensions).astype(types[node.type])
