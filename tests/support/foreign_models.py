"""Small classifiers of [batch, 1, 8, 8] images as others write them: quantised, with functions, branches, weights beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autoformer.export.graphs.model_metadata import ModelMetadata

BESIDE = "weights.bin"  # that two of the files share


def _stored(**values: Any) -> list[TensorProto]:
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def _constants(**values: Any) -> list[NodeProto]:
    return [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in _stored(**values)]


def _model(nodes: list[NodeProto], stored: list[TensorProto], about: ModelMetadata) -> onnx.ModelProto:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "g", [images], [logits], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, about.to_properties())
    return made


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def _with_functions(stored: list[TensorProto], about: ModelMetadata) -> onnx.ModelProto:
    """A function that calls a function, an attribute handed through both."""
    nodes = [_node("Outer", "flat", "o", domain="my.lib", slope=0.5), _node("MatMul", "o w", "logits")]
    model = _model([_node("Flatten", "images", "flat"), *nodes], stored, about)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my.lib", 1)]
    model.opset_import.add(domain="my.lib", version=1)
    for name, kind, domain, attribute in (("Inner", "LeakyRelu", "", "alpha"), ("Outer", "Inner", "my.lib", "slope")):
        body = _node(kind, "a", "r", domain=domain)
        body.attribute.add(name=attribute, type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
        model.functions.append(helper.make_function("my.lib", name, ["a"], ["r"], [body], imports, ["slope"]))
    return model


def write_models(folder: Path, about: ModelMetadata) -> None:
    """The files, and `BESIDE` with the weights of two of them."""
    weights = np.linspace(-1, 1, 192, dtype=np.float32).reshape(64, 3)
    flat, product = _node("Flatten", "images", "flat"), _node("MatMul", "flat w", "logits")
    scales = {"s": np.float32(0.1), "z": np.int8(0), "ws": np.full(3, 0.01, np.float32), "wz": np.zeros(3, np.int8)}
    quantised = [
        flat, _node("QuantizeLinear", "flat s z", "q"), _node("DequantizeLinear", "q s z", "d"),
        _node("QuantizeLinear", "w ws wz", "wq", axis=1), _node("DequantizeLinear", "wq ws wz", "wd", axis=1),
        _node("MatMul", "d wd", "logits"),
    ]  # fmt: skip
    taken, other = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "te")
    branches = {
        "then_branch": helper.make_graph([_node("Relu", "flat", "t")], "then", [], [taken]),
        "else_branch": helper.make_graph([_node("Mul", "flat two", "e")], "else", [], [other], _stored(two=np.float32(2))),
    }
    branched = [
        flat, _node("ReduceSum", "flat", "sum", keepdims=0), _node("Greater", "sum zero", "c"), _node("If", "c", "o", **branches),
        _node("MatMul", "o w", "logits"),
    ]  # fmt: skip
    models = {
        "qdq": _model(quantised, _stored(w=weights, **scales), about),
        "qdq_constants": _model([*_constants(**scales), *quantised], _stored(w=weights), about),
        "branches": _model(branched, _stored(w=weights, zero=np.float32(0)), about),
        "functions": _with_functions(_stored(w=weights), about),
    }
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    for name in ("beside", "beside_too"):
        model = _model([flat, product], _stored(w=weights), about)
        (folder / BESIDE).unlink(missing_ok=True)
        onnx.save(model, folder / f"{name}.onnx", save_as_external_data=True, location=BESIDE, size_threshold=0)
