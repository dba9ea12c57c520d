"""ONNX graphs of one operator."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper


def graph(shape: list[int | str], kind: int = TensorProto.FLOAT, metadata: dict[str, str] | None = None) -> bytes:
    """One Abs operator on an input of `shape`."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Abs", ["images"], ["logits"])]
    made = helper.make_graph(nodes, "tiny", [value("images", kind, shape)], [value("logits", kind, shape)])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
