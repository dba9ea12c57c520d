"""An engine as an artefact: built from an ONNX file that counts, run, compared, and only then listed as exported.

An engine of TensorRT-RTX that was built for GPUs of other machines cannot be run here: it is listed as built, and `verify` on
such a machine compares it. Python bindings build it where they are, NVIDIA's `trtexec` where they are not; what was used stands
in the record, and the same opens it again. Runs on boards: numpy and TensorRT are imported inside the functions that need them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoformer.architecture import whole_number
from autoformer.errors import AutoformerError, CheckpointError, ExportError, MeasurementError, MissingPackageError, short
from autoformer.export.engines.build_progress import OnProgress
from autoformer.export.engines.builder import MAX_BATCH, EngineBuilder, EngineConfig
from autoformer.export.engines.cuda_runtime import Cuda
from autoformer.export.engines.engine import Engine
from autoformer.export.engines.refit import refit_engine
from autoformer.export.engines.target_gpus import in_words, runs_on
from autoformer.export.engines.tensorrt_versions import (
    TENSORRT,
    Product,
    builder_missing,
    how_to_rebuild,
    import_tensorrt,
    product_named,
    tensorrt_missing,
    titled,
)
from autoformer.export.engines.trtexec import PlanInput, Trtexec, trtexec_path
from autoformer.export.manifest import Artefact, sha256_of
from autoformer.export.parity import BATCHES, Batches, Parity, in_profiles
from autoformer.files import believing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autoformer.export.parity import Model

    # Compares a model, run in batches of these sizes: the comparison, and how many images it gets right, where known.
    Judge = Callable[[Model, tuple[int, ...]], tuple[Parity, int | None]]

BUILT_WITH = "built_with"  # in `Artefact.made`: names trtexec where that built the plan


@dataclass(frozen=True)
class TrtexecModel:
    """A plan that trtexec runs: images [n, C, H, W] to logits [n, classes], a process for each call."""

    program: Trtexec
    plan: Path
    taken: PlanInput
    output_name: str

    @classmethod
    def of(cls, program: Trtexec, plan: Path, artefact: Artefact) -> TrtexecModel:
        """The plan of an artefact, or of one that is made from it."""
        assert artefact.output_name is not None, "an exported file has an output"
        return cls(program, plan, PlanInput.of(artefact), artefact.output_name)

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Raises `MeasurementError` with trtexec's reason."""
        import numpy as np

        content = np.ascontiguousarray(images).tobytes()
        values = self.program.logits(self.plan, content, len(images), self.taken, self.output_name)
        return np.asarray(values, np.float32).reshape(len(images), -1)


def read_batches(words: str) -> Batches:
    """ "8" is tuned for and takes 8 images, "1:8:32" takes 1 to 32 and is tuned for 8. Raises `ExportError` for others."""
    sizes = words.split(":")
    if len(sizes) not in (1, 3) or not all(1 <= (whole_number(size) or 0) <= MAX_BATCH for size in sizes):
        raise ExportError(
            f"batches {words[:40]!r} cannot be read; expected one number like 8, or smallest:tuned for:largest like 1:8:32"
        )
    low, best, high = sizes if len(sizes) == 3 else sizes * 3
    return int(low), int(best), int(high)


def how_to_build(product: Product = TENSORRT) -> Trtexec | None:
    """None where the Python bindings of the product can build here, else trtexec.

    Raises `MissingPackageError` saying what is missing, and where it is to be had, when neither is there.
    """
    missing = builder_missing(product)
    if missing is None:
        return None
    if product is not TENSORRT:
        raise MissingPackageError(missing)
    if trtexec_path() is None:
        raise MissingPackageError(f"{missing}; trtexec is not here either")
    try:
        return Trtexec.find()
    except MissingPackageError as error:
        raise MissingPackageError(f"{missing}; and {error}") from error


def engine_artefact(
    source: Artefact,
    graph: Path,
    plan: Path,
    config: EngineConfig,
    judge: Judge,
    *,
    program: Trtexec | None = None,
    on_progress: OnProgress | None = None,
) -> Artefact:
    """Builds the engine of an exported ONNX file and compares it; the plan is removed again when it does not pass.

    `program` builds and runs it, or the product's bindings when None. A failure is an answer, not an exception: "rejected" with
    its reason. One that does not run here is "built".
    """
    of: dict[str, Any] = {"format": config.format, "precision": config.precision}
    made: dict[str, Any] = {}
    try:
        if program is None:
            built = EngineBuilder(config).build(graph, plan, on_progress=on_progress)
            made = built.made()
            if not runs_here(config):
                title = titled(import_tensorrt(config.product))
                reason = f"built ahead of time by {title} for {in_words(config.gpus)}; not run here, so verify it on its device"
                return Artefact(**of, status="built", reason=reason, made=made, **_of_plan(plan, source))
            with Engine.load(plan, sha256=built.sha256, product=config.product) as engine:
                parity, correct = judge(in_profiles(engine, engine.profiles), _compared(engine.profiles))
        else:
            made = program.build(graph, plan, config, PlanInput.of(source))
            profiles = profiles_of(replace(source, made=made))
            model = in_profiles(TrtexecModel.of(program, plan, source), profiles)
            parity, correct = judge(model, few_calls(profiles))
    except (ExportError, CheckpointError, MeasurementError) as error:  # the ONNX file is good all the same
        plan.unlink(missing_ok=True)
        reason = str(error).replace(f"{graph.parent}{os.sep}", "")  # a folder that may be a temporary one
        return Artefact(**of, status="rejected", reason=reason, made=made)
    of |= {"reason": parity.reason, "parity": parity, "made": made}
    if not parity.passed:
        plan.unlink()
        return Artefact(**of, status="rejected")
    return Artefact(**of, status="exported", correct=correct, **_of_plan(plan, source))


def _of_plan(plan: Path, source: Artefact) -> dict[str, Any]:
    """What an artefact says of a plan that stays."""
    return {
        "file": plan.name, "sha256": sha256_of(plan), "bytes": plan.stat().st_size, "input_name": source.input_name,
        "input_shape": source.input_shape, "output_name": source.output_name,
    }  # fmt: skip


def runs_here(config: EngineConfig) -> bool:
    """Whether an engine of this setting runs on a GPU of this machine; one that is built on it does."""
    product = config.product
    if not product.ahead_of_time:
        return True
    return tensorrt_missing(product) is None and runs_on(config.gpus, Cuda().gpu().compute_capability)


def refitted_artefact(engine: Artefact, plan: Path, graph: Path, out: Path, judge: Judge) -> Artefact:
    """The engine at `plan` with the weights of the file `graph`, written to `out` and compared.

    A failure is an answer, not an exception: "rejected" with its reason, and nothing at `out`.
    """
    try:
        refitted = refit_engine(plan, graph, out, sha256=engine.sha256)
        with Engine.load(out, sha256=refitted.sha256) as loaded:
            parity, correct = judge(in_profiles(loaded, loaded.profiles), BATCHES)
        if not parity.passed:
            raise ExportError(parity.reason)
    except AutoformerError as error:
        out.unlink(missing_ok=True)
        return Artefact(format="tensorrt", precision=engine.precision, status="rejected", reason=str(error))
    return replace(
        engine, reason=parity.reason, file=out.name, sha256=refitted.sha256, bytes=out.stat().st_size, parity=parity,
        correct=correct, made={**refitted.made(), "config": engine.made.get("config")}, speed={},
    )  # fmt: skip


@contextmanager
def opened_engine(path: Path, artefact: Artefact) -> Iterator[Model]:
    """A plan of a manifest as a function from images to logits, opened by what built it.

    Raises `CheckpointError` for another plan, device or version than the manifest says, `MissingPackageError` without a runtime.
    """
    if trtexec_of(artefact) is None:
        with Engine.load(path, sha256=artefact.sha256, product=product_named(artefact.format)) as engine:
            yield in_profiles(engine, engine.profiles)
        return
    yield in_profiles(TrtexecModel.of(checked_trtexec(path, artefact), path, artefact), profiles_of(artefact))


def profiles_of(artefact: Artefact) -> tuple[Batches, ...]:
    """The batches that a plan takes, from its record. Raises `CheckpointError` where that does not say."""
    return ((artefact.batch,) * 3,) if artefact.batch is not None else settings_of(artefact).profiles


def settings_of(artefact: Artefact) -> EngineConfig:
    """What a plan was built with, from its record. Raises `CheckpointError` where that does not say."""
    entry, fault = f"the manifest's entry of {artefact.file}", "does not say with which settings it was built"
    with believing(entry, how_to_rebuild(product_named(artefact.format)), fault=fault):
        return EngineConfig.from_dict(artefact.made["config"])


def few_calls(profiles: Sequence[Batches]) -> tuple[int, ...]:
    """Batch sizes to compare a plan with that trtexec runs, where every call is a process that loads the plan anew."""
    most = max(high for _, _, high in profiles)
    return (*[most] * 7, profiles[0][1])


def _compared(profiles: Sequence[Batches]) -> tuple[int, ...]:
    return (*BATCHES, *sorted({best for _, best, _ in profiles} - set(BATCHES)))


def trtexec_of(artefact: Artefact) -> str | None:
    """The version of trtexec that built a plan; None where the bindings did."""
    name, _, version = str(artefact.made.get(BUILT_WITH, "")).partition(" ")
    return version if name == "trtexec" else None


def checked_trtexec(path: Path, artefact: Artefact) -> Trtexec:
    """The trtexec that may load this plan. Raises `CheckpointError` where the plan, the version or the GPU is another one."""
    if not path.is_file() or sha256_of(path) != artefact.sha256:
        raise CheckpointError(
            f"{path} is not the plan that the manifest describes; a plan is code, so it is not loaded; {how_to_rebuild()}"
        )
    program = Trtexec.find()
    if program.tensorrt != trtexec_of(artefact):
        raise CheckpointError(
            f"{path} was built by trtexec {trtexec_of(artefact)}, here is {program.tensorrt}; {how_to_rebuild()}"
        )
    built_for, here = artefact.made.get("gpu"), program.gpu()
    if None not in (built_for, here) and built_for != here:
        raise CheckpointError(f"{path} was built for {short(built_for)}, here is {here}; {how_to_rebuild()}")
    return program
