"""A network becomes a folder of verified files: ONNX in fp32, fp16 and int8, engines of them where TensorRT is, the manifest.

Every file is compared with the network it came from, on real images, before it counts as exported. An int8 file that disagrees
too often, or loses a class (`class_losses`), is rejected; what this machine cannot make is skipped; the manifest says why.
int8 is judged on other images than it was calibrated on, where there are enough.
"""

from __future__ import annotations

import copy
import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoformer.data.classes import write_class_map
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, DataError, ExportError, MissingPackageError, short
from autoformer.export.class_losses import class_losses
from autoformer.export.config import ExportConfig
from autoformer.export.engines.artefact import engine_artefact, how_to_build
from autoformer.export.engines.builder import PRECISIONS as ENGINE_SOURCES
from autoformer.export.engines.tensorrt_versions import PRODUCTS, Product
from autoformer.export.graphs.onnx_graph import OnnxGraph, describe
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.quantization import quantize_int8
from autoformer.export.manifest import Artefact, Manifest, sha256_of
from autoformer.export.networks.folding import PixelInput, first_conv_of, fold_normalisation, network_images
from autoformer.export.networks.half_precision import HalfPrecision, measure_peaks
from autoformer.export.parity import BATCHES, REFERENCE_BATCH, TOLERANCES, Parity, compare, filled_up, run_in_batches
from autoformer.export.predictor import torch_model
from autoformer.files import write_folder
from autoformer.records import to_json
from autoformer.versions import installed

if TYPE_CHECKING:
    from autoformer.evaluate import EvaluationSet
    from autoformer.export.parity import Model

MIN_JUDGED = 32  # images; with fewer left over, calibration and judgement share all


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportSource:
    """What a network and its data bring to an export beside the weights. Raises `DataError` for images that do not fit."""

    images: NDArray[Any]  # [n, C, H, W] as `preprocessing` gives them; real ones that training never saw
    labels: NDArray[np.int64] | None = None  # [n]; adds how many images each file gets right
    preprocessing: Preprocessing  # what it says is what the files take
    classes: Sequence[str]
    data: Mapping[str, Any] | None = None  # the record of the data set, kept so that `evaluate` finds it again
    name: str | None = None  # of a foreign network
    flops: int | None = None  # multiply-adds of a network that does not count its own

    def __post_init__(self) -> None:
        images, labels, size = self.images, self.labels, self.preprocessing.input_size
        wanted = (self.preprocessing.in_chans, size, size)
        if str(images.dtype) != self.preprocessing.input_type or images.shape[1:] != wanted or not len(images):
            expected = f"{self.preprocessing.input_type} [n, *{list(wanted)}]"
            raise DataError(f"images to compare on are {images.dtype} {list(images.shape)}, expected {expected}")
        if labels is not None and len(labels) != len(images):
            raise DataError(f"{len(labels)} labels for {len(images)} images")
        if labels is not None and not ((labels >= 0) & (labels < len(self.classes))).all():
            raise DataError(f"a label is {int(labels.max())} or {int(labels.min())}, expected 0 to {len(self.classes) - 1}")

    @classmethod
    def of(cls, images: EvaluationSet, classes: Sequence[str], data: Mapping[str, Any] | None) -> ExportSource:
        """Images with their labels, prepared as they say themselves."""
        return cls(images=images.images(), labels=images.labels, preprocessing=images.preprocessing, classes=classes, data=data)


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
    source: ExportSource,
    config: ExportConfig = ExportConfig(),
    on_progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Writes the folder `out` whole or not at all, and returns its manifest.

    Of uint8 pixels the network itself gets the normalised values, so the comparison covers that the normalisation went into the
    files. An int8 file is rejected if it names another class too often, or significantly loses too much of one class.
    Where TensorRT is, each file that counts is built into an engine of its precision; "tf32" asks for one more of the fp32 file.

    Raises `ExportError`, with nothing written, when the fp32 file differs from the network, or cannot take the normalisation.
    """
    if (num_classes := getattr(network, "num_classes", len(source.classes))) != len(source.classes):
        raise ExportError(f"{len(source.classes)} class names for a network of {num_classes} classes")
    if config.input != source.preprocessing.input_type:
        raise ExportError(f"files of {config.input} input are asked for, the images are {source.preprocessing.input_type}")
    say = on_progress or (lambda message: None)
    with write_folder(out) as folder:
        export = _Export(network, folder, source, config, say)
        artefacts = [export.fp32()]
        if "fp16" in config.precisions:
            artefacts.append(export.attempt("fp16", export.fp16))
        if "int8" in config.precisions:
            artefacts.append(export.attempt("int8", export.int8))
        for product in (one for one in PRODUCTS.values() if one.format in config.formats):
            artefacts += export.engines(product, artefacts)
        for artefact in artefacts:
            say(f"{artefact.name}: {artefact.status}, {artefact.reason}")
        cost = getattr(network, "cost", None)
        manifest = Manifest(
            artefacts=tuple(artefacts),
            classes=tuple(source.classes),
            preprocessing=source.preprocessing,
            params=sum(parameter.numel() for parameter in network.parameters()),
            architecture=export.about.architecture,
            flops=cost.flops if cost is not None else source.flops,
            weights_digest=export.about.weights_digest,
            data=source.data,
            network=source.name,
        )
        write_class_map(manifest.classes, folder)
        manifest.save(folder)
    return manifest


class _Export:
    """One export: files are made of a copy of the network, and compared with its logits of images they were not made with."""

    def __init__(
        self, network: nn.Module, folder: Path, source: ExportSource, config: ExportConfig, say: Callable[[str], None]
    ) -> None:
        self.network = copy.deepcopy(network).eval()  # the caller's stays as it is
        self.folder, self.source, self.config, self.say = folder, source, config, say
        self.about = describe(self.network, preprocessing=source.preprocessing, classes=source.classes)
        self.calibrate_on, self.judge_on = split_for_calibration(len(source.images), config.calibration_images)
        self.exact = network_images(source.images, source.preprocessing)  # as the network takes them
        self.labels = None if source.labels is None else source.labels[self.judge_on]
        self.predictions: NDArray[np.int64]  # [n], of the file that was compared last

    @cached_property
    def expected(self) -> NDArray[np.float32]:
        """The network's logits; computed when a file is there to be compared, so that what cannot be written is said at once."""
        return run_in_batches(torch_model(self.network), self.exact[self.judge_on], (REFERENCE_BATCH,))[0]

    def judge(self, model: Model, precision: str, batches: Sequence[int] = BATCHES) -> tuple[Parity, int | None]:
        """The comparison of a file, and how many images it gets right where labels are known."""
        tolerance = TOLERANCES[precision]
        if precision == "int8":
            tolerance = replace(tolerance, max_disagreement=self.config.max_disagreement)
        given, sizes = run_in_batches(model, self.source.images[self.judge_on], batches)
        self.predictions = given.argmax(1)
        parity = compare(self.expected, given, precision=precision, batches=sizes, tolerance=tolerance)
        return parity, None if self.labels is None else int((self.predictions == self.labels).sum())

    def fp32(self) -> Artefact:
        """The file that all others are made from; one that takes uint8 pixels has the normalisation in its weights."""
        self.say("ONNX fp32: exporting")
        started, preprocessing = time.monotonic(), self.source.preprocessing
        network, shape = self.network, None
        if preprocessing.input_type == "uint8":
            network = PixelInput(fold_normalisation(network, preprocessing), preprocessing)
            shape = (preprocessing.in_chans, preprocessing.input_size, preprocessing.input_size)
        self.graph = graph = OnnxGraph.from_network(
            network, self.folder / "model.fp32.onnx", batch=self.config.batch, opset=self.config.opset,
            metadata=self.about.to_properties(), input_type=preprocessing.input_type, image_shape=shape,
        )  # fmt: skip
        made = _made(graph, started, "torch", "onnx", "onnxscript", "onnxruntime")
        self.say("ONNX fp32: comparing with the network")
        parity, correct = self.judge(filled_up(OnnxModel(graph.path), graph.batch), "fp32")
        if not parity.passed:
            raise ExportError(f"the fp32 ONNX file differs from the network it came from: {parity.reason}; nothing was written")
        return _artefact("fp32", graph, parity, correct, made)

    def attempt(self, precision: str, make: Callable[[], Artefact]) -> Artefact:
        """What `make` gives; when memory, disk or the runtime fail it, a rejected one that says so: fp32 is good all the same."""
        try:
            return make()
        except (ExportError, CheckpointError) as error:
            reason = str(error)
        except (MemoryError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):  # torch has no other kind for it
                raise
            reason = f"making it failed: {short(' '.join(str(error).split()) or 'out of memory')}"
        for left in (f"model.{precision}.onnx", f"model.{precision}.scopes.json"):
            (self.folder / left).unlink(missing_ok=True)
        return Artefact(format="onnx", precision=precision, status="rejected", reason=reason)

    def fp16(self) -> Artefact:
        """The half precision file, or why there is none: activations out of its range, or logits too far from the network's."""
        self.say("ONNX fp16: measuring activations, exporting")
        started, graph = time.monotonic(), self.graph
        peaks = measure_peaks(self.network, self.exact[self.calibrate_on])
        made: dict[str, Any] = {"activations": {"images": peaks.images, "largest": peaks.largest}}
        try:
            kept = peaks.to_keep()
            half: nn.Module
            if graph.input_type == "uint8":
                kept = (first_conv_of(self.network), *kept)
                folded = HalfPrecision(fold_normalisation(self.network, self.source.preprocessing), kept)
                half = PixelInput(folded, self.source.preprocessing)
            else:
                half = HalfPrecision(self.network, kept)
            written = OnnxGraph.from_network(
                half, self.folder / "model.fp16.onnx", batch=graph.batch, opset=self.config.opset,
                metadata=replace(graph.metadata, precision="fp16").to_properties(), image_shape=graph.image_shape,
                input_type=graph.input_type, as_it_is=True,
            )  # fmt: skip
        except ExportError as error:  # the fp32 file is good all the same
            return Artefact(format="onnx", precision="fp16", status="rejected", reason=str(error), made=made)
        made |= {**_made(written, started, "torch", "onnx", "onnxscript", "onnxruntime"), "kept_in_fp32": list(kept)}
        parity, correct = self.judge(filled_up(OnnxModel(written.path), graph.batch), "fp16")
        return _artefact("fp16", written, parity, correct, made)

    def int8(self) -> Artefact:
        """The quantised file, or why there is none: it disagrees too often, or loses a class."""
        images = self.source.images[self.calibrate_on]
        self.say(f"ONNX int8: calibrating on {len(images)} images")
        started, graph = time.monotonic(), self.graph
        quantised, trials = quantize_int8(graph, images, self.folder / "model.int8.onnx")
        made = _made(quantised, started, "onnx", "onnxruntime")
        made["calibration"] = {
            "images": len(images),
            "sha256": hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest(),
            "judged_on_other_images": not set(self.calibrate_on.tolist()) & set(self.judge_on.tolist()),
            "chosen": str(trials[0].calibration),
            "trials": [to_json(trial) for trial in trials],
        }
        parity, correct = self.judge(filled_up(OnnxModel(quantised.path), graph.batch), "int8")
        labels = None if self.labels is None else self.labels.tolist()
        losses = class_losses(
            self.expected.argmax(1).tolist(), self.predictions.tolist(), labels, self.source.classes,
            max_loss=self.config.max_class_loss,
        )  # fmt: skip
        made["class_losses"] = losses.to_dict()
        if losses.broken:
            parity = replace(parity, passed=False, reason=losses.reason if parity.passed else f"{parity.reason}; {losses.reason}")
        elif parity.passed:
            parity = replace(parity, reason=f"{parity.reason}; {losses.reason}")
        return _artefact("int8", quantised, parity, correct, made)

    def engines(self, product: Product, files: Sequence[Artefact]) -> list[Artefact]:
        """An engine of each file that counts; one artefact that says why when this machine builds none."""
        try:
            program = how_to_build(product)
        except MissingPackageError as error:
            return [Artefact(format=product.format, precision="fp32", status="skipped", reason=str(error))]
        found = []
        for precision in ENGINE_SOURCES:
            file = next((entry for entry in files if entry.precision == ENGINE_SOURCES[precision]), None)
            if precision not in self.config.precisions or file is None or file.file is None:
                continue

            def compared(model: Model, batches: Sequence[int], precision: str = precision) -> tuple[Parity, int | None]:
                self.say(f"{product.title} {precision}: comparing with the network")
                return self.judge(model, precision, batches)

            def tell(phase: str, done: int, steps: int, precision: str = precision) -> None:
                self.say(f"{product.title} {precision}: {phase}, {done} of {steps}")

            self.say(f"{product.title} {precision}: building")
            wanted = replace(self.config.engines(product), precision=precision)
            graph, plan = self.folder / file.file, self.folder / wanted.plan_name
            found.append(engine_artefact(file, graph, plan, wanted, compared, program=program, on_progress=tell))
        return found


def _artefact(precision: str, graph: OnnxGraph, parity: Parity, correct: int | None, made: dict[str, Any]) -> Artefact:
    """What a written file is after its comparison: exported, or rejected and taken away again."""
    found = Artefact(
        format="onnx", precision=precision, status="rejected", reason=parity.reason, parity=parity, correct=correct, made=made
    )
    if not parity.passed:
        for left in (graph.path, graph.scopes_path):
            left.unlink(missing_ok=True)
        return found
    return replace(
        found, status="exported", file=graph.path.name, sha256=sha256_of(graph.path), bytes=graph.path.stat().st_size,
        input_name=graph.input_name, input_shape=graph.input_shape, output_name=graph.output_name,
    )  # fmt: skip


def _made(graph: OnnxGraph, started: float, *names: str) -> dict[str, Any]:
    """How a file was made: with which versions of Python and of these packages, and in how many seconds."""
    found = installed(*names, *(f"{name}-gpu" for name in names))  # onnxruntime comes under two names
    return {
        "python": platform.python_version(), **{name.removesuffix("-gpu"): number for name, number in found.items()},
        "opset": graph.opset, "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip
