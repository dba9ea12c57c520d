"""`EngineBuilder`: the TensorRT plan of an ONNX file, and the record of how it was built.

An engine computes in what its file says (strong typing from TensorRT 10 on; 8.6 is held to it by flags and layer types, see
`tensorrt_versions.py`), so fp16 and int8 engines are built from the fp16 and int8 files. TensorRT reports failure by returning
False or None: every answer is checked and the logged reason becomes the message. Files hold names, never TensorRT's enum numbers,
which move between versions.

Runs on boards: numpy, tensorrt and cuda-python are imported inside the functions that need them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from autoformer.errors import ExportError, short
from autoformer.export.engines.build_progress import OnProgress, progress_monitor, stoppable
from autoformer.export.engines.cuda_runtime import Cuda
from autoformer.export.engines.tensorrt_versions import (
    collecting_logger,
    created,
    import_tensorrt,
    network_flags,
    parser_error_line,
    set_precision,
    share_profiles,
)
from autoformer.export.engines.timing_cache import TimingCache, locked_timing_cache
from autoformer.export.graphs.external_data import check_external_data
from autoformer.export.graphs.onnx_file import OnnxFile, module_scopes
from autoformer.export.manifest import sha256_of
from autoformer.files import replacing

Batches = tuple[int, int, int]  # smallest, the one that kernels are tuned for, largest
PRECISIONS = {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16", "int8": "int8"}  # and the file that each is built from
MAX_BATCH = 4096
INPUT_TYPES = {"FLOAT": "float32", "UINT8": "uint8"}


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Everything that decides a build. Raises `ExportError` for values that make no sense."""

    # what the engine computes in, as its file says; "fp32" in full, "tf32" with products rounded to ten bits on tensor cores.
    # What an fp16 or int8 file leaves in float32 may use TF32.
    precision: str = "fp32"
    profiles: tuple[Batches, ...] = ((1, 1, 8),)  # kernels are tuned for the middle one: a profile per batch of interest
    workspace_mib: int | None = None  # limit of scratch memory; None: TensorRT's, all of the device
    optimization_level: int = 3  # 0..5; higher builds longer
    timing_cache: Path | None = None  # folder that builds share; much faster when similar networks were built before
    refittable: bool = False  # weights can be replaced afterwards; may run slower
    detailed: bool = False  # the inspector knows every layer; costs time at each start of a kernel, so not for timed engines

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ExportError(f"engines are built in {', '.join(PRECISIONS)}, got {short(repr(self.precision))}")
        if not self.profiles:
            raise ExportError("an engine needs at least one profile of batches (smallest, tuned for, largest)")
        for profile in self.profiles:
            if len(profile) != 3 or not 1 <= profile[0] <= profile[1] <= profile[2] <= MAX_BATCH:
                raise ExportError(
                    f"batches must rise from smallest over tuned to largest, at most {MAX_BATCH}, got {short(profile)}"
                )
        if self.optimization_level not in range(6):
            raise ExportError(f"optimization_level is 0 to 5, got {self.optimization_level}")
        if self.optimization_level == 0 and self.timing_cache is not None:
            raise ExportError("optimization_level 0 ignores timing caches; choose 1 to 5, or no timing cache")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ExportError(f"workspace_mib must be positive, got {self.workspace_mib}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        cache = None if self.timing_cache is None else str(self.timing_cache)
        return asdict(self) | {"profiles": [list(profile) for profile in self.profiles], "timing_cache": cache}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineConfig:
        """Reads what `to_dict` gave. Raises `ExportError` for unknown keys and values of another kind."""
        known = [entry.name for entry in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ExportError(f"engine settings have no {short(repr(unknown[0]))}; known are {', '.join(known)}")
        try:
            given = dict(values)
            if "profiles" in given:
                given["profiles"] = tuple(tuple(int(size) for size in profile) for profile in given["profiles"])
            if given.get("timing_cache") is not None:
                given["timing_cache"] = Path(given["timing_cache"])
            return cls(**given)
        except (TypeError, ValueError, OverflowError) as error:
            raise ExportError(f"engine settings cannot be read ({short(error)}); expected what to_dict gives") from error


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """What one build gave."""

    path: Path
    sha256: str
    graph_sha256: str  # of the ONNX file
    config: EngineConfig  # with the profiles as they are: a graph of fixed batch has one, of its batch
    input_name: str
    output_name: str
    image_shape: tuple[int, ...]  # channels, height, width
    input_type: str  # "float32" or "uint8"
    tensorrt: str  # version
    gpu: str
    compute_capability: str
    driver: str
    cuda: str
    build_s: float
    timing_cache: dict[str, str | None] | None = None  # "file", and its SHA-256 "before" and "after"
    warnings: tuple[str, ...] = field(default=())

    def made(self) -> dict[str, Any]:
        """The record for `Artefact.made`, as JSON. `Engine.load` compares versions and device with it."""
        settings = self.config.to_dict()
        del settings["timing_cache"]  # a folder of this machine
        return {
            "tensorrt": self.tensorrt,
            "gpu": self.gpu,
            "compute_capability": self.compute_capability,
            "driver": self.driver,
            "cuda": self.cuda,
            "config": settings,
            "graph_sha256": self.graph_sha256,
            "seconds": round(self.build_s, 2),
            "timing_cache": self.timing_cache,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class EngineBuilder:
    """Builds engines with one setting."""

    config: EngineConfig = EngineConfig()

    def build(self, graph: Path, plan: Path, *, on_progress: OnProgress | None = None) -> BuiltEngine:
        """Writes the plan of an ONNX file, whole or not at all. Takes seconds to minutes.

        `on_progress` is told the phase, the steps done and the steps in all, from threads of TensorRT (from 10 on). Ctrl-C stops
        a build; kernel timings taken until then stay in the timing cache. Raises `ExportError` when the file computes in another
        type than asked for, and with TensorRT's reason when parsing or building fails.
        """
        trt = import_tensorrt()
        gpu = Cuda().gpu()
        started = time.monotonic()
        check_external_data(graph)
        file = OnnxFile.read(graph)
        if file.precision != PRECISIONS[self.config.precision]:
            raise ExportError(
                f"{graph} computes in {file.precision}, asked for an engine of {self.config.precision}; an engine computes in "
                f"what its file says, so build from the {PRECISIONS[self.config.precision]} file"
            )
        logger = collecting_logger(trt)
        logger.take()  # what was said before has nothing to do with this build
        builder = created(trt, "Builder", logger)
        network = builder.create_network(network_flags(trt))
        _parse(trt, network, file)
        config = builder.create_builder_config()
        entry = network.get_input(0)
        image_shape = tuple(entry.shape)[1:]
        done = self._set_up(trt, builder, network, config, file)
        with ExitStack() as stack:
            tell = on_progress or (lambda phase, steps, total: None)
            cache: TimingCache | None = None
            if self.config.timing_cache is not None:
                cache = stack.enter_context(locked_timing_cache(self.config.timing_cache, gpu, trt.__version__, tell))
                cache.attach(config)
            with stoppable() as request:
                if (monitor := progress_monitor(trt, request, tell)) is not None:
                    config.progress_monitor = monitor
                serialized = builder.build_serialized_network(network, config)
                if cache is not None:
                    cache.save(config)
            if request.error is not None:
                raise request.error
            if serialized is None:
                raise ExportError(f"TensorRT {trt.__version__} cannot build an engine from {graph}: {logger.take()}")
            with replacing(plan) as beside:
                beside.write_bytes(serialized)
        return BuiltEngine(
            path=plan,
            sha256=sha256_of(plan),
            graph_sha256=sha256_of(graph),
            config=done,
            input_name=entry.name,
            output_name=network.get_output(0).name,
            image_shape=image_shape,
            input_type=_input_type(trt, entry, graph),
            tensorrt=trt.__version__,
            gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            driver=gpu.driver,
            cuda=gpu.cuda,
            build_s=time.monotonic() - started,
            timing_cache=cache.record() if cache is not None else None,
            warnings=(*(cache.warnings if cache is not None else ()), *logger.warnings),
        )

    def _set_up(self, trt: Any, builder: Any, network: Any, config: Any, file: OnnxFile) -> EngineConfig:
        """Puts the settings into TensorRT's `config`; returns them as they are for this graph."""
        config.builder_optimization_level = self.config.optimization_level
        if self.config.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.config.workspace_mib << 20)
        set_precision(trt, config, network, self.config.precision, file)
        share_profiles(trt, config)
        if self.config.refittable:
            config.set_flag(trt.BuilderFlag.REFIT)
        if self.config.detailed:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        entry = network.get_input(0)
        batch, *image_shape = tuple(entry.shape)
        if batch != -1:
            return replace(self.config, profiles=((batch, batch, batch),))
        for batches in self.config.profiles:
            profile = builder.create_optimization_profile()
            try:
                profile.set_shape(entry.name, *((size, *image_shape) for size in batches))
                refused = config.add_optimization_profile(profile) < 0
            except ValueError:
                refused = True
            if refused:
                raise ExportError(f"TensorRT refuses batches {batches} for {file.path}: {collecting_logger(trt).take()}")
        return self.config


def _parse(trt: Any, network: Any, file: OnnxFile) -> None:
    """Reads the file into `network`. Raises `ExportError` naming operator, node and torch module."""
    logger = collecting_logger(trt)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(file.path.read_bytes(), str(file.path)):  # the path leads to weights beside the file
        names, scopes = [node.name for node in file.nodes], module_scopes(file.path)
        errors = [parser_error_line(parser.get_error(index), names, scopes) for index in range(parser.num_errors)]
        said = "; ".join(dict.fromkeys(errors))
        raise ExportError(f"TensorRT {trt.__version__} cannot read {file.path}: {said or logger.take()}")
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise ExportError(f"{file.path} has {network.num_inputs} inputs and {network.num_outputs} outputs; expected one of each")
    _input_type(trt, network.get_input(0), file.path)


def _input_type(trt: Any, entry: Any, graph: Path) -> str:
    """ "float32" or "uint8". Raises `ExportError` for others."""
    for name, word in INPUT_TYPES.items():
        if entry.dtype == getattr(trt.DataType, name):
            return word
    raise ExportError(f"{graph} takes images of {entry.dtype}; expected float32 or uint8")
