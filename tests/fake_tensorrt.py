"""A strict stand-in for the modules `tensorrt` and `cuda.bindings.runtime`, for machines that have neither.

It knows the names that the API listings of 8.6, 10.3 and 11 share with the code under test, and nothing else: unknown names
raise AttributeError, wrong keywords TypeError. A "plan" is the ONNX file it was built from, an engine runs it with ONNX
Runtime on addresses of ordinary memory, so that results are real and a read of unset memory or a wrong size shows.
"""

from __future__ import annotations

import ctypes
import json
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

MARK = b"fake plan "
TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


class FakeCuda(ModuleType):
    """`cuda.bindings.runtime`: device memory is host memory, and what is not given back is seen."""

    def __init__(self, devices: int = 1) -> None:
        super().__init__("cuda.bindings.runtime")
        self.devices, self.memory, self.handles, self.clock_ms = devices, dict[int, Any](), set[int](), 0.0
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def cudaGetErrorName(self, status: int) -> tuple[int, bytes]:
        return 0, {35: b"cudaErrorInsufficientDriver", 2: b"cudaErrorMemoryAllocation"}[status]

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (0, self.devices) if self.devices >= 0 else (35, None)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if size > 1 << 30:
            return 2, None
        block = ctypes.create_string_buffer(b"\xff" * size, size)  # NaN wherever nothing was written
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.memory[address]
        return (0,)

    def _handle(self) -> tuple[int, int]:
        handle = 1000 + len(self.handles)
        while handle in self.handles:
            handle += 1
        self.handles.add(handle)
        return 0, handle

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == 1, "the default stream would synchronise with everything"
        return self._handle()

    def cudaEventCreate(self) -> tuple[int, int]:
        return self._handle()

    def cudaStreamDestroy(self, handle: int) -> tuple[int]:
        self.handles.remove(handle)
        return (0,)

    cudaEventDestroy = cudaStreamDestroy

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream in self.handles
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        device = target if kind == 1 else source
        assert len(self.memory[device]) == size, f"copy of {size} bytes, memory of {len(self.memory[device])}"
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        assert {event, stream} <= self.handles
        self.clock_ms += 0.25
        return (0,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:
        assert start != end
        return 0, 0.25


class Enum(int):
    """A pybind enum: an int only when asked, so `1 << flag` without int() is refused as in the real binding."""

    def __rlshift__(self, other: int) -> int:
        raise TypeError("unsupported operand type(s) for <<")


def make_tensorrt(version: str, cuda: FakeCuda, *, fail: str = "") -> ModuleType:
    """The module `tensorrt` of `version`; `fail` is "parse", "profile", "build", "deserialize", "context", "shape" or "run"."""
    trt = ModuleType("tensorrt")
    old = version.startswith("8.")

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

        def __init__(self) -> None: ...

        def log(self, severity: int, msg: str) -> None: ...

    class Strict:
        """Refuses attributes that the class does not declare."""

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_") and not hasattr(type(self), name):
                raise AttributeError(f"{type(self).__name__} has no attribute {name}")
            object.__setattr__(self, name, value)

    class ParserError(Strict):
        def desc(self) -> str:
            return "Unsupported operator:\n  Gelu"

        def node(self) -> int:
            return 7

        if not old:

            def node_name(self) -> str:
                return "node_gelu"

            def node_operator(self) -> str:
                return "Gelu"

    class Tensor(Strict):
        name = ""
        shape: tuple[int, ...] = ()

        def __init__(self, name: str, shape: tuple[int, ...]) -> None:
            self.name, self.shape = name, shape

    class Network(Strict):
        num_inputs = num_outputs = 0
        _model = b""
        _session: Any = None

        def get_input(self, index: int) -> Tensor:
            entry = self._session.get_inputs()[index]
            return Tensor(entry.name, tuple(-1 if isinstance(size, str) else size for size in entry.shape))

        def get_output(self, index: int) -> Tensor:
            return Tensor(self._session.get_outputs()[index].name, ())

    class OnnxParser(Strict):
        num_errors = 0
        _network: Network

        def __init__(self, network: Network, logger: ILogger) -> None:
            self._network = network

        def parse(self, model: bytes, path: str | None = None) -> bool:
            if fail == "parse":
                self.num_errors = 1
                return False
            self._network._model = model
            self._network._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            self._network.num_inputs = self._network.num_outputs = 1
            return True

        def get_error(self, index: int) -> ParserError:
            assert index < self.num_errors
            return ParserError()

    class Profile(Strict):
        _shapes: Any = None

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self._shapes = (input, tuple(min), tuple(opt), tuple(max))

    class Config(Strict):
        builder_optimization_level = 3
        _tf32 = True
        _profile: Any = None
        _pool: Any = None

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            self._pool = (pool, pool_size)

        def clear_flag(self, flag: Any) -> None:
            assert flag == "TF32"
            self._tf32 = False

        def add_optimization_profile(self, profile: Profile) -> int:
            self._profile = profile._shapes
            return -1 if fail == "profile" else 0

    class Builder(Strict):
        _logger: Any = None

        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def create_network(self, flags: int = 0) -> Network:
            wanted = 0 if version.startswith("11") else 1
            assert flags == 1 << (0 if old else wanted), "the flag's number differs between versions"
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> Any:
            if fail == "build":
                self._logger.log(1, "no implementation for node_MatMul_28")
                return None
            header = json.dumps({"tf32": config._tf32, "profile": config._profile, "level": config.builder_optimization_level})
            return memoryview(MARK + header.encode() + b"\n" + network._model)

    class Context(Strict):
        _session: Any = None
        _shape: tuple[int, ...] = ()
        _classes = 0

        def __init__(self, session: Any) -> None:
            self._session, self._addresses = session, dict[str, int]()

        def set_input_shape(self, name: str, shape: Any) -> bool:
            self._shape = tuple(shape)
            return fail != "shape"

        def infer_shapes(self) -> list[str]:
            return []

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (self._shape[0], self._session.get_outputs()[0].shape[1])

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            if fail == "run":
                return False
            assert stream_handle in cuda.handles
            names = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
            images = np.frombuffer(
                cuda.memory[self._addresses[names[0]]], dtype=TYPES[self._session.get_inputs()[0].type]
            ).reshape(self._shape)
            assert np.isfinite(images).all(), "ran on memory that nobody wrote"
            (logits,) = self._session.run([names[1]], {names[0]: images})
            ctypes.memmove(self._addresses[names[1]], logits.ctypes.data, logits.nbytes)
            return True

    class CudaEngine(Strict):
        num_io_tensors = 2

        def __init__(self, plan: bytes) -> None:
            header, model = plan[len(MARK) :].split(b"\n", 1)
            self._profile = json.loads(header)["profile"]
            self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

        def get_tensor_name(self, index: int) -> str:
            entries = [*self._session.get_inputs(), *self._session.get_outputs()]
            return str(entries[index].name)

        def get_tensor_mode(self, name: str) -> str:
            return "INPUT" if name == self._session.get_inputs()[0].name else "OUTPUT"

        def get_tensor_dtype(self, name: str) -> str:
            entries = [*self._session.get_inputs(), *self._session.get_outputs()]
            return {"float32": "FLOAT", "uint8": "UINT8"}[TYPES[next(e.type for e in entries if e.name == name)]]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(-1 if isinstance(size, str) else size for size in self._session.get_inputs()[0].shape)

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            assert profile_index == 0
            return [tuple(shape) for shape in self._profile[1:]]

        def create_execution_context(self) -> Context | None:
            return None if fail == "context" else Context(self._session)

    class Runtime(Strict):
        _logger: Any = None

        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None:
            if fail == "deserialize" or not serialized_engine.startswith(MARK):
                self._logger.log(1, "the plan was built for another device")
                return None
            return CudaEngine(serialized_engine)

    flags = {"EXPLICIT_BATCH": Enum(0)} if old or version.startswith("10") else {}
    if not old:
        flags["STRONGLY_TYPED"] = Enum(0 if version.startswith("11") else 1)
    contents: dict[str, Any] = {
        "__version__": version,
        "ILogger": ILogger,
        "Builder": Builder,
        "OnnxParser": OnnxParser,
        "Runtime": Runtime,
        "NetworkDefinitionCreationFlag": SimpleNamespace(**flags),
        "MemoryPoolType": SimpleNamespace(WORKSPACE="WORKSPACE"),
        "BuilderFlag": SimpleNamespace(TF32="TF32"),
        "TensorIOMode": SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT"),
        "DataType": SimpleNamespace(FLOAT="FLOAT", UINT8="UINT8"),
    }
    for name, value in contents.items():
        setattr(trt, name, value)
    return trt
