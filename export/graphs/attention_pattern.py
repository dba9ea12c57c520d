"""Where attention stands in an ONNX graph, and what keeps TensorRT from computing it in one kernel.

The pattern that TensorRT documents: MatMul(query, keys), optionally a mask added, Softmax, MatMul with the values; the scale on
the query before the first product; the softmax used once; half precision or int8; a head width that is a multiple of 8
from 16 to 256. Anything else is computed piece by piece, with the N × N weights written to memory between.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

Shape = tuple[int | None, ...]
THROUGH = ("Cast", "Reshape", "Identity", "QuantizeLinear", "DequantizeLinear")  # what may stand between and changes no value
MASKS = ("Add", "Where")


class GraphView:
    """A graph with who makes and who uses each value, and types and shapes as far as they can be inferred."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: Sequence[onnx.NodeProto] = model.graph.node
        self.maker: Mapping[str, onnx.NodeProto] = {name: node for node in self.nodes for name in node.output if name}
        self.users: Mapping[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.users[name].append(node)
        self.types: dict[str, int] = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        self.shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            kind = value.type.tensor_type
            self.types[value.name] = kind.elem_type
            if kind.HasField("shape"):
                self.shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> GraphView:
        """With shapes inferred; a model whose shapes cannot be inferred keeps those it states."""
        with contextlib.suppress(onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            model = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
        return cls(model)

    def made_by(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value, seen through casts and the like."""
        node = self.maker.get(name)
        while node is not None and node.op_type in THROUGH and node.input:
            node = self.maker.get(node.input[0])
        return node

    def used_by(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that use a value, seen through casts and the like."""
        found: list[onnx.NodeProto] = []
        waiting: list[onnx.NodeProto] = list(reversed(self.users.get(name, [])))
        while waiting:  # a loop, since a foreign graph may be thousands of casts deep
            node = waiting.pop()
            if node.op_type in THROUGH and node.output:
                waiting += reversed(self.users.get(node.output[0], []))
            else:
                found.append(node)
        return found


@dataclass(frozen=True)
class Attention:
    """One attention, named by its Softmax, and why it would not become one kernel; `objections` is empty if it would."""

    name: str
    tokens: int | None
    head_width: int | None  # channels of a head
    data_type: int  # of what the first product multiplies
    objections: tuple[str, ...]


def attentions(graph: GraphView) -> list[Attention]:
    """Every Softmax that stands between two matrix products."""
    found = []
    for node in graph.nodes:
        if node.op_type != "Softmax":
            continue
        users = graph.used_by(node.output[0])
        before, between = _first_product(graph, node.input[0])
        if before is None or not any(user.op_type == "MatMul" for user in users):
            continue
        query = graph.shapes.get(before.input[0], ())
        keys = graph.shapes.get(before.input[1], ())
        width = query[-1] if query else None
        tokens = keys[-1] if keys else None
        kind = graph.types.get(before.input[0], TensorProto.UNDEFINED)
        quantised = [graph.maker[name].op_type == "DequantizeLinear" for name in before.input if name in graph.maker]
        objections = [*_between(between), *_after(users), *_width(width, tokens, kind, all(quantised) and len(quantised) == 2)]
        found.append(Attention(node.name or node.output[0], tokens, width, kind, tuple(objections)))
    return found


def _first_product(graph: GraphView, name: str) -> tuple[onnx.NodeProto | None, list[onnx.NodeProto]]:
    """The MatMul whose result the softmax normalises, and the nodes between them."""
    between: list[onnx.NodeProto] = []
    node = graph.made_by(name)
    while node is not None and node.op_type != "MatMul":
        if node.op_type not in (*MASKS, "Mul", "Div") or len(between) > 8:
            return None, between
        between.append(node)
        makers = [graph.made_by(entry) for entry in node.input if entry not in graph.stored]
        node = next((maker for maker in makers if _leads_to_product(graph, maker)), None)
    return node, between


def _leads_to_product(graph: GraphView, node: onnx.NodeProto | None) -> bool:
    while node is not None and node.op_type in (*MASKS, "Mul", "Div"):
        node = next((maker for entry in node.input if (maker := graph.made_by(entry)) is not None), None)
    return node is not None and node.op_type == "MatMul"


def _between(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    if scaling := [node for node in nodes if node.op_type in ("Mul", "Div")]:
        return [f"the scale is applied after the product of query and keys ({scaling[0].op_type}); apply it to the query"]
    masks = [node for node in nodes if node.op_type in MASKS]
    return [f"{len(masks)} additions stand between product and softmax; one mask may"] if len(masks) > 1 else []


def _after(users: Sequence[onnx.NodeProto]) -> list[str]:
    if len(users) == 1:
        return []
    kinds = ", ".join(sorted({user.op_type for user in users}))
    return [f"the softmax is used {len(users)} times ({kinds}); the pattern allows one product with the values"]


def _width(width: int | None, tokens: int | None, kind: int, quantised: bool) -> list[str]:
    if quantised:
        found = [] if width in (16, 32, 64) else [f"heads of width {width} in int8; 16, 32 or 64 are fused"]
        return found + ([f"{tokens} tokens in int8; at most 512 are fused"] if tokens is not None and tokens > 512 else [])
    found = []
    if kind not in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        found.append("it computes in float32; only half precision and int8 are fused")
    if width is not None and (width % 8 or not 16 <= width <= 256):
        found.append(f"heads of width {width}; multiples of 8 from 16 to 256 are fused")
    return found
