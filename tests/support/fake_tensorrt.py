"""A strict stand-in for the module `tensorrt` or `tensorrt_rtx` of one version, for machines without it: building, timing caches.

Which names exist, and how they may be called, comes from listings of NVIDIA's own bindings (`tensorrt_bindings.py` makes them);
what they do is written here and in `fake_tensorrt_engine.py`. A "plan" is the ONNX file it was built from with a header, an
engine runs it with ONNX Runtime on addresses of ordinary memory, so that results are real and a read of unset memory or a wrong
size shows.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from tests.support import fake_tensorrt_engine as running
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt_engine import MARK, World
from tests.support.strict_module import strict_class, strict_enum
from tests.support.tensorrt_bindings import LISTING

__all__ = ["MARK", "FakeCuda", "make_tensorrt"]

CACHE_MARK = b"fake timing cache "
LAYER_KINDS = {
    "MatMul": "MATRIX_MULTIPLY", "LayerNormalization": "NORMALIZATION", "Softmax": "SOFTMAX", "Cast": "CAST",
    "Add": "ELEMENTWISE", "Mul": "ELEMENTWISE", "Flatten": "SHUFFLE", "Reshape": "SHUFFLE",
}  # fmt: skip


class ILogger:
    def __init__(self) -> None: ...

    def log(self, severity: Any, msg: str) -> None: ...


class IProfiler:
    def __init__(self) -> None: ...

    def report_layer_time(self, layer_name: str, ms: float) -> None: ...


class IProgressMonitor:
    def __init__(self) -> None: ...


class ParserError:
    def __init__(self, node: int = 0, name: str = "node_gelu", operator: str = "Gelu", desc: str = "") -> None:
        self._facts = node, name, operator, desc or "Unsupported operator:\n  Gelu"

    def node(self) -> int:
        return self._facts[0]

    def node_name(self) -> str:
        return self._facts[1]

    def node_operator(self) -> str:
        return self._facts[2]

    def desc(self) -> str:
        return self._facts[3]


class ITensor:
    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self._facts = name, shape, dtype

    @property
    def name(self) -> str:
        return self._facts[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self._facts[1]

    @property
    def dtype(self) -> Any:
        return self._facts[2]


class ILayer:
    precision: Any = None
    num_outputs = 1

    def __init__(self, name: str, kind: Any) -> None:
        self._name, self._kind, self._output_types = name, kind, dict[int, Any]()

    @property
    def name(self) -> str:
        return self._name

    @property
    def type(self) -> Any:
        return self._kind

    def set_output_type(self, index: int, dtype: Any) -> None:
        assert index < self.num_outputs
        self._output_types[index] = dtype


class INetworkDefinition:
    _world: World
    _model: Any = None

    def __init__(self) -> None:
        self._layers = list[Any]()

    def _read(self, content: bytes) -> None:
        self._model = onnx.load_from_string(content)
        self._content = content
        self._session = running.session_of(content)
        kinds = self._world.trt.LayerType
        for index, node in enumerate(self._model.graph.node):
            kind = getattr(kinds, LAYER_KINDS.get(node.op_type, "IDENTITY"))
            name = node.name if index % 2 else f"{node.name}_{index}"  # the parser numbers some
            self._layers.append(self._world.make("ILayer", name, kind))

    @property
    def num_inputs(self) -> int:
        return 0 if self._model is None else len(self._session.get_inputs())

    @property
    def num_outputs(self) -> int:
        return 0 if self._model is None else len(self._session.get_outputs())

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def get_input(self, index: int) -> Any:
        entry = self._session.get_inputs()[index]
        shape = tuple(-1 if isinstance(size, str) else size for size in entry.shape)
        dtype = getattr(self._world.trt.DataType, running.TYPES[entry.type])
        return self._world.make("ITensor", entry.name, shape, dtype)

    def get_output(self, index: int) -> Any:
        return self._world.make("ITensor", self._session.get_outputs()[index].name, (), None)


class OnnxParser:
    _world: World
    num_errors = 0

    def __init__(self, network: Any, logger: Any) -> None:
        self._network = network

    def parse(self, model: bytes, path: str | None = None) -> bool:
        assert path is not None, "weights beside the file would not be found"
        if self._world.fail == "parse":
            object.__setattr__(self, "num_errors", 1)
            return False
        whole = onnx.load_from_string(model)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in whole.graph.initializer):
            onnx.load_external_data_for_model(whole, str(Path(path).parent))
            model = whole.SerializeToString()
        self._network._read(model)
        return True

    def get_error(self, index: int) -> Any:
        assert index < self.num_errors
        return self._world.make("ParserError")


class IOptimizationProfile:
    _shapes: Any = None

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        if not tuple(min) <= tuple(opt) <= tuple(max):
            raise ValueError("shapes must rise")
        self._shapes = (input, tuple(min), tuple(opt), tuple(max))


class ITimingCache:
    _world: World

    def __init__(self, key: str, entries: set[str]) -> None:
        self._key, self._entries = key, entries

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._entries |= input_cache._entries
        return bool(self._key == input_cache._key)

    def serialize(self) -> memoryview:
        return memoryview(CACHE_MARK + json.dumps([self._key, sorted(self._entries)]).encode())


class IBuilderConfig:
    _world: World
    builder_optimization_level = 3
    progress_monitor: Any = None

    def __init__(self) -> None:
        self._flags, self._profiles, self._pools, self._cache = {"TF32"}, list[Any](), dict[str, int](), None
        self._capabilities = dict[int, str]()
        self.profiling_verbosity = self._world.trt.ProfilingVerbosity.LAYER_NAMES_ONLY

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[pool.name] = pool_size

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        assert enable
        self._flags.add(feature.name)

    num_compute_capabilities = 0

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        assert index < self.num_compute_capabilities, "the number comes first"
        self._capabilities[index] = compute_capability.name
        return True

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile._shapes)
        return -1 if self._world.fail == "profile" else len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        if not serialized_timing_cache:
            return self._world.make("ITimingCache", self._world.cache_key, set())
        if not serialized_timing_cache.startswith(CACHE_MARK):
            return None
        key, entries = json.loads(serialized_timing_cache[len(CACHE_MARK) :])
        return self._world.make("ITimingCache", key, set(entries))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache._key != self._world.cache_key:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class Builder:
    _world: World

    def __init__(self, logger: Any) -> None:
        if self._world.fail == "builder":
            logger.log(self._world.trt.ILogger.Severity.WARNING, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags: int = 0) -> Any:
        known = self._world.listing["NetworkDefinitionCreationFlag"]["enum"]
        wanted = known.get("STRONGLY_TYPED", known.get("EXPLICIT_BATCH"))
        assert flags == 1 << wanted, "the flag's number differs between versions"
        return self._world.make("INetworkDefinition")

    def create_builder_config(self) -> Any:
        return self._world.make("IBuilderConfig")

    def create_optimization_profile(self) -> Any:
        return self._world.make("IOptimizationProfile")

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        world = self._world
        if config._cache is not None:
            config._cache._entries |= {f"{layer.name} {layer.type}" for layer in network._layers}
        self._logger.log(world.trt.ILogger.Severity.WARNING, "fake  warning")
        if self._is_stopped(config):
            return None
        if world.fail == "build":
            self._logger.log(world.trt.ILogger.Severity.ERROR, "no implementation for node_MatMul_28")
            return None
        entry = network._session.get_inputs()[0]
        fixed = [entry.name, *[entry.shape] * 3]
        header = {
            "key": world.key,
            "capabilities": sorted(config._capabilities.values()),
            "flags": sorted(config._flags),
            "level": config.builder_optimization_level,
            "pools": config._pools,
            "profiles": config._profiles or [fixed],
            "detailed": config.profiling_verbosity.name == "DETAILED",
            "float32": sorted(layer.name for layer in network._layers if layer.__dict__.get("precision")),
        }
        return memoryview(MARK + json.dumps(header).encode() + b"\n" + network._content)

    def _is_stopped(self, config: Any) -> bool:
        """Runs through two phases on a thread of its own, as TensorRT does; whether it was asked to stop."""
        monitor = config.__dict__.get("progress_monitor")
        if monitor is None:
            return False
        assert "progress_monitor" in self._world.listing["IBuilderConfig"]["properties"]
        going_on: list[bool] = []

        def work() -> None:
            monitor.phase_start("Building", None, 2)
            monitor.phase_start("Timing", "Building", 3)
            for step in range(3):
                self._world.during_build()
                going_on.append(monitor.step_complete("Timing", step))
            monitor.phase_finish("Timing")
            monitor.phase_finish("Building")

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert len(going_on) == 3, "the monitor raised in TensorRT's thread"
        return not all(going_on)


class Weights:
    """Values with TensorRT's type."""

    _world: World

    def __init__(self, *arguments: Any) -> None:
        (values,) = arguments
        kinds = {"float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}
        name = kinds[str(values.dtype)]  # 8.6 has no INT64
        self._facts = getattr(self._world.trt.DataType, name), int(values.size), values

    @property
    def dtype(self) -> Any:
        return self._facts[0]

    @property
    def size(self) -> int:
        return self._facts[1]


BEHAVIOURS: tuple[type, ...] = (
    ILogger, IProfiler, IProgressMonitor, ParserError, ITensor, ILayer, INetworkDefinition, OnnxParser, IOptimizationProfile,
    ITimingCache, IBuilderConfig, Builder, Weights, *running.BEHAVIOURS,
)  # fmt: skip


def make_tensorrt(version: str, cuda: FakeCuda, *, fail: str = "") -> ModuleType:
    """The module of a listed version, or of one that resembles the newest listed before it; 1.x are of TensorRT-RTX.

    `fail` names what goes wrong: "builder", "parse", "profile", "build", "deserialize", "context", "switch", "shape", "run",
    "refuses" and "capture" (being captured), "refit", "refitter", "layers".
    """
    listings = json.loads(LISTING.read_text(encoding="utf-8"))
    listing = next(listings[known] for known in sorted(listings, key=_number, reverse=True) if _number(known) <= _number(version))
    trt = ModuleType("tensorrt_rtx" if version.startswith("1.") else "tensorrt")
    world = World(trt, version, listing, cuda, fail)
    trt.__version__ = version  # type: ignore[attr-defined]
    trt._world = world  # type: ignore[attr-defined]
    for name, facts in listing.items():
        if "enum" in facts and "." not in name:
            setattr(trt, name, strict_enum(name, facts["enum"]))
    for behaviour in BEHAVIOURS:
        name = behaviour.__name__
        if name in listing:
            world.classes[name] = type(name, (behaviour,), {"_world": world})
            setattr(trt, name, strict_class(name, listing[name], world.classes[name]))
    trt.ILogger.Severity = strict_enum("ILogger.Severity", listing["ILogger.Severity"]["enum"])
    return trt


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
