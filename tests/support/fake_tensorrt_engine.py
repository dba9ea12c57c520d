"""The running half of the TensorRT stand-in: engines, contexts, refitters and the inspector. See `fake_tensorrt.py`."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from tests.support.fake_cuda import FakeCuda
from tests.support.strict_module import made_by_library

MARK = b"fake plan "
TYPES = {"tensor(float)": "FLOAT", "tensor(uint8)": "UINT8", "tensor(float16)": "HALF"}
NUMPY = {"FLOAT": np.float32, "UINT8": np.uint8}


@dataclass
class World:
    """What all objects of one fake module share."""

    trt: ModuleType
    version: str
    listing: dict[str, Any]
    cuda: FakeCuda
    fail: str
    classes: dict[str, type] = field(default_factory=dict)
    during_build: Callable[[], None] = lambda: None  # called at every step of a build

    @property
    def key(self) -> list[str]:
        """What a plan must share with the place it is loaded at."""
        return [self.version] if "ComputeCapability" in self.listing else [self.version, self.cuda.gpu]

    def runs(self, capabilities: list[str]) -> bool:
        """Whether an engine for these compute capabilities, or for none in particular, runs on the device."""
        major, minor = self.cuda.capability
        return not capabilities or f"SM{major}{minor}" in capabilities

    @property
    def cache_key(self) -> str:
        return " ".join(self.key)

    def make(self, name: str, *arguments: Any) -> Any:
        """An object that only the library makes."""
        return made_by_library(getattr(self.trt, name), *arguments)


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime without its remarks about half precision."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class Runtime:
    _world: World

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        head, _, model = bytes(serialized_engine)[len(MARK) :].partition(b"\n")
        header: dict[str, Any] = json.loads(head) if serialized_engine.startswith(MARK) else {"key": None}
        if self._world.fail == "deserialize" or header["key"] != self._world.key or not self._world.runs(header["capabilities"]):
            self._logger.log(self._world.trt.ILogger.Severity.ERROR, "the plan was built for another device")
            return None
        return self._world.make("ICudaEngine", header, model)


class ICudaEngine:
    _world: World
    num_io_tensors = 2

    def __init__(self, header: dict[str, Any], model: bytes) -> None:
        self._header, self._num_contexts = header, 0
        self._load(onnx.load_from_string(model))

    def _load(self, model: Any) -> None:
        self._model = model
        self._session = session_of(model.SerializeToString())
        self._ends = [*self._session.get_inputs(), *self._session.get_outputs()]

    @property
    def refittable(self) -> bool:
        return "REFIT" in self._header["flags"]

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._header["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return str(self._ends[index].name)

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._world.trt.TensorIOMode
        return modes.INPUT if name == self._ends[0].name else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._world.trt.DataType, TYPES[next(entry.type for entry in self._ends if entry.name == name)])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        (entry,) = (entry for entry in self._ends if entry.name == name)
        return tuple(-1 if isinstance(size, str) else size for size in entry.shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        known, *shapes = self._header["profiles"][profile_index]
        assert name == known, "profiles are of inputs alone"
        return [tuple(shape) for shape in shapes]

    def create_runtime_config(self) -> Any:
        return self._world.make("IRuntimeConfig")

    def create_execution_context(self, runtime_config: Any = None) -> Any:
        strategies = getattr(self._world.trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is not None:
            assert runtime_config.dynamic_shapes_kernel_specialization_strategy == strategies.EAGER, "runs would differ"
        self._num_contexts += 1
        return None if self._world.fail == "context" else self._world.make("IExecutionContext", self, self._num_contexts == 1)

    def create_engine_inspector(self) -> Any:
        return self._world.make("EngineInspector", self)

    def serialize(self) -> memoryview:
        header = {**self._header, "flags": sorted({*self._header["flags"]} - {"REFIT"})}  # until 10.14 it is lost here
        return memoryview(MARK + json.dumps(header).encode() + b"\n" + self._model.SerializeToString())

    def create_serialization_config(self) -> Any:
        return self._world.make("ISerializationConfig")

    def serialize_with_config(self, arg0: Any) -> memoryview:
        if "INCLUDE_REFIT" not in arg0._flags:
            return self.serialize()
        return memoryview(MARK + json.dumps(self._header).encode() + b"\n" + self._model.SerializeToString())


class IRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy: Any = None


class ISerializationConfig:
    def __init__(self) -> None:
        self._flags = set[str]()

    def set_flag(self, flag: Any) -> bool:
        self._flags.add(flag.name)
        return True


class IExecutionContext:
    """Runs in the stream it is given; refuses what the real one refuses."""

    _world: World
    profiler: Any = None
    enqueue_emits_profile = True

    def __init__(self, engine: Any, is_first: bool) -> None:
        self._owner, self._profile, self._shape = engine, 0 if is_first else None, tuple[int, ...]()
        self._is_first = is_first
        self._addresses, self._has_run, self._unreported = dict[str, int](), False, False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self._world.cuda.handles
        if self._world.fail == "switch" or profile_index >= self._owner.num_optimization_profiles:
            return False
        if (
            not self._is_first
            and self._world.version.startswith("8")
            and "PROFILE_SHARING_0806" not in self._owner._header["flags"]
        ):
            return False  # a profile belongs to one context there
        self._profile, self._shape, self._has_run = profile_index, (), False
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        assert self._profile is not None, "a second context begins without a profile"
        low, _, high = self._owner.get_tensor_profile_shape(name, self._profile)
        inside = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if self._world.fail == "shape" or not inside:
            return False
        self._shape, self._has_run = tuple(shape), False
        return True

    def infer_shapes(self) -> list[str]:
        return [] if self._shape else [self._owner.get_tensor_name(0)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._shape[0], self._owner._ends[1].shape[1])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        world, cuda = self._world, self._world.cuda
        assert self._shape, "ran without a shape"
        assert self._profiler_is_quiet(), "every layer would be waited for"
        if world.fail == "run":
            return False
        if stream_handle in cuda.capturing:
            assert self._has_run, "what TensorRT puts off until the first run would be in the graph"
            if world.fail == "refuses":
                return False
            if world.fail == "capture":
                cuda.capturing[stream_handle] = None
                return False
        self._has_run = self._unreported = True
        addresses, shape = dict(self._addresses), self._shape  # a graph keeps them as they are now
        cuda.enqueue(stream_handle, lambda: self._compute(addresses, shape))
        return True

    def _profiler_is_quiet(self) -> bool:
        return self.__dict__.get("profiler") is None or self.__dict__.get("enqueue_emits_profile") is False

    def _compute(self, addresses: dict[str, int], shape: tuple[int, ...]) -> None:
        cuda, (entry, result) = self._world.cuda, self._owner._ends
        images = np.frombuffer(cuda.memory[addresses[entry.name]], dtype=NUMPY[TYPES[entry.type]]).reshape(shape)
        assert np.isfinite(images).all(), "ran on memory that nobody wrote"
        (logits,) = self._owner._session.run([result.name], {entry.name: images})
        assert len(cuda.memory[addresses[result.name]]) == logits.nbytes
        ctypes.memmove(addresses[result.name], logits.ctypes.data, logits.nbytes)

    def report_to_profiler(self) -> bool:
        if self._world.fail == "layers" or not self._unreported:
            return False
        self._unreported = False
        for index, node in enumerate(self._owner._model.graph.node):
            self.profiler.report_layer_time(node.name, 0.25 * (index + 1))
        return True


class EngineInspector:
    """One layer per node, in the schema of the version."""

    _world: World
    execution_context: Any = None

    def __init__(self, engine: Any) -> None:
        self._owner = engine

    def get_engine_information(self, format: Any) -> str:
        assert format == self._world.trt.LayerInformationFormat.JSON
        nodes = self._owner._model.graph.node
        if not self._owner._header["detailed"]:
            return json.dumps({"Layers": [node.name for node in nodes], "Bindings": ["images", "logits"]})
        layers = [
            {
                "Name": node.name,
                "LayerType": "gemm" if node.op_type == "MatMul" else "kgen",
                "Inputs": [self._tensor(name) for name in node.input[:1]],
                "Outputs": [self._tensor(name) for name in node.output],
                "TacticName": f"tactic of {node.name}",
                "Metadata": f"[ONNX Layer: {node.name}]",
            }
            for node in nodes
        ]
        ends = {"I/O Tensors": [{"Name": "images"}]} if self._world.version >= "11" else {"Bindings": ["images", "logits"]}
        return json.dumps({"Layers": layers, **ends})

    def _tensor(self, name: str) -> dict[str, Any]:
        kind = {"Format": "Linear", "DataType": "Float"} if self._world.version.startswith("11") else {}
        return {"Name": name, "Dimensions": [1, 4], **(kind or {"Format/Datatype": "Row major linear FP32"})}


class Refitter:
    _world: World

    def __init__(self, engine: Any, logger: Any) -> None:
        assert engine.refittable, "a refitter for an engine that has none of what it needs"
        self._engine, self._logger = engine, logger
        self._given = dict[str, Any]()

    def _stored(self) -> dict[str, Any]:
        return {tensor.name: tensor for tensor in self._engine._model.graph.initializer}

    def get_all_weights(self) -> list[str]:
        return list(self._stored())

    def get_missing_weights(self) -> list[str]:
        return [name for name in self._stored() if name not in self._given]

    def get_weights_prototype(self, weights_name: str) -> Any:
        return self._world.make("Weights", numpy_helper.to_array(self._stored()[weights_name]))

    def set_named_weights(self, name: str, weights: Any) -> bool:
        values = weights._facts[2]
        fits = name in self._stored() and list(self._stored()[name].dims) == list(values.shape)
        if fits:
            self._given[name] = values
        return fits

    def refit_cuda_engine(self) -> bool:
        if self._world.fail == "refit":
            return False
        assert not self.get_missing_weights()
        for name, tensor in self._stored().items():
            kind = numpy_helper.to_array(tensor).dtype
            tensor.CopyFrom(numpy_helper.from_array(self._given[name].astype(kind), name))
        self._engine._load(self._engine._model)
        return True


class OnnxParserRefitter:
    _world: World
    num_errors = 0

    def __init__(self, refitter: Any, logger: Any) -> None:
        self._refitter = refitter

    def refit_from_bytes(self, model: bytes, path: str | None = None) -> bool:
        if self._world.fail == "refitter":
            object.__setattr__(self, "num_errors", 1)
            return False
        for tensor in onnx.load_from_string(model).graph.initializer:
            self._refitter._given[tensor.name] = numpy_helper.to_array(tensor)
        return True

    def get_error(self, index: int) -> Any:
        assert index < self.num_errors
        return self._world.make("ParserError")


BEHAVIOURS: tuple[type, ...] = (
    Runtime, ICudaEngine, IRuntimeConfig, ISerializationConfig, IExecutionContext, EngineInspector, Refitter, OnnxParserRefitter,
)  # fmt: skip
