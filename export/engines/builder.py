"""`EngineBuilder`: the plan of an ONNX file, of TensorRT or TensorRT-RTX, and the record of how it was built.

TensorRT builds on the GPU that it builds for; TensorRT-RTX builds ahead of time, for GPUs that are not here, and an engine is
finished where it runs. It computes in what its file says (strong typing from TensorRT 10 on; 8.6 is held to it by flags
and layer types, see `tensorrt_versions.py`), so fp16 and int8 engines are built from the fp16 and int8 files. Failure is reported
by returning False or None: every answer is checked and the logged reason becomes the message. Files hold names, never TensorRT's
enum numbers, which move between versions.

Runs on boards: numpy, tensorrt and cuda-python are imported inside the functions that need them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from autoformer.errors import ExportError, short
from autoformer.export.engines.build_progress import OnProgress, progress_monitor, stoppable
from autoformer.export.engines.target_gpus import TURING
from autoformer.export.engines.tensorrt_versions import (
    PRODUCTS,
    TENSORRT,
    Here,
    Product,
    created,
    network_flags,
    parser_errors,
    set_gpus,
    set_precision,
    share_profiles,
)
from autoformer.export.engines.timing_cache import TimingCache, locked_timing_cache
from autoformer.export.graphs.external_data import check_external_data
from autoformer.export.graphs.onnx_file import OnnxFile
from autoformer.export.manifest import check_described, sha256_of
from autoformer.export.parity import Batches
from autoformer.files import replacing
from autoformer.records import fields_to_json, from_json

PRECISIONS = {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16", "int8": "int8"}  # and the file that each is built from
MAX_BATCH = 4096
TURING_REMEDY = "; Turing multiplies no float32 in this product, so give it a file in fp16 alone (--precision fp16)"
INPUT_TYPES = ("FLOAT", "UINT8")  # of images, among TensorRT's


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Everything that decides a build. Raises `ExportError` for values that make no sense."""

    format: str = TENSORRT.format  # the product, by the format of its engines
    gpus: tuple[str, ...] = ()  # of TensorRT-RTX: compute capabilities that the engine is for; none: 8.0 and later
    # what the engine computes in, as its file says; "fp32" in full, "tf32" with products rounded to ten bits on tensor cores.
    # What an fp16 or int8 file leaves in float32 may use TF32.
    precision: str = "fp32"
    profiles: tuple[Batches, ...] = ((1, 1, 8),)  # kernels are tuned for the middle one: a profile per batch of interest
    workspace_mib: int | None = None  # limit of scratch memory; None: TensorRT's, all of the device
    optimization_level: int = 3  # 0..5; higher builds longer
    timing_cache: Path | None = None  # folder that builds share; much faster when similar networks were built before
    refittable: bool = False  # weights can be replaced afterwards; may run slower; of TensorRT alone
    detailed: bool = False  # the inspector knows every layer; costs time at each start of a kernel, so not for timed engines

    def __post_init__(self) -> None:
        if self.format not in PRODUCTS:
            raise ExportError(f"engines are {' or '.join(PRODUCTS)}, got {short(repr(self.format))}")
        if self.gpus and not self.product.ahead_of_time:
            raise ExportError("TensorRT builds for the GPU that is here; other GPUs are chosen for TensorRT-RTX alone")
        if TURING in self.gpus and len(self.gpus) > 1:
            raise ExportError("an engine for Turing (sm75) is for nothing else; build another one for the other GPUs")
        if self.product.ahead_of_time and self.timing_cache is not None:
            raise ExportError("nothing is timed ahead of time, so engines of TensorRT-RTX know no timing cache")
        if self.product.ahead_of_time and self.refittable:
            raise ExportError(
                "TensorRT-RTX cannot build refittable engines ahead of time; export the finetuned network and build its engine, "
                "which takes seconds, or use engines of TensorRT"
            )
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

    @property
    def product(self) -> Product:
        """What builds the engine and runs it."""
        return PRODUCTS[self.format]

    @property
    def plan_name(self) -> str:
        """How its plan is called in an export and among the engines of a bundle."""
        return f"model.{self.precision}.{'' if self.product is TENSORRT else 'rtx.'}plan"

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it: without the folder of the timing cache, which is of this machine."""
        return {name: value for name, value in fields_to_json(self).items() if name != "timing_cache"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineConfig:
        """Reads what `to_dict` gave. Raises `CheckpointError` for unknown keys and values of another type."""
        return from_json(cls, values, "engine settings")

    def source(self, graph: Path) -> OnnxFile:
        """The file to build from. Raises `ExportError` when it computes in another type than the engine shall."""
        check_described(graph)
        check_external_data(graph)
        file = OnnxFile.read(graph)
        if file.precision != PRECISIONS[self.precision]:
            raise ExportError(
                f"{graph} computes in {file.precision}, asked for an engine of {self.precision}; an engine computes in "
                f"what its file says, so build from the {PRECISIONS[self.precision]} file"
            )
        return file


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """What one build gave."""

    path: Path
    sha256: str
    graph_sha256: str  # of the ONNX file
    config: EngineConfig  # with the profiles as they are: a graph of fixed batch has one, of its batch
    here: Mapping[str, str]  # the product and the device it was built on, as `Here.made` names them
    build_s: float
    timing_cache: Mapping[str, str | None] | None  # "file", and its SHA-256 "before" and "after"
    warnings: tuple[str, ...]

    def made(self) -> dict[str, Any]:
        """The record for `Artefact.made`, as JSON."""
        return {
            **self.here,
            "config": self.config.to_dict(),
            "graph_sha256": self.graph_sha256,
            "date": date.today().isoformat(),
            "seconds": round(self.build_s, 2),
            "timing_cache": self.timing_cache,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class EngineBuilder:
    """Builds engines with one setting."""

    config: EngineConfig = EngineConfig()

    def read(self, graph: Path) -> None:
        """Lets the parser read an ONNX file, and builds nothing. Raises `ExportError` with what it says against it."""
        here = Here.begin(self.config.product)
        _parse(here, created(here.trt, "Builder", here.logger).create_network(network_flags(here.trt)), self.config.source(graph))

    def build(self, graph: Path, plan: Path, *, on_progress: OnProgress | None = None, any_inputs: bool = False) -> BuiltEngine:
        """Writes the plan of an ONNX file, whole or not at all. Takes seconds to minutes.

        `any_inputs` builds of files that `Engine` does not run: with several inputs or outputs, or inputs of other types.

        `on_progress` is told the phase, the steps done and the steps in all, from threads of TensorRT (from 10 on). Ctrl-C stops
        a build; kernel timings taken until then stay in the timing cache. Raises `ExportError` when the file computes in another
        type than asked for, and with TensorRT's reason when parsing or building fails.
        """
        here = Here.begin(self.config.product)
        trt, logger, started = here.trt, here.logger, time.monotonic()
        file = self.config.source(graph)
        builder = created(trt, "Builder", logger)
        network = builder.create_network(network_flags(trt))
        _parse(here, network, file)
        if not any_inputs:
            _check_ends(here, network, file)
        config = builder.create_builder_config()
        done = self._set_up(here, builder, network, config, file)
        with ExitStack() as stack:
            tell = on_progress or (lambda phase, steps, total: None)
            cache: TimingCache | None = None
            if self.config.timing_cache is not None and here.gpu is not None:
                cache = stack.enter_context(locked_timing_cache(self.config.timing_cache, here.gpu, trt.__version__, tell))
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
                said = logger.take()
                remedy = TURING_REMEDY if TURING in self.config.gpus and "FP32" in said else ""
                raise ExportError(f"{here.title} cannot build an engine from {graph}: {said}{remedy}")
            with replacing(plan) as beside:
                beside.write_bytes(serialized)
        return BuiltEngine(
            path=plan,
            sha256=sha256_of(plan),
            graph_sha256=sha256_of(graph),
            config=done,
            here=here.made(),
            build_s=time.monotonic() - started,
            timing_cache=cache.record() if cache is not None else None,
            warnings=(*(cache.warnings if cache is not None else ()), *logger.warnings),
        )

    def _set_up(self, here: Here, builder: Any, network: Any, config: Any, file: OnnxFile) -> EngineConfig:
        """Puts the settings into TensorRT's `config`; returns them as they are for this graph."""
        trt = here.trt
        config.builder_optimization_level = self.config.optimization_level
        if self.config.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.config.workspace_mib << 20)
        set_precision(trt, config, network, self.config.precision, file)
        share_profiles(trt, config)
        if self.config.gpus:
            set_gpus(trt, config, self.config.gpus)
        if self.config.refittable:
            config.set_flag(trt.BuilderFlag.REFIT)
        if self.config.detailed:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        entries = [network.get_input(index) for index in range(network.num_inputs)]
        for entry in entries:
            if -1 in tuple(entry.shape)[1:]:
                raise ExportError(
                    f"input {entry.name} of {file.path} has open sizes beside the batch ({list(entry.shape)}); export it for one"
                )
        if not any(-1 in tuple(entry.shape) for entry in entries):
            batch = next((entry.shape[0] for entry in entries if len(entry.shape)), 1)
            return replace(self.config, profiles=((max(1, batch),) * 3,))
        for batches in self.config.profiles:
            profile = builder.create_optimization_profile()
            try:
                for entry in entries:
                    batch, *shape = tuple(entry.shape) or (1,)
                    if batch == -1:
                        profile.set_shape(entry.name, *((size, *shape) for size in batches))
                refused = config.add_optimization_profile(profile) < 0
            except ValueError:
                refused = True
            if refused:
                raise ExportError(f"{here.product.title} refuses batches {batches} for {file.path}: {here.logger.take()}")
        return self.config


def _parse(here: Here, network: Any, file: OnnxFile) -> None:
    """Reads the file into `network`. Raises `ExportError` naming operator, node and torch module."""
    trt = here.trt
    parser = trt.OnnxParser(network, here.logger)
    if not parser.parse(file.path.read_bytes(), str(file.path)):  # the path leads to weights beside the file
        said = parser_errors(parser, file) or here.logger.take()
        raise ExportError(f"{here.title} cannot read {file.path}: {said}")


def _check_ends(here: Here, network: Any, file: OnnxFile) -> None:
    """Raises `ExportError` for a network that `Engine` does not run."""
    trt = here.trt
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise ExportError(f"{file.path} has {network.num_inputs} inputs and {network.num_outputs} outputs; expected one of each")
    taken = network.get_input(0).dtype
    if taken not in [getattr(trt.DataType, name) for name in INPUT_TYPES]:
        raise ExportError(f"{file.path} takes images of {taken}; expected float32 or uint8")
