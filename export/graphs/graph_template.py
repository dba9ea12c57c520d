"""`GraphTemplate`: the graph of all networks of a kind, so that torch's exporter runs once for all of them.

An export takes seconds; networks of one search space differ only in how many blocks they have, of which kinds, and in sizes.
The template is learned from the graph of a probe (`pieces`) and then written for any such network, with its weights, in
milliseconds: the nodes are those of torch's own export, in its order. Three differences are left: torch computes what several
blocks need alike once for each of them where a constant of more than a thousand numbers is in it, here it is computed once; it
drops biases that are zero, and stores tensors once that are equal by chance, where here each weight stays itself, so that a
network after training has the graph that it had before.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import AttributeProto

from autoformer.export.graphs.pieces import HERE, Node, Number, Parts, Piece, Reader, Sample, Weight, number
from autoformer.export.networks.sizes import BlockSizes, OddGraphError, Sizes


@dataclass
class GraphTemplate:
    """What was learned so far: the frame of the graph, and the blocks by their kind."""

    frame: onnx.ModelProto  # without nodes and tensors
    features: Number  # of the output, per image
    before: Piece
    after: Piece
    halving: Piece | None = None
    blocks: dict[str, Piece] = field(default_factory=dict)

    @classmethod
    def learned(
        cls, model: onnx.ModelProto, scopes: Mapping[str, str], weights: Mapping[str, NDArray[Any]], blocks: Sequence[BlockSizes]
    ) -> GraphTemplate:
        """From the graph of a probe, whose blocks stand two by two, of one kind each.

        Raises `OddGraphError` where a part of the graph does not come apart, or its numbers cannot be told.
        """
        parts = Parts(model, scopes)
        found, reader = parts.cut(), Reader(parts, weights)
        first, last = blocks[0].sizes.outside, blocks[-1].sizes.outside
        sizes = {str(index): block.sizes for index, block in enumerate(blocks)} | {"halving": last, "after": last}
        samples = {name: Sample(*parts.piece(nodes), sizes.get(name, first)) for name, nodes in found.items()}
        kinds = {}
        for index in range(0, len(blocks), 2):
            one, other = samples.get(str(index)), samples.get(str(index + 1))
            if one is None or other is None:
                raise OddGraphError(f"block {index} has no nodes of its own")
            kinds[blocks[index].kind] = reader.read(one, other)
        frame = copy.deepcopy(model)
        for entries in (frame.graph.node, frame.graph.initializer, frame.graph.value_info):
            del entries[:]
        (output,) = frame.graph.output[0].type.tensor_type.shape.dim[1:]
        return cls(
            frame=frame,
            features=number(output.dim_value, output.dim_value, first, first),
            before=reader.read(samples["before"]),
            after=reader.read(samples["after"]),
            halving=reader.read(samples["halving"]) if "halving" in samples else None,
            blocks=kinds,
        )

    def learn_more(self, other: GraphTemplate) -> None:
        """Takes over kinds of blocks, and the halving, from a template of the same frame."""
        self.blocks |= other.blocks
        self.halving = self.halving or other.halving

    def written(
        self,
        weights: Mapping[str, NDArray[Any]],
        blocks: Sequence[BlockSizes],
        halved_after: int = 0,
        pixels: tuple[int, int] | None = None,
    ) -> tuple[onnx.ModelProto, dict[str, str]]:
        """The graph of a network, and the module of each node. `blocks` have kinds that were learned.

        `halved_after` is the number of blocks before the grid is halved; 0: it never is. `pixels` are rows and columns of its
        images; None: those of the probe's. Raises `OddGraphError` when the network has not just the weights that the graph takes.
        """
        writer = _Writer(self.frame, weights)
        outer = blocks[0].sizes.outside
        writer.model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = self.features.at(outer)
        for dim, side in zip(writer.model.graph.input[0].type.tensor_type.shape.dim[2:], pixels or (), strict=False):
            dim.dim_value = side
        tensor = writer.add(self.before, outer, self.before.entry)
        for index, block in enumerate(blocks):
            if index and index == halved_after:
                assert self.halving is not None, "learned with the first network that has it"
                tensor = writer.add(self.halving, block.sizes.outside, tensor)
            if block.kind:
                tensor = writer.add(self.blocks[block.kind], block.sizes, tensor, index)
        writer.add(self.after, blocks[-1].sizes.outside, tensor, last=True)
        if left := set(weights) - writer.taken:
            raise OddGraphError(f"the graph does not take {sorted(left)[0]} of the network")
        return writer.model, writer.scopes


class _Writer:
    """A graph while pieces are added to it."""

    def __init__(self, frame: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(frame)
        self.weights = weights
        self.scopes: dict[str, str] = {}
        self.taken: set[str] = set()
        self.stored: dict[Any, str] = {}  # names of tensors by what they are
        self.computed: dict[Any, Sequence[str]] = {}  # what still nodes gave, by what they do to what
        self.logits: str = frame.graph.output[0].name
        self.shared = {frame.graph.input[0].name: frame.graph.input[0].name, "": ""}  # what any piece may ask for

    def add(self, piece: Piece, sizes: Sizes, entry: str, block: int = 0, *, last: bool = False) -> str:
        """Adds a piece that takes the tensor `entry`, as this block; gives the name of the one that it ends with."""
        names: dict[str, str] = {**self.shared, piece.entry: entry}
        for name, stored in piece.stored.items():
            if isinstance(stored, Weight):
                names[name] = self._weight(stored, block)
            else:
                names[name] = self._constant(stored.at(sizes))
        if last:
            names[piece.exit] = self.logits
        for node in piece.nodes:
            self._node(node, names, sizes, block)
            if node.proto.op_type == "Cast" and node.proto.input[0] in self.shared:  # of pixels: what follows counts its images
                self.shared[node.proto.output[0]] = names[node.proto.output[0]]
        return names[piece.exit]

    def _node(self, node: Node, names: dict[str, str], sizes: Sizes, block: int) -> None:
        proto, made = node.proto, onnx.NodeProto()
        made.CopyFrom(proto)
        made.input[:] = [names[name] for name in proto.input]
        for place, values in node.numbers:
            attribute, found = made.attribute[place], [value.at(sizes) for value in values]
            if attribute.type == AttributeProto.INT:
                attribute.i = found[0]
            else:
                attribute.ints[:] = found
        if node.still:
            made.name = ""
            del made.output[:]
            what = made.SerializeToString(deterministic=True)
            if (known := self.computed.get(what)) is not None:
                names.update(zip(proto.output, known, strict=True))
                return
        place = len(self.model.graph.node)
        made.name = f"node_{proto.op_type}_{place}"
        for index, name in enumerate(proto.output):
            names.setdefault(name, f"val_{place}_{index}" if index else f"val_{place}")
        made.output[:] = [names[name] for name in proto.output]
        if node.still:
            self.computed[what] = list(made.output)
        self.scopes[made.name] = node.scope.replace(HERE, str(block))
        self.model.graph.node.append(made)

    def _weight(self, weight: Weight, block: int) -> str:
        own = weight.name.replace(HERE, str(block))
        name = f"{own}.transposed" if weight.transposed else own
        if name not in self.stored:
            if own not in self.weights:
                raise OddGraphError(f"the network has no {own}")
            values = self.weights[own]
            self._store(name, values.T if weight.transposed else values)
            self.stored[name] = name
            self.taken.add(own)
        return name

    def _constant(self, values: NDArray[Any]) -> str:
        key = (values.dtype.name, values.shape, values.tobytes())
        if key not in self.stored:
            self.stored[key] = f"constant_{len(self.model.graph.initializer)}"
            self._store(self.stored[key], values)
        return self.stored[key]

    def _store(self, name: str, values: NDArray[Any]) -> None:
        tensor = self.model.graph.initializer.add()
        tensor.name = name
        tensor.dims.extend(values.shape)
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.raw_data = values.tobytes()
