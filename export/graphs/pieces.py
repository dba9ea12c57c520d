"""`Piece`: a part of a graph (what stands before the blocks, one block, what follows them) with its sizes left open.

Pieces are cut out of the graph of a *probe*, a small network whose width, heads and hidden channels are numbers that occur
nowhere else, and whose weights are all different. So every number in the graph says what it is: a multiple of the width, of a
block's heads, of its hidden channels, one of the grid, or none of them, and every stored tensor says which weight it is, and
whether it lies transposed. Two blocks of each kind in the probe tell a number that belongs to the block from one that is always
the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, numpy_helper

from autoformer.export.networks.sizes import BLOCK, OddGraphError, Sizes

HERE = "{block}"  # stands for the number of a block in the name of a module or weight
# By operator, the places of inputs that hold axes and steps, which are no sizes.
AXES = {"Pad": (3,), "ReduceMean": (1,), "ReduceSum": (1,), "Slice": (3, 4), "Squeeze": (1,), "Unsqueeze": (1,)}


@dataclass(frozen=True)
class Number:
    """A whole number in a graph: `times` what `size` names, or `times` itself."""

    times: int
    size: str | None = None

    def at(self, sizes: Sizes) -> int:
        """Its value."""
        return self.times if self.size is None else self.times * sizes.of(self.size)


@dataclass(frozen=True)
class Numbers:
    """A tensor of whole numbers, in order."""

    values: tuple[Number, ...]
    shape: tuple[int, ...]
    dtype: str

    def at(self, sizes: Sizes) -> NDArray[Any]:
        """Its values."""
        return np.array([value.at(sizes) for value in self.values], self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Scale:
    """The factor of attention's logits."""

    dtype: str

    def at(self, sizes: Sizes) -> NDArray[Any]:
        """Its value."""
        return np.array(sizes.scale, self.dtype)


@dataclass(frozen=True)
class Tabled:
    """A tensor that follows from the grid: one of its tables by name."""

    name: str
    shape: tuple[Number, ...]
    dtype: str

    def at(self, sizes: Sizes) -> NDArray[Any]:
        """Its values. Raises `OddGraphError` where the sides are not those of the table."""
        assert sizes.grid is not None, "read in a probe that has one"
        table, shape = sizes.grid.tables[self.name].astype(self.dtype), [side.at(sizes) for side in self.shape]
        if math.prod(shape) != table.size:
            raise OddGraphError(f"the table of {self.name} has {table.size} numbers, the graph says {shape}")
        return table.reshape(shape)


@dataclass(frozen=True)
class Fixed:
    """A tensor that is the same in every network."""

    values: NDArray[Any] = field(compare=False)

    def at(self, sizes: Sizes) -> NDArray[Any]:
        """Its values."""
        return self.values


@dataclass(frozen=True)
class Weight:
    """A weight of the network by its name, `HERE` in place of the block's number; `transposed` as products take it."""

    name: str
    transposed: bool


Stored = Numbers | Scale | Tabled | Fixed | Weight


@dataclass(frozen=True)
class Node:
    """One node; `numbers` are its attributes with open sizes, `still` says that it does not depend on the images' values."""

    proto: onnx.NodeProto
    scope: str
    still: bool
    numbers: tuple[tuple[int, tuple[Number, ...]], ...] = ()  # place of the attribute, its values


@dataclass(frozen=True)
class Piece:
    """Nodes in order, with what they take that is stored. `entry` is the tensor that comes in, `exit` the one that goes out."""

    nodes: tuple[Node, ...]
    stored: Mapping[str, Stored]
    entry: str
    exit: str


# --- a graph in parts ----------------------------------------------------------------------------------------------


class Parts:
    """The nodes of a probe's graph by the part that they belong to."""

    def __init__(self, model: onnx.ModelProto, scopes: Mapping[str, str]) -> None:
        self.graph, self.scopes = model.graph, scopes
        self.images, self.logits = model.graph.input[0].name, model.graph.output[0].name
        self.maker = {name: node for node in model.graph.node for name in node.output}
        casts = (node for node in model.graph.node if node.op_type == "Cast" and node.input[0] == self.images)
        self.counted = {self.images, *(name for node in casts for name in node.output)}  # whose number is asked for
        self.moving = self._moving()
        self.number = {name: self._block(node) for name, node in self.maker.items()}

    def _moving(self) -> set[str]:
        """The tensors that depend on the values of the images, not only on how many there are."""
        moving = {self.images}
        for node in self.graph.node:
            if moving & set(node.input) and not self._counts(node):
                moving.update(node.output)
        return moving

    def _counts(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Shape" and node.input[0] in self.counted

    def _block(self, node: onnx.NodeProto) -> int | None:
        found = BLOCK.search(self.scopes.get(node.name, ""))
        return None if found is None else int(found[2])

    def cut(self) -> dict[str, list[onnx.NodeProto]]:
        """The moving nodes of "before", of each block by its number, of the "halving" and of "after".

        A node without a module (the exporter names none for some) is of the block that it comes from and leads to.
        """
        moving = [node for node in self.graph.node if node.output[0] in self.moving]
        behind: dict[str, int] = {self.images: -1}  # the last block that a tensor comes from
        for node in moving:
            own = self._block(node)
            last = max((behind[name] for name in node.input if name in behind), default=-1)
            behind.update(dict.fromkeys(node.output, last if own is None else max(last, own)))
        ahead: dict[str, int] = {}  # the first block that a tensor leads to
        parts: dict[str, list[onnx.NodeProto]] = {}
        for node in reversed(moving):
            own, last = self._block(node), behind[node.output[0]]
            following = [ahead[name] for name in node.output if name in ahead]
            if own is None and last in following:
                own = last
            first: int | None = own if own is not None else min(following) if following else None
            outside = "after" if first is None else "before" if last < 0 else "halving"
            parts.setdefault(outside if own is None else str(own), []).insert(0, node)
            if first is not None:
                ahead.update({name: min(first, ahead.get(name, first)) for name in node.input})
        return parts

    def piece(self, nodes: Sequence[onnx.NodeProto]) -> tuple[list[onnx.NodeProto], str, str]:
        """A part with the still nodes that it needs, in order; and the one moving tensor that comes in, and goes out."""
        made = {name for node in nodes for name in node.output}
        needed = [name for node in nodes for name in node.input]
        entries, still = set[str](), set[str]()
        while needed:
            name = needed.pop()
            if name in made or name in still:
                continue
            if name in self.moving:
                entries.add(name)
            elif (maker := self.maker.get(name)) is not None:
                still.update(maker.output)
                needed += [] if self._counts(maker) else list(maker.input)
        whole = [node for node in self.graph.node if node.output[0] in made or node.output[0] in still]
        others = (node for node in self.graph.node if node.output[0] not in made and not self._counts(node))
        used = {name for node in others for name in node.input} | {self.logits}
        exits = [name for name in made if name in used]
        if len(entries) != 1 or len(exits) != 1:
            raise OddGraphError(f"a part of the graph has {len(entries)} tensors that come in and {len(exits)} that go out")
        return whole, entries.pop(), exits[0]


# --- what numbers and tensors are ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One occurrence of a part in the probe: its nodes and tensors with the sizes that it has there."""

    nodes: Sequence[onnx.NodeProto]
    entry: str
    exit: str
    sizes: Sizes


class Reader:
    """Reads parts of a probe's graph as pieces. `weights` are the probe's by name."""

    def __init__(self, parts: Parts, weights: Mapping[str, NDArray[Any]]) -> None:
        self.parts = parts
        self.stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in parts.graph.initializer}
        self.known: dict[tuple[str, tuple[int, ...], bytes], tuple[str, bool]] = {}
        for name, values in weights.items():
            if values.ndim == 2:
                self.known[_key(values.T)] = (name, True)
        self.known |= {_key(values): (name, False) for name, values in weights.items()}

    def read(self, first: Sample, second: Sample | None = None) -> Piece:
        """The piece that `first` is an occurrence of; `second` is another one, with other heads and hidden channels."""
        second = second or first
        twins = self._twins(first, second)
        nodes, stored = [], dict[str, Stored]()
        for one in first.nodes:
            if (other := twins.get(one.output[0])) is None:
                raise OddGraphError(f"{one.op_type} {one.name} leads nowhere in its block")
            nodes.append(self._node(one, other, first.sizes, second.sizes))
            for place, (name, twin) in enumerate(zip(one.input, other.input, strict=True)):
                if name in self.stored:
                    is_size = place not in AXES.get(one.op_type, ())
                    found = self._tensor(name, twin, first.sizes, second.sizes) if is_size else Fixed(self.stored[name])
                    while stored.setdefault(name, found) != found:  # one tensor that is two things by chance
                        name += "'"
                    nodes[-1].proto.input[place] = name
        return Piece(tuple(nodes), stored, first.entry, first.exit)

    def _twins(self, first: Sample, second: Sample) -> dict[str, onnx.NodeProto]:
        """By the first output of each node of `first` that of `second` that stands in the same place before the end."""
        makers, others = ({name: node for node in one.nodes for name in node.output} for one in (first, second))
        names, found, todo = dict[str, str](), dict[str, onnx.NodeProto](), [(first.exit, second.exit)]
        while todo:
            name, twin = todo.pop()
            if name in self.stored and twin in self.stored:
                continue
            if names.setdefault(name, twin) != twin:
                raise OddGraphError(f"{name} is used otherwise in the other block of its kind")
            node, other = makers.get(name), others.get(twin)
            if (node is None, node and node.op_type) != (other is None, other and other.op_type):
                raise OddGraphError(f"{name} is computed otherwise in the other block of its kind")
            if node is None or other is None or node.output[0] in found:
                continue
            if len(node.input) != len(other.input) or len(node.output) != len(other.output):
                raise OddGraphError(f"{node.op_type} takes more in one block of a kind than in the other")
            found[node.output[0]] = other
            todo += [*zip(node.input, other.input, strict=True), *zip(node.output, other.output, strict=True)]
        return found

    def _node(self, one: onnx.NodeProto, other: onnx.NodeProto, here: Sizes, there: Sizes) -> Node:
        """A node; its attributes, unlike what it takes, say nothing of the grid."""
        numbers, here, there = [], replace(here, grid=None), replace(there, grid=None)
        if [own.name for own in one.attribute] != [twin.name for twin in other.attribute]:
            raise OddGraphError(f"{one.op_type} has other attributes in the other block of its kind")
        for place, (own, twin) in enumerate(zip(one.attribute, other.attribute, strict=True)):
            if own.type in (AttributeProto.INT, AttributeProto.INTS):
                values = [own.i] if own.type == AttributeProto.INT else list(own.ints)
                twins = [twin.i] if own.type == AttributeProto.INT else list(twin.ints)
                found = tuple(number(*pair, here, there) for pair in zip(values, twins, strict=True))
                if any(value.size for value in found):
                    numbers.append((place, found))
            elif own != twin:
                raise OddGraphError(f"attribute {own.name} of {one.op_type} differs between two blocks of a kind")
        proto = copy.deepcopy(one)
        scope = BLOCK.sub(rf"\1blocks.{HERE}", self.parts.scopes.get(one.name, ""))
        return Node(proto, scope, one.output[0] not in self.parts.moving, tuple(numbers))

    def _tensor(self, name: str, twin: str, here: Sizes, there: Sizes) -> Stored:
        values, others = self.stored[name], self.stored.get(twin)
        if others is None:
            raise OddGraphError(f"{name} is stored in one block of a kind and computed in another")
        if (weight := self.known.get(_key(values))) is not None:
            own, transposed = (BLOCK.sub(rf"\1blocks.{HERE}", weight[0]), weight[1])
            same = self.known.get(_key(others))
            if same is None or (BLOCK.sub(rf"\1blocks.{HERE}", same[0]), same[1]) != (own, transposed):
                raise OddGraphError(f"{name} is {weight[0]}, {twin} is not that of the other block")
            return Weight(own, transposed)
        if _key(values) == _key(others) and (table := _table(values, here)) is not None:
            return table
        if values.dtype.kind == "i" and values.shape == others.shape:
            pairs = zip(values.reshape(-1).tolist(), others.reshape(-1).tolist(), strict=True)
            numbers = tuple(number(*pair, here, there) for pair in pairs)
            return Numbers(numbers, values.shape, values.dtype.name) if any(one.size for one in numbers) else Fixed(values)
        if _key(values) == _key(others) and not (values.ndim == 0 and here.scale and _is(values, here.scale)):
            if here.width in values.shape:
                raise OddGraphError(f"{name} {list(values.shape)} is as wide as the network and none of its weights")
            if here.grid is not None and any(map(here.grid.name_of, values.shape)):
                raise OddGraphError(f"{name} {list(values.shape)} is as long as the grid and none of its tables")
            return Fixed(values)
        if values.ndim == 0 and _is(values, here.scale) and _is(others, there.scale):
            return Scale(values.dtype.name)
        raise OddGraphError(f"{name} {list(values.shape)} differs between two blocks of a kind, and is no weight")


def number(value: int, twin: int, here: Sizes, there: Sizes) -> Number:
    """What a whole number is, from its values in two occurrences."""
    if value == twin:
        if value and value % here.width == 0:
            return Number(value // here.width, "width")
        of_grid = None if here.grid is None else here.grid.name_of(value)
        return Number(value) if of_grid is None else Number(1, of_grid)
    for size in ("heads", "hidden"):
        own, other = here.of(size), there.of(size)
        if own and other and value % own == 0 and value // own * other == twin:
            return Number(value // own, size)
    raise OddGraphError(f"a number is {value} in one block and {twin} in another of its kind")


def _table(values: NDArray[Any], here: Sizes) -> Tabled | None:
    """Which table of the grid a tensor is; None for one that is none of them."""
    for name, table in here.grid.tables.items() if here.grid is not None else ():
        if values.size == table.size and np.array_equal(values.reshape(-1), table.reshape(-1)):
            shape = tuple(number(side, side, here, here) for side in values.shape)
            return Tabled(name, shape, values.dtype.name)
    return None


def _key(values: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    return values.dtype.name, values.shape, np.ascontiguousarray(values).tobytes()


def _is(values: NDArray[Any], scale: float) -> bool:
    return bool(values.dtype.kind == "f" and values == np.array(scale, values.dtype))
