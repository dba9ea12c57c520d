"""int8 by post-training quantisation: one symmetric Q/DQ file that TensorRT accepts and CPUs run fast.

TensorRT wants int8 (not uint8) data, zero points that are zero, and biases left in floating point; per-channel weights cost
nothing. Only MatMul, Gemm and Conv with stored weights are quantised: products inside attention and with relative position
tables stay in fp32, where eight bits hurt most and save least.

Which calibration is best depends on the network, so a few are tried and the one that changes the logits of the calibration
images least is kept: the full range or a percentile of it, with the patch embedding and the classifier in int8 or in fp32.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from autoformer.errors import CheckpointError, ExportError, short
from autoformer.export.graphs.calibration import ValueRange, measure_ranges
from autoformer.export.graphs.graph_view import GraphView
from autoformer.export.graphs.oldest_form import oldest_ir_version
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.onnx_model import OnnxModel, import_onnxruntime
from autoformer.export.graphs.tensorrt_rules import STANDARD, TARGETS, parsed, quantisation
from autoformer.export.parity import run_in_batches
from autoformer.files import replacing
from autoformer.temporary import temporary_folder

QUANTISED = ("MatMul", "Gemm", "Conv")
CALIBRATION_BATCH = 16
ANY_RANGE = ValueRange(np.array(-4, np.float32), np.array(4, np.float32))  # of activations, where only time counts
NOTHING = "the graph holds no MatMul, Gemm or Conv with stored weights; there is nothing to quantise"
# TensorRT's rules as options of onnxruntime.quantization.
OPTIONS: dict[str, Any] = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": list(QUANTISED),
}


@dataclass(frozen=True)
class Calibration:
    """One way to choose the ranges of activations, and what is left in fp32."""

    method: str  # "minmax": the full range; "percentile": the range that holds `percentile` of all values
    percentile: float | None = None
    ends_in_fp32: bool = False  # the first Conv and the last Gemm or MatMul

    def limits(self, values: ValueRange) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The least and the greatest value that int8 is to hold."""
        return values.all() if self.percentile is None else values.percentile(self.percentile)

    def __str__(self) -> str:
        range_ = self.method if self.percentile is None else f"{self.method} {self.percentile:g}"
        return f"{range_}, {'patch embedding and classifier in fp32' if self.ends_in_fp32 else 'all layers in int8'}"


CANDIDATES = (
    Calibration("minmax"),
    Calibration("percentile", 99.99),
    Calibration("minmax", ends_in_fp32=True),
    Calibration("percentile", 99.99, ends_in_fp32=True),
)


@dataclass(frozen=True)
class Trial:
    """How far the logits of the calibration images moved under one calibration."""

    calibration: Calibration
    disagreement: float  # share of images given another class
    mean_abs: float  # logits


def quantize_int8(
    graph: OnnxGraph, images: NDArray[Any], path: Path, *, candidates: Sequence[Calibration] = CANDIDATES
) -> tuple[OnnxGraph, tuple[Trial, ...]]:
    """Writes the int8 form of `graph` to `path`, calibrated on its input [n, C, H, W]; and all trials, the kept one first.

    Raises `ExportError` when the images do not fit, nothing can be quantised, ONNX Runtime cannot run or quantise the graph, or
    the file would not be legal for TensorRT.
    """
    if str(images.dtype) != graph.input_type or images.ndim != 4 or images.shape[1:] != graph.image_shape or not len(images):
        wanted = f"{graph.input_type} [n, *{list(graph.image_shape)}]"
        raise ExportError(f"calibration images are {images.dtype} {list(images.shape)}, expected {wanted}")
    import_onnxruntime()
    source = OnnxModel(graph.path)
    batch = graph.batch or min(CALIBRATION_BATCH, len(images))
    # A graph of a fixed batch wants batches of one size: the last is filled up with the first images.
    missing = -len(images) % batch
    usable = images[np.arange(len(images) + missing) % len(images)] if missing else images
    expected, _ = run_in_batches(source, usable, (batch,))
    # Quantised in a folder of its own, so that whatever the quantiser leaves goes with it.
    with temporary_folder("int8") as temporary, _quiet():
        prepared = _prepare(graph, temporary)
        model = onnx.load(prepared)
        usual = [
            entry for entry in candidates if _nodes_to_quantize(model, entry.ends_in_fp32)
        ]  # convolutions alone have no ends
        if not usual:
            raise ExportError(NOTHING)
        given = {name for entry in usual for name in _given_to(_nodes_to_quantize(model, entry.ends_in_fp32))}
        histograms = any(entry.percentile is not None for entry in usual)
        ranges = measure_ranges(prepared, sorted(given), usable, batch, histograms=histograms)
        trials: list[tuple[Trial, Path]] = []
        for index, calibration in enumerate(usual):
            made = temporary / f"{index}.onnx"
            _quantize(prepared, made, calibration, ranges)
            logits, _ = run_in_batches(_runnable(made, graph), usable, (batch,))
            moved = float(np.abs(expected - logits).mean())
            disagreement = float((expected.argmax(1) != logits.argmax(1)).mean())
            trials.append((Trial(calibration, disagreement, moved), made))
        trials.sort(key=lambda trial: (trial[0].disagreement, trial[0].mean_abs))
        _write(onnx.load(trials[0][1]), graph, path)
    return OnnxGraph.open(path), tuple(trial for trial, _ in trials)


def quantize_for_timing(graph: OnnxGraph, path: Path) -> OnnxGraph:
    """Writes an int8 form of `graph` that no image was asked for: as fast as a calibrated one, and its answers mean nothing.

    Raises `ExportError` as `quantize_int8` does.
    """
    import_onnxruntime()
    with temporary_folder("int8") as temporary, _quiet():
        prepared, made = _prepare(graph, temporary), temporary / "made.onnx"
        if not (given := _given_to(_nodes_to_quantize(onnx.load(prepared), ends_in_fp32=False))):
            raise ExportError(NOTHING)
        _quantize(prepared, made, CANDIDATES[0], dict.fromkeys(given, ANY_RANGE))
        _write(onnx.load(made), graph, path)
    return OnnxGraph.open(path)


def _write(model: onnx.ModelProto, graph: OnnxGraph, path: Path) -> None:
    """Writes a quantised form of `graph`. Raises `ExportError` where TensorRT would refuse it."""
    if refused := refused_quantisation(model):
        raise ExportError(f"the quantised graph is not legal for TensorRT: {refused}")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, replace(graph.metadata, precision="int8").to_properties())
    del model.graph.value_info[:]
    model.ir_version = oldest_ir_version(model)
    onnx.checker.check_model(model)
    with replacing(path) as beside:
        beside.write_bytes(model.SerializeToString())


def _runnable(made: Path, graph: OnnxGraph) -> OnnxModel:
    """The quantised file. Raises `ExportError` where ONNX Runtime cannot run it, as 1.31 with opset 21 and a fixed batch:
    its optimiser moves a QuantizeLinear over a reshape and forgets the type (microsoft/onnxruntime#25526).
    """
    try:
        return OnnxModel(made)
    except CheckpointError as error:
        fixed = "" if graph.batch is None else f" and the fixed batch {graph.batch}"
        reason = str(error).partition("runs here: ")[2] or str(error)
        raise ExportError(
            f"ONNX Runtime does not run the quantised graph of opset {graph.opset}{fixed} ({reason[:150]}); "
            "try opset 20, or any batch"
        ) from error


def refused_quantisation(model: onnx.ModelProto) -> str | None:
    """Why TensorRT would refuse the quantisation in this graph, of 8.6 on; None when it is legal."""
    if not any(node.op_type == "QuantizeLinear" and node.domain in STANDARD for node in model.graph.node):
        return "nothing is quantised"
    refused = (found for found in quantisation(model, GraphView.of(model), parsed(TARGETS[0])) if found.level == "fails")
    return next((f"{found.where}: {found.why}" for found in refused), None)


def _prepare(graph: OnnxGraph, folder: Path) -> Path:
    """The graph with shapes inferred, as the quantiser wants it; not optimised, so that tables stay apart from weights."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(graph.path), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
    return prepared


def _given_to(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """What the nodes multiply with their weights, each once."""
    return list(dict.fromkeys(node.input[0] for node in nodes))


def _nodes_to_quantize(model: onnx.ModelProto, ends_in_fp32: bool) -> list[onnx.NodeProto]:
    """The nodes that multiply by a stored matrix or filter."""
    stored = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    every = list(model.graph.node)
    if model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8:  # what comes before the first Conv resizes pixels
        every = every[next((index for index, node in enumerate(every) if node.op_type == "Conv"), 0) :]
    nodes = [
        node for node in every if node.op_type in QUANTISED and stored.get(node.input[1], 0) >= 2 and node.input[0] not in stored
    ]
    if ends_in_fp32 and len(nodes) > 2:
        nodes = [node for node in nodes[1:-1] if node.op_type != "Conv"]
    return nodes


def _quantize(prepared: Path, path: Path, calibration: Calibration, ranges: Mapping[str, ValueRange]) -> None:
    """Writes the form of `prepared` that takes the `ranges` of what its layers are given, as `calibration` wants them."""
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    model = load_model_with_shape_infer(prepared)
    nodes = _nodes_to_quantize(model, calibration.ends_in_fp32)
    limits = {name: calibration.limits(ranges[name]) for name in _given_to(nodes)}
    try:
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=[node.name for node in nodes],
            nodes_to_exclude=[],
            op_types_to_quantize=list(QUANTISED),
            extra_options=dict(OPTIONS),
        )
        quantizer.quantize_model()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # whatever it meets in a graph that it was not written for
        raise ExportError(f"ONNX Runtime's quantiser cannot write this graph: {short(' '.join(str(error).split()))}") from error
    quantizer.model.save_model_to_file(str(path), False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the quantiser's prints and remarks off the terminal."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", module=r"onnxruntime(\..*)?$")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers  # logging.warning() installs one
        root.setLevel(level)
