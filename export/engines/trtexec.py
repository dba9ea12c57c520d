"""NVIDIA's `trtexec`: builds and times engines where TensorRT is installed without its Python bindings.

Its defaults changed: 10.x times without a CUDA graph, with copies and blocking; 11.x with a graph, without copies, spinning.
A time without version and flags says nothing, so every run here states the conditions it wants, in the words of the version
at hand (`--help` names the flags there are), and one query is in flight at a time. Runs on boards: standard library only.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from autoformer.errors import ExportError, MeasurementError, MissingPackageError, short
from autoformer.export.engines.builder import EngineConfig
from autoformer.export.engines.trtexec_output import (
    check_summary,
    read_gpu,
    read_json_file,
    read_log,
    read_times,
    read_version,
    read_warmup,
    read_warnings,
    reason_of,
)
from autoformer.export.graphs.onnx_file import OnnxFile
from autoformer.export.manifest import Artefact, sha256_of
from autoformer.files import replacing
from autoformer.temporary import temporary_folder

PLACES = ("/usr/src/tensorrt/bin", "/opt/tensorrt/bin", "/usr/local/tensorrt/bin")  # JetPack, NVIDIA's containers, by hand
TREES = ("TENSORRT_ROOT", "TENSORRT_HOME", "TENSORRT_DIR", "TRT_ROOT")  # variables that name an unpacked TensorRT
NO_ENGINE = "no-such-engine.plan"
MISSING = (
    "trtexec is not here (looked in PATH, {places}, and bin of {trees}); it comes with JetPack and with NVIDIA's TensorRT "
    "packages: https://developer.nvidia.com/tensorrt"
)


def trtexec_path() -> str | None:
    """The first trtexec in PATH, the usual places and the trees that variables name; None where there is none."""
    places = [*PLACES, *(f"{os.environ[tree]}/bin" for tree in TREES if os.environ.get(tree))]
    return shutil.which("trtexec") or shutil.which("trtexec", path=os.pathsep.join(places))


class Listener(Protocol):
    """Somebody who follows a run of trtexec while it goes on."""

    def started(self, process: int) -> None:
        """It runs, with this number of its process."""

    def heard(self, line: str) -> None:
        """It printed a line just now; it writes each one out at once."""


@dataclass(frozen=True)
class PlanInput:
    """The images that a plan takes, as trtexec must be told."""

    name: str
    image_shape: tuple[int, ...]  # channels, height, width
    fixed_batch: bool = False

    @classmethod
    def of(cls, artefact: Artefact) -> PlanInput:
        """What the plan or the graph of an exported file takes."""
        assert artefact.input_name is not None, "an exported file has an input"
        return cls(artefact.input_name, tuple(int(size) for size in artefact.input_shape[1:]), artefact.batch is not None)

    def flag(self, name: str, batch: int) -> list[str]:
        """The flag `name` with the shape of a batch; none where the plan takes one batch alone."""
        shape = "x".join(map(str, (batch, *self.image_shape)))
        return [] if self.fixed_batch else [f"--{name}={self.name}:{shape}"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How a plan is timed."""

    batch: int = 1
    cuda_graph: bool = True
    copies: bool = False  # between host and GPU, counted
    seconds: float = 3.0  # at least
    min_runs: int = 100
    warmup_s: float = 1.0


@dataclass(frozen=True)
class TrtexecTimes:
    """What trtexec measured, run by run, in milliseconds."""

    latency_ms: tuple[float, ...]  # GPU time, and copies where they were made
    gpu_ms: tuple[float, ...]  # GPU time alone, by CUDA events
    enqueue_ms: tuple[float, ...]  # of the host, to hand one run to the GPU
    batch: int
    warmup_runs: int
    warmup_s: float  # as asked for; trtexec does not look whether the times have settled
    gpu: str | None  # as trtexec calls it
    settings: Mapping[str, str]  # what was in force, and the version
    command: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trtexec:
    """One trtexec program: where it is, its version, and the flags it knows."""

    path: Path
    version: tuple[int, int, int]
    flags: frozenset[str] = field(repr=False)

    @classmethod
    def find(cls, path: Path | None = None) -> Trtexec:
        """The program at `path`, or the first of PATH, the usual places and the trees that variables name.

        Raises `MissingPackageError` when there is none, or what is there does not answer as trtexec of 8.6 or newer does.
        """
        found = str(path) if path else trtexec_path()
        if found is None or not Path(found).is_file():
            raise MissingPackageError(
                f"{path} does not exist; expected the program trtexec" if path
                else MISSING.format(places=", ".join(PLACES), trees=", ".join(f"${tree}" for tree in TREES))
            )  # fmt: skip
        said = _run([found, "--help"], timeout_s=60)[1]
        version = read_version(said)
        if version is None:
            raise MissingPackageError(f"{found} is not trtexec, or cannot start: {reason_of(said)}")
        if version < (8, 6, 0):
            raise MissingPackageError(f"{found} is of TensorRT {'.'.join(map(str, version))}; 8.6 or newer is needed")
        return cls(Path(found), version, frozenset(re.findall(r"--[A-Za-z0-9]+", said)))

    @property
    def tensorrt(self) -> str:
        """The version in words, like "10.3.0"."""
        return ".".join(map(str, self.version))

    def gpu(self) -> str | None:
        """The GPU it would run on, which it names before it looks for the engine that is not there; None where it does not."""
        return read_gpu(_run([str(self.path), f"--loadEngine={NO_ENGINE}"], timeout_s=60)[1])

    def build(self, graph: Path, plan: Path, config: EngineConfig, taken: PlanInput) -> dict[str, Any]:
        """Writes the plan of an ONNX file and gives how it was made, as `BuiltEngine.made` does. Takes seconds to minutes.

        Raises `ExportError` when the file computes in another type than asked for, with trtexec's reason when it fails, and for
        several profiles, which it cannot be told in one way in all versions.
        """
        file = config.source(graph)
        if len(config.profiles) != 1:
            raise ExportError(
                f"trtexec builds one profile of batches, asked for {len(config.profiles)}; build an engine for each"
            )
        words = [f"--onnx={graph}", *self._precision(config.precision, file)]
        words.append(f"--builderOptimizationLevel={config.optimization_level}")
        for name, batch in zip(("minShapes", "optShapes", "maxShapes"), config.profiles[0], strict=True):
            words += taken.flag(name, batch)
        if config.workspace_mib is not None:
            words.append(f"--memPoolSize=workspace:{config.workspace_mib}")
        words += ["--refit"] * config.refittable + ["--profilingVerbosity=detailed"] * config.detailed
        started = time.monotonic()
        with self._timing_cache(config.timing_cache) as cache, replacing(plan) as beside:
            before = _digest(cache)
            cached = [] if cache is None else [f"--timingCacheFile={cache}"]
            code, said = _run([str(self.path), *words, *cached, "--skipInference", f"--saveEngine={beside}"])
            if code or not beside.is_file() or not beside.stat().st_size:
                raise ExportError(f"trtexec {self.tensorrt} cannot build an engine from {graph}: {reason_of(said)}")
            timings = None if cache is None else {"file": cache.name, "before": before, "after": _digest(cache)}
        return {
            "built_with": f"trtexec {self.tensorrt}",
            "tensorrt": self.tensorrt,
            "gpu": read_gpu(said),
            "config": config.to_dict(),
            "graph_sha256": sha256_of(graph),
            "seconds": round(time.monotonic() - started, 2),
            "timing_cache": timings,
            "warnings": list(read_warnings(said)),
        }

    @contextmanager
    def _timing_cache(self, folder: Path | None) -> Iterator[Path | None]:
        """The file in `folder` that builds of this version for this GPU share; the next build waits for this one.

        trtexec takes a file of another GPU as it is, so the name keeps them apart.
        """
        if folder is None:
            yield None
            return
        import fcntl

        folder.mkdir(parents=True, exist_ok=True)
        gpu = re.sub(r"[^a-z0-9.]+", "-", (self.gpu() or "unknown").lower()).strip("-")
        path = folder / f"timing_{gpu}_trtexec{self.tensorrt}.cache"
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path

    def time(self, plan: Path, taken: PlanInput, how: Timing = Timing(), listener: Listener | None = None) -> TrtexecTimes:
        """Times a plan with one query in flight; `listener` follows it. Raises `MeasurementError` with trtexec's reason."""
        words, settings = self._conditions(cuda_graph=how.cuda_graph, copies=how.copies)
        words += [f"--warmUp={round(1000 * how.warmup_s)}", f"--duration={math.ceil(how.seconds)}"]
        words += [f"--iterations={how.min_runs}", *taken.flag("shapes", how.batch)]
        words += ["--avgRuns=1", f"--loadEngine={plan}"]  # one line a run, should the file of times be missing
        with temporary_folder("trtexec") as folder:
            times = folder / "times.json"
            code, said = _followed([str(self.path), *words, f"--exportTimes={times}"], listener)
            if code:
                raise MeasurementError(f"trtexec {self.tensorrt} cannot time {plan}: {reason_of(said)}")
            runs = read_times(times) if times.is_file() else read_log(said)
        if not runs:
            raise MeasurementError(f"trtexec {self.tensorrt} timed no run of {plan}: {reason_of(said)}")
        gpu_ms = tuple(run[1] for run in runs)
        check_summary(said, gpu_ms)
        return TrtexecTimes(
            latency_ms=tuple(run[0] for run in runs),
            gpu_ms=gpu_ms,
            enqueue_ms=tuple(run[2] for run in runs),
            batch=how.batch,
            warmup_runs=read_warmup(said),
            warmup_s=how.warmup_s,
            gpu=read_gpu(said),
            settings=settings,
            command=("trtexec", *words),
            warnings=read_warnings(said),
        )

    def logits(self, plan: Path, images: bytes, batch: int, taken: PlanInput, output_name: str) -> list[float]:
        """What a plan gives for `batch` images, as they lie in memory, flat and in order.

        Raises `MeasurementError` with trtexec's reason.
        """
        with temporary_folder("trtexec") as folder:
            given, answer = folder / "images.bin", folder / "output.json"
            given.write_bytes(images)
            words = [f"--loadEngine={plan}", f"--loadInputs={taken.name}:{given}", f"--exportOutput={answer}"]
            words += ["--iterations=1", "--duration=0", "--warmUp=0", *self._conditions(copies=True)[0]]
            words += taken.flag("shapes", batch)
            code, said = _run([str(self.path), *words])
            if code or not answer.is_file():
                raise MeasurementError(f"trtexec {self.tensorrt} cannot run {plan}: {reason_of(said)}")
            for tensor in read_json_file(answer):
                if isinstance(tensor, dict) and tensor.get("name") == output_name and isinstance(tensor.get("values"), list):
                    return [float(value) for value in tensor["values"]]
        raise MeasurementError(f"trtexec {self.tensorrt} gave no output {output_name!r} of {plan}")

    def layers(self, plan: Path, taken: PlanInput, batch: int = 1) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Times by layer, `[{"name", "timeMs", "averageMs", "percentage", …}]`, and the engine's own description as JSON.

        Slower than a timed run, and never the same: the profiler waits after every layer. Raises `MeasurementError`.
        """
        with temporary_folder("trtexec") as folder:
            profile, layers = folder / "profile.json", folder / "layers.json"
            words = [f"--loadEngine={plan}", f"--exportProfile={profile}", f"--exportLayerInfo={layers}"]
            words += ["--profilingVerbosity=detailed", *self._conditions(cuda_graph=False)[0]]
            words += ["--separateProfileRun"] * ("--separateProfileRun" in self.flags)
            words += taken.flag("shapes", batch)
            code, said = _run([str(self.path), *words])
            if code or not profile.is_file() or not layers.is_file():
                raise MeasurementError(f"trtexec {self.tensorrt} cannot profile {plan}: {reason_of(said)}")
            found, described = read_json_file(profile), read_json_file(layers)
        if not isinstance(found, list) or not isinstance(described, dict):
            raise MeasurementError(f"trtexec {self.tensorrt} wrote no profile of layers for {plan}")
        return [entry for entry in found if isinstance(entry, dict) and "name" in entry], described

    def _precision(self, precision: str, file: OnnxFile) -> list[str]:
        words = ["--noTF32"] * (precision == "fp32")
        if self.version[0] == 10:
            words.append("--stronglyTyped")  # 11 knows nothing else
        if self.version[0] < 10 and precision in ("fp16", "int8"):  # weakly typed: held to what the file says
            words.append(f"--{precision}")
            held = sorted(file.computed_in_float32())
            if unsayable := [name for name in held if set(name) & set(":,*'")]:
                raise ExportError(f"layer {short(unsayable[0])!r} cannot be held in fp32: trtexec cannot be told its name")
            if held:
                words.append("--layerPrecisions=" + ",".join(f"{name}:fp32" for name in held))
                words.append("--precisionConstraints=obey")
        return words

    def _conditions(self, *, cuda_graph: bool = False, copies: bool = False) -> tuple[list[str], dict[str, str]]:
        """The flags that bring these conditions about in this version, and the conditions in words; the host always spins."""
        if self.version[0] >= 11:
            words = ["--noCudaGraph"] * (not cuda_graph) + ["--includeDataTransfers"] * copies
        else:
            words = ["--useCudaGraph"] * cuda_graph + ["--noDataTransfers"] * (not copies) + ["--useSpinWait"]
        words += ["--infStreams=1"] * ("--infStreams" in self.flags)
        words += ["--exposeDMA"] * ("--exposeDMA" in self.flags)  # else two queries are in flight
        return words, {
            "trtexec": self.tensorrt,
            "cuda_graph": "on" if cuda_graph else "off",
            "copies": "counted" if copies else "none",
            "waiting": "spins",
            "in_flight": "1" if "--exposeDMA" in self.flags else "2",
            "clock": "CUDA events; waiting of the host is not counted",
        }


def _digest(cache: Path | None) -> str | None:
    return None if cache is None or not cache.is_file() else sha256_of(cache)


def _run(command: Sequence[str], timeout_s: float | None = None) -> tuple[int, str]:
    """Exit code and everything a program said. Raises `MissingPackageError` when it cannot be started."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MissingPackageError(f"{command[0]} does not answer within {timeout_s:g} s") from error
    except OSError as error:
        raise _not_started(command, error) from error
    return done.returncode, done.stdout.decode(errors="replace")


def _followed(command: Sequence[str], listener: Listener | None) -> tuple[int, str]:
    """As `_run`, with a listener, where there is one, who hears every line when it comes."""
    if listener is None:
        return _run(command)
    said = []
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, encoding="utf-8",
            errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise _not_started(command, error) from error
    with process:
        try:
            listener.started(process.pid)
            assert process.stdout is not None, "its output is a pipe"
            for line in process.stdout:
                said.append(line)
                listener.heard(line)
        except BaseException:  # Ctrl-C above all: it must not go on alone
            process.kill()
            raise
    return process.returncode, "".join(said)


def _not_started(command: Sequence[str], error: OSError) -> MissingPackageError:
    return MissingPackageError(f"{command[0]} cannot be started ({error.strerror}); is it built for another machine?")
