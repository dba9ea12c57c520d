"""Ranges of activations: those of ONNX Runtime's own calibration, in memory that the number of images does not move."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

from autoformer.errors import ExportError
from autoformer.export.graphs import calibration
from autoformer.export.graphs.calibration import measure_ranges
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.quantization import CANDIDATES, quantize_for_timing, quantize_int8

SIDE, CHANNELS, LAYERS = 16, 8, 3


def network(path: Path, side: int = SIDE, channels: int = CHANNELS, layers: int = LAYERS, opset: int = 17) -> list[str]:
    """Writes convolutions with ReLU between them; gives the names of what they are given."""
    rng = np.random.default_rng(1)
    nodes, stored, given, last = [], [], [], "images"
    for index in range(layers):
        weight = rng.normal(size=(channels, channels if index else 3, 3, 3), scale=0.2).astype(np.float32)
        stored.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        given.append(last)
        last = f"r{index}"
    nodes += [helper.make_node("GlobalAveragePool", [last], ["p"]), helper.make_node("Flatten", ["p"], ["logits"])]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", channels])
    made = helper.make_graph(nodes, "g", [images], [logits], stored)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return given


def noise(count: int, side: int = SIDE) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Four images at a time, for ONNX Runtime's calibration."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self.batches = iter(np.split(images, len(images) // 4))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def ends(limits: tuple[NDArray[np.float32], NDArray[np.float32]]) -> tuple[float, float]:
    return float(np.ravel(limits[0])[0]), float(np.ravel(limits[1])[0])


def theirs(path: Path, images: NDArray[np.float32], method: CalibrationMethod, folder: Path) -> dict[str, tuple[float, float]]:
    made = create_calibrator(path, ["Conv"], str(folder / "augmented.onnx"), method, extra_options={"percentile": 99.0})
    made.collect_data(Batches(images))
    return {name: ends(data.range_value) for name, data in made.compute_data().items()}


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("group_bytes", [1, 1 << 28])
def test_ranges_are_bit_for_bit_those_of_all_values_at_once(
    opset: int, group_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "GROUP_BYTES", group_bytes)
    path, images = tmp_path / "net.onnx", noise(24)
    names = network(path, opset=opset)
    found = measure_ranges(path, names, images, 4, histograms=True)
    minmax, percentile = (
        theirs(path, images, method, tmp_path) for method in (CalibrationMethod.MinMax, CalibrationMethod.Percentile)
    )
    assert {name: ends(values.all()) for name, values in found.items()} == {name: minmax[name] for name in names}
    limits = {name: ends(values.percentile(99.0)) for name, values in found.items()}
    assert limits == {name: percentile[name] for name in names}
    assert limits != {name: minmax[name] for name in names}
    assert measure_ranges(path, names, images, 4, histograms=False)["r0"].counts is None


def test_values_that_are_not_finite_and_graphs_that_do_not_run_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    names = network(path)
    images = noise(8)
    images[5, 0, 0, 0] = np.inf
    with pytest.raises(ExportError, match="values of images are not finite"):
        measure_ranges(path, names, images, 4, histograms=True)
    with pytest.raises(ExportError, match="ONNX Runtime cannot run the graph on the calibration images: "):
        measure_ranges(path, names, noise(4, 8), 4, histograms=False)


PEAK = """
import resource, sys
from pathlib import Path
from tests.export.graphs.test_calibration import network, noise
from autoformer.export.graphs.calibration import measure_ranges
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.quantization import CANDIDATES, quantize_for_timing, quantize_int8
path, count = Path(sys.argv[1]), int(sys.argv[2])
names, images = network(path, side=64, channels=32, layers=6), noise(count, 64)
measure_ranges(path, names, images, 16, histograms=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, images.nbytes)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """A layer takes 512 kB an image here, all layers of 320 more images 0.8 GB; the images themselves 16 MB."""
    peaks = []
    for count in (32, 352):
        ran = subprocess.run(
            [sys.executable, "-c", PEAK, str(tmp_path / "net.onnx"), str(count)], capture_output=True, text=True, check=True
        )
        peak, images = map(int, ran.stdout.split())
        peaks.append(peak - images)
    assert peaks[1] - peaks[0] < 100e6


def test_an_int8_file_for_timing_has_the_nodes_of_a_calibrated_one_and_asks_no_image(tmp_path: Path) -> None:
    network(tmp_path / "x.onnx")
    graph = OnnxGraph.open(tmp_path / "x.onnx")
    calibrated, _ = quantize_int8(graph, noise(4), tmp_path / "calibrated.onnx", candidates=CANDIDATES[:1])
    timed = quantize_for_timing(graph, tmp_path / "timed.onnx")
    models = [onnx.load(one.path) for one in (calibrated, timed)]
    nodes = [[(node.op_type, len(node.input)) for node in model.graph.node] for model in models]
    assert nodes[0] == nodes[1]
    assert timed.metadata.precision == "int8"
    weights = [{tensor.name: tensor.raw_data for tensor in model.graph.initializer if len(tensor.dims) == 4} for model in models]
    assert weights[0] == weights[1]
