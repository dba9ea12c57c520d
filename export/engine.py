"""TensorRT engines: built from an ONNX file, run from numpy arrays, timed by the device's own events.

One code path for TensorRT 8.6 and 10.3 to 11; what differs lives in `tensorrt_versions.py`. TensorRT reports failure by
returning False or None, so every answer is checked and its logged reason becomes the message. A plan is executable code: it
is loaded only when its digest is known, from whoever just built it or from the manifest beside it.

Runs on boards: numpy, tensorrt and cuda-python are imported inside the functions that need them.

Letters: B images, C channels, H × W pixels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoformer.checkpoint import replacing
from autoformer.errors import CheckpointError, DataError, ExportError, MeasurementError
from autoformer.export.cuda_runtime import Cuda
from autoformer.export.manifest import FILE_NAME, Manifest, sha256_of
from autoformer.export.tensorrt_versions import (
    collecting_logger,
    import_tensorrt,
    network_flags,
    parser_error_line,
    tensorrt_missing,
)

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BuiltEngine", "Engine", "EngineBuilder", "tensorrt_missing"]

PRECISIONS = ("fp32", "tf32")


@dataclass(frozen=True)
class BuiltEngine:
    """What one build gave."""

    path: Path
    sha256: str
    precision: str
    batches: tuple[int, int, int]  # smallest, the one it is tuned for, largest
    input_name: str
    output_name: str
    image_shape: tuple[int, ...]  # channels, height, width
    tensorrt: str  # version
    build_s: float


@dataclass(frozen=True)
class EngineBuilder:
    """Builds engines with one setting."""

    workspace_mib: int | None = None  # limit of scratch memory while building and running; None: TensorRT's, all of it
    optimization_level: int = 3  # 0..5; higher builds longer

    def build(
        self, graph: Path, plan: Path, *, precision: str = "fp32", batches: tuple[int, int, int] = (1, 1, 8)
    ) -> BuiltEngine:
        """Writes the plan of an fp32 ONNX file, for batches (smallest, tuned for, largest). Takes seconds to minutes.

        "fp32" computes in full fp32, "tf32" lets tensor cores round to ten bits. A graph of fixed batch keeps its batch.
        Raises `ExportError` with TensorRT's reason when parsing or building fails.
        """
        trt = import_tensorrt()
        if precision not in PRECISIONS:
            raise ExportError(f"engines are built in {' or '.join(PRECISIONS)}, got {precision!r}")
        if not 1 <= batches[0] <= batches[1] <= batches[2]:
            raise ExportError(f"batches must rise from smallest over tuned to largest, got {batches}")
        started = time.monotonic()
        logger = collecting_logger(trt)
        logger.take()  # what was said before has nothing to do with this build
        builder = trt.Builder(logger)
        network = builder.create_network(network_flags(trt))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(graph.read_bytes()):
            errors = [parser_error_line(parser.get_error(index)) for index in range(parser.num_errors)]
            raise ExportError(f"TensorRT {trt.__version__} cannot read {graph}: {'; '.join(errors) or logger.take()}")
        if network.num_inputs != 1 or network.num_outputs != 1:
            raise ExportError(f"{graph} has {network.num_inputs} inputs and {network.num_outputs} outputs; expected one of each")

        config = builder.create_builder_config()
        config.builder_optimization_level = self.optimization_level
        if self.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace_mib << 20)
        if precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)
        entry = network.get_input(0)
        batch, *image_shape = tuple(entry.shape)
        if batch == -1:
            profile = builder.create_optimization_profile()
            profile.set_shape(entry.name, *((size, *image_shape) for size in batches))
            if config.add_optimization_profile(profile) < 0:
                raise ExportError(f"TensorRT refuses batches {batches} for {graph}: {logger.take()}")
        else:
            batches = (batch, batch, batch)
        output_name = network.get_output(0).name
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise ExportError(f"TensorRT {trt.__version__} cannot build an engine from {graph}: {logger.take()}")
        with replacing(plan) as beside:
            beside.write_bytes(serialized)
        return BuiltEngine(
            path=plan,
            sha256=sha256_of(plan),
            precision=precision,
            batches=batches,
            input_name=entry.name,
            output_name=output_name,
            image_shape=tuple(image_shape),
            tensorrt=trt.__version__,
            build_s=time.monotonic() - started,
        )


class Engine:
    """A loaded engine with its device memory; a context manager. One input, float32 or uint8, and one float32 output.

    with Engine.load(path) as engine:
        logits = engine(images)
        engine.prepare(1)
        latency_ms = engine.infer_timed()
    """

    def __init__(self, plan: bytes, source: Path) -> None:
        self._source = source
        self._addresses: dict[str, int] = {}
        self._events: tuple[Any, ...] = ()
        self._stream: Any = None
        self._runtime: Any = None
        self._context: Any = None
        self._engine: Any = None
        self._batch: int | None = None
        self._trt = trt = import_tensorrt()
        self._logger = collecting_logger(trt)
        self._logger.take()
        self._cuda = Cuda()
        if not self._cuda.device_count():
            raise MeasurementError("there is no CUDA device; engines run on NVIDIA GPUs only")
        try:
            self._open(plan)
        except BaseException:
            self.close()
            raise

    @classmethod
    def load(cls, path: Path, *, sha256: str | None = None) -> Engine:
        """Loads a plan whose digest is `sha256`, or the one in the manifest beside it when None.

        Raises `CheckpointError` when the digest is unknown or differs, or the plan is for another TensorRT or device.
        """
        path = Path(path)
        again = "build it again on this device: autoformer export --format tensorrt"
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; {again}")
        if sha256 is None:
            if not (path.parent / FILE_NAME).is_file():
                raise CheckpointError(
                    f"{path} has no {FILE_NAME} beside it; a plan is code, so unknown ones are not loaded; {again}"
                )
            artefact = Manifest.load(path.parent).find_file(path.name)
            if artefact is None:
                raise CheckpointError(f"{path} is not in the manifest beside it; a plan is code, so it is not loaded; {again}")
            built_with, sha256 = artefact.made.get("tensorrt"), artefact.sha256
            version = import_tensorrt().__version__
            if built_with is not None and built_with != version:
                raise CheckpointError(f"{path} was built by TensorRT {built_with}, here is {version}; {again}")
        if sha256_of(path) != sha256:
            raise CheckpointError(f"{path} is not the plan that the manifest describes (other SHA-256); {again}")
        return cls(path.read_bytes(), path)

    def _open(self, plan: bytes) -> None:
        trt = self._trt
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise CheckpointError(
                f"TensorRT {trt.__version__} cannot load {self._source}: {self._logger.take()}; build it again here"
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        types = {name: self._engine.get_tensor_dtype(name) for name in names}
        known = {trt.DataType.FLOAT: "float32", trt.DataType.UINT8: "uint8"}
        fits = len(inputs) == len(outputs) == 1 and types[inputs[0]] in known and types[outputs[0]] == trt.DataType.FLOAT
        if not fits:
            raise CheckpointError(
                f"{self._source} has inputs {inputs} and outputs {outputs}; expected one of each, float32 (or uint8 in)"
            )
        self.input_name, self.output_name = inputs[0], outputs[0]
        self.input_type = known[types[self.input_name]]
        batch, *image_shape = tuple(self._engine.get_tensor_shape(self.input_name))
        self.image_shape = tuple(image_shape)
        if batch == -1:
            low, _, high = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(self.input_name, 0))
            self.min_batch, self.max_batch = low[0], high[0]
        else:
            self.min_batch = self.max_batch = batch
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise MeasurementError(f"no memory to run {self._source}: {self._logger.take()}")
        self._stream = self._cuda.create_stream()
        self._events = (self._cuda.create_event(),)
        self._events += (self._cuda.create_event(),)

    def prepare(self, batch: int) -> None:
        """Sets the batch, and fills the input on the device with seeded noise. Raises `MeasurementError` outside the profile."""
        import numpy as np

        if not self.min_batch <= batch <= self.max_batch:
            raise MeasurementError(
                f"{self._source} takes {self.min_batch} to {self.max_batch} images at once, asked for {batch}; "
                "build it for other batches"
            )
        self._batch = None
        shape = (batch, *self.image_shape)
        if not self._context.set_input_shape(self.input_name, shape):
            raise MeasurementError(f"{self._source} refuses input shape {list(shape)}: {self._logger.take()}")
        if unknown := self._context.infer_shapes():
            raise MeasurementError(f"{self._source} leaves the shapes of {list(unknown)} open: {self._logger.take()}")
        self._output_shape = tuple(self._context.get_tensor_shape(self.output_name))
        self._free()
        pixels = self.input_type == "uint8"
        noise = np.random.default_rng(0)
        filled = noise.integers(0, 256, shape, np.uint8) if pixels else noise.standard_normal(shape, dtype=np.float32)
        for name, size in ((self.input_name, filled.nbytes), (self.output_name, 4 * int(np.prod(self._output_shape)))):
            self._addresses[name] = self._cuda.allocate(size)
            if not self._context.set_tensor_address(name, self._addresses[name]):
                raise MeasurementError(f"{self._source} refuses memory for {name}: {self._logger.take()}")
        self._batch = batch
        self._upload(filled)

    def infer(self) -> None:
        """Runs the prepared batch, resident on the device, and waits for it."""
        self._enqueue()
        self._cuda.synchronise(self._stream)

    def infer_timed(self) -> float:
        """Runs the prepared batch once; milliseconds between two events around it, copies excluded."""
        start, end = self._events
        self._cuda.record(start, self._stream)
        self._enqueue()
        self._cuda.record(end, self._stream)
        self._cuda.synchronise(self._stream)
        return self._cuda.elapsed_ms(start, end)

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Logits [B, classes] of images [B, C, H, W] of `input_type`; B within the profile. Raises `DataError` for others."""
        import numpy as np

        if str(images.dtype) != self.input_type or tuple(images.shape[1:]) != self.image_shape or images.ndim != 4:
            raise DataError(
                f"{self._source} takes {self.input_type} images [batch, {', '.join(map(str, self.image_shape))}], "
                f"got {images.dtype} {list(images.shape)}"
            )
        if self._batch != len(images):
            self.prepare(len(images))
        self._upload(images)
        self._enqueue()
        logits = np.empty(self._output_shape, dtype=np.float32)
        self._cuda.to_host(logits, self._addresses[self.output_name], self._stream)
        self._cuda.synchronise(self._stream)
        return logits

    def _upload(self, images: NDArray[Any]) -> None:
        import numpy as np

        contiguous = np.ascontiguousarray(images)
        self._cuda.to_device(self._addresses[self.input_name], contiguous, self._stream)
        self._cuda.synchronise(self._stream)  # the array may go once this returns

    def _enqueue(self) -> None:
        if self._batch is None:
            raise MeasurementError(f"{self._source} is not prepared; call prepare(batch) first")
        if not self._context.execute_async_v3(self._handle()):
            raise MeasurementError(f"{self._source} failed while running: {self._logger.take()}")

    def _handle(self) -> int:
        return int(self._stream)

    def _free(self) -> None:
        while self._addresses:
            self._cuda.give_back(self._addresses.popitem()[1])

    def close(self) -> None:
        """Gives everything on the device back; the engine cannot be used afterwards."""
        self._batch = None
        self._free()
        for event in self._events:
            self._cuda.destroy_event(event)
        self._events = ()
        if self._stream is not None:
            self._cuda.destroy_stream(self._stream)
            self._stream = None
        self._context = None
        self._engine = None
        self._runtime = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
