"""Whether two ONNX graphs are the same but for names and the order of nodes that do not depend on each other.

What is computed twice from the same tensors counts once: torch keeps constants of over a thousand numbers once for each block,
and what follows from them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from autoformer.export.graphs.onnx_graph import Way
from autoformer.networks.subnet import Subnet


def trained(network: Subnet) -> Subnet:
    """With weights that are all different, none of them zero."""
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        mean = 1.0 if "norm" in name and "weight" in name else 0.0
        nn.init.normal_(weight.data, mean=mean, std=network.embed_dim**-0.5)  # larger ones are chaos, which no runtime repeats
    return network.eval().requires_grad_(False)


def usual_way(shape: tuple[int, int, int], **changes: Any) -> Way:
    """For any batch, opset 20, float32 in and out."""
    return Way(**{"batch": None, "opset": 20, "input_type": "float32", "image_shape": shape, "as_it_is": False, **changes})


def difference(one: onnx.ModelProto, other: onnx.ModelProto) -> str | None:
    """The first difference on the way back from the outputs, in words; None where there is none."""
    one, other = without_repetition(one), without_repetition(other)
    graphs = (one.graph, other.graph)
    makers = [{name: node for node in graph.node for name in node.output} for graph in graphs]
    stored = [{tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer} for graph in graphs]
    for name in ("input", "output"):
        values = [[value.SerializeToString() for value in getattr(graph, name)] for graph in graphs]
        if values[0] != values[1]:
            return f"the {name}s differ"
    for name in ("ir_version", "opset_import"):
        if getattr(one, name) != getattr(other, name):
            return f"{name} differs"
    if len(one.graph.node) != len(other.graph.node):
        return f"{len(one.graph.node)} nodes against {len(other.graph.node)}"
    twins: dict[str, str] = {}
    todo = [(first.name, second.name) for first, second in zip(one.graph.output, other.graph.output, strict=True)]
    while todo:
        name, twin = todo.pop()
        if name in stored[0] or twin in stored[1]:
            here, there = stored[0].get(name), stored[1].get(twin)
            if here is None or there is None or here.dtype != there.dtype or not np.array_equal(here, there):
                return f"{name} and {twin} are stored otherwise"
            continue
        if name in twins:
            if twins[name] != twin:
                return f"{name} is {twins[name]} and {twin}"
            continue
        twins[name] = twin
        node, match = makers[0].get(name), makers[1].get(twin)
        if node is None or match is None:
            if node is not match or name != twin:
                return f"{name} and {twin} come from elsewhere"
            continue
        if (node.op_type, len(node.input)) != (match.op_type, len(match.input)) or node.attribute != match.attribute:
            return f"{node.op_type} {node.name} is {match.op_type} {match.name}"
        todo += [*zip(node.input, match.input, strict=True), *zip(node.output, match.output, strict=True)]
    return (
        None if len({makers[0][name].name for name in twins if name in makers[0]}) == len(one.graph.node) else "nodes of no use"
    )


def without_repetition(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which equal stored tensors are one, and nodes that do the same to the same are one."""
    merged = onnx.ModelProto()
    merged.CopyFrom(model)
    del merged.graph.node[:]
    names: dict[str, str] = {}
    contents: dict[tuple[object, ...], str] = {}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        names[tensor.name] = contents.setdefault((values.dtype.name, values.shape, values.tobytes()), tensor.name)
    seen: dict[tuple[object, ...], onnx.NodeProto] = {}
    for node in model.graph.node:
        inputs = tuple(names.get(name, name) for name in node.input)
        what = (node.op_type, inputs, tuple(attribute.SerializeToString(deterministic=True) for attribute in node.attribute))
        if (known := seen.get(what)) is not None:
            names.update(zip(node.output, known.output, strict=True))
            continue
        added = merged.graph.node.add()
        added.CopyFrom(node)
        added.input[:] = inputs
        seen[what] = added
    return merged
