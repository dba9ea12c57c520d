"""What TensorRT's ONNX parser refuses of the operators that it reads: a table of restrictions, each with its versions and source.

Sources: docs/operators.md of onnx-tensorrt for 8.5 to 10.15, its changelog, the checks it makes before it parses
(onnxOpCheckers.cpp), the importers (onnxOpImporters.cpp, as of 10.15), and what the parser of TensorRT-RTX answers, which shares
this source: `benchmarks/tensorrt_rules.py` holds the table against it.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import onnx
from onnx import NodeProto, TensorProto

from autoformer.export.graphs.graph_view import GraphView
from autoformer.export.graphs.tensorrt_operators import ATTENTION, CHECKS, EVER, IMPORTERS, OPERATORS, RTX, Level, Version

SAME_SOURCE: Version = (10, 15)  # from here on the parser of TensorRT-RTX speaks for TensorRT's
STRONG: Version = (10, 0)  # from here on networks are strongly typed, as we build them; constants of FLOAT do not mix then


class Operator:
    """A node as the restrictions ask about it."""

    def __init__(self, node: NodeProto, graph: GraphView) -> None:
        self.node, self.graph = node, graph
        self._attributes = {entry.name: entry for entry in node.attribute if not entry.ref_attr_name}

    def get(self, name: str, default: Any) -> Any:
        """An attribute, text as text; its default where it is missing."""
        if (entry := self._attributes.get(name)) is None:
            return default
        value = onnx.helper.get_attribute_value(entry)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value] if isinstance(
            value, list
        ) else value  # fmt: skip

    def has(self, *names: str) -> bool:
        """Whether one of these attributes is given."""
        return any(name in self._attributes for name in names)

    def input(self, index: int) -> str:
        """The name of an input, empty where it is not given."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def computes(self, index: int) -> bool:
        """Whether this input is given and follows from the inputs of the model."""
        return bool(name := self.input(index)) and not self.graph.is_fixed(name)

    def is_initializer(self, index: int) -> bool:
        """Whether this input is stored as it is, or behind casts alone."""
        name, seen = self.input(index), set[str]()
        while name not in self.graph.stored and name not in seen:
            seen.add(name)
            node = self.graph.maker.get(name)
            if node is not None and node.op_type in ("Cast", "Identity", "Dropout") and node.input:
                name = node.input[0]
        return name in self.graph.stored

    def kind(self, index: int = 0) -> int:
        """The type of an input as TensorRT computes it, where DOUBLE is FLOAT; 0 where it is not known."""
        found = self.graph.types.get(self.input(index), 0)
        return TensorProto.FLOAT if found == TensorProto.DOUBLE else found

    def shape(self, index: int) -> tuple[int | None, ...] | None:
        """The shape of an input, as far as it is known."""
        return self.graph.shapes.get(self.input(index))

    def outputs_after(self, count: int) -> bool:
        """Whether more than the first `count` outputs are used."""
        return any(self.node.output[count:])


class Restriction(NamedTuple):
    """What the parser refuses of an operator that it reads, from one version up to before another."""

    why: str
    broken: Callable[[Operator], bool]
    until: Version = EVER
    since: Version = (0, 0)
    level: Level = "fails"
    source: str = OPERATORS


def broken(node: NodeProto, graph: GraphView, target: Version) -> Iterator[Restriction]:
    """The restrictions that a node breaks in this version."""
    operator = Operator(node, graph)
    for restriction in RESTRICTIONS.get(node.op_type, ()):
        if restriction.since <= target < restriction.until and restriction.broken(operator):
            yield restriction


def _first_output(kind: str, since: Version = (0, 0)) -> Restriction:
    return Restriction(f"only the first output of {kind} is supported", lambda node: node.outputs_after(1), since=since)


def _stored(kind: str, index: int, name: str, until: Version = EVER) -> Restriction:
    return Restriction(f"{name} of {kind} is computed; it must be stored", lambda node: node.computes(index), until)


def _initializer(kind: str, index: int, name: str, source: str = OPERATORS) -> Restriction:
    return Restriction(
        f"{name} of {kind} follows from other values; it must be stored as it is",
        lambda node: bool(node.input(index)) and not node.is_initializer(index), since=(10, 0), source=source,
    )  # fmt: skip


def _settled(kind: str) -> tuple[Restriction, ...]:
    """What lists of axes must be, of operators that any stored ones did for before they could be computed."""
    return (
        _stored(kind, 1, "the list of axes", until=(10, 7)),
        Restriction(
            f"the list of axes of {kind} follows from what comes in; it must be known when the engine is built",
            lambda node: bool(node.input(1)) and not node.graph.is_settled(node.input(1)), since=(10, 7), source=RTX,
        ),
    )  # fmt: skip


def _of_types(kind: str, names: str, since: Version = (10, 0), source: str = IMPORTERS) -> Restriction:
    allowed = {TensorProto.DataType.Value(name) for name in names.split()}
    why = f"{kind} of another type than {', '.join(names.split())}"
    return Restriction(why, lambda node: node.kind() not in allowed | {0}, since=since, source=source)


def _one_of(kind: str, attribute: str, values: tuple[Any, ...], default: Any, since: Version = (0, 0)) -> Restriction:
    why = f"{attribute} of {kind} is another than {', '.join(map(str, values))}"
    return Restriction(why, lambda node: node.get(attribute, default) not in values, since=since)


def _pool(kind: str) -> tuple[Restriction, ...]:
    return (
        Restriction(f"{kind} with dilations other than 1", lambda node: any(step != 1 for step in node.get("dilations", []))),
        Restriction(
            f"{kind} is documented for two and three dimensions alone",
            lambda node: len(node.get("kernel_shape", [1, 1])) not in (2, 3), level="risk",
        ),
    )  # fmt: skip


def _unequal_directions(states: int) -> Callable[[Operator], bool]:
    """Whether a bidirectional recurrence uses other functions backwards than forwards."""

    def differ(node: Operator) -> bool:
        kinds = node.get("activations", [])
        return bool(node.get("direction", "forward") == "bidirectional" and kinds[:states] != kinds[states:])

    return differ


def _recurrence(kind: str, states: int) -> Restriction:
    return Restriction(f"a bidirectional {kind} with other activations backwards than forwards", _unequal_directions(states))


def _branches(node: Operator) -> list[onnx.GraphProto]:
    graphs = [node.get(name, None) for name in ("then_branch", "else_branch")]
    return [graph for graph in graphs if isinstance(graph, onnx.GraphProto)]


def _is_training(node: Operator) -> bool:
    values = node.graph.values(node.input(2)) if node.input(2) else None
    return values is not None and bool(values.any())


def _too_many(node: Operator) -> bool:
    values = node.graph.values(node.input(1)) if node.input(1) else None
    return values is not None and values.size == 1 and float(values.ravel()[0]) > 3840


def _rank(node: Operator, *allowed: int) -> bool:
    shape = node.shape(0)
    return shape is not None and len(shape) not in allowed


def _is_uint8(node: Operator) -> bool:
    value = node.get("value", None)
    return isinstance(value, TensorProto) and value.data_type == TensorProto.UINT8


def _einsum(node: Operator) -> str:
    return str(node.get("equation", ""))


def _is_diagonal(node: Operator) -> bool:
    terms = _einsum(node).replace(" ", "").replace("->", ",").split(",")
    return any(len(set(term)) < len(term) for term in terms if "." not in term)


def _unequal_branches(node: Operator) -> bool:
    return len({len(graph.output) for graph in _branches(node)}) > 1


def _branches_named_alike(node: Operator) -> bool:
    names = [{value.name for value in graph.output} for graph in _branches(node)]
    return len(names) == 2 and bool(names[0] & names[1])


def _is_of_mixed_shapes(node: Operator) -> bool:
    sizes = zip(node.shape(1) or (), node.shape(2) or (), strict=False)
    return any(key is not None and value is not None and key != value for key, value in sizes)


def _is_mask_too_small(node: Operator) -> bool:
    """Whether the mask covers another number of keys than there are; those of three dimensions are counted alike."""
    key, mask = node.shape(1), node.shape(3)
    if not key or not mask or len(key) < 2 or key[-2] is None:
        return False
    return mask[-1] not in (None, 1, key[-2])


def _is_random_of_a_foreign_type(node: Operator) -> bool:
    """Whether the random numbers are of another type than FLOAT and FLOAT16; that of the input, where none is asked for."""
    wanted = node.get("dtype", 0) or node.kind() or TensorProto.FLOAT
    return wanted not in (TensorProto.FLOAT, TensorProto.FLOAT16)


def _is_uneven(node: Operator) -> bool:
    """Whether all pieces but the last, as large as they must be, are more than there is."""
    shape, pieces, axis = node.shape(0), len(node.node.output), node.get("axis", 0)
    if node.input(1) or node.has("split") or not shape or not -len(shape) <= axis < len(shape) or pieces < 1:
        return False
    size = shape[axis]
    return size is not None and -(-size // pieces) * (pieces - 1) > size


def _is_vector_by_batches(node: Operator) -> bool:
    vector, matrices = node.shape(0) or (), node.shape(1) or ()
    return len(vector) == 1 and len(matrices) > 2 and matrices[0] not in (None, 1)


def _scales_some_axes(node: Operator) -> bool:
    axes, shape = list(node.get("axes", [])), node.shape(0)
    return bool(axes) and node.computes(2) and shape is not None and axes != list(range(len(shape)))


def _is_scattered_otherwise(node: Operator) -> bool:
    return _rank(node, 4) or node.get("mode", "linear") != "linear" or node.get("axis", -2) not in (-2, 2)


_FLOATS, _WHOLE = "FLOAT FLOAT16", (TensorProto.INT32, TensorProto.INT64)
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

RESTRICTIONS: Mapping[str, tuple[Restriction, ...]] = {
    "Attention": (
        Restriction("a softcap of Attention", lambda node: node.get("softcap", 0.0) != 0.0),
        Restriction("the precision of Attention's softmax is set", lambda node: node.has("softmax_precision")),
        Restriction("queries of Attention that have neither three nor four dimensions", lambda node: _rank(node, 3, 4)),
        Restriction("earlier keys or values given to Attention", lambda node: any(node.node.input[4:6])),
        Restriction(
            "how many keys of Attention count is given, which the parser passes over: all of them count",
            lambda node: bool(node.input(6)),
            level="risk",
            source=IMPORTERS,
        ),
        Restriction(
            "Attention that is causal and takes a mask; put the one into the other",
            lambda node: node.get("is_causal", 0) != 0 and bool(node.input(3)),
            source=ATTENTION,
        ),
        Restriction("a mask of Attention for another number of keys", _is_mask_too_small, source=ATTENTION),
        Restriction("keys and values of Attention that differ in shape", _is_of_mixed_shapes, source=ATTENTION),
        _first_output("Attention"),
    ),
    "AveragePool": _pool("AveragePool"),
    "BatchNormalization": (
        Restriction("BatchNormalization in training mode", lambda node: node.get("training_mode", 0) != 0),
        _first_output("BatchNormalization", since=(10, 0)),
    ),
    "Celu": (_of_types("Celu", "FLOAT", since=STRONG),),
    "Clip": (
        Restriction(
            "Clip of a small integer type with limits that are not stored, or named and left out",
            lambda node: (
                any(not node.is_initializer(index) for index in range(1, len(node.node.input)))
                and node.kind() in (TensorProto.INT8, TensorProto.BOOL)
            ),
            since=(10, 0),
            source=IMPORTERS,
        ),
    ),
    "Constant": (
        Restriction(
            "texts and sparse values of Constant", lambda node: node.has("sparse_value", "value_string", "value_strings")
        ),
    ),
    "ConstantOfShape": (Restriction("ConstantOfShape of UINT8", _is_uint8),),
    "CumSum": (_stored("CumSum", 1, "the axis", until=(10, 8)),),
    "DeformConv": (
        Restriction(
            "pads of DeformConv that differ at beginning and end",
            lambda node: (pads := node.get("pads", []))[: len(pads) // 2] != pads[len(pads) // 2 :],
        ),
    ),
    "Dropout": (
        Restriction("Dropout in training mode", _is_training),
        Restriction("whether Dropout trains is computed; it must be stored", lambda node: node.computes(2)),
    ),
    "Einsum": (
        Restriction(
            "an Einsum equation with other letters than a to z",
            lambda node: bool(set(_einsum(node)) - set(string.ascii_lowercase + "->., ")),
        ),
        Restriction("Einsum with an ellipsis", lambda node: "..." in _einsum(node), until=(10, 0)),
        Restriction(
            "Einsum along a diagonal",
            _is_diagonal,
            until=(10, 0),
        ),
    ),
    "EyeLike": (Restriction("EyeLike of an open shape", lambda node: None in (node.shape(0) or ())),),
    "GRU": (_recurrence("GRU", 2),),
    "GlobalLpPool": (_of_types("GlobalLpPool", _FLOATS),),
    "GridSample": (
        Restriction("GridSample of an input that has not four dimensions", lambda node: _rank(node, 4), until=(11, 2)),
        Restriction("GridSample of an input that has neither four nor five dimensions", lambda node: _rank(node, 4, 5)),
    ),
    "HardSwish": (_of_types("HardSwish", f"{_FLOATS} INT8"),),
    "If": (
        Restriction("branches of If with different numbers of outputs", _unequal_branches),
        Restriction(
            "both branches of If call an output the same; documented are different names", _branches_named_alike, level="risk"
        ),
    ),
    "InstanceNormalization": (
        _stored("InstanceNormalization", 1, "the scale", until=(10, 0)),
        _stored("InstanceNormalization", 2, "the bias", until=(10, 0)),
    ),
    "LSTM": (
        _recurrence("LSTM", 3),
        Restriction("input_forget of LSTM", lambda node: node.get("input_forget", 0) != 0),
        Restriction("layout 1 of LSTM", lambda node: node.get("layout", 0) != 0, until=(10, 0)),
        Restriction(
            "layout 1 of LSTM; documented is 0 alone, and the parser does not look at it",
            lambda node: node.get("layout", 0) != 0,
            since=(10, 0),
            level="risk",
        ),
    ),
    "LayerNormalization": (_first_output("LayerNormalization"),),
    "LpNormalization": (_one_of("LpNormalization", "p", (1, 2), 2), _of_types("LpNormalization", _FLOATS)),
    "LpPool": (*_pool("LpPool"), _one_of("LpPool", "p", (1, 2), 2), _of_types("LpPool", _FLOATS)),
    "MatMul": (
        Restriction(
            "MatMul of a vector with several matrices; unsqueeze it before, and squeeze the product",
            _is_vector_by_batches,
            since=(10, 0),
            source=IMPORTERS,
        ),
    ),
    "MaxPool": (*_pool("MaxPool"), _first_output("MaxPool")),
    "MeanVarianceNormalization": (_of_types("MeanVarianceNormalization", "FLOAT", since=STRONG),),
    "Mish": (_of_types("Mish", _FLOATS),),
    "Mod": (
        Restriction(
            "Mod with fmod 0 of another type than INT32, INT64",
            lambda node: node.get("fmod", 0) == 0 and node.kind() not in (*_WHOLE, 0),
            since=(10, 0),
            source=IMPORTERS,
        ),
    ),
    "OneHot": (
        _stored("OneHot", 1, "the depth", until=(10, 0)),
        Restriction(
            "the depth of OneHot is computed; documented is a stored one",
            lambda node: node.computes(1),
            since=(10, 0),
            level="risk",
        ),
    ),
    "Pad": (_stored("Pad", 3, "the list of axes", until=(10, 4)),),
    "RNN": (_recurrence("RNN", 1),),
    "Range": (_of_types("Range", "FLOAT INT32 INT64"),),
    "Resize": (
        Restriction("Resize cannot antialias; resize before the network", lambda node: node.get("antialias", 0) != 0),
        _one_of("Resize", "keep_aspect_ratio_policy", ("stretch",), "stretch"),
        _one_of("Resize", "coordinate_transformation_mode", _COORDINATES, "half_pixel"),
        Restriction(
            "tf_half_pixel_for_nn of Resize rounds with round_prefer_floor alone",
            lambda node: (
                node.get("coordinate_transformation_mode", "") == "tf_half_pixel_for_nn"
                and node.get("nearest_mode", "round_prefer_floor") != "round_prefer_floor"
            ),
        ),
        Restriction(
            "Resize by computed scales along some axes; give one scale for each axis",
            _scales_some_axes,
            since=(10, 0),
        ),
        Restriction(
            "Resize is documented as nearest and linear alone", lambda node: node.get("mode", "") == "cubic", level="risk"
        ),
    ),
    "STFT": (_initializer("STFT", 1, "the step"), _initializer("STFT", 2, "the window")),
    "ScatterElements": (_one_of("ScatterElements", "reduction", ("none",), "none")._replace(until=(10, 0)),),
    "ScatterND": (_one_of("ScatterND", "reduction", ("none",), "none"),),
    "Shrink": (_of_types("Shrink", f"{_FLOATS} INT8 INT32 INT64"),),
    "Slice": (_stored("Slice", 3, "the list of axes", until=(10, 3)),),
    "Split": (
        Restriction(
            "Split into so many equal pieces that the last is less than nothing; give their sizes",
            _is_uneven,
            since=(10, 0),
            source=IMPORTERS,
        ),
    ),
    "Squeeze": _settled("Squeeze"),
    "TensorScatter": (
        Restriction(
            "TensorScatter other than linear along the last axis but one of four dimensions",
            _is_scattered_otherwise,
            since=SAME_SOURCE,
            source=RTX,
        ),
    ),
    "TopK": (
        Restriction("TopK that does not sort", lambda node: node.get("sorted", 1) == 0),
        Restriction("TopK of more than 3840 values", _too_many),
    ),
    "Unsqueeze": _settled("Unsqueeze"),
    "Upsample": (_one_of("Upsample", "mode", ("nearest", "linear", "bilinear"), "nearest"),),
    **{
        f"Random{kind}": (
            Restriction(
                f"Random{kind} of another type than FLOAT, FLOAT16", _is_random_of_a_foreign_type, since=(10, 0), source=CHECKS
            ),
        )
        for kind in ("Normal", "NormalLike", "Uniform", "UniformLike")
    },
    **{
        f"Reduce{kind}": (
            _stored(f"Reduce{kind}", 1, "the list of axes", until=(10, 0)),
            _initializer(f"Reduce{kind}", 1, "the list of axes"),
        )
        for kind in _REDUCTIONS
    },
}
