"""The reader of ONNX files for boards gives what the package `onnx` gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from autoformer.errors import CheckpointError
from autoformer.export.graphs.onnx_file import OnnxFile, module_scopes
from autoformer.export.graphs.onnx_graph import OnnxGraph
from tests.support.engines import small_subnet, write_graph


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return OnnxGraph.from_network(small_subnet(), path, metadata={"who": "Ünser"}).path


def test_an_exported_file_is_read_as_onnx_reads_it(exported: Path) -> None:
    expected, found = onnx.load(exported), OnnxFile.read(exported)
    assert [(node.name, node.op_type, (*node.input,), (*node.output,)) for node in expected.graph.node] == [
        (node.name, node.operator, node.inputs, node.outputs) for node in found.nodes
    ]
    assert found.properties == {"who": "Ünser"}
    assert list(found.weights) == [tensor.name for tensor in expected.graph.initializer]
    for tensor in expected.graph.initializer:
        np.testing.assert_array_equal(found.weights[tensor.name].values(), numpy_helper.to_array(tensor))


def test_types_are_those_that_onnx_infers(exported: Path) -> None:
    inferred = onnx.shape_inference.infer_shapes(onnx.load(exported), strict_mode=True)
    expected = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert len(expected) > 50
    found = OnnxFile.read(exported).types
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "uint8", "int32", "int64", "bool", "float64"])
@pytest.mark.parametrize("raw", [True, False])
def test_weights_of_every_type_and_way_of_storing_are_read(kind: str, raw: bool, tmp_path: Path) -> None:
    values = np.array([[0, 1, 3], [2, 0, 5]], kind)
    number = helper.np_dtype_to_tensor_dtype(values.dtype)
    given = values.tobytes() if raw else values.ravel().tolist()
    tensor = helper.make_tensor("stored", number, values.shape, given, raw=raw)
    found = OnnxFile.read(write_graph(tmp_path / "model.onnx", stored=(tensor,))).weights["stored"]
    assert (found.shape, found.size, found.data_type) == ((2, 3), 6, number)
    np.testing.assert_array_equal(found.values(), values)
    assert found.values().dtype == values.dtype


def test_negative_whole_numbers_keep_their_sign(tmp_path: Path) -> None:
    tensor = helper.make_tensor("stored", TensorProto.INT8, [2], [-128, -1])
    found = OnnxFile.read(write_graph(tmp_path / "model.onnx", stored=(tensor,))).weights["stored"]
    assert found.values().tolist() == [-128, -1]


def test_precision_is_what_the_file_computes_in(tmp_path: Path) -> None:
    assert OnnxFile.read(write_graph(tmp_path / "a.onnx")).precision == "fp32"
    half = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).half()

    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = half

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.inner(images.half())
            return logits.float()

    path = tmp_path / "b.onnx"
    OnnxGraph.from_network(Half(), path, image_shape=(1, 2, 2), as_it_is=True)
    found = OnnxFile.read(path)
    assert found.precision == "fp16"
    float32 = found.computed_in_float32()
    assert [node.operator for node in found.nodes if node.name in float32] == ["Cast"]  # of the logits
    quantised = (
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"], name="Q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="D"),
        helper.make_node("Flatten", ["d"], ["x"], name="F"),
        helper.make_node("MatMul", ["x", "w"], ["logits"], name="M"),
    )
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    zero = numpy_helper.from_array(np.array(0, np.int8), "z")
    found = OnnxFile.read(write_graph(tmp_path / "c.onnx", nodes=quantised, stored=(scale, zero)))
    assert (found.precision, found.types["q"], found.types["d"]) == ("int8", TensorProto.INT8, TensorProto.FLOAT)
    assert found.computed_in_float32() == {"D", "F", "M"}


def test_scopes_name_the_torch_module_of_a_node(exported: Path, tmp_path: Path) -> None:
    scopes = module_scopes(exported)
    norms = [node.name for node in OnnxFile.read(exported).nodes if node.operator == "LayerNormalization"]
    assert scopes[norms[0]].startswith("blocks.0")
    assert module_scopes(tmp_path / "other.onnx") == {}


def test_what_is_no_onnx_file_says_so(graph: Path) -> None:
    content = graph.read_bytes()
    graph.write_bytes(content[:-20])
    with pytest.raises(CheckpointError, match="truncated or not an ONNX file"):
        OnnxFile.read(graph)
    graph.write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds no graph"):
        OnnxFile.read(graph)
    with pytest.raises(CheckpointError, match="cannot be read"):
        OnnxFile.read(graph.with_name("none.onnx"))


def test_a_weight_that_lies_elsewhere_or_lacks_values_is_refused(tmp_path: Path) -> None:
    short = TensorProto(name="short", data_type=TensorProto.FLOAT, dims=[4], raw_data=b"\0" * 8)
    away = TensorProto(name="away", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    found = OnnxFile.read(write_graph(tmp_path / "model.onnx", stored=(short, away))).weights
    with pytest.raises(CheckpointError, match=r"'short' has 2 values for shape \[4\]"):
        found["short"].values()
    with pytest.raises(CheckpointError, match="'away' lies in another file"):
        found["away"].values()
