"""The runtimes a kit can be measured with, and which of them is here.

ONNX Runtime opens a graph anew at every visit. TensorRT's engines are built once, before the rounds, into a folder beside
the rows, with one timing cache for all of them but none for second builds: what rebuilding alone changes is to be seen. A plan is
used again only if it is the very file that this program built here.
Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoformer.errors import CheckpointError, MeasurementError, MissingPackageError
from autoformer.export.engines.builder import EngineConfig
from autoformer.export.engines.cuda_runtime import Cuda
from autoformer.export.engines.tensorrt_versions import PRODUCTS, TENSORRT, Product, import_tensorrt, tensorrt_missing
from autoformer.export.engines.trtexec import Listener, PlanInput, Timing, Trtexec, TrtexecTimes
from autoformer.export.manifest import sha256_of
from autoformer.files import read_json, write_json
from autoformer.profiling.kits.kit import KitNetwork, StoppingRule
from autoformer.profiling.kits.measuring import Runtime
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure
from autoformer.profiling.measuring.sensors import MachineSensors, Sensors
from autoformer.profiling.measuring.trtexec_runs import BACKEND as TRTEXEC
from autoformer.profiling.measuring.trtexec_runs import trtexec_measurement, watched

RUNTIMES = (  # the first that is here is taken
    "tensorrt-graph", "tensorrt", "trtexec", "tensorrt-rtx-graph", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cpu",
)  # fmt: skip
INPUT_NAME = "images"
WARMUP_S, WARMUP_MAX_S = 0.5, 3.0  # of a visit, unless it is shorter


def config_of(rule: StoppingRule) -> MeasureConfig:
    """One visit; its warm-up takes no longer than twice the measuring."""
    return replace(
        MeasureConfig.lasting(rule.seconds),
        warmup_s=min(WARMUP_S, rule.seconds),
        warmup_max_s=min(WARMUP_MAX_S, 2 * rule.seconds),
        rounds=1,
        min_runs=rule.min_runs,
    )


@dataclass(frozen=True)
class OnnxRuntimeRuntime:
    """Graphs under ONNX Runtime. Raises `MissingPackageError` without it, `MeasurementError` without the provider."""

    folder: Path
    provider: str
    threads: int
    device: DeviceFacts
    sensors: Sensors

    def __post_init__(self) -> None:
        from autoformer.profiling.backends.onnxruntime_backend import onnxruntime_with

        onnxruntime_with(self.provider)

    @property
    def name(self) -> str:
        """ "onnxruntime-cpu" or "onnxruntime-cuda"."""
        return f"onnxruntime-{self.provider}"

    @property
    def facts(self) -> Mapping[str, str]:
        """Version and threads."""
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__, **({"threads": str(self.threads)} if self.provider == "cpu" else {})}

    def prepare(self, network: KitNetwork, precision: str, batch: int, build: int) -> Mapping[str, Any]:
        """Nothing is built."""
        return {}

    def visit(self, network: KitNetwork, precision: str, batch: int, build: int, rule: StoppingRule) -> Measurement:
        """See `Runtime`."""
        from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend

        path = self.folder / network.files[precision]
        backend = OnnxRuntimeBackend(path, batch=batch, provider=self.provider, threads=self.threads, precision=precision)
        with backend as opened:
            return measure({network.name: opened}, config_of(rule), device=self.device, sensors=self.sensors)[network.name]


@dataclass(frozen=True)
class Plans:
    """Engines that were built here, each beside a file that says so."""

    folder: Path
    version: str  # of what builds them; a plan of another is built anew
    product: Product = TENSORRT

    def path(self, network: KitNetwork, precision: str, batch: int, build: int) -> Path:
        """Where a plan lies."""
        ending = "plan" if self.product is TENSORRT else "rtx.plan"
        return self.folder / f"{network.name}.{precision}.batch{batch}.build{build}.{ending}"

    def held(self, plan: Path, graph: Path) -> bool:
        """Whether this plan was built here from this graph, and is whole."""
        try:
            made = read_json(plan.with_suffix(".json"), "plan", "graph", "version")
        except CheckpointError:
            return False
        same = plan.is_file() and made["version"] == self.version and made["graph"] == sha256_of(graph)
        return same and made["plan"] == sha256_of(plan)

    def note(self, plan: Path, graph: Path) -> str:
        """Writes down what a plan was built from; gives its digest."""
        digest = sha256_of(plan)
        write_json({"plan": digest, "graph": sha256_of(graph), "version": self.version}, plan.with_suffix(".json"))
        return digest

    def config(self, precision: str, batch: int, build: int) -> EngineConfig:
        """How one is built: first builds share a timing cache."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = EngineConfig(format=self.product.format, precision=precision, profiles=((batch, batch, batch),))
        if self.product.ahead_of_time:
            return replace(config, gpus=(Cuda().gpu().compute_capability,))
        return replace(config, timing_cache=None if build else self.folder / "timing")


@dataclass(frozen=True)
class TrtexecRuntime:
    """Engines built and timed by NVIDIA's program, each visit an invocation of its own: CUDA graph, no copies, one in flight."""

    folder: Path
    work: Path
    program: Trtexec
    device: DeviceFacts
    sensors: Sensors

    @property
    def name(self) -> str:
        """ "trtexec"."""
        return TRTEXEC

    @property
    def facts(self) -> Mapping[str, str]:
        """Version."""
        return {"tensorrt": self.program.tensorrt}

    @property
    def _plans(self) -> Plans:
        return Plans(self.work, self.program.tensorrt)

    def prepare(self, network: KitNetwork, precision: str, batch: int, build: int) -> Mapping[str, Any]:
        """See `Runtime`."""
        plan, graph = self._plans.path(network, precision, batch, build), self.folder / network.files[precision]
        if self._plans.held(plan, graph):
            return {}
        made = self.program.build(
            graph, plan, self._plans.config(precision, batch, build), PlanInput(INPUT_NAME, network.input_shape)
        )
        return {"seconds": made["seconds"], "sha256": self._plans.note(plan, graph), "gpu": made["gpu"]}

    def visit(self, network: KitNetwork, precision: str, batch: int, build: int, rule: StoppingRule) -> Measurement:
        """See `Runtime`."""

        how = Timing(batch=batch, seconds=rule.seconds, min_runs=rule.min_runs, warmup_s=WARMUP_S)

        def run(listener: Listener) -> TrtexecTimes:
            plan = self._plans.path(network, precision, batch, build)
            return self.program.time(plan, PlanInput(INPUT_NAME, network.input_shape), how, listener)

        times, conditions = watched(run, self.sensors, self.device, self.sensors.read(0.0))
        return trtexec_measurement(network.name, times, precision=precision, device=self.device, conditions=conditions)


@dataclass(frozen=True)
class TensorRTRuntime:
    """Engines built and run through the Python bindings of TensorRT or TensorRT-RTX; a run launches a captured CUDA graph, or one
    kernel by one.

    Raises `MissingPackageError` where the product, its driver or a GPU is missing.
    """

    folder: Path
    work: Path
    device: DeviceFacts
    sensors: Sensors
    cuda_graph: bool
    product: Product = TENSORRT

    def __post_init__(self) -> None:
        if missing := tensorrt_missing(self.product):
            raise MissingPackageError(missing)

    @property
    def name(self) -> str:
        """ "tensorrt-graph", "tensorrt", "tensorrt-rtx-graph" or "tensorrt-rtx"."""
        return f"{self.product.format}{'-graph' if self.cuda_graph else ''}"

    @property
    def facts(self) -> Mapping[str, str]:
        """Version."""
        return {self.product.format: import_tensorrt(self.product).__version__}

    @property
    def _plans(self) -> Plans:
        return Plans(self.work, self.facts[self.product.format], self.product)

    def prepare(self, network: KitNetwork, precision: str, batch: int, build: int) -> Mapping[str, Any]:
        """See `Runtime`."""
        from autoformer.export.engines.builder import EngineBuilder

        plan, graph = self._plans.path(network, precision, batch, build), self.folder / network.files[precision]
        if self._plans.held(plan, graph):
            return {}
        made = EngineBuilder(self._plans.config(precision, batch, build)).build(graph, plan)
        gpu = self.device.gpu_name if self.product.ahead_of_time else made.here["gpu"]
        return {"seconds": round(made.build_s, 2), "sha256": self._plans.note(plan, graph), "gpu": gpu}

    def visit(self, network: KitNetwork, precision: str, batch: int, build: int, rule: StoppingRule) -> Measurement:
        """See `Runtime`."""
        from autoformer.profiling.backends.tensorrt_backend import TensorRTBackend

        plan = self._plans.path(network, precision, batch, build)
        digest = read_json(plan.with_suffix(".json"), "plan")["plan"]
        backend = TensorRTBackend(
            plan, batch=batch, precision=precision, sha256=digest, cuda_graph=self.cuda_graph, product=self.product
        )  # fmt: skip
        with backend as opened:
            return measure({network.name: opened}, config_of(rule), device=self.device, sensors=self.sensors)[network.name]


def runtime_here(
    name: str | None, folder: Path, work: Path, *, threads: int, device: DeviceFacts, trtexec: Path | None = None
) -> Runtime:
    """The runtime called `name`, or the first of `RUNTIMES` that is here. Raises `MissingPackageError` saying what is missing."""
    missing, sensors = [], MachineSensors()
    for wanted in RUNTIMES if name is None else (name,):
        if name is None and wanted == "onnxruntime-cuda" and not (device.gpus or device.jetson):
            missing.append(f"{wanted}: no NVIDIA GPU")  # the provider is in the package all the same
            continue
        try:
            if wanted == TRTEXEC:
                return TrtexecRuntime(folder, work, Trtexec.find(trtexec), device, sensors)
            if (product := PRODUCTS.get(wanted.removesuffix("-graph"))) is not None:
                return TensorRTRuntime(folder, work, device, sensors, wanted.endswith("-graph"), product)
            return OnnxRuntimeRuntime(folder, wanted.rsplit("-", 1)[1], threads, device, sensors)
        except (MissingPackageError, MeasurementError) as error:
            missing.append(f"{wanted}: {error}")
            if name is not None:
                raise
    raise MissingPackageError(f"nothing here can run the networks; {'; '.join(missing)}")
