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
    return helper.make_node(kind, inputs.split(), outputs.split(), name=f"the {kind}", **attributes)
