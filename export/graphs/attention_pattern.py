"""Where attention stands in an ONNX graph, and what keeps TensorRT from computing it in one kernel.

The pattern that TensorRT documents: MatMul(query, keys), optionally a mask added, Softmax, MatMul with the values; the scale on
the query before the first product; the softmax used once; half precision or int8; a head width that is a multiple of 8
from 16 to 256. Anything else is computed piece by piece, with the N × N weights written to memory between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from autoformer.export.graphs.graph_view import GraphView

MASKS = ("Add", "Where")


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
