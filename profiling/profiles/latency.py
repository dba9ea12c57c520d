"""Measures files: ONNX graphs, TensorRT plans, networks of ours and of timm, export folders, all interleaved in one session.

A small fixed network (the reference) runs among them on the CPU. Absolute times of a shared machine move by several per
cent from one hour to the next, their ratio to the reference hardly does; so a repeat is compared by ratios. Whatever could
not be measured stands in the answer with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoformer.errors import CheckpointError, MeasurementError, MissingPackageError, short
from autoformer.export.manifest import FILE_NAME as MANIFEST
from autoformer.export.manifest import Manifest
from autoformer.files import TIMM, believing, read_document, refuse_existing_file, write_json
from autoformer.profiling.backends.of_artefacts import Job, fixed_batch, jobs_of
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend
from autoformer.profiling.measuring.backend import BACKENDS, USUAL_BACKENDS, CopiesImages, LatencyBackend, WithCopies
from autoformer.profiling.measuring.clock_lock import NOT_HERE, locked_clocks
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure
from autoformer.profiling.measuring.sensors import MachineSensors
from autoformer.profiling.profiles.cold_start import ColdStart, cold_start
from autoformer.profiling.profiles.energy import Energy, measure_energy
from autoformer.progress import Progress
from autoformer.records import fields_to_json, from_json, to_json

FORMAT = "autoformer/profile/1"
WRITES = "a file of `profile run --out`"
ATTEMPTS = 6  # of a profile, until all its verdicts are VALID
NO_GPU = "no NVIDIA GPU was found"
REFERENCE = "reference network"
REFERENCE_WIDTH, REFERENCE_ROWS, REFERENCE_LAYERS = 192, 64, 4  # 9.4 M multiply-adds, below a millisecond on most CPUs


@dataclass(frozen=True)
class NotMeasured:
    """Something that could not be measured, and why."""

    name: str
    backend: str
    reason: str


@dataclass(frozen=True)
class Profile:
    """The answer: measurements in the order asked for, the reference among them, and what is missing."""

    measurements: tuple[Measurement, ...]
    reference: Measurement
    not_measured: tuple[NotMeasured, ...]
    config: MeasureConfig
    created: str  # ISO 8601, UTC
    attempt: int = 1  # earlier ones were not VALID and are not kept
    cold_starts: tuple[ColdStart, ...] = ()
    energy: tuple[Energy, ...] = ()

    def ratio(self, measurement: Measurement) -> float:
        """Median over the reference's median; what to compare between two profiles of one machine."""
        return measurement.stats.p50_ms / self.reference.stats.p50_ms

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return {
            **fields_to_json(self),
            "format": FORMAT,
            "ratios": {taken.name: self.ratio(taken) for taken in self.measurements},
            "metrics": {taken.name: to_json(taken.metrics) for taken in self.measurements},
        }

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Reads a file. Raises `CheckpointError` naming it when it is missing, damaged or of another format."""
        return cls.from_dict(read_document(path, FORMAT, expected=WRITES), path)

    @classmethod
    def from_dict(cls, values: object, path: Path) -> Profile:
        """Reads the JSON form, which came from `path`. Raises `CheckpointError` naming that file when it cannot be right."""
        if isinstance(values, Mapping) and (have := values.get("format")) != FORMAT:
            raise CheckpointError(f"{path} has format {short(repr(have), 60)}, expected {FORMAT!r}; profile again")
        with believing(path, "profile again"):
            read = from_json(cls, values, "profile", beside=("format", "ratios", "metrics"))
            measurements = tuple(taken.believed() for taken in read.measurements)
            return replace(read, measurements=measurements, reference=read.reference.believed())

    def save(self, path: Path) -> None:
        """Writes the JSON file, raw samples included, whole or not at all."""
        write_json(self.to_dict(), path)


@dataclass(frozen=True, kw_only=True)
class ProfileRequest:
    """What is measured of each artefact. Raises `MeasurementError` for impossible values."""

    batch: int | None = 1  # None: the one that the first file with a fixed batch takes, and 1 without such a file
    threads: int | None = None  # None: the cores this process may use
    spinning: bool = False  # lets ONNX Runtime's threads burn a core while they wait
    backends: Sequence[str] = USUAL_BACKENDS  # of `BACKENDS`, to run on
    cold_starts: bool = False  # a process for each besides, which loads it, runs it and rests for ten seconds
    energy_s: float = 0.0  # runs each so long again to read its power
    lock_clocks: bool = False  # holds the GPU's clock meanwhile (clock_lock.py)

    def __post_init__(self) -> None:
        for name, count in (("batch", self.batch), ("threads", self.threads)):
            if count is not None and count < 1:
                raise MeasurementError(f"{name} is {count}, expected 1 or more")
        if unknown := [name for name in self.backends if name not in BACKENDS]:
            raise MeasurementError(f"unknown backend {unknown[0]!r}; known are {', '.join(BACKENDS)}")


def profile_artefacts(
    paths: Sequence[Path | str],
    asked: ProfileRequest = ProfileRequest(),
    *,
    config: MeasureConfig = MeasureConfig(),
    out: Path | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measures every artefact of `paths` on each backend it can run on here; writes JSON to the file `out` if given.

    `paths` are paths, or names of timm's networks. On a GPU every network is a second row with the copies between host and GPU.
    Raises `CheckpointError` for what is not an artefact or cannot be read, `OutputExistsError` when something stands at `out`,
    and `MeasurementError` when spinning would change nothing, nothing at all could be measured, or clocks are to be locked that
    cannot be. What this machine lacks (a GPU, a provider, TensorRT) is not an error: it is listed in `not_measured`.
    """
    if out is not None:
        refuse_existing_file(out)
    facts, missing = DeviceFacts.collect(), list[NotMeasured]()
    named = expand(paths, missing)
    batch = asked.batch or next((size for words, _ in named if (size := fixed_batch(words)) is not None), 1)
    jobs = _jobs(named, asked, batch)
    starts: list[ColdStart] = []
    energies: list[Energy] = []
    with ExitStack() as stack:
        if asked.lock_clocks:
            facts = stack.enter_context(locked_clocks(facts))
        opened: dict[str, LatencyBackend] = {}
        for job in jobs:
            on_gpu = not job.backend.endswith("-cpu")
            if on_gpu and not facts.has_gpu:
                missing.append(NotMeasured(job.name, job.backend, NO_GPU))
                continue
            if asked.cold_starts:
                with _noting(missing, job.name, "cold start"):
                    start = cold_start(
                        job.words, job.name, job.backend, batch=batch, threads=asked.threads, spinning=asked.spinning
                    )
                    starts.append(start)
            with _noting(missing, job.name, job.backend):
                backend, name = stack.enter_context(job.open()), f"{job.name} ({job.backend})"
                opened[name] = backend
                if on_gpu and isinstance(backend, CopiesImages):
                    opened[f"{name} with copies"] = WithCopies(backend)
        if not opened:
            reasons = "; ".join(f"{item.name} on {item.backend}: {item.reason}" for item in missing) or "no path was given"
            raise MeasurementError(f"nothing could be measured: {reasons}")
        if asked.lock_clocks and all(backend.name.endswith("-cpu") for backend in opened.values()):
            raise MeasurementError(NOT_HERE)
        sensors = MachineSensors()
        reference = stack.enter_context(OnnxRuntimeBackend(reference_network(), batch=REFERENCE_ROWS, threads=asked.threads))
        taken = measure({**opened, REFERENCE: reference}, config, device=facts, sensors=sensors, progress=progress)
        for name, backend in opened.items() if asked.energy_s else ():
            if facts.jetson is None and backend.name.endswith("-cpu"):
                missing.append(NotMeasured(name, "energy", "no sensor here tells the power of the processor"))
            elif not isinstance(backend, WithCopies):
                with _noting(missing, name, "energy"):
                    energies.append(measure_energy(name, backend, sensors, seconds=asked.energy_s))
    profile = Profile(
        measurements=tuple(taken[name] for name in opened),
        reference=taken[REFERENCE],
        not_measured=tuple(missing),
        config=config,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        cold_starts=tuple(starts),
        energy=tuple(energies),
    )
    if out is not None:
        profile.save(out)
    return profile


def _jobs(named: Sequence[tuple[str, str]], asked: ProfileRequest, batch: int) -> list[Job]:
    """Each artefact on each backend that was asked for. Raises `MeasurementError` where that leaves none."""
    every = [job for words, label in named for job in jobs_of(words, label, batch, asked.threads, asked.spinning)]
    jobs = [job for job in every if job.backend in asked.backends]
    if asked.spinning and not any(job.backend.startswith("onnxruntime") for job in jobs):
        raise MeasurementError("spinning is about the threads of ONNX Runtime, which runs nothing of this; leave --spinning out")
    if every and not jobs:
        runs_on = ", ".join(dict.fromkeys(job.backend for job in every))
        raise MeasurementError(f"nothing of this runs on {', '.join(asked.backends)}; it runs on {runs_on}")
    return jobs


@contextmanager
def _noting(missing: list[NotMeasured], name: str, backend: str) -> Iterator[None]:
    """What the block cannot measure goes into `missing`, with its reason: a file that does not load ends no other's turn."""
    try:
        yield
    except (MeasurementError, MissingPackageError, CheckpointError) as error:
        missing.append(NotMeasured(name, backend, str(error)))


def profile_until_valid(
    paths: Sequence[Path | str],
    *,
    attempts: int | None = None,
    config: MeasureConfig = MeasureConfig(),
    batch: int | None = 1,
    threads: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Profile:
    """`profile_artefacts`, again while a verdict is not VALID; the last attempt, of at most `attempts`, is the answer.

    Whether a measurement is repeated depends on its steadiness alone, never on whether the times are good.
    """
    asked = ProfileRequest(batch=batch, threads=threads)
    if out is not None:
        refuse_existing_file(out)

    def once(attempt: int) -> Profile:
        def again(work: str, done: int, total: int, note: str = "") -> None:
            if progress is not None:
                progress(work if attempt == 1 else f"{work} again, attempt {attempt}", done, total, note)

        return replace(profile_artefacts(paths, asked, config=config, progress=again), attempt=attempt)

    profile, most = once(1), ATTEMPTS if attempts is None else attempts
    while profile.attempt < most and any(taken.verdict.level != "VALID" for taken in profile.measurements):
        profile = once(profile.attempt + 1)
    if out is not None:
        profile.save(out)
    return profile


def expand(paths: Sequence[Path | str], missing: list[NotMeasured]) -> list[tuple[str, str]]:
    """Words for each file, folder of a network and name of timm's, with a label; export folders become what their manifest lists.

    What a manifest lists without a file goes into `missing`.
    """
    found: list[str] = []
    for path in map(Path, paths):
        if str(path).startswith(TIMM) or not (path / MANIFEST).is_file():
            found.append(str(path))
            continue
        manifest = Manifest.load(path)
        for artefact in manifest.artefacts:
            if artefact.file is not None:
                found.append(str(manifest.verified_file(path, artefact)))
            else:
                backend = artefact.format if artefact.is_engine else "onnxruntime"
                reason = f"{artefact.status}: {artefact.reason}"
                missing.append(NotMeasured(f"{path.name}/{artefact.format} {artefact.precision}", backend, reason))
    unique = list(dict.fromkeys(found))
    names = [words if words.startswith(TIMM) else Path(words).name for words in unique]
    return [(words, name if names.count(name) == 1 else words) for words, name in zip(unique, names, strict=True)]


def reference_network() -> bytes:
    """The reference: four matrix products with ReLU between them, always the same, as a serialised ONNX model."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    shape = (REFERENCE_WIDTH, REFERENCE_WIDTH)
    nodes, weights, last = [], [], "images"
    for index in range(REFERENCE_LAYERS):
        values = (generator.standard_normal(shape) * (2 / REFERENCE_WIDTH) ** 0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"weight{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"weight{index}"], [f"product{index}"]))
        nodes.append(helper.make_node("Relu", [f"product{index}"], [f"layer{index}"]))
        last = f"layer{index}"
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", REFERENCE_WIDTH])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", REFERENCE_WIDTH])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
