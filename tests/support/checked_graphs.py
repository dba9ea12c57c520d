"""Small ONNX models, and what TensorRT's rules say about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autoformer.export.graphs.tensorrt_rules import check_model

FLOAT = TensorProto.FLOAT
Shape = list[int | str | None]


def graph(
    nodes: list[onnx.NodeProto],
    stored: dict[str, np.ndarray[Any, Any]] | None = None,
    *,
    opset: int = 20,
    kind: int = FLOAT,
    shape: Shape | None = None,
    out: int | None = None,
) -> onnx.ModelProto:
    """A model from `x` [batch, 8, 32] to `y`."""
    made = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 8, 32] if shape is None else shape)],
        [helper.make_tensor_value_info("y", out or kind, None)],
        [numpy_helper.from_array(value, name) for name, value in (stored or {}).items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def said(model: onnx.ModelProto, *versions: str) -> set[tuple[str, str]]:
    """Level and rule of each finding."""
    return {(finding.level, finding.rule) for finding in check_model(model, versions or ("10.3",))}


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """Inputs are called `_` where they are left out."""
    return helper.make_node(
        kind, ["" if name == "_" else name for name in inputs.split()], outputs.split(), name=f"the {kind}", **attributes
    )


def asked(nodes: list[onnx.NodeProto], inputs: str, stored: dict[str, Any] | None = None, *, out: str = "FLOAT", opset: int = 20
          ) -> onnx.ModelProto:  # fmt: skip
    """A model of inputs like `x:FLOAT:b,3,8 n:INT64:` (a scalar) to `y`, whose shapes hold, so that a parser can be asked."""
    values = []
    for text in inputs.split():
        name, kind, sizes = text.split(":")
        shape = [int(size) if size.isdecimal() else size for size in sizes.split(",") if size]
        values.append(helper.make_tensor_value_info(name, TensorProto.DataType.Value(kind), shape))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (stored or {}).items()]
    result = helper.make_tensor_value_info("y", TensorProto.DataType.Value(out), None)
    made = helper.make_graph(nodes, "g", values, [result], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
