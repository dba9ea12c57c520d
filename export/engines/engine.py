"""`Engine`: a plan of TensorRT or TensorRT-RTX, run from numpy arrays and timed by the device's own events, also as a CUDA graph.

A plan is executable code: `plans.py` says which ones may be loaded, `builder.py` builds them.

Runs on boards: numpy, tensorrt and cuda-python are imported inside the functions that need them.

Letters: B images, C channels, H × W pixels.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoformer.errors import CheckpointError, DataError, MeasurementError
from autoformer.export.engines.cuda_runtime import Cuda
from autoformer.export.engines.plans import deserialized, product_of_plan, read_plan
from autoformer.export.engines.tensorrt_versions import (
    TENSORRT,
    Product,
    collecting_logger,
    created,
    import_tensorrt,
    new_context,
)
from autoformer.export.parity import Batches

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray


class Engine:
    """A loaded engine with its device memory; a context manager. One input, float32 or uint8, and one float32 output.

    with Engine.load(path) as engine:
        logits = engine(images)
        engine.prepare(1)
        latency_ms = engine.infer_timed()
    """

    def __init__(self, plan: bytes, source: Path, product: Product = TENSORRT) -> None:
        self._source = source
        self._addresses: dict[str, int] = {}
        self.enqueue_ms: float | None = None  # of the last timed run
        self._events: tuple[Any, ...] = ()
        self._stream: Any = None
        self._runtime: Any = None
        self._context: Any = None
        self._engine: Any = None
        self._graph: Any = None  # captured and ready
        self._batch: int | None = None
        self._trt = trt = import_tensorrt(product)
        self._logger = collecting_logger(trt)
        self._logger.take()
        self._cuda = Cuda()
        self.gpu = self._cuda.gpu()
        try:
            self._open(plan)
        except BaseException:
            self.close()
            raise

    @classmethod
    def load(cls, path: Path, *, sha256: str | None = None, product: Product | None = None) -> Engine:
        """Loads a plan after `read_plan` has checked it, and raises what that raises; `CheckpointError` if its library refuses.

        `product` runs it; None: the one that the manifest beside it names.
        """
        path = Path(path)
        return cls(read_plan(path, sha256), path, product or product_of_plan(path))

    def _open(self, plan: bytes) -> None:
        trt = self._trt
        self._runtime = created(trt, "Runtime", self._logger)
        self._engine = deserialized(trt, self._runtime, plan, self._source)
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
        self.profiles = self._profiles() if batch == -1 else ((batch, batch, batch),)
        self.min_batch = min(low for low, _, _ in self.profiles)
        self.max_batch = max(high for _, _, high in self.profiles)
        self.profile = 0  # index of the one in use
        self._context = new_context(trt, self._engine)
        if self._context is None:
            raise MeasurementError(f"no memory to run {self._source}: {self._logger.take()}")
        self._stream = self._cuda.create_stream()
        self._events = (self._cuda.create_event(),)
        self._events += (self._cuda.create_event(),)

    def _profiles(self) -> tuple[Batches, ...]:
        found = []
        for index in range(self._engine.num_optimization_profiles):
            shapes = self._engine.get_tensor_profile_shape(self.input_name, index)
            low, best, high = (shape[0] for shape in shapes)
            found.append((low, best, high))
        return tuple(found)

    def prepare(self, batch: int, profile: int | None = None) -> None:
        """Sets the batch, and fills the input on the device with seeded noise; a captured graph is dropped.

        Without `profile`, the one tuned for the batch nearest to this one is taken. Raises `MeasurementError` when no profile,
        or not the one asked for, takes the batch.
        """
        import numpy as np

        self._use_profile(self._choose_profile(batch, profile))
        self._batch = None
        shape = (batch, *self.image_shape)
        if not self._context.set_input_shape(self.input_name, shape):
            raise MeasurementError(f"{self._source} refuses input shape {list(shape)}: {self._logger.take()}")
        if unknown := self._context.infer_shapes():
            raise MeasurementError(f"{self._source} leaves the shapes of {list(unknown)} open: {self._logger.take()}")
        self._output_shape = tuple(self._context.get_tensor_shape(self.output_name))
        self._free()
        filled = self.noise(batch)
        for name, size in ((self.input_name, filled.nbytes), (self.output_name, 4 * int(np.prod(self._output_shape)))):
            self._addresses[name] = self._cuda.allocate(size)
            if not self._context.set_tensor_address(name, self._addresses[name]):
                raise MeasurementError(f"{self._source} refuses memory for {name}: {self._logger.take()}")
        self._batch = batch
        self._upload(filled)

    def _choose_profile(self, batch: int, profile: int | None) -> int:
        if profile is not None and not 0 <= profile < len(self.profiles):
            raise MeasurementError(f"{self._source} has profiles 0 to {len(self.profiles) - 1}, asked for {profile}")
        asked = range(len(self.profiles)) if profile is None else [profile]
        fitting = [index for index in asked if self.profiles[index][0] <= batch <= self.profiles[index][2]]
        if not fitting:
            ranges = " or ".join(f"{low} to {high}" for low, _, high in (self.profiles[index] for index in asked))
            raise MeasurementError(f"{self._source} takes {ranges} images at once, asked for {batch}; build it for other batches")
        return min(fitting, key=lambda index: abs(self.profiles[index][1] - batch))

    def _use_profile(self, profile: int) -> None:
        self._drop_graph()
        if profile == self.profile:
            return
        self._batch = None
        if not self._context.set_optimization_profile_async(profile, self._handle()):
            raise MeasurementError(f"{self._source} refuses its profile {profile}: {self._logger.take()}")
        self.profile = profile
        self._cuda.synchronise(self._stream)

    def capture(self) -> str | None:
        """Captures the prepared batch as a CUDA graph, which later runs launch; the reason when that is not possible.

        Without a graph everything goes on as before. The next `prepare` drops the graph, which holds addresses and shapes.
        """
        if self._graph is not None:
            return None
        self.infer()  # TensorRT puts off some work until the first run, which must not end up in the graph
        captured: Any = None
        try:
            self._cuda.begin_capture(self._stream)
            enqueued = self._context.execute_async_v3(self._handle())
            captured = self._cuda.end_capture(self._stream)  # also after a failure, or the stream stays in capture
            if not enqueued:
                return f"TensorRT cannot be captured: {self._logger.take()}"
            self._graph = self._cuda.instantiate(captured)
        except MeasurementError as error:
            return str(error)
        finally:
            if captured is not None:
                self._cuda.destroy_graph(captured)
            if self._graph is None:
                self._cuda.forget_error()
        return None

    def noise(self, batch: int) -> NDArray[Any]:
        """Seeded noise [B, C, H, W] of the type that the engine takes, in the host's memory."""
        import numpy as np

        shape, random = (batch, *self.image_shape), np.random.default_rng(0)
        pixels = self.input_type == "uint8"
        return random.integers(0, 256, shape, np.uint8) if pixels else random.standard_normal(shape, dtype=np.float32)

    def infer(self) -> None:
        """Runs the prepared batch, resident on the device, and waits for it."""
        self._enqueue()
        self._cuda.synchronise(self._stream)

    def infer_timed(self) -> float:
        """Runs the prepared batch once; milliseconds between two events around it, copies excluded."""
        start, end = self._events
        self._cuda.record(start, self._stream)
        before = time.perf_counter_ns()
        self._enqueue()
        self.enqueue_ms = (time.perf_counter_ns() - before) / 1e6  # of the host, for handing the work over
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
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        elif not self._context.execute_async_v3(self._handle()):
            raise MeasurementError(f"{self._source} failed while running: {self._logger.take()}")

    def _handle(self) -> int:
        return int(self._stream)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            ready, self._graph = self._graph, None
            self._cuda.destroy_ready(ready)

    def _free(self) -> None:
        while self._addresses:
            self._cuda.give_back(self._addresses.popitem()[1])

    def layer_information(self) -> str:
        """What TensorRT's inspector says of the layers, as JSON text; of the prepared batch where there is one.

        Names alone unless the engine was built `detailed`.
        """
        inspector = self._engine.create_engine_inspector()
        if self._batch is not None:
            inspector.execution_context = self._context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def time_layers(self, runs: int) -> list[list[tuple[str, float]]]:
        """Milliseconds of each layer in turn, for each of `runs` runs of the prepared batch.

        In a context of its own, since one that reports layers is slower as a whole and stays so.
        """
        if self._batch is None:
            raise MeasurementError(f"{self._source} is not prepared; call prepare(batch) first")
        trt, taken = self._trt, list[tuple[str, float]]()

        class Profiler(trt.IProfiler):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                taken.append((layer_name, float(ms)))

        context = new_context(trt, self._engine)
        if context is None:
            raise MeasurementError(f"no memory to time the layers of {self._source}: {self._logger.take()}")
        context.profiler = profiler = Profiler()
        context.enqueue_emits_profile = False  # else each start of a run would wait for the layers
        ready = context.set_optimization_profile_async(self.profile, self._handle())  # only the first context begins with one
        self._cuda.synchronise(self._stream)
        ready = ready and context.set_input_shape(self.input_name, (self._batch, *self.image_shape))
        ready = ready and all(context.set_tensor_address(name, address) for name, address in self._addresses.items())
        found = []
        for _ in range(runs):
            if not (ready and context.execute_async_v3(self._handle())):
                raise MeasurementError(f"{self._source} failed while its layers were timed: {self._logger.take()}")
            self._cuda.synchronise(self._stream)
            taken.clear()
            if not context.report_to_profiler():
                raise MeasurementError(f"{self._source} reports no layer times: {self._logger.take()}")
            found.append(list(taken))
        del context, profiler  # in this order: the context calls the profiler as long as it lives
        return found

    def close(self) -> None:
        """Gives everything on the device back; the engine cannot be used afterwards."""
        self._batch = None
        self._drop_graph()
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
