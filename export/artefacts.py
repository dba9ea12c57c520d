"""From a network to a folder of proved files: ONNX in fp32, fp16 and int8, engines of them where TensorRT is, and the manifest.

Every file is compared with the network it came from, on real images, before it counts as exported. An int8 file that names
another class too often, or loses one class (`class_losses`), is rejected, and says so in the manifest; what this machine
cannot make is skipped, and says why.
The images that int8 is judged on are others than those it was calibrated on, wherever there are enough.
"""

from __future__ import annotations

import copy
import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import DataError, ExportError, MissingPackageError
from autoformer.export.class_losses import ClassLosses, class_losses
from autoformer.export.engines.artefact import engine_artefact, how_to_build
from autoformer.export.engines.builder import PRECISIONS as ENGINE_SOURCES
from autoformer.export.engines.builder import EngineConfig
from autoformer.export.graphs.folding import PixelInput, fold_normalisation, network_images
from autoformer.export.graphs.half_precision import PATCH_EMBEDDING, HalfPrecision, measure_peaks
from autoformer.export.graphs.onnx_graph import OnnxGraph, describe
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.quantization import quantize_int8
from autoformer.export.manifest import Artefact, Manifest, sha256_of
from autoformer.export.parity import REFERENCE_BATCH, TOLERANCES, Parity, compare, filled_up, run_in_batches
from autoformer.export.predictor import torch_model
from autoformer.files import write_folder
from autoformer.versions import installed

if TYPE_CHECKING:
    from autoformer.export.graphs.model_metadata import ModelMetadata
    from autoformer.export.parity import Model

PRECISIONS = ("fp32", "fp16", "int8")
ENGINES_ONLY = ("tf32",)  # from the fp32 file, with products rounded to ten bits
FORMATS = ("onnx", "tensorrt")
BATCHES = (1, 2, 5)  # sizes that candidates are run with in turn
MIN_JUDGED = 32  # images; with fewer left over, calibration and judgement share all


def split_for_calibration(num_images: int, num_calibration: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to calibrate on and indices to judge on, drawn with a fixed seed; disjoint where enough images remain."""
    order = np.random.default_rng(0).permutation(num_images)
    used = min(num_calibration, num_images - MIN_JUDGED)
    if used < MIN_JUDGED:
        return order[:num_calibration], order
    return order[:used], order[used:]


def export_network(
    network: nn.Module,
    out: Path,
    *,
    images: NDArray[Any],
    labels: NDArray[np.int64] | None = None,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    precisions: Sequence[str] = PRECISIONS,
    formats: Sequence[str] = FORMATS,
    calibration_images: int = 128,
    max_disagreement: float = 0.01,
    max_class_loss: float = 0.05,
    opset: int = 20,
    batch: int | None = None,
    engines: EngineConfig = EngineConfig(),
    flops: int | None = None,
    name: str | None = None,
    data: Mapping[str, Any] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Writes the folder `out` whole or not at all, and returns its manifest.

    `images` are real images [n, channels, height, width] that training never saw, as `preprocessing` gives them: what it says
    is what the files take. Of uint8 pixels the network itself gets the normalised values, so the comparison covers that the
    normalisation went into the files. `labels` [n] adds how many each file gets right; `data` is the record of the data set,
    kept so that `evaluate` finds it again. Files are of `opset` and take any number of images or exactly `batch`. `flops` are
    the multiply-adds, and `name` the name, of a network that does not know them itself. An int8 file is rejected that names
    another class on a larger share than `max_disagreement`, or is shown to lose more than the share `max_class_loss` of a
    class's right answers. Where TensorRT is, each file that counts is built into an engine as `engines` says (its precision is
    the file's); "tf32" among `precisions` asks for one more of the fp32 file. Raises `ExportError`, with nothing written, when
    the fp32 file differs from the network, or the normalisation cannot go into it.
    """
    _check_request(network, images, labels, preprocessing, classes, precisions, formats, calibration_images, engines)
    say = on_progress or (lambda message: None)
    calibrate_on, judge_on = split_for_calibration(len(images), calibration_images)
    network = copy.deepcopy(network).eval()  # the caller's stays as it is
    exact = network_images(images, preprocessing)
    judge = _Judge(torch_model(network), images[judge_on], exact[judge_on], None if labels is None else labels[judge_on])
    about = describe(network, preprocessing=preprocessing, classes=classes)
    cost = getattr(network, "cost", None)

    with write_folder(out) as folder:
        say("ONNX fp32: exporting")
        started = time.monotonic()
        graph = _fp32(network, folder / "model.fp32.onnx", preprocessing, opset, batch, about)
        export_s = time.monotonic() - started
        say("ONNX fp32: comparing with the network")
        parity, correct = judge(filled_up(OnnxModel(graph.path), batch), "fp32")
        if not parity.passed:
            raise ExportError(f"the fp32 ONNX file differs from the network it came from: {parity.reason}; nothing was written")
        made = {**_versions("torch", "onnx", "onnxscript", "onnxruntime"), "opset": graph.opset, "seconds": round(export_s, 2)}
        artefacts = [_exported("onnx", "fp32", graph, parity, correct, made)]

        if "fp16" in precisions:
            say("ONNX fp16: measuring activations, exporting")
            artefacts.append(_fp16(network, graph, folder / "model.fp16.onnx", exact[calibrate_on], judge, opset, preprocessing))
        if "int8" in precisions:
            say(f"ONNX int8: calibrating on {len(calibrate_on)} images")
            disjoint = not set(calibrate_on.tolist()) & set(judge_on.tolist())
            artefacts.append(
                _int8(
                    graph, folder / "model.int8.onnx", images[calibrate_on], judge, disjoint, classes,
                    max_disagreement=max_disagreement, max_class_loss=max_class_loss,
                )
            )  # fmt: skip
        if "tensorrt" in formats:
            artefacts += _engines(artefacts, folder, precisions, engines, judge, max_disagreement, say)
        for artefact in artefacts:
            say(f"{artefact.format} {artefact.precision}: {artefact.status}, {artefact.reason}")
        manifest = Manifest(
            artefacts=tuple(artefacts),
            classes=tuple(classes),
            preprocessing=preprocessing,
            params=sum(parameter.numel() for parameter in network.parameters()),
            architecture=about.architecture,
            flops=cost.flops if cost is not None else flops,
            weights_digest=about.weights_digest,
            data=data,
            network=name,
        )
        manifest.save(folder)
    return manifest


class _Judge:
    """Compares a candidate with the network on images whose logits are computed once."""

    def __init__(
        self, reference: Model, images: NDArray[Any], exact: NDArray[np.float32], labels: NDArray[np.int64] | None
    ) -> None:
        """`images` are as candidates take them, `exact` the same as the network does."""
        self.images, self.labels = images, labels
        self.expected, _ = run_in_batches(reference, exact, (REFERENCE_BATCH,))
        self.predictions = self.expected.argmax(1)  # [n], of the candidate that was compared last

    def __call__(
        self, candidate: Model, precision: str, max_disagreement: float | None = None, batches: Sequence[int] = BATCHES
    ) -> tuple[Parity, int | None]:
        """The comparison, and how many images the candidate gets right where labels are known."""
        tolerance = TOLERANCES[precision]
        if max_disagreement is not None:
            tolerance = replace(tolerance, max_disagreement=max_disagreement)
        given, sizes = run_in_batches(candidate, self.images, batches)
        self.predictions = given.argmax(1)
        parity = compare(self.expected, given, precision=precision, batches=sizes, tolerance=tolerance)
        return parity, None if self.labels is None else int((given.argmax(1) == self.labels).sum())

    def by_class(self, classes: Sequence[str], max_loss: float) -> ClassLosses:
        """What the candidate that was compared last loses of each class."""
        labels = None if self.labels is None else self.labels.tolist()
        return class_losses(self.expected.argmax(1).tolist(), self.predictions.tolist(), labels, classes, max_loss=max_loss)


def _fp32(
    network: nn.Module, path: Path, preprocessing: Preprocessing, opset: int, batch: int | None, about: ModelMetadata
) -> OnnxGraph:
    """The file that all others are made from; one that takes uint8 pixels has the normalisation in its weights."""
    if preprocessing.input_type == "float32":
        return OnnxGraph.from_network(network, path, batch=batch, opset=opset, metadata=about.to_properties())
    taking_pixels = PixelInput(fold_normalisation(network, preprocessing), preprocessing)
    return OnnxGraph.from_network(
        taking_pixels, path, batch=batch, opset=opset, metadata=about.to_properties(), input_type=preprocessing.input_type,
        image_shape=(preprocessing.in_chans, preprocessing.input_size, preprocessing.input_size),
    )  # fmt: skip


def _fp16(
    network: nn.Module,
    graph: OnnxGraph,
    path: Path,
    images: NDArray[np.float32],
    judge: _Judge,
    opset: int,
    preprocessing: Preprocessing,
) -> Artefact:
    """The half precision file, or why there is none: activations out of its range, or logits too far from the network's."""
    started = time.monotonic()
    peaks = measure_peaks(network, images)
    made: dict[str, Any] = {"activations": {"images": peaks.images, "largest": peaks.largest}}
    try:
        kept = peaks.to_keep()
        metadata = replace(graph.metadata, precision="fp16").to_properties()
        half: nn.Module
        if graph.input_type == "uint8":
            kept = (PATCH_EMBEDDING, *kept)
            half = PixelInput(HalfPrecision(fold_normalisation(network, preprocessing), kept), preprocessing)
        else:
            half = HalfPrecision(network, kept)
        written = OnnxGraph.from_network(
            half, path, batch=graph.batch, opset=opset, metadata=metadata, image_shape=graph.image_shape,
            input_type=graph.input_type, as_it_is=True,
        )  # fmt: skip
    except ExportError as error:  # the fp32 file is good all the same
        return Artefact(format="onnx", precision="fp16", status="rejected", reason=str(error), made=made)
    made |= {**_versions("torch", "onnx", "onnxscript", "onnxruntime"), "opset": written.opset, "kept_in_fp32": list(kept)}
    made["seconds"] = round(time.monotonic() - started, 2)
    parity, correct = judge(filled_up(OnnxModel(path), graph.batch), "fp16")
    if parity.passed:
        return _exported("onnx", "fp16", written, parity, correct, made)
    return _rejected("fp16", written, parity, correct, made)


def _rejected(precision: str, graph: OnnxGraph, parity: Parity, correct: int | None, made: dict[str, Any]) -> Artefact:
    """Takes the files away again and keeps what was found."""
    for left in (graph.path, graph.scopes_path):
        left.unlink(missing_ok=True)
    return Artefact(
        format="onnx", precision=precision, status="rejected", reason=parity.reason, parity=parity, correct=correct, made=made
    )


def _int8(
    graph: OnnxGraph,
    path: Path,
    images: NDArray[Any],
    judge: _Judge,
    disjoint: bool,
    classes: Sequence[str],
    *,
    max_disagreement: float,
    max_class_loss: float,
) -> Artefact:
    started = time.monotonic()
    try:
        quantised, trials = quantize_int8(graph, images, path)
    except ExportError as error:  # the other files are good all the same
        return Artefact(format="onnx", precision="int8", status="rejected", reason=str(error))
    made = {
        **_versions("onnx", "onnxruntime"),
        "opset": quantised.opset,
        "seconds": round(time.monotonic() - started, 2),
        "calibration": {
            "images": len(images),
            "sha256": hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest(),
            "judged_on_other_images": disjoint,
            "chosen": str(trials[0].calibration),
            "trials": [trial.to_dict() for trial in trials],
        },
    }
    parity, correct = judge(filled_up(OnnxModel(quantised.path), graph.batch), "int8", max_disagreement)
    losses = judge.by_class(classes, max_class_loss)
    made["class_losses"] = losses.to_dict()
    if losses.broken:
        parity = replace(parity, passed=False, reason=losses.reason if parity.passed else f"{parity.reason}; {losses.reason}")
    elif parity.passed:
        parity = replace(parity, reason=f"{parity.reason}; {losses.reason}")
    if parity.passed:
        return _exported("onnx", "int8", quantised, parity, correct, made)
    return _rejected("int8", quantised, parity, correct, made)


def _engines(
    files: Sequence[Artefact],
    folder: Path,
    precisions: Sequence[str],
    config: EngineConfig,
    judge: _Judge,
    max_disagreement: float,
    say: Callable[[str], None],
) -> list[Artefact]:
    """An engine of each file that counts; one artefact that says why when this machine builds none."""
    try:
        program = how_to_build()
    except MissingPackageError as error:
        return [Artefact(format="tensorrt", precision="fp32", status="skipped", reason=str(error))]
    found = []
    for precision in ENGINE_SOURCES:
        source = next((entry for entry in files if entry.precision == ENGINE_SOURCES[precision] and entry.file), None)
        if precision not in precisions or source is None or source.file is None:
            continue
        limit = max_disagreement if precision == "int8" else None

        def compared(
            model: Model, batches: Sequence[int], precision: str = precision, limit: float | None = limit
        ) -> tuple[Parity, int | None]:
            say(f"TensorRT {precision}: comparing with the network")
            return judge(model, precision, limit, batches)

        def tell(phase: str, done: int, steps: int, precision: str = precision) -> None:
            say(f"TensorRT {precision}: {phase}, {done} of {steps}")

        say(f"TensorRT {precision}: building")
        plan = folder / f"model.{precision}.plan"
        wanted = replace(config, precision=precision)
        found.append(engine_artefact(source, folder / source.file, plan, wanted, compared, program=program, on_progress=tell))
    return found


def _file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "sha256": sha256_of(path), "bytes": path.stat().st_size}


def _exported(
    format: str, precision: str, graph: OnnxGraph, parity: Parity, correct: int | None, made: dict[str, Any]
) -> Artefact:
    return Artefact(
        format=format,
        precision=precision,
        status="exported",
        reason=parity.reason,
        input_name=graph.input_name,
        input_shape=graph.input_shape,
        output_name=graph.output_name,
        parity=parity,
        correct=correct,
        made=made,
        **_file(graph.path),
    )


def _versions(*names: str) -> dict[str, str]:
    """Versions of the packages that made a file, and of Python."""
    found = installed(*names, *(f"{name}-gpu" for name in names))  # onnxruntime comes under two names
    return {"python": platform.python_version(), **{name.removesuffix("-gpu"): number for name, number in found.items()}}


def _check_request(
    network: nn.Module,
    images: NDArray[Any],
    labels: NDArray[np.int64] | None,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    precisions: Sequence[str],
    formats: Sequence[str],
    calibration_images: int,
    engines: EngineConfig,
) -> None:
    for word, given, known in (("precision", precisions, (*PRECISIONS, *ENGINES_ONLY)), ("format", formats, FORMATS)):
        if unknown := sorted(set(given) - set(known)):
            raise ExportError(f"unknown {word} {unknown[0]!r}; known are {', '.join(known)}")
        if known[0] not in given:
            raise ExportError(f"{word}s {', '.join(given) or 'none'}: {known[0]} must be among them, all others are made from it")
    if "tensorrt" not in formats and (found := next((word for word in precisions if word in ENGINES_ONLY), None)):
        raise ExportError(f"precision {found} is of TensorRT engines alone; ask for format tensorrt as well")
    if engines.precision != EngineConfig().precision:
        raise ExportError(
            f"engines of an export take the precisions of its files, not {engines.precision}; give it as a precision"
        )
    wanted = (preprocessing.in_chans, preprocessing.input_size, preprocessing.input_size)
    if str(images.dtype) != preprocessing.input_type or images.ndim != 4 or images.shape[1:] != wanted or not len(images):
        expected = f"{preprocessing.input_type} [n, *{list(wanted)}]"
        raise DataError(f"images to compare on are {images.dtype} {list(images.shape)}, expected {expected}")
    if labels is not None and len(labels) != len(images):
        raise DataError(f"{len(labels)} labels for {len(images)} images")
    if labels is not None and not ((labels >= 0) & (labels < len(classes))).all():
        raise DataError(f"a label is {int(labels.max())} or {int(labels.min())}, expected 0 to {len(classes) - 1}")
    if calibration_images < 1:
        raise ExportError(f"calibration_images must be positive, got {calibration_images}")
    num_classes = getattr(network, "num_classes", len(classes))
    if num_classes != len(classes):
        raise ExportError(f"{len(classes)} class names for a network of {num_classes} classes")
