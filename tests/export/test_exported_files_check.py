"""Files of an export as TensorRT reads them: nothing fails, attention keeps its pattern, Q/DQ is legal, operators known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoformer.data.preprocessing import Preprocessing
from autoformer.export.graphs.attention_pattern import attentions
from autoformer.export.graphs.graph_view import GraphView
from autoformer.export.graphs.onnx_graph import opset_of
from autoformer.export.graphs.onnx_reading import read_model
from autoformer.export.graphs.tensorrt_rules import TARGETS, check_tensorrt
from autoformer.export.manifest import Manifest
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from tests.support.exporting import write_export

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
READ_BY = {17: TARGETS, 20: tuple(version for version in TARGETS if version != "8.6")}  # 8.6 reads opset 17 and below
# What a transformer with relative position is made of, and what folding leaves; anything else is a surprise worth a look.
NETWORK = {"Conv", "MatMul", "Gemm", "Add", "Sub", "Mul", "Softmax", "LayerNormalization", "ReduceMean", "ReduceSum"}
SHAPES = {
    "Reshape", "Transpose", "Concat", "Slice", "Squeeze", "Unsqueeze", "Expand", "Gather", "Pad", "Shape", "Cast",
}  # fmt: skip
GELU = {17: {"Erf", "Div"}, 20: {"Gelu"}}
QUANTISED = {"QuantizeLinear", "DequantizeLinear"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=sorted(READ_BY))
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    images = np.random.default_rng(0).standard_normal((96, 1, 8, 8)).astype(np.float32)
    network, out = Subnet.from_space(SPACE, SPACE.smallest).eval(), tmp_path_factory.mktemp("check") / "export"
    assert network.geometry.relative_position
    write_export(
        network, out, images=images, preprocessing=Preprocessing(8, 1, (0.0,), (1.0,)), classes=[str(i) for i in range(10)],
        formats=("onnx",), opset=request.param, max_disagreement=1.0, max_class_loss=1.0,
    )  # fmt: skip
    return out


def file(export: Path, precision: str) -> Path:
    artefact = Manifest.load(export).find("onnx", precision)
    assert artefact is not None
    assert artefact.status == "exported", artefact.reason
    return Manifest.load(export).verified_file(export, artefact)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_no_version_that_reads_the_opset_objects_to_a_file(export: Path, precision: str) -> None:
    path = file(export, precision)
    versions = READ_BY[opset_of(read_model(path))]
    for version in versions:
        assert not [finding for finding in check_tensorrt(path, (version,)) if finding.level == "fails"], version


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_attention_stands_once_in_every_block_and_in_half_precision_it_fuses(export: Path, precision: str) -> None:
    found = attentions(GraphView.of(read_model(file(export, precision))))
    assert len(found) == SPACE.smallest.depth
    for attention in found:
        assert all("computes in float32" in objection for objection in attention.objections), attention.objections
        assert len(attention.objections) == (precision != "fp16")


def test_the_int8_file_is_legal_and_leaves_no_product_half_quantised(export: Path) -> None:
    path = file(export, "int8")
    half = [finding for finding in check_tensorrt(path) if finding.rule == "quantisation"]
    assert half == []
    assert any(node.op_type == "QuantizeLinear" for node in read_model(path).graph.node)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_holds_known_operators_of_the_standard_and_no_others(export: Path, precision: str) -> None:
    model = read_model(file(export, precision))
    known = NETWORK | SHAPES | GELU[opset_of(model)] | (QUANTISED if precision == "int8" else set())
    assert {node.op_type for node in model.graph.node} <= known
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
