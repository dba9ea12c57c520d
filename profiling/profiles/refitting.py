"""A finetuned network goes into the engines of its architecture: exported as they were, refitted, compared, timed.

Refitting takes seconds where building takes minutes, but an engine that can be refitted may be slower than one that cannot; so
each is timed in turn with one that is built without that.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoformer.errors import CheckpointError, ExportError
from autoformer.export.artefacts import ExportSource, export_network
from autoformer.export.config import ExportConfig
from autoformer.export.engines.artefact import refitted_artefact, settings_of
from autoformer.export.engines.builder import PRECISIONS, EngineBuilder
from autoformer.export.engines.tensorrt_versions import TENSORRT_RTX, import_tensorrt
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.manifest import Artefact, Manifest
from autoformer.export.parity import BATCHES, TOLERANCES, Parity, compare, filled_up, run_in_batches
from autoformer.files import believing, refuse_existing, write_folder
from autoformer.profiling.backends.tensorrt_backend import TensorRTBackend
from autoformer.profiling.measuring.measure import MeasureConfig, measure
from autoformer.progress import Progress, silent
from autoformer.temporary import temporary_folder

if TYPE_CHECKING:
    from torch import nn

    from autoformer.export.parity import Model

SECONDS = 2.0  # of measuring, for each engine


BUILT_ANEW = "engines of TensorRT-RTX cannot be refitted; export the finetuned network with --format tensorrt-rtx"


def refit_folder(
    source: Path,
    network: nn.Module,
    out: Path,
    given: ExportSource,
    *,
    timed: bool = True,
    progress: Progress = silent,
) -> tuple[Manifest, dict[str, dict[str, float]]]:
    """Writes the folder `out`: ONNX files of `network`, and the engines of the folder `source` with its weights.

    The images of `given` are prepared as the manifest of `source` says.
    Gives the manifest and, with `timed`, the median latency in ms of each engine by precision: "refitted", and "fixed" of one
    that cannot be refitted. Raises `CheckpointError` when `source` holds no engine, `ExportError` when the network is of another
    architecture; an engine that cannot be refitted is rejected with its reason.
    """
    refuse_existing(out)
    before = Manifest.load(source)
    engines = [artefact for artefact in before.artefacts if artefact.format == "tensorrt" and artefact.file is not None]
    file = before.find("onnx", "fp32")
    if not engines and any(artefact.is_engine and artefact.file is not None for artefact in before.artefacts):
        raise CheckpointError(
            f"the engines of {source} are of TensorRT-RTX, which are not refitted; export the finetuned network with --format "
            "tensorrt-rtx, which takes seconds"
        )
    if not engines or file is None:
        raise CheckpointError(f"{source} holds no engine; export with --format tensorrt --refittable first")
    opset = file.made.get("opset")
    if type(opset) is not int:
        raise CheckpointError(f"the manifest of {source} does not say which opset its files have; export it again")
    import_tensorrt()
    given = replace(given, preprocessing=before.preprocessing)
    latency: dict[str, dict[str, float]] = {}
    with temporary_folder("refit") as temporary:
        exported = temporary / "export"
        with believing(f"the manifest of {source}", "export it again"):
            config = ExportConfig.model_validate({
                "precisions": list(dict.fromkeys(["fp32", *(PRECISIONS[engine.precision] for engine in engines)])),
                "formats": ["onnx"], "opset": opset, "batch": file.batch, "input": before.preprocessing.input_type,
            })  # fmt: skip
        manifest = export_network(network, exported, given, config, lambda message: progress("export", 0, 1, message))
        if manifest.architecture != before.architecture:
            raise ExportError(f"{source} holds engines of another architecture; a refit changes weights alone, build new engines")
        made = [
            Artefact(format=engine.format, precision=engine.precision, status="skipped", reason=BUILT_ANEW)
            for engine in before.artefacts
            if engine.format == TENSORRT_RTX.format and engine.file is not None
        ]
        with write_folder(out) as folder:
            for path in exported.iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
            for index, engine in enumerate(engines):
                progress("refit", index, len(engines), engine.precision)
                plan = before.verified_file(source, engine)
                made.append(_refitted(engine, plan, folder, manifest, given))
                if timed and made[-1].file is not None:
                    progress(
                        "refit",
                        index,
                        len(engines),
                        f"{engine.precision}: building one that cannot be refitted, to compare latency",
                    )
                    latency[engine.precision] = _times(made[-1], engine, folder, temporary, manifest)
            progress("refit", len(engines), len(engines))
            manifest = replace(manifest, artefacts=(*manifest.artefacts, *made))
            manifest.save(folder)
    return manifest, latency


def _refitted(engine: Artefact, plan: Path, folder: Path, manifest: Manifest, given: ExportSource) -> Artefact:
    """The engine with the weights of its file in `folder`, compared with the fp32 file, which was compared with the network."""
    graph, reference = manifest.find("onnx", PRECISIONS[engine.precision]), manifest.find("onnx", "fp32")
    assert reference is not None, "every export has it"
    if graph is None or graph.file is None:
        reason = f"the finetuned network has no file of this precision: {graph.reason if graph else 'not made'}"
        return Artefact(format="tensorrt", precision=engine.precision, status="rejected", reason=reason)
    model = filled_up(OnnxModel(manifest.verified_file(folder, reference)), reference.batch)
    expected, _ = run_in_batches(model, given.images, (max(BATCHES),))

    def judge(model: Model, batches: Sequence[int]) -> tuple[Parity, int | None]:
        logits, sizes = run_in_batches(model, given.images, batches)
        parity = compare(expected, logits, precision=engine.precision, batches=sizes, tolerance=TOLERANCES[engine.precision])
        return parity, None if given.labels is None else int((logits.argmax(1) == given.labels).sum())

    return refitted_artefact(engine, plan, folder / graph.file, folder / f"model.{engine.precision}.plan", judge)


def _times(made: Artefact, engine: Artefact, folder: Path, work: Path, manifest: Manifest) -> dict[str, float]:
    """Medians in ms of the refitted engine and of one that cannot be refitted, else built with the same settings."""
    settings = settings_of(engine)
    cache = None if settings.optimization_level == 0 else work / "timing"
    config = replace(settings, refittable=False, timing_cache=cache)
    graph = manifest.find("onnx", PRECISIONS[engine.precision])
    assert graph is not None, "it was refitted from this file"
    assert graph.file is not None, "it was refitted from this file"
    assert made.file is not None, "a refitted engine is a file"
    fixed = EngineBuilder(config).build(folder / graph.file, work / f"fixed.{engine.precision}.plan")
    batch = fixed.config.profiles[0][1]
    with ExitStack() as stack:
        backends = {
            name: stack.enter_context(TensorRTBackend(path, batch=batch, precision=engine.precision, sha256=digest))
            for name, path, digest in (("refitted", folder / made.file, made.sha256), ("fixed", fixed.path, fixed.sha256))
        }
        taken = measure(backends, MeasureConfig(min_s=SECONDS, max_s=4 * SECONDS))
    return {name: one.stats.p50_ms for name, one in taken.items()}
