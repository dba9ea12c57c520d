"""What the inspector says, in both schemas, joined to ONNX nodes and torch modules; and the time of each layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoformer.errors import CheckpointError, MeasurementError
from autoformer.export.engines.builder import BuiltEngine, EngineBuilder, EngineConfig
from autoformer.export.engines.engine import Engine
from autoformer.export.engines.layers import inspect_engine, layer_times, layers_of, products_around, read_layers
from autoformer.export.graphs.onnx_file import OnnxFile
from autoformer.files import write_json
from tests.support.engines import EXPECTED, IMAGES, VERSIONS, Install, write_graph

SCOPES = {"qk": "blocks.0.attn", "softmax": "blocks.0.attn", "norm": "blocks.0.norm1", "product": "head"}


@pytest.fixture
def transformer(tmp_path: Path) -> Path:
    """Nodes as a transformer has them: attention, a normalisation, a quantised product. Only their names matter here."""
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    zero = numpy_helper.from_array(np.array(0, np.int8), "z")
    nodes = (
        helper.make_node("MatMul", ["images", "images"], ["a"], name="qk"),
        helper.make_node("Softmax", ["a"], ["b"], name="softmax"),
        helper.make_node("MatMul", ["b", "images"], ["c"], name="av"),
        helper.make_node("LayerNormalization", ["c", "w"], ["d"], name="norm"),
        helper.make_node("QuantizeLinear", ["d", "s", "z"], ["e"], name="quantize"),
        helper.make_node("DequantizeLinear", ["e", "s", "z"], ["f"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["z", "s", "z"], ["g"], name="dequantize_w"),
        helper.make_node("MatMul", ["f", "g"], ["logits"], name="product"),
    )
    path = write_graph(tmp_path / "model.onnx", nodes=nodes, stored=(scale, zero))
    write_json(SCOPES, tmp_path / "model.scopes.json")
    return path


def tensor(kind: str, eleven: bool) -> dict[str, Any]:
    """As documented: one text for format and type until 10, two from 11 on."""
    if eleven:
        return {"Name": "t", "Dimensions": [1, 197, 192], "Format": "Row major linear", "DataType": kind}
    words = {"Half": "Row major linear FP16 format", "Int8": "Row major Int8 format", "Float": "Row major linear FP32"}[kind]
    return {"Name": "t", "Location": "Device", "Dimensions": [1, 197, 192], "Format/Datatype": words}


def layer(name: str, kind: str, *nodes: str, reads: str = "Half", eleven: bool = False, tactic: str = "") -> dict[str, Any]:
    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    given = {"Inputs": [tensor(reads, eleven)], "Outputs": [tensor("Half", eleven)]}
    return {"Name": name, "LayerType": kind, **given, "TacticName": tactic, "StreamId": 0, "Metadata": metadata}


def information(*layers: Any, eleven: bool = False) -> str:
    ends = {"I/O Tensors": [{"Name": "images", "IOMode": "INPUT"}]} if eleven else {"Bindings": ["images", "logits"]}
    return json.dumps({"Layers": layers, **ends})


@pytest.mark.parametrize("eleven", [False, True])
def test_both_schemas_answer_what_became_of_the_network(eleven: bool, transformer: Path) -> None:
    found = read_layers(
        information(
            layer("__myl_MulSof_myl0_1", "kgen", "qk", "softmax", "av", eleven=eleven, tactic="_gemm_mha_v2_0x1"),
            layer("norm + cast", "kgen", "norm", "quantize", eleven=eleven),
            layer("product", "gemm", "product", reads="Int8", eleven=eleven),
            layer("Reformatting CopyNode for Output", "Reformat", eleven=eleven),
            eleven=eleven,
        ),
        transformer,
    )
    assert [one.precision for one in found.layers] == ["fp16", "fp16", "int8", "fp16"]
    assert [one.modules for one in found.layers] == [("blocks.0.attn",), ("blocks.0.norm1",), ("head",), ()]
    assert found.layers[0].inputs[0].shape == (1, 197, 192)
    assert (found.attention.yes, found.layer_norm.yes, found.int8.yes) == (("softmax",), ("norm",), ("product",))
    assert [one.name for one in found.reformats] == ["Reformatting CopyNode for Output"]
    assert [one.name for one in found.attention_kernels] == ["__myl_MulSof_myl0_1"]
    assert json.loads(json.dumps(found.to_dict()))["attention"] == {"yes": ["softmax"], "no": [], "unknown": []}


def test_what_was_taken_apart_is_said_so(transformer: Path) -> None:
    found = read_layers(
        information(
            layer("qk", "gemm", "qk"), layer("softmax", "kgen", "softmax"), layer("av", "gemm", "av"),
            layer("norm", "kgen", "norm"), layer("product", "gemm", "product", reads="Half"),
        ),
        transformer,
    )  # fmt: skip
    assert (found.attention.no, found.layer_norm.no, found.int8.no) == (("softmax",), ("norm",), ("product",))
    assert str(found.attention) == "1 no"
    assert found.reformats == ()


def test_what_nobody_can_see_is_called_unknown(transformer: Path) -> None:
    opaque = read_layers(information({"Name": "{ForeignNode[qk...product]}", "LayerType": "Myelin"}), transformer)
    assert opaque.layers[0].is_opaque
    assert (opaque.attention.unknown, opaque.layer_norm.unknown, opaque.int8.unknown) == (("softmax",), ("norm",), ("product",))
    assert str(opaque.attention) == "1 cannot be seen"
    assert str(read_layers(information("a", "b")).attention) == "none in this network"


def test_names_join_layers_where_there_is_no_metadata(transformer: Path) -> None:
    found = read_layers(information("norm + PWN(softmax, quantize_1)", "{ForeignNode[qk...av]}"), transformer)
    assert found.layers[0].onnx_nodes == ("norm", "softmax", "quantize")
    assert found.layers[1].onnx_nodes == ("qk", "av")
    assert found.layers[0].modules == ("blocks.0.norm1", "blocks.0.attn")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": [{"NoName": 1}]}', '{"Layers": [3]}'])
def test_an_answer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="inspector gave something that cannot be read"):
        read_layers(text)


def build(graph: Path, detailed: bool) -> BuiltEngine:
    return EngineBuilder(EngineConfig(detailed=detailed)).build(graph, graph.with_name("model.plan"))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_inspected_and_its_layers_timed(version: str, graph: Path, install: Install) -> None:
    install(version)
    write_json({"MatMul_1": "head"}, graph.with_suffix(".scopes.json"))
    built = build(graph, detailed=True)
    with Engine.load(built.path, sha256=built.sha256) as engine:
        layers = inspect_engine(engine, graph)
        assert [(one.type, one.precision, one.modules) for one in layers.layers] == [
            ("kgen", "fp32", ()), ("gemm", "fp32", ("head",)),
        ]  # fmt: skip
        with pytest.raises(MeasurementError, match="not prepared"):
            layer_times(engine)
        engine.prepare(2)
        times = layer_times(engine, 3, layers)  # the stand-in reports 0.25 ms and 0.5 ms
        assert [(one.name, one.median_ms, one.modules) for one in times] == [
            ("Flatten_0", 0.25, ()),
            ("MatMul_1", 0.5, ("head",)),
        ]
        assert [one.share for one in times] == pytest.approx([1 / 3, 2 / 3])
        np.testing.assert_allclose(engine(IMAGES[:2]), EXPECTED[:2], rtol=1e-5)
        with pytest.raises(MeasurementError, match="at least one run, asked for 0"):
            layer_times(engine, 0)
    assert inspect_engine(built.path, graph, sha256=built.sha256) == layers
    plain = build(graph, detailed=False)
    assert [one.name for one in inspect_engine(plain.path, sha256=plain.sha256).layers] == ["Flatten_0", "MatMul_1"]


def test_an_engine_that_reports_no_times_says_so(graph: Path, install: Install) -> None:
    install(fail="layers")
    built = build(graph, detailed=False)
    with Engine.load(built.path, sha256=built.sha256) as engine:
        engine.prepare(1)
        with pytest.raises(MeasurementError, match="reports no layer times"):
            layer_times(engine)


def test_a_kernel_that_holds_other_products_than_those_around_the_softmax_is_no_attention(tmp_path: Path) -> None:
    """As TensorRT-RTX 1.7.1 does to a computed mask: one kernel of the first product, the mask's products and the softmax."""
    nodes = (
        helper.make_node("MatMul", ["q", "k"], ["logits"], name="first"),
        helper.make_node("MatMul", ["q", "t"], ["rows"], name="row"),
        helper.make_node("Reshape", ["rows", "s"], ["mask"], name="shape"),
        helper.make_node("Add", ["logits", "mask"], ["m"], name="add"),
        helper.make_node("Softmax", ["m"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "v"], ["out"], name="last"),
    )
    names = ("q", "k", "t", "v")
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", inputs, [output], [numpy_helper.from_array(np.array([-1], np.int64), "s")])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert products_around(OnnxFile.read(path)) == {"softmax": {"first", "last"}}

    def judged(*inside: str) -> str:
        layer = {"Name": "k", "LayerType": "kgen", "Metadata": "".join(f"[ONNX Layer: {name}]" for name in inside)}
        return str(layers_of([layer], path).attention)

    assert judged("first", "row", "shape", "add", "softmax") == "1 no"
    assert judged("first", "add", "softmax", "last") == "1 yes"
