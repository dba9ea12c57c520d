"""What the parser of TensorRT documents of single operators, of names, functions and branches: broken once and kept once each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoformer.errors import CheckpointError
from autoformer.export.graphs.graph_view import GraphView
from autoformer.export.graphs.tensorrt_operators import READ, REFUSED, SINCE
from autoformer.export.graphs.tensorrt_restrictions import RESTRICTIONS
from autoformer.export.graphs.tensorrt_rules import check_model, check_tensorrt
from tests.support.checked_graphs import graph, node, said

FAILS = {("fails", "operators")}
IMAGES: list[int | str | None] = ["batch", 3, 8, 8]
INT64 = TensorProto.INT64


def on_images(*nodes: onnx.NodeProto, stored: dict[str, Any] | None = None, opset: int = 20) -> onnx.ModelProto:
    return graph(list(nodes), stored, shape=IMAGES, opset=opset)


# --- constants ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_nodes", [True, False])
def test_scales_and_zero_points_may_lie_in_constant_nodes_as_torchs_first_exporter_writes_them(as_nodes: bool) -> None:
    values: dict[str, np.ndarray[Any, Any]] = {
        "s": np.asarray(0.1, np.float32), "z": np.asarray(0, np.int8),
        "ws": np.full(4, 0.2, np.float32), "wz": np.zeros(4, np.int8),
    }  # fmt: skip
    constants = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)) for name, value in values.items()]
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("QuantizeLinear", "w ws wz", "wq", axis=1), node("DequantizeLinear", "wq ws wz", "wd", axis=1),
        node("MatMul", "d wd"),
    ]  # fmt: skip
    stored: dict[str, np.ndarray[Any, Any]] = {"w": np.ones((32, 4), np.float32)}
    good = graph([*constants, *nodes] if as_nodes else nodes, stored | ({} if as_nodes else values), opset=17)
    assert said(good, "8.6", "10.3", "11.4") == set()
    constants[1] = helper.make_node("Constant", [], ["z"], value=numpy_helper.from_array(np.asarray(3, np.int8)))
    assert said(graph([*constants, *nodes], stored, opset=17)) == {("fails", "quantisation")}
    constants[0] = helper.make_node("Constant", [], ["s"], value_float=-0.1)
    assert ("fails", "quantisation") in said(graph([*constants, *nodes], stored, opset=17))


# --- names, domains, functions -----------------------------------------------------------------------------------


def with_function(name: str, inner: str, domain: str = "my.lib", depth: int = 1) -> onnx.ModelProto:
    """x through a function that calls a function, `depth` deep, around one operator."""
    model = graph([helper.make_node(f"{name}{depth}" if depth > 1 else name, ["x"], ["y"], domain=domain, name="call")], opset=17)
    model.opset_import.add(domain=domain, version=1)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    body = [helper.make_node(inner, ["a"], ["r"])]
    model.functions.append(helper.make_function(domain, name, ["a"], ["r"], body, imports))
    for level in range(2, depth + 1):
        called = name if level == 2 else f"{name}{level - 1}"
        calls = [helper.make_node(called, ["a"], ["b"], domain=domain), helper.make_node(called, ["b"], ["r"], domain=domain)]
        model.functions.append(helper.make_function(domain, f"{name}{level}", ["a"], ["r"], calls, imports))
    return model


def test_a_function_of_the_model_is_read_from_10_0_on_and_what_is_in_it_is_looked_at() -> None:
    assert said(with_function("Scaled", "Relu"), "10.3", "11.4") == set()
    assert said(with_function("Scaled", "Relu"), "8.6") == {("fails", "functions")}
    inside = check_model(with_function("Scaled", "Det", depth=3), ("11.4",))
    assert {(finding.level, finding.why) for finding in inside} == {("fails", "Det is not supported")}


def test_functions_that_would_become_too_many_nodes_are_looked_at_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = with_function("Scaled", "Det", depth=40)  # 2 ** 39 nodes
    (finding,) = {(found.level, found.where, found.why) for found in check_model(deep, ("11.4",))}
    assert finding == ("fails", "function Scaled: Det that gives r", "Det is not supported")
    circle = with_function("Scaled", "Relu")
    circle.functions[0].node[0].op_type, circle.functions[0].node[0].domain = "Scaled", "my.lib"
    check_model(circle)  # which no runtime reads: it ends


def test_operators_go_by_their_names_whatever_the_domain() -> None:
    foreign = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft", name="fast")
    assert said(graph([foreign]), "10.3") == {("risk", "operators")}
    assert said(graph([foreign], opset=17), "8.6") == FAILS
    assert said(graph([helper.make_node("BiasGelu", ["x", "x"], ["y"], domain="com.microsoft")])) == FAILS
    assert said(with_function("Relu", "Neg"), "11.4") == {("risk", "functions")}  # the function is passed over
    assert said(with_function("Unique", "Neg"), "11.4") == FAILS  # refused before functions are looked up
    assert said(graph([helper.make_node("EfficientNMS_TRT", ["x"], ["y"])]), "11.4") == {("risk", "operators")}


def test_the_tables_do_not_contradict_each_other() -> None:
    assert not READ & REFUSED
    assert set(SINCE) <= READ
    assert set(RESTRICTIONS) <= READ
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert standard >= REFUSED


# --- graphs inside nodes -----------------------------------------------------------------------------------------


def branching(*then: onnx.NodeProto, names: tuple[str, str] = ("t", "e")) -> onnx.ModelProto:
    """x, or what `then` makes of it, by the sign of its sum."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    kept = helper.make_graph([helper.make_node("Identity", ["x"], [names[1]])], "else", [], values[1:])
    taken = helper.make_graph(list(then), "then", [], values[:1])
    choice = helper.make_node("If", ["c"], ["y"], name="if", then_branch=taken, else_branch=kept)
    before = [node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s zero", "c")]
    return graph([*before, choice], {"zero": np.asarray(0, np.float32)})


def test_branches_are_entered_at_any_depth_and_named() -> None:
    bad = branching(node("Det", "x", "t"))
    assert {found.where for found in check_model(bad, ("10.3",)) if found.level == "fails"} == {"then_branch of if: the Det"}
    branches = {entry.name: entry.g for entry in bad.graph.node[2].attribute}
    twice = helper.make_node("If", ["c"], ["t"], name="inner", **branches)
    found = {found.where for found in check_model(branching(twice), ("10.3",)) if found.level == "fails"}
    assert found == {"then_branch of if: then_branch of inner: the Det"}
    assert said(branching(node("Relu", "x", "t"))) == {("falls back", "operators")}


def test_what_is_stored_around_a_branch_is_known_in_it() -> None:
    assert ("fails", "operators") in said(branching(node("ReduceMean", "x s", "t")))  # axes that are computed outside
    good = branching(node("ReduceMean", "x axes", "t", keepdims=1))
    good.graph.initializer.append(numpy_helper.from_array(np.asarray([1]), "axes"))
    assert said(good) == {("falls back", "operators")}


def test_branches_with_outputs_of_one_name_are_a_risk() -> None:
    assert said(branching(node("Relu", "x", "o"), names=("o", "o"))) == {("falls back", "operators"), ("risk", "operators")}


# --- restrictions ------------------------------------------------------------------------------------------------

POOL: dict[str, Any] = {"kernel_shape": [2, 2]}
AXES = {"axes": np.asarray([1]), "k": np.asarray([5]), "many": np.asarray([4000]), "scales": np.ones(4, np.float32)}


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        (node("AveragePool", "x", dilations=[2, 2], **POOL), node("AveragePool", "x", dilations=[1, 1], **POOL)),
        (node("MaxPool", "x", dilations=[1, 2], **POOL), node("MaxPool", "x", **POOL)),
        (node("MaxPool", "x", "y i", **POOL), node("MaxPool", "x", "y", **POOL)),
        (node("LpPool", "x", p=3, **POOL), node("LpPool", "x", p=1, **POOL)),
        (node("LpNormalization", "x", p=3), node("LpNormalization", "x")),
        (node("ReduceMean", "x computed"), node("ReduceMean", "x axes")),
        (node("Resize", "x _ scales", mode="nearest", coordinate_transformation_mode="tf_crop_and_resize"),
         node("Resize", "x _ scales", mode="nearest", coordinate_transformation_mode="asymmetric")),
        (node("Resize", "x _ scales", keep_aspect_ratio_policy="not_larger"), node("Resize", "x _ scales")),
        (node("Resize", "x _ scales", coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="ceil"),
         node("Resize", "x _ scales", coordinate_transformation_mode="tf_half_pixel_for_nn")),
        (node("TopK", "x k", "y i", sorted=0), node("TopK", "x k", "y i")),
        (node("TopK", "x many", "y i"), node("TopK", "x k", "y i")),
        (node("ScatterND", "x k x", reduction="add"), node("ScatterND", "x k x")),
        (node("Einsum", "x x", equation="...ij,...Kj->...iK"), node("Einsum", "x x", equation="...ij,...kj->...ik")),
        (node("BatchNormalization", "x x x x x", training_mode=1), node("BatchNormalization", "x x x x x")),
        (node("GRU", "x x x", direction="bidirectional", activations=["Sigmoid", "Tanh", "Sigmoid", "Relu"]),
         node("GRU", "x x x", direction="bidirectional", activations=["Sigmoid", "Tanh"] * 2)),
        (node("Constant", "", value_string="a"), node("Constant", "", value_float=1.0)),
    ],
    ids=lambda entry: f"{entry.op_type} {[item.name for item in entry.attribute]}",
)  # fmt: skip
def test_what_the_parser_does_not_do_of_an_operator_is_refused_and_its_nearest_kin_is_not(
    bad: onnx.NodeProto, good: onnx.NodeProto
) -> None:
    around = (node("Shape", "x", "computed"),)
    assert ("fails", "operators") in said(on_images(*around, bad, stored=AXES), "10.3")
    assert said(on_images(*around, good, stored=AXES), "10.3") == set()


@pytest.mark.parametrize(
    ("one", "before", "since"),
    [
        (node("CumSum", "x computed"), "10.3", "10.9"),
        (node("Slice", "x axes axes computed"), "8.6", "10.3"),
        (node("Einsum", "x", equation="...ii->...i"), "8.6", "10.3"),
        (node("Einsum", "x", equation="bcii->bci"), "8.6", "10.3"),
        (node("ScatterElements", "x computed x", reduction="add"), "8.6", "10.3"),
    ],
)
def test_what_later_versions_read_is_refused_by_earlier_ones_alone(one: onnx.NodeProto, before: str, since: str) -> None:
    model = on_images(node("Shape", "x", "computed"), one, stored=AXES, opset=17)
    assert said(model, before) == FAILS
    assert said(model, since) == set()


def test_operator_sets_older_than_promised_are_a_risk() -> None:
    assert said(graph([node("Relu", "x")], opset=8)) == {("risk", "opset")}
    assert said(graph([node("Relu", "x")], opset=9)) == set()


# --- files -------------------------------------------------------------------------------------------------------


def test_a_file_with_more_than_two_gigabytes_beside_it_is_checked(tmp_path: Path) -> None:
    columns = 3_000_000
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[192, columns], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="w.bin")
    model = on_images(node("Flatten", "x", "f"), node("MatMul", "f w"), stored={"s": np.asarray(1.0, np.float32)}, opset=17)
    model.graph.initializer.append(weight)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", columns]))
    onnx.save(model, path := tmp_path / "big.onnx")
    with (tmp_path / "w.bin").open("wb") as sparse:
        sparse.truncate(192 * columns * 4)
    assert check_tensorrt(path, ("8.6",)) == []
    with (tmp_path / "w.bin").open("wb") as sparse:
        sparse.truncate(1000)
    with pytest.raises(CheckpointError, match=r"weight 'w' of 2304000000 bytes in w.bin, which holds 1000 of it"):
        check_tensorrt(path)


def test_small_values_beside_the_file_are_read(tmp_path: Path) -> None:
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z")]
    model = graph(nodes, {"s": np.asarray([-0.1], np.float32), "z": np.asarray([0], np.int8)})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 32]))
    onnx.save(model, path := tmp_path / "a.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    assert [found.why for found in check_tensorrt(path, ("10.3",))] == ["a scale is not positive"] * 2


def test_values_of_constant_nodes_and_what_follows_from_stored_ones_is_known() -> None:
    model = graph(
        [helper.make_node("Constant", [], ["n"], value_ints=[1, 2]), node("Identity", "n", "m"), node("Shape", "x", "s"),
         node("Add", "m s")], kind=INT64,
    )  # fmt: skip
    view = GraphView.of(model)
    np.testing.assert_array_equal(view.values("n"), [1, 2])
    assert [view.is_fixed(name) for name in ("n", "m", "s", "y", "nothing")] == [True, True, False, False, False]
