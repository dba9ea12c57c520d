"""What the parser refuses of operators that it reads: broken once and kept once, and NVIDIA's own parser asked the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ml_dtypes import int4
from onnx import TensorProto

from autoformer.export.engines.tensorrt_versions import TENSORRT_RTX
from autoformer.export.engines.trial import TrialProcess
from autoformer.export.graphs.graph_view import GraphView
from autoformer.export.graphs.tensorrt_rules import check_model
from tests.support.checked_graphs import asked, node
from tests.support.real_tensorrt import needs_real_tensorrt

X = "x:FLOAT:2,3,8,8"
QKV = "q:FLOAT:2,3,4,8 k:FLOAT:2,3,6,8"
AXIS, SHAPE = {"a": np.asarray([1])}, [node("Shape", "x", "s", start=1, end=2)]
LIMIT = {"l": np.asarray(0, np.int8)}
SCALES = {"s": np.ones(2, np.float32)}
WINDOW = {"n": np.asarray(4), "w": np.ones(4, np.float32)}


def whole(kind: str, **attributes: Any) -> list[onnx.NodeProto]:
    return [node(kind, "x", **attributes)]


def by_contents(kind: str) -> list[onnx.NodeProto]:
    """Something shaped by what is in `f`, by way of casts and sums."""
    return [node("Add", "f f", "twice"), node("Cast", "twice", "s", to=TensorProto.INT64), node(kind, "x s")]


PAIRS: dict[str, tuple[onnx.ModelProto, onnx.ModelProto]] = {  # what the parser refuses, and its nearest kin that it reads
    "attention with a mask that is causal": (
        asked([node("Attention", "q k k m", is_causal=1)], f"{QKV} m:FLOAT:4,6", opset=23),
        asked([node("Attention", "q k k m")], f"{QKV} m:FLOAT:4,6", opset=23),
    ),
    "attention to values of another shape": (
        asked([node("Attention", "q k v")], f"{QKV} v:FLOAT:2,3,6,16", opset=23),
        asked([node("Attention", "q k v")], f"{QKV} v:FLOAT:2,3,6,8", opset=23),
    ),
    "attention under a mask for fewer keys": (
        asked([node("Attention", "q k k m")], f"{QKV} m:FLOAT:4,5", opset=23),
        asked([node("Attention", "q k k m")], f"{QKV} m:FLOAT:4,1", opset=23),
    ),
    "attention of two outputs": (
        asked([node("Attention", "q k k", "y p")], QKV, opset=23),
        asked([node("Attention", "q k k", q_num_heads=2, kv_num_heads=2)], "q:FLOAT:2,4,16 k:FLOAT:2,6,16", opset=23),
    ),
    "Celu of another type": (asked(whole("Celu"), "x:FLOAT16:4", out="FLOAT16"), asked(whole("Celu"), "x:FLOAT:4")),
    "Clip of bytes by a computed limit": (
        asked([node("Clip", "x l")], "x:INT8:4 l:INT8:", out="INT8"), asked([node("Clip", "x l")], "x:INT8:4", LIMIT, out="INT8")
    ),
    "GridSample along one axis": (
        asked([node("GridSample", "x g")], "x:FLOAT:1,1,4 g:FLOAT:1,4,1"),
        asked([node("GridSample", "x g")], "x:FLOAT:1,1,4,4 g:FLOAT:1,4,4,2"),
    ),
    "HardSwish of bfloat16": (
        asked(whole("HardSwish"), "x:BFLOAT16:4", out="BFLOAT16", opset=22),
        asked(whole("HardSwish"), "x:FLOAT16:4", out="FLOAT16"),
    ),
    "LpNormalization of bfloat16": (
        asked(whole("LpNormalization"), "x:BFLOAT16:4", out="BFLOAT16", opset=22),
        asked(whole("LpNormalization"), "x:DOUBLE:4", out="DOUBLE"),
    ),
    "a vector times several matrices": (
        asked([node("MatMul", "v m")], "v:FLOAT:4 m:FLOAT:2,4,3"), asked([node("MatMul", "v m")], "v:FLOAT:4 m:FLOAT:1,4,3")
    ),
    "MeanVarianceNormalization of another type": (
        asked(whole("MeanVarianceNormalization"), "x:FLOAT16:2,3,4,4", out="FLOAT16"),
        asked(whole("MeanVarianceNormalization"), X),
    ),
    "Mish of bfloat16": (
        asked(whole("Mish"), "x:BFLOAT16:4", out="BFLOAT16", opset=22), asked(whole("Mish"), "x:FLOAT16:4", out="FLOAT16")
    ),
    "a modulus of whole numbers of fractions": (
        asked([node("Mod", "x x")], "x:FLOAT:4"), asked([node("Mod", "x x", fmod=1)], "x:FLOAT:4")
    ),
    "a range of half precision": (
        asked([node("Range", "a b c")], "x:FLOAT:4", {name: np.float16(3) for name in "abc"}, out="FLOAT16"),
        asked([node("Range", "a b c")], "x:FLOAT:4", {"a": np.float32(0), "b": np.float32(3), "c": np.float32(1)}),
    ),
    "random numbers of double precision": (
        asked([node("RandomUniformLike", "x", dtype=TensorProto.DOUBLE)], "x:FLOAT:4", out="DOUBLE"),
        asked([node("RandomUniformLike", "x")], "x:DOUBLE:4", out="DOUBLE"),
    ),
    "a mean over axes that follow from others": (
        asked([node("Add", "a zero", "b"), node("ReduceMean", "x b")], X, {**AXIS, "zero": np.asarray([0])}),
        asked([node("Identity", "a", "b"), node("ReduceMean", "x b")], X, AXIS),
    ),
    "a mean over axes that follow from sizes": (
        asked([*SHAPE, node("ReduceMean", "x s")], X), asked([node("ReduceMean", "x a")], X, AXIS)
    ),
    "resizing some axes by computed scales": (
        asked([node("Cast", "n", "s", to=1), node("Resize", "x _ s", axes=[2, 3])], f"{X} n:INT64:2"),
        asked([node("Resize", "x _ s", axes=[2, 3])], X, SCALES),
    ),
    "resizing by fractions that come in": (
        asked([node("Resize", "x _ s")], f"{X} s:FLOAT:4"),
        asked([node("Shape", "x", "n"), node("Cast", "n", "s", to=1), node("Resize", "x _ s")], X),
    ),
    "a shape of fractions that come in": (
        asked(by_contents("Reshape"), f"{X} f:FLOAT:4"),
        asked([node("Add", "f f", "s"), node("Reshape", "x s")], f"{X} f:INT64:4"),
    ),
    "a shape of truths that come in": (
        asked([node("Cast", "f", "s", to=TensorProto.INT64), node("Expand", "x s")], f"{X} f:BOOL:4"),
        asked([node("Cast", "f", "s", to=TensorProto.INT64), node("Expand", "x s")], f"{X} f:INT32:4"),
    ),
    "Shrink of bfloat16": (
        asked(whole("Shrink"), "x:BFLOAT16:4", out="BFLOAT16", opset=22), asked(whole("Shrink"), "x:INT8:4", out="INT8")
    ),
    "a split into more pieces than there is": (
        asked([node("Split", "x", "y b c d", num_outputs=4)], "x:FLOAT:5,2"),
        asked([node("Split", "x", "y b c d", num_outputs=4)], "x:FLOAT:6,2"),
    ),
    "squeezing axes that come in": (
        asked([node("Squeeze", "x a")], "x:FLOAT:2,1,8 a:INT64:1"), asked([*SHAPE, node("Squeeze", "x s")], "x:FLOAT:b,1,8")
    ),
    "unsqueezing along an open size": (
        asked([*SHAPE, node("Unsqueeze", "x s")], "x:FLOAT:2,b,8"), asked([*SHAPE, node("Unsqueeze", "x s")], "x:FLOAT:b,1,8")
    ),
    "a spectrum of computed steps": (
        asked([node("STFT", "x n w")], "x:FLOAT:1,16,1 n:INT64:", {"w": WINDOW["w"]}),
        asked([node("STFT", "x n w")], "x:FLOAT:1,16,1", WINDOW),
    ),
    "a cache of three dimensions": (
        asked([node("TensorScatter", "x u")], "x:FLOAT:2,4,5 u:FLOAT:2,2,5", opset=24),
        asked([node("TensorScatter", "x u")], "x:FLOAT:2,3,4,5 u:FLOAT:2,3,2,5", opset=24),
    ),
    "a cache that is a ring": (
        asked([node("TensorScatter", "x u", mode="circular")], "x:FLOAT:2,3,4,5 u:FLOAT:2,3,2,5", opset=24),
        asked([node("TensorScatter", "x u", axis=2)], "x:FLOAT:2,3,4,5 u:FLOAT:2,3,2,5", opset=24),
    ),
    "a type that is none": (
        asked(whole("Cast", to=TensorProto.FLOAT8E5M2), "x:FLOAT:4", out="FLOAT8E5M2"),
        asked(whole("Cast", to=TensorProto.FLOAT8E4M3FN), "x:FLOAT:4", out="FLOAT8E4M3FN"),
    ),
    "bytes that are turned": (
        asked(whole("Transpose"), "x:UINT8:2,4", out="UINT8"), asked([node("Equal", "x x")], "x:UINT8:2,4", out="BOOL")
    ),
    "an odd number of halves of bytes": (
        asked([node("DequantizeLinear", "x s z")], "x:INT4:3 s:FLOAT:", {"z": np.asarray(0, int4)}, opset=21),
        asked([node("DequantizeLinear", "x s")], "x:INT4:4 s:FLOAT:", opset=21),
    ),
}  # fmt: skip


def fails(model: onnx.ModelProto, version: str) -> set[str]:
    return {finding.why for finding in check_model(model, (version,)) if finding.level == "fails"}


@pytest.mark.parametrize("which", PAIRS)
def test_what_the_parser_refuses_fails_and_its_nearest_kin_does_not(which: str) -> None:
    bad, good = PAIRS[which]
    for version in ("10.16", "11.4"):
        assert fails(bad, version), version
        assert fails(good, version) == set(), version


@pytest.fixture(scope="module")
def attempt() -> Iterator[TrialProcess]:
    needs_real_tensorrt()
    with TrialProcess(TENSORRT_RTX) as found:
        yield found


@pytest.mark.parametrize("which", PAIRS)
def test_nvidias_parser_says_the_same(which: str, attempt: TrialProcess, tmp_path: Path) -> None:
    errors = []
    for model in PAIRS[which]:
        onnx.save(model, tmp_path / "model.onnx")
        found = attempt(tmp_path / "model.onnx", build=False)
        errors.append(found.error)
        assert not found.crashed
    assert [error is None for error in errors] == [False, True], errors


@pytest.mark.parametrize(
    ("model", "before", "since"),
    [
        (asked(whole("Swish"), "x:FLOAT:4", opset=24), "10.16", "11.0"),
        (asked([node("GridSample", "x g")], "x:FLOAT:1,1,2,3,4 g:FLOAT:1,2,3,4,3"), "11.1", "11.2"),
        (asked([node("DFT", "x")], "x:FLOAT:1,8,1"), "11.1", "11.2"),
        (asked([node("Shape", "x", "d", end=1), node("Squeeze", "x d")], "x:FLOAT:1,1,8"), "10.6", "10.7"),
        (asked([node("OneHot", "i d v")], "i:INT64:4 d:INT64:", {"v": np.asarray([0, 1], np.float32)}, opset=17), "8.6", "10.0"),
        (asked([node("QuantizeLinear", "x s"), node("Identity", "y", "z")], "x:FLOAT:4 s:FLOAT:", out="INT8"), "10.14", "10.15"),
        (asked([node("LSTM", "x w r", layout=1)], "x:FLOAT:1,2,3 w:FLOAT:1,8,3 r:FLOAT:1,8,2", opset=17), "8.6", "10.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.graph.node[0].op_type,
)
def test_what_later_versions_read_fails_for_earlier_ones(model: onnx.ModelProto, before: str, since: str) -> None:
    assert len(fails(model, before)) == 1
    assert fails(model, since) == set()


def test_a_function_called_as_a_later_versions_operator_is_a_function_until_then() -> None:
    model = asked([onnx.helper.make_node("Swish", ["x"], ["y"], domain="my.lib")], "x:FLOAT:4")
    model.opset_import.add(domain="my.lib", version=1)
    body = [onnx.helper.make_node("Sigmoid", ["a"], ["r"])]
    model.functions.append(onnx.helper.make_function("my.lib", "Swish", ["a"], ["r"], body, [onnx.helper.make_opsetid("", 20)]))
    assert check_model(model, ("10.3",)) == []
    assert {finding.level for finding in check_model(model, ("11.4",))} == {"risk"}
    assert fails(model, "8.6")


def test_a_computed_zero_point_fails_unless_it_is_of_eight_bit_floats() -> None:
    for kind, expected in (("INT8", {"the zero point is computed; it must be stored"}), ("FLOAT8E4M3FN", set())):
        model = asked([node("QuantizeLinear", "x s z")], f"x:FLOAT:4 z:{kind}:", {"s": np.float32(0.1)}, out=kind, opset=21)
        assert fails(model, "11.4") == expected


def test_how_many_keys_count_is_passed_over_which_is_a_risk() -> None:
    model = asked([node("Attention", "q k k _ _ _ n")], f"{QKV} n:INT64:2", opset=24)
    risks = {finding.why for finding in check_model(model, ("11.4",)) if finding.level == "risk"}
    assert any("how many keys of Attention count" in why for why in risks)
    assert not fails(model, "11.4")


def test_contents_of_an_open_input_are_a_risk_and_what_layers_make_of_them_is_not_followed() -> None:
    for kind, expected in (("Add", "fails"), ("CumSum", None)):
        made = [node(kind, "f f" if kind == "Add" else "f a", "c"), node("Cast", "c", "s", to=TensorProto.INT64)]
        model = asked([*made, node("Reshape", "x s")], f"{X} f:FLOAT:4", {"a": np.asarray(0)})
        assert {finding.level for finding in check_model(model, ("11.4",)) if finding.rule == "sizes"} == {expected} - {None}
    model = asked(by_contents("Reshape"), f"{X} f:FLOAT:n")
    assert {finding.level for finding in check_model(model, ("11.4",)) if finding.rule == "sizes"} == {"risk"}


def test_values_that_follow_from_each_other_end_the_search_for_where_they_are_stored() -> None:
    model = asked([node("Identity", "b", "a"), node("Cast", "a", "b", to=TensorProto.INT64), node("ReduceMean", "x a")], X)
    assert fails(model, "11.4") == {"the list of axes of ReduceMean follows from other values; it must be stored as it is"}


def test_a_view_knows_what_is_settled_before_anything_comes_in() -> None:
    nodes = [
        node("Shape", "x", "all"), node("Shape", "x", "last", start=-1), node("Gather", "all a", "picked"),
        node("Add", "last a", "more"), node("Concat", "all a", "y", axis=0), node("Size", "x", "size"),
    ]  # fmt: skip
    view = GraphView.of(asked(nodes, "x:FLOAT:b,3,8", AXIS, out="INT64"))
    settled = {name: view.is_settled(name) for name in ("a", "last", "more", "picked", "all", "y", "size", "x", "nothing")}
    assert [name for name, found in settled.items() if found] == ["a", "last", "more", "picked"]
    assert list(view.sources_of("y", {"Concat", "Shape"})) == ["x"]
    assert list(view.sources_of("y", {"Concat"})) == []
