"""Graphs that share one file of weights: smaller, the same to a runtime, and inside their folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autoformer.export.graphs.external_data import check_external_data
from autoformer.export.graphs.shared_weights import LEAST, PAGE, WEIGHTS_NAME, give_up_weights, write_graphs

SCALES = np.linspace(0.01, 0.02, 512, dtype=np.float32)
INDICES = np.arange(512, dtype=np.int64)[::-1].copy()


def model(rows: int) -> onnx.ModelProto:
    """Two products with large weights, one of them quantised with a scale per column, and a Gather by stored indices."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", rows])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 512])
    stored = [
        numpy_helper.from_array(np.ones((rows, 512), np.float32), "first"),
        numpy_helper.from_array(np.ones((512, 512), np.int8), "second"),
        numpy_helper.from_array(SCALES, "scales"),
        numpy_helper.from_array(np.zeros(512, np.int8), "zeros"),
        numpy_helper.from_array(INDICES, "indices"),
        numpy_helper.from_array(np.asarray(2, np.float32), "two"),
    ]
    nodes = [
        helper.make_node("MatMul", ["images", "first"], ["a"]),
        helper.make_node("DequantizeLinear", ["second", "scales", "zeros"], ["weight"], axis=1),
        helper.make_node("MatMul", ["a", "weight"], ["b"]),
        helper.make_node("Gather", ["b", "indices"], ["c"], axis=1),
        helper.make_node("Mul", ["c", "two"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "g", [images], [logits], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder of two graphs."""
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    graphs = {}
    for rows in (64, 96):
        emptied = model(rows)
        give_up_weights(emptied, work)
        (work / f"{rows}.onnx").write_bytes(emptied.SerializeToString())
        graphs[f"{rows}.onnx"] = work / f"{rows}.onnx"
    write_graphs(graphs, work, out)
    return out


def tensors(path: Path) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def test_what_decides_the_result_keeps_its_values(shared: Path) -> None:
    found = tensors(shared / "64.onnx")
    np.testing.assert_array_equal(found["scales"], SCALES)
    np.testing.assert_array_equal(found["zeros"], np.zeros(512, np.int8))
    np.testing.assert_array_equal(found["indices"], INDICES)
    assert found["two"] == 2


def test_weights_are_small_random_numbers_of_the_same_shapes(shared: Path) -> None:
    for rows in (64, 96):
        found = tensors(shared / f"{rows}.onnx")
        assert found["first"].shape == (rows, 512)
        assert found["first"].dtype == np.float32
        assert 0.015 < found["first"].std() < 0.025
        assert np.abs(found["first"]).min() >= LEAST
        assert found["second"].dtype == np.int8
        assert len(np.unique(found["second"])) > 200


def test_one_file_holds_the_weights_of_all_graphs(shared: Path) -> None:
    assert sorted(path.name for path in shared.iterdir()) == ["64.onnx", "96.onnx", WEIGHTS_NAME]
    own = sum(len(model(rows).SerializeToString()) for rows in (64, 96))
    assert (shared / WEIGHTS_NAME).stat().st_size <= 96 * 512 * 4 + 512 * 512 + INDICES.nbytes + 3 * PAGE
    assert sum(path.stat().st_size for path in shared.iterdir()) < own


def test_weights_of_one_graph_begin_at_different_pages(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.ones((16, 32), np.float32), f"w{index}") for index in range(5)]
    graph = helper.make_graph([], "g", [], [], weights)
    many = helper.make_model(graph)
    give_up_weights(many, tmp_path)
    offsets = [int(entry.value) for w in many.graph.initializer for entry in w.external_data if entry.key == "offset"]
    assert len(set(offsets)) == 5
    assert all(offset % PAGE == 0 for offset in offsets)


def test_runtimes_load_them_and_optimise_them_as_graphs_with_their_own_weights(shared: Path, tmp_path: Path) -> None:
    def operators(path: Path) -> Counter[str]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node)

    (tmp_path / "own.onnx").write_bytes(model(64).SerializeToString())
    check_external_data(shared / "64.onnx")
    assert operators(shared / "64.onnx") == operators(tmp_path / "own.onnx")
