"""A graph in the oldest form that holds it, so that the runtimes of older devices read it.

torch has operators for opset 18 at the oldest. `lower_to_17` writes what opset 18 brought or changed in operators of 17 (onnx's
own converter knows no way back for most); what has no form there is refused, with the node and the module it came from.
`oldest_ir_version` gives the version of the file format, which runtimes compare before they look at anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx.defs
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autoformer.errors import ExportError
from autoformer.export.graphs.graph_view import GraphView

STANDARD = ("", "ai.onnx")
NEWEST_IR_VERSION = 10  # operators of opset 23 and newer, which came with newer formats, are read in this one as well
IR_VERSION_OF_TYPES = {  # onnx.proto, comments of the enum Version
    TensorProto.FLOAT8E4M3FN: 9, TensorProto.FLOAT8E4M3FNUZ: 9, TensorProto.FLOAT8E5M2: 9, TensorProto.FLOAT8E5M2FNUZ: 9,
    TensorProto.INT4: 10, TensorProto.UINT4: 10, TensorProto.FLOAT4E2M1: 11,
}  # fmt: skip


def oldest_ir_version(model: onnx.ModelProto) -> int:
    """The smallest version of the file format that holds these operators and types: 8 up to opset 18, 9 to 20, else 10."""
    graph = model.graph
    needed = [min(helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True), NEWEST_IR_VERSION)]
    types = {tensor.data_type for tensor in graph.initializer}
    types |= {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    needed += [IR_VERSION_OF_TYPES.get(kind, 0) for kind in types]
    if any(node.metadata_props or node.overload for node in graph.node):
        needed.append(10)
    return max(needed)


def affine_batch_norms(model: onnx.ModelProto, scopes: MutableMapping[str, str]) -> None:
    """Writes batch normalisations of a product's rows [rows, width] as Mul and Add, in place.

    They compute the same. ONNX Runtime 1.17 and 1.18 fuse such a pair over the Reshape between them into an operator that does
    not take the product's dimensions, and then refuse the file.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    maker = {name: node for node in model.graph.node for name in node.output}
    made: list[onnx.NodeProto] = []
    for node in model.graph.node:
        before = maker.get(node.input[0]) if node.input else None
        rows = before is not None and before.op_type in ("Reshape", "Flatten") and _product(before, maker)
        if node.op_type != "BatchNormalization" or not rows or not all(name in stored for name in node.input[1:]):
            made.append(_copy(node))
            continue
        scale, bias, mean, variance = (numpy_helper.to_array(stored[name]) for name in node.input[1:])
        kind, name = scale.dtype, node.name or node.output[0]
        factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + _attribute(node, "epsilon", 1e-5))
        shift = bias.astype(np.float64) - mean.astype(np.float64) * factor
        for part, values in (("factor", factor), ("shift", shift)):
            model.graph.initializer.append(numpy_helper.from_array(values.astype(kind), f"{name}_{part}"))
        made += [
            helper.make_node("Mul", [node.input[0], f"{name}_factor"], [f"{name}_scaled"], name=f"{name}_0"),
            helper.make_node("Add", [f"{name}_scaled", f"{name}_shift"], node.output[:1], name=name),
        ]
        scopes[f"{name}_0"] = scopes.get(name, "")
    del model.graph.node[:]
    model.graph.node.extend(made)
    _drop_unused(model.graph)


def _product(node: onnx.NodeProto, maker: Mapping[str, onnx.NodeProto]) -> bool:
    before = maker.get(node.input[0])
    return before is not None and before.op_type == "MatMul"


def lower_to_17(model: onnx.ModelProto, scopes: MutableMapping[str, str]) -> None:
    """Rewrites a graph of opset 18 as opset 17, in place.

    `scopes`, the module of each node by name, gains the nodes that others become. Raises `ExportError` for the first node that
    has no form in opset 17, with `model` as it was.
    """
    lowering = _Lowering(model)
    lowered = lowering.nodes_of(model.graph, scopes)
    del model.graph.node[:]
    model.graph.node.extend(lowered)
    model.graph.initializer.extend(lowering.added)
    _drop_unused(model.graph)
    next(entry for entry in model.opset_import if entry.domain in STANDARD).version = 17


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Takes away the constants that no node asks for."""
    used = {name for node in _every(graph) for name in node.input} | {value.name for value in graph.output}
    kept = [_copy(tensor) for tensor in graph.initializer if tensor.name in used]  # what is deleted takes its parts with it
    del graph.initializer[:]
    graph.initializer.extend(kept)


class _NoForm(Exception):
    """Why a node cannot be written in opset 17."""


class _Lowering:
    """One graph while its nodes are rewritten: what is known of its values, and the constants that were added."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.added: list[TensorProto] = []
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in _every(model.graph):
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.stored[node.output[0]] = node.attribute[0].t

    @cached_property
    def view(self) -> GraphView:
        """Shapes and types, inferred when the first node asks for them."""
        return GraphView.of(self.model)

    def nodes_of(self, graph: onnx.GraphProto, scopes: MutableMapping[str, str]) -> list[onnx.NodeProto]:
        """Copies of the nodes of `graph`, those of newer form rewritten."""
        found = []
        for given in graph.node:
            node = _copy(given)
            for entry in node.attribute:  # branches and loop bodies
                for inner in (entry.g, *entry.graphs):
                    if inner.node:
                        lowered = self.nodes_of(inner, scopes)
                        del inner.node[:]
                        inner.node.extend(lowered)
            if node.domain not in STANDARD or onnx.defs.get_schema(node.op_type, 18).since_version < 18:
                found.append(node)
                continue
            scope = scopes.get(node.name, "")
            try:
                made = REWRITES.get(node.op_type, _refuse)(node, self)
            except _NoForm as reason:
                module = f" of module {scope!r}" if scope else ""
                raise ExportError(
                    f"{node.op_type} at node {node.name or node.output[0]}{module} has no form in opset 17: {reason}; "
                    "choose opset 18 or newer"
                ) from None
            for index, entry in enumerate(made):
                entry.name = node.name if entry is made[-1] else f"{node.name}_{index}"
                scopes[entry.name] = scope
            found += made
        return found

    def constant(self, name: str, what: str) -> NDArray[Any]:
        """The values of a stored tensor. Raises `_NoForm` when it is computed."""
        if name not in self.stored:
            raise _NoForm(f"{what} are computed as it runs")
        return numpy_helper.to_array(self.stored[name])

    def shape(self, name: str) -> tuple[int | None, ...]:
        """The shape of a value, None where it is open. Raises `_NoForm` when not even the number of dimensions is known."""
        if name not in self.view.shapes:
            raise _NoForm("the shape of its input is not known")
        return self.view.shapes[name]

    def spread(self, fill: NDArray[Any], at: Sequence[int], given: str, name: str) -> tuple[list[onnx.NodeProto], str]:
        """The values of `given` at some places of `fill`: the nodes that compute them, none where they are stored; their name."""
        if given in self.stored:
            fill[list(at)] = numpy_helper.to_array(self.stored[given])
            return [], self.store(fill, name)
        filled, places = self.store(fill, f"{name}_fill"), self.store(np.array(at, np.int64), f"{name}_at")
        return [helper.make_node("ScatterElements", [filled, places, given], [name])], name

    def store(self, values: NDArray[Any], name: str) -> str:
        """Adds a constant."""
        self.added.append(numpy_helper.from_array(values, name))
        return name


def _refuse(node: onnx.NodeProto, graph: _Lowering) -> list[onnx.NodeProto]:
    raise _NoForm("opset 18 brought it")


def _reduce(node: onnx.NodeProto, graph: _Lowering) -> list[onnx.NodeProto]:
    """The axes moved from an attribute to an input."""
    given = node.input[1] if len(node.input) > 1 else ""
    axes = graph.constant(given, "its axes").tolist() if given else []
    if not axes and _attribute(node, "noop_with_empty_axes", 0):  # each value by itself
        square = node.op_type == "ReduceSumSquare"
        return [helper.make_node(OF_ONE_VALUE.get(node.op_type, "Identity"), [node.input[0]] * (1 + square), node.output)]
    _keep(node, inputs=1, without=["noop_with_empty_axes"])
    if axes:
        node.attribute.append(helper.make_attribute("axes", axes))
    return [node]


def _split(node: onnx.NodeProto, graph: _Lowering) -> list[onnx.NodeProto]:
    """The number of parts became an attribute, and the last part may be smaller."""
    count, axis = len(node.output), _attribute(node, "axis", 0)
    if len(node.input) < 2 or not node.input[1]:
        size = graph.shape(node.input[0])[axis]
        if size is None:
            raise _NoForm(f"the size of axis {axis} is open")
        each = math.ceil(size / count)
        sizes = [each] * (count - 1) + [size - each * (count - 1)]
        if len(set(sizes)) > 1:
            _keep(node, inputs=1)
            node.input.append(graph.store(np.array(sizes, np.int64), f"{node.name or node.output[0]}_sizes"))
    _keep(node, without=["num_outputs"])
    return [node]


def _resize(node: onnx.NodeProto, graph: _Lowering) -> list[onnx.NodeProto]:
    """Antialiasing and a choice of axes came new."""
    if _attribute(node, "antialias", 0):
        raise _NoForm("it antialiases")
    if (policy := _attribute(node, "keep_aspect_ratio_policy", b"stretch")) != b"stretch":
        raise _NoForm(f"it keeps the aspect ratio ({policy.decode()})")
    axes = _attribute(node, "axes", None)
    _keep(node, without=["antialias", "keep_aspect_ratio_policy", "axes"])
    if axes is None:
        return [node]
    if len(node.input) > 1 and node.input[1]:
        raise _NoForm("it resizes regions of chosen axes")
    rank, name = len(graph.shape(node.input[0])), node.name or node.output[0]
    at = [axis % rank for axis in axes]
    if len(node.input) > 3 and node.input[3]:  # sizes; those of the other axes stay what they are
        places = graph.store(np.array(at, np.int64), f"{name}_at")
        shape = helper.make_node("Shape", node.input[:1], [f"{name}_shape"])
        sizes = helper.make_node("ScatterElements", [shape.output[0], places, node.input[3]], [f"{name}_sizes"])
        node.input[3] = sizes.output[0]
        return [shape, sizes, node]
    before, node.input[2] = graph.spread(np.ones(rank, np.float32), at, node.input[2], f"{name}_scales")
    return [*before, node]


def _pad(node: onnx.NodeProto, graph: _Lowering) -> list[onnx.NodeProto]:
    """A choice of axes came new."""
    if len(node.input) < 4 or not node.input[3]:
        _keep(node, inputs=3)
        return [node]
    rank, name = len(graph.shape(node.input[0])), node.name or node.output[0]
    axes = (graph.constant(node.input[3], "its axes") % rank).tolist()
    at = [*axes, *(axis + rank for axis in axes)]
    before, pads = graph.spread(np.zeros(2 * rank, np.int64), at, node.input[1], f"{name}_pads")
    _keep(node, inputs=3)
    node.input[1] = pads
    return [*before, node]


def _scatter(node: onnx.NodeProto, graph: _Lowering) -> list[onnx.NodeProto]:
    """Two more reductions came."""
    if (reduction := _attribute(node, "reduction", b"none")) not in (b"none", b"add", b"mul"):
        raise _NoForm(f"its reduction is {reduction.decode()!r}")
    return [node]


def _mish(node: onnx.NodeProto, graph: _Lowering) -> list[onnx.NodeProto]:
    """x tanh(softplus x)."""
    (x,), name = node.input, node.name or node.output[0]
    return [
        helper.make_node("Softplus", [x], [f"{name}_softplus"]),
        helper.make_node("Tanh", [f"{name}_softplus"], [f"{name}_tanh"]),
        helper.make_node("Mul", [x, f"{name}_tanh"], node.output),
    ]


def _group_norm(node: onnx.NodeProto, graph: _Lowering) -> list[onnx.NodeProto]:
    """An instance normalisation of the groups; in opset 18 scale and bias are of groups, too."""
    (x, scale, bias), name = node.input, node.name or node.output[0]
    groups = graph.store(np.array([0, _attribute(node, "num_groups", 1), -1], np.int64), f"{name}_groups")
    epsilon = _attribute(node, "epsilon", 1e-5)
    return [
        helper.make_node("Shape", [x], [f"{name}_shape"]),
        helper.make_node("Reshape", [x, groups], [f"{name}_grouped"]),
        helper.make_node("InstanceNormalization", [f"{name}_grouped", scale, bias], [f"{name}_normal"], epsilon=epsilon),
        helper.make_node("Reshape", [f"{name}_normal", f"{name}_shape"], node.output),
    ]


def _col2im(node: onnx.NodeProto, graph: _Lowering) -> list[onnx.NodeProto]:
    """Sums blocks where they overlap: a transposed convolution whose filters are single ones."""
    name = node.name or node.output[0]
    image, block = (graph.constant(given, "its sizes").tolist() for given in node.input[1:])
    sides, area = len(image), math.prod(block)
    strides, dilations = (_attribute(node, given, [1] * sides) for given in ("strides", "dilations"))
    pads = _attribute(node, "pads", [0] * (2 * sides))
    shape = graph.shape(node.input[0])
    kind = graph.view.types.get(node.input[0])
    if len(shape) != 3 or shape[1] is None or kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise _NoForm("the number of its channels or their type is not known")
    channels = shape[1] // area
    spans = [d * (k - 1) + 1 for k, d in zip(block, dilations, strict=True)]
    padded = [side + pads[i] + pads[i + sides] for i, side in enumerate(image)]
    counts = [(side - span) // stride + 1 for side, span, stride in zip(padded, spans, strides, strict=True)]
    left = [(side - span) % stride for side, span, stride in zip(padded, spans, strides, strict=True)]
    filters = np.eye(area, dtype=helper.tensor_dtype_to_np_dtype(kind)).reshape(area, 1, *block)
    weight = graph.store(np.tile(filters, (channels, *[1] * (sides + 1))), f"{name}_filters")
    unfolded = graph.store(np.array([0, shape[1], *counts], np.int64), f"{name}_counts")
    return [
        helper.make_node("Reshape", [node.input[0], unfolded], [f"{name}_blocks"]),
        helper.make_node(
            "ConvTranspose", [f"{name}_blocks", weight], node.output, group=channels, kernel_shape=block, strides=strides,
            dilations=dilations, pads=pads, output_padding=left,
        ),
    ]  # fmt: skip


def _lp_pool(node: onnx.NodeProto, graph: _Lowering) -> list[onnx.NodeProto]:
    """Dilations and another rounding of the size came new."""
    if _attribute(node, "ceil_mode", 0) or set(_attribute(node, "dilations", [1])) != {1}:
        raise _NoForm("it rounds its size up, or dilates")
    _keep(node, without=["ceil_mode", "dilations"])
    return [node]


OF_ONE_VALUE = {"ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceLogSum": "Log", "ReduceSumSquare": "Mul"}
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
REWRITES: dict[str, Callable[[onnx.NodeProto, _Lowering], list[onnx.NodeProto]]] = {
    **{f"Reduce{kind}": _reduce for kind in REDUCTIONS},
    "Split": _split, "Resize": _resize, "Pad": _pad, "ScatterElements": _scatter, "ScatterND": _scatter, "Mish": _mish,
    "GroupNormalization": _group_norm, "Col2Im": _col2im, "LpPool": _lp_pool,
}  # fmt: skip


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def _keep(node: onnx.NodeProto, *, inputs: int | None = None, without: Sequence[str] = ()) -> None:
    """Takes attributes, and inputs from a place on, away from a node."""
    attributes = [_copy(entry) for entry in node.attribute if entry.name not in without]
    del node.attribute[:]
    node.attribute.extend(attributes)
    if inputs is not None:
        del node.input[inputs:]


def _every(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a graph and of those inside it."""
    inner = [given for node in graph.node for entry in node.attribute for given in (entry.g, *entry.graphs)]
    return [*graph.node, *(node for given in inner for node in _every(given))]


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied
