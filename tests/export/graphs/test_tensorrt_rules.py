"""What TensorRT would refuse: of every rule one graph that breaks it and its nearest kin that keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from autoformer.errors import ExportError
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.tensorrt_rules import check_model, check_tensorrt, grouped, parsed, to_dict
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from tests.support.checked_graphs import graph, node, said
from tests.support.commands import command

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
SMALL = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)


# --- opset and operators -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "newest", "beyond"),
    [("8.6", 17, "fails"), ("10.3", 20, "risk"), ("10.9", 22, "risk"), ("10.13", 24, "risk"), ("11.4", 24, "risk"),
     ("11.5", 25, "risk")],
)  # fmt: skip
def test_each_version_promises_opsets_up_to_its_own_and_from_10_on_refuses_none(version: str, newest: int, beyond: str) -> None:
    for opset, expected in ((newest, set()), (newest + 1, {(beyond, "opset")})):
        assert said(graph([node("Relu", "x")], opset=opset), version) == expected


@pytest.mark.parametrize(("kind", "first"), [("LayerNormalization", "8.6"), ("Gelu", "10.0"), ("RMSNormalization", "10.15")])
def test_operators_are_read_from_the_version_that_brought_them(kind: str, first: str) -> None:
    scaled = {"LayerNormalization": "x s", "RMSNormalization": "x s"}
    model = graph([node(kind, scaled.get(kind, "x"))], {"s": np.ones(32, np.float32)}, opset=17)
    major, minor = parsed(first)
    assert said(model, first) == set()
    if major > 8:
        assert said(model, "8.6" if minor == 0 else f"{major}.{minor - 1}") == {("fails", "operators")}


def test_operators_outside_the_standard_or_never_supported_are_named() -> None:
    foreign = graph([helper.make_node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft", name="fast")])
    (finding,) = check_model(foreign, ("11.4",))
    assert (finding.level, finding.where) == ("fails", "fast")
    assert "com.microsoft.FusedMatMul" in finding.why
    assert said(graph([node("DynamicQuantizeLinear", "x", "y s z")])) >= {("fails", "operators")}
    assert said(graph([node("BitwiseNot", "x")], kind=TensorProto.INT32)) == {("fails", "operators")}
    assert said(graph([node("Not", "x")], kind=TensorProto.BOOL)) == set()


def test_resizing_with_antialias_and_further_outputs_of_a_normalisation_are_refused() -> None:
    sizes = {"sizes": np.asarray([1, 8, 16]), "s": np.ones(32, np.float32)}
    assert said(graph([node("Resize", "x _ _ sizes", antialias=1)], sizes)) == {("fails", "operators")}
    assert said(graph([node("Resize", "x _ _ sizes", antialias=0)], sizes)) == set()
    assert said(graph([node("LayerNormalization", "x s", "y mean")], sizes)) == {("fails", "operators")}
    assert said(graph([node("LayerNormalization", "x s", "y")], sizes)) == set()


def test_what_decides_shapes_at_run_time_falls_back() -> None:
    assert said(graph([node("NonZero", "x")], out=TensorProto.INT64)) == {("falls back", "operators")}
    assert said(graph([node("Shape", "x")], out=TensorProto.INT64)) == set()


# --- types and shapes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "version", "expected"),
    [
        (TensorProto.DOUBLE, "10.3", {("falls back", "types")}),
        (TensorProto.INT16, "10.3", {("fails", "types")}),
        (TensorProto.BFLOAT16, "8.6", {("fails", "types")}),
        (TensorProto.BFLOAT16, "10.3", set()),
        (TensorProto.FLOAT16, "8.6", {("falls back", "types")}),
        (TensorProto.FLOAT16, "10.3", set()),
    ],
)
def test_types_are_refused_or_computed_in_another(kind: int, version: str, expected: set[tuple[str, str]]) -> None:
    assert said(graph([node("Identity", "x")], kind=kind, opset=17), version) == expected


def test_bytes_go_into_a_cast_and_nowhere_else() -> None:
    assert said(graph([node("Cast", "x", to=FLOAT)], kind=TensorProto.UINT8, out=FLOAT)) == set()
    assert said(graph([node("Reshape", "x n")], {"n": np.asarray([-1])}, kind=TensorProto.UINT8)) == {("fails", "types")}


def test_open_sizes_beside_the_batch_fall_back() -> None:
    assert said(graph([node("Relu", "x")], shape=["batch", 8, 32])) == set()
    assert said(graph([node("Relu", "x")], shape=["batch", "rows", 32])) == {("falls back", "shapes")}


# --- quantisation ------------------------------------------------------------------------------------------------


def quantised(
    zero: np.ndarray[Any, Any] | None, scale: float = 0.1, weights: bool = True, scale_from: str | None = None
) -> onnx.ModelProto:
    """x through Q/DQ into a product with weights, which are dequantised too where `weights` says."""
    zeros = "" if zero is None else " z"
    stored: dict[str, np.ndarray[Any, Any]] = {"s0": np.asarray(scale, np.float32), "w8": np.ones((32, 4), np.int8)}
    stored |= {"w": np.ones((32, 4), np.float32), "s1": np.asarray(0.5, np.float32), "z8": np.asarray(0, np.int8)}
    stored |= {} if zero is None else {"z": zero}
    maker = {"Identity": node("Identity", "s0", "s2"), "ReduceMax": node("ReduceMax", "x", "s2", keepdims=0)}
    nodes = [maker[scale_from]] if scale_from else []
    name = "s2" if scale_from else "s0"
    nodes += [node("QuantizeLinear", f"x {name}{zeros}", "q"), node("DequantizeLinear", f"q {name}{zeros}", "d")]
    nodes += [node("DequantizeLinear", "w8 s1 z8", "dw")] if weights else []
    return graph([*nodes, node("MatMul", "d dw" if weights else "d w")], stored)


def test_symmetric_int8_of_both_inputs_is_what_tensorrt_takes() -> None:
    assert said(quantised(np.asarray(0, np.int8))) == set()


@pytest.mark.parametrize(
    "model",
    [
        quantised(np.asarray(3, np.int8)),
        quantised(np.asarray(0, np.int8), scale=-0.1),
        quantised(np.asarray(0, np.int8), scale_from="ReduceMax"),
    ],
    ids=["zero point 3", "negative scale", "computed scale"],
)
def test_other_quantisation_is_refused(model: onnx.ModelProto) -> None:
    assert ("fails", "quantisation") in said(model)


def test_a_scale_may_follow_from_stored_values_alone() -> None:
    assert said(quantised(np.asarray(0, np.int8), scale_from="Identity")) == set()


@pytest.mark.parametrize("zero", [np.asarray(0, np.uint8), None])
def test_uint8_is_refused_by_8_6_and_later_computed_as_int8(zero: np.ndarray[Any, Any] | None) -> None:
    assert ("fails", "quantisation") in said(quantised(zero), "8.6")
    assert {level for level, _ in said(quantised(zero), "10.3", "11.4")} == {"risk"}


def test_stored_values_of_uint8_are_refused() -> None:
    stored: dict[str, np.ndarray[Any, Any]] = {
        "w8": np.ones((32, 4), np.uint8),
        "s": np.asarray(0.5, np.float32),
        "z": np.asarray(0, np.uint8),
    }
    model = graph([node("DequantizeLinear", "w8 s z", "w"), node("MatMul", "x w")], stored)
    assert ("fails", "quantisation") in said(model, "11.4")


def test_a_dequantised_bias_is_refused() -> None:
    bias = {"b": np.ones(32, np.int32), "s": np.asarray(0.1, np.float32), "z": np.asarray(0, np.int32)}
    found = check_model(graph([node("DequantizeLinear", "b s z", "f"), node("Add", "x f")], bias), ("10.3",))
    assert [finding.why for finding in found] == ["INT32 is dequantised, as biases are; keep them in floating point"]


def test_a_product_with_one_quantised_input_stays_in_floating_point() -> None:
    assert said(quantised(np.asarray(0, np.int8), weights=False)) == {("falls back", "quantisation")}


# --- attention ---------------------------------------------------------------------------------------------------


def attention(
    *, kind: int = HALF, width: int = 32, scale: str = "query", mask: bool = False, twice: bool = False
) -> onnx.ModelProto:
    """Attention of 8 tokens over themselves, as it is written everywhere."""
    dtype = np.float16 if kind == HALF else np.float32
    nodes = [node("Transpose", "x", "keys", perm=[0, 2, 1])]
    nodes += [node("Mul", "x c", "query")] if scale == "query" else [node("Identity", "x", "query")]
    nodes += [node("MatMul", "query keys", "p0")]
    nodes += [node("Mul", "p0 c", "p1")] if scale == "product" else [node("Identity", "p0", "p1")]
    nodes += [node("Add", "p1 m", "p2")] if mask else [node("Identity", "p1", "p2")]
    nodes += [node("Softmax", "p2", "weights"), node("MatMul", "weights x", "first")]
    nodes += [node("ReduceMean", "weights", "second"), node("Add", "first second")] if twice else [node("Identity", "first")]
    stored = {"c": np.asarray(0.2, dtype), "m": np.zeros((1, 8, 8), dtype)}
    return graph(nodes, stored, kind=kind, shape=["batch", 8, width])


@pytest.mark.parametrize("mask", [False, True])
def test_plain_attention_in_half_precision_fuses(mask: bool) -> None:
    assert said(attention(mask=mask)) == set()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"scale": "product"}, "the scale is applied after the product"),
        ({"twice": True}, "the softmax is used 2 times"),
        ({"kind": FLOAT}, "computes in float32"),
        ({"width": 20}, "heads of width 20"),
        ({"width": 8}, "heads of width 8"),
        ({"width": 264}, "heads of width 264"),
    ],
)
def test_attention_of_another_form_does_not_fuse_and_it_is_said_why(changed: dict[str, Any], words: str) -> None:
    (finding,) = check_model(attention(**changed), ("10.3",))
    assert (finding.level, finding.rule) == ("not fused", "attention")
    assert words in finding.why


def test_attention_as_one_operator_is_a_risk_where_it_is_read() -> None:
    model = graph([node("Attention", "x x x")], opset=23, shape=["batch", 2, 8, 32])
    assert said(model, "10.13") == {("fails", "operators")}
    assert said(model, "10.16") == {("risk", "attention")}


def test_a_softmax_over_classes_is_no_attention() -> None:
    assert said(graph([node("MatMul", "x w", "logits"), node("Softmax", "logits")], {"w": np.ones((32, 4), np.float32)})) == set()


# --- normalisation -----------------------------------------------------------------------------------------------


def test_layer_normalisation_in_half_precision_is_a_risk_and_between_casts_is_not() -> None:
    half = {"s": np.ones(32, np.float16)}
    assert said(graph([node("LayerNormalization", "x s")], half, kind=HALF)) == {("risk", "normalisation")}
    casts = [node("Cast", "x", "f", to=FLOAT), node("LayerNormalization", "f s", "n"), node("Cast", "n", to=HALF)]
    assert said(graph(casts, {"s": np.ones(32, np.float32)}, kind=HALF)) == set()


def test_a_layer_normalisation_taken_apart_is_recognised() -> None:
    axis = {"axes": np.asarray([-1]), "eps": np.asarray(1e-6, np.float32)}
    nodes = [
        node("ReduceMean", "x axes", "mean"), node("Sub", "x mean", "centred"), node("Mul", "centred centred", "squares"),
        node("ReduceMean", "squares axes", "variance"), node("Add", "variance eps", "safe"), node("Sqrt", "safe", "spread"),
    ]  # fmt: skip
    assert said(graph([*nodes, node("Div", "centred spread")], axis)) == {("not fused", "normalisation")}
    assert said(graph([*nodes, node("Identity", "spread")], axis)) == set()  # a standard deviation that nothing is divided by


# --- whole files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    torch.manual_seed(0)
    network, folder = Subnet.from_space(SMALL, SMALL.smallest).eval(), tmp_path_factory.mktemp("check")
    return {20: OnnxGraph.from_network(network, folder / "20.onnx").path}


@pytest.mark.slow
def test_opset_17_is_read_by_every_version(tmp_path: Path) -> None:
    network = Subnet.from_space(SMALL, SMALL.largest).eval()
    path = OnnxGraph.from_network(network, tmp_path / "17.onnx", opset=17).path
    assert not [finding for finding in check_tensorrt(path) if finding.level == "fails"]


def test_what_we_export_is_read_by_every_version_its_opset_is_for(exported: dict[int, Path]) -> None:
    assert not [finding for finding in check_tensorrt(exported[20], ("10.3", "11.4")) if finding.level == "fails"]
    failing = {finding.rule for finding in check_tensorrt(exported[20], ("8.6",)) if finding.level == "fails"}
    assert failing == {"opset", "operators"}


def test_findings_of_many_places_are_shown_as_one_with_their_number(exported: dict[int, Path]) -> None:
    findings = check_tensorrt(exported[20], ("8.6",))
    gelus = [count for finding, count in grouped(findings) if "Gelu" in finding.why]
    assert gelus == [SMALL.smallest.depth]
    assert to_dict(findings, ("8.6",))["readable"] == []


def test_the_command_tells_which_versions_read_a_file(exported: dict[int, Path], tmp_path: Path) -> None:
    answer = command("check", exported[20], "--target", "tensorrt")
    assert answer.code == 0
    assert "nothing fails for: 10.3, 10.9, 10.13, 10.16, 11.4" in answer.out
    refused = command("check", exported[20], "--version", "8.6", "--json")
    assert refused.code == 3
    assert refused.json["readable"] == []
    (tmp_path / "no.onnx").write_text("words")
    assert "expected an ONNX file" in command("check", tmp_path / "no.onnx").error


@pytest.mark.parametrize("version", ["ten", "10", "9.2", "7.1", "10.x"])
def test_versions_nobody_knows_are_refused(version: str) -> None:
    with pytest.raises(ExportError, match=r"known are|is not understood"):
        parsed(version)
