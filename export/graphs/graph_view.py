"""`GraphView`: an ONNX graph with who makes and who uses each value, and the graphs inside its nodes seen in the same way.

Model-local functions are put in the place of their calls first, so that what is computed is looked at, whatever it is called.
"""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data

Shape = tuple[int | None, ...]
THROUGH = ("Cast", "Reshape", "Identity", "QuantizeLinear", "DequantizeLinear")  # what may stand between and changes no value
MOST_NODES = 200_000  # of a model with its functions in place; more stay functions


class GraphView:
    """One graph; what it takes from the graph around it is known too.

    `place` says where it stands, empty for the model's own graph. `functions` are those that stayed functions, by name.
    """

    def __init__(self, graph: GraphProto, *, outer: GraphView | None = None, place: str = "") -> None:
        self.outer, self.place = outer, place
        self.functions: Mapping[str, FunctionProto] = {} if outer is None else outer.functions
        self.nodes: Sequence[NodeProto] = graph.node
        self.inputs, self.outputs = ({value.name for value in values} for values in (graph.input, graph.output))
        around: tuple[Any, ...] = () if outer is None else (outer,)
        self.maker: MutableMapping[str, NodeProto] = ChainMap(
            {name: node for node in self.nodes for name in node.output if name}, *(view.maker for view in around)
        )
        self.users: MutableMapping[str, list[NodeProto]] = ChainMap({}, *(view.users for view in around))
        own_users: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                own_users.setdefault(name, []).append(node)
        self.users.update(own_users)
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        tensors |= {node.output[0]: tensor for node in self.nodes if (tensor := constant(node)) is not None}
        self.stored: MutableMapping[str, TensorProto] = ChainMap(tensors, *(view.stored for view in around))
        self.own_types: dict[str, int] = {name: tensor.data_type for name, tensor in tensors.items()}
        shapes: dict[str, Shape] = {name: tuple(tensor.dims) for name, tensor in tensors.items()}
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type
            self.own_types[value.name] = kind.elem_type
            if kind.HasField("shape"):
                shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
        self.types: MutableMapping[str, int] = ChainMap(self.own_types, *(view.types for view in around))
        self.shapes: MutableMapping[str, Shape] = ChainMap(shapes, *(view.shapes for view in around))
        self.inside: tuple[GraphView, ...] = tuple(
            GraphView(inner, outer=self, place=f"{place}{attribute.name} of {named(node)}: ")
            for node in self.nodes
            for attribute in node.attribute
            for inner in graphs_of(attribute)
        )

    @classmethod
    def of(cls, model: onnx.ModelProto, operators: Collection[str] = ()) -> GraphView:
        """With functions in place and shapes inferred; a model whose shapes cannot be inferred keeps those it states.

        Functions with a name in `operators` are left alone: whoever reads the model takes them for operators.
        """
        model = in_place(model, operators)
        functions, shaped = {function.name: function for function in model.functions}, model
        if functions:  # of what is left, onnx might look into a call of a call of a call without end
            shaped = onnx.ModelProto()
            shaped.CopyFrom(model)
            del shaped.functions[:]
        with contextlib.suppress(onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            shaped = onnx.shape_inference.infer_shapes(shaped, strict_mode=False, data_prop=True)
        found = cls(shaped.graph)
        found.functions = functions
        bodies = [
            GraphView(GraphProto(node=function.node), outer=found, place=f"function {function.name}: ")
            for function in model.functions
            if function.name not in operators
        ]
        found.inside += tuple(bodies)
        return found

    def every(self) -> Iterator[GraphView]:
        """This graph and those inside its nodes, at any depth."""
        yield self
        for view in self.inside:
            yield from view.every()

    def values(self, name: str) -> NDArray[Any] | None:
        """What is stored under a name; None where nothing is, or it lies in another file or makes no sense."""
        tensor = self.stored.get(name)
        if tensor is None or uses_external_data(tensor):
            return None
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError, OverflowError):
            return None

    def is_fixed(self, name: str) -> bool:
        """Whether a value is stored, or follows from what is stored alone."""

        def needs(node: NodeProto) -> Iterable[str] | None:
            branches = any(True for entry in node.attribute for _ in graphs_of(entry))
            return None if branches or not node.input else node.input

        return self._follows(name, needs)

    def is_settled(self, name: str) -> bool:
        """Whether a value follows from what is stored and from sizes that are known; in doubt it does."""

        def needs(node: NodeProto) -> Iterable[str] | None:
            if node.op_type in ("Shape", "Size"):
                return None if self._are_sizes_open(node) else ()
            picked = self.maker.get(node.input[0]) if node.op_type in ("Gather", "Slice") and node.input else None
            inputs: Iterable[str] = node.input[1:] if picked is not None and picked.op_type == "Shape" else node.input
            return inputs

        return self._follows(name, needs)

    def _follows(self, name: str, needs: Callable[[NodeProto], Iterable[str] | None]) -> bool:
        """Whether a value follows from what is stored; `needs` says from what that of a node does, None: from something else."""
        waiting, seen = [name], set()
        while waiting:
            value = waiting.pop()
            if value in self.stored or value in seen or not value:
                continue
            seen.add(value)
            node = self.maker.get(value)
            needed = None if node is None else needs(node)
            if needed is None:
                return False
            waiting += needed
        return True

    def _are_sizes_open(self, node: NodeProto) -> bool:
        """Whether a Shape or Size node gives a size that is not known."""
        shape = self.shapes.get(node.input[0]) if node.input else None
        if shape is None:
            return True
        ends = {entry.name: entry.i for entry in node.attribute}
        return None in shape[ends.get("start", 0) : ends.get("end", len(shape))]

    def sources_of(self, name: str, through: Collection[str]) -> Iterator[str]:
        """The inputs of the model whose contents a value follows from, seen through nodes of these operators."""
        outermost = self
        while outermost.outer is not None:
            outermost = outermost.outer
        waiting, seen = [name], set()
        while waiting:
            value = waiting.pop()
            if value in self.stored or value in seen or not value:
                continue
            seen.add(value)
            node = self.maker.get(value)
            if node is not None:
                waiting += node.input if node.op_type in through else []
            elif value in outermost.inputs:
                yield value

    def made_by(self, name: str) -> NodeProto | None:
        """The node that makes a value, seen through casts and the like."""
        node = self.maker.get(name)
        while node is not None and node.op_type in THROUGH and node.input:
            node = self.maker.get(node.input[0])
        return node

    def used_by(self, name: str) -> list[NodeProto]:
        """The nodes that use a value, seen through casts and the like."""
        found: list[NodeProto] = []
        waiting: list[NodeProto] = list(reversed(self.users.get(name, [])))
        while waiting:  # a loop, since a foreign graph may be thousands of casts deep
            node = waiting.pop()
            if node.op_type in THROUGH and node.output:
                waiting += reversed(self.users.get(node.output[0], []))
            else:
                found.append(node)
        return found


def named(node: NodeProto) -> str:
    """The name of a node, or what tells it apart without one."""
    return node.name or f"{node.op_type} that gives {node.output[0] if node.output else 'nothing'}"


def graphs_of(attribute: AttributeProto) -> Iterator[GraphProto]:
    """The graphs that an attribute holds."""
    yield from (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs)


def constant(node: NodeProto) -> TensorProto | None:
    """What a Constant node gives; None for other nodes, texts and sparse values."""
    if node.op_type != "Constant" or len(node.output) != 1 or len(node.attribute) != 1 or node.attribute[0].ref_attr_name:
        return None
    entry = node.attribute[0]
    if entry.name == "value" and entry.HasField("t"):
        tensor: TensorProto = entry.t
        return tensor
    numbers: dict[str, tuple[Any, Any]] = {
        "value_float": (entry.f, np.float32), "value_floats": (list(entry.floats), np.float32),
        "value_int": (entry.i, np.int64), "value_ints": (list(entry.ints), np.int64),
    }  # fmt: skip
    if entry.name not in numbers:
        return None
    value, kind = numbers[entry.name]
    return numpy_helper.from_array(np.asarray(value, kind))


def calls(model: onnx.ModelProto) -> Iterator[NodeProto]:
    """Every node of a model that calls one of its functions, in its graph, in graphs inside nodes, and in functions."""
    known = {(function.domain, function.name) for function in model.functions}
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        if (node.domain, node.op_type) in known:
            yield node
        waiting += [inner for entry in node.attribute for graph in graphs_of(entry) for inner in graph.node]


def in_place(model: onnx.ModelProto, operators: Collection[str] = ()) -> onnx.ModelProto:
    """The model with its functions, those of `operators` apart, in the place of their calls; as it is where that fails."""
    chosen = [(function.domain, function.name) for function in model.functions if function.name not in operators]
    if not chosen or _size_in_place(model) > MOST_NODES:
        return model
    try:
        return onnx.inliner.inline_selected_functions(model, chosen)
    except Exception:  # onnx raises classes of its own and of C++; the functions are looked at as they stand then
        return model


def _size_in_place(model: onnx.ModelProto) -> float:
    """How many nodes the model has with every function in the place of its calls; endless where functions call each other."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    under_way: set[tuple[str, str]] = set()

    def of_nodes(nodes: Sequence[NodeProto]) -> float:
        total = 0.0
        for node in nodes:
            total += of_function((node.domain, node.op_type)) if (node.domain, node.op_type) in bodies else 1
            total += sum(of_nodes(graph.node) for entry in node.attribute for graph in graphs_of(entry))
        return total

    @cache
    def of_function(key: tuple[str, str]) -> float:
        if key in under_way or len(under_way) > 50:
            return float("inf")
        under_way.add(key)
        found = of_nodes(bodies[key])
        under_way.discard(key)
        return found

    return of_nodes(model.graph.node)
