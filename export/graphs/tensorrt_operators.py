"""Which operators TensorRT's ONNX parser reads, from which version on, and with which restrictions: its documentation as a table.

The parser goes by the name of an operator alone, whatever its domain. Sources: docs/operators.md of onnx-tensorrt for 8.5 to
10.15, its changelog, and the checks it makes before it parses (onnxOpCheckers.cpp).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import onnx
from onnx import NodeProto, TensorProto

from autoformer.export.graphs.graph_view import GraphView

Level = Literal["fails", "falls back", "not fused", "risk"]
Version = tuple[int, int]
EVER: Version = (99, 0)
READ = frozenset([
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "Attention", "AveragePool",
    "BatchNormalization", "BlackmanWindow", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape",
    "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum", "DeformConv", "DepthToSpace", "DequantizeLinear", "Div", "Dropout",
    "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "GRU", "Gather", "GatherElements",
    "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample",
    "GroupNormalization", "HammingWindow", "HannWindow", "HardSigmoid", "HardSwish", "Hardmax", "Identity", "If", "ImageScaler",
    "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "LogSoftmax", "Loop", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean", "MeanVarianceNormalization", "Min",
    "Mish", "Mod", "Mul", "Neg", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or", "PRelu", "Pad", "ParametricSoftplus",
    "Pow", "QuantizeLinear", "RMSNormalization", "RNN", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence",
    "RoiAlign", "RotaryEmbedding", "Round", "STFT", "ScaledTanh", "Scan", "Scatter", "ScatterElements", "ScatterND", "Selu",
    "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth",
    "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh", "TensorScatter", "ThresholdedRelu", "Tile", "TopK", "Transpose",
    "Trilu", "Unsqueeze", "Upsample", "Where", "Xor",
])  # fmt: skip
SINCE: Mapping[str, Version] = {  # operators that later versions brought
    "LayerNormalization": (8, 6), "GroupNormalization": (8, 6), "IsInf": (8, 6), "Gelu": (10, 0), "Hardmax": (10, 0),
    "DeformConv": (10, 1), "BlackmanWindow": (10, 4), "HammingWindow": (10, 4), "HannWindow": (10, 4), "STFT": (10, 5),
    "Attention": (10, 14), "RMSNormalization": (10, 15), "RotaryEmbedding": (10, 15), "TensorScatter": (10, 15),
}  # fmt: skip
REFUSED = frozenset([  # before it is asked whether the model has a function of this name
    "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im",
    "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear", "ImageDecoder", "MatMulInteger",
    "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement",
    "OptionalHasElement", "QLinearConv", "QLinearMatMul", "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty",
    "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence",
    "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Unique",
])  # fmt: skip
FUNCTIONS_SINCE: Version = (10, 0)  # 9.0, of which no device has one
OWN_OPERATORS, OWN_PLUGINS = "TRT_", "_TRT"  # how names begin and end


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


def broken(node: NodeProto, graph: GraphView, target: Version) -> Iterator[tuple[Level, str]]:
    """The restrictions that a node breaks in this version."""
    operator = Operator(node, graph)
    for restriction in RESTRICTIONS.get(node.op_type, ()):
        if restriction.since <= target < restriction.until and restriction.broken(operator):
            yield restriction.level, restriction.why


def _first_output(kind: str, since: Version = (0, 0)) -> Restriction:
    return Restriction(f"only the first output of {kind} is supported", lambda node: node.outputs_after(1), since=since)


def _stored(kind: str, index: int, name: str, until: Version = EVER) -> Restriction:
    return Restriction(f"{name} of {kind} is computed; it must be stored", lambda node: node.computes(index), until)


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


_COORDINATES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

RESTRICTIONS: Mapping[str, tuple[Restriction, ...]] = {
    "Attention": (
        Restriction("a softcap of Attention", lambda node: node.get("softcap", 0.0) != 0.0),
        Restriction("the precision of Attention's softmax is set", lambda node: node.has("softmax_precision")),
        Restriction("queries of Attention that have not four dimensions", lambda node: _rank(node, 4)),
        Restriction("earlier keys, values or their number given to Attention", lambda node: any(node.node.input[4:])),
        _first_output("Attention"),
    ),
    "AveragePool": _pool("AveragePool"),
    "BatchNormalization": (
        Restriction("BatchNormalization in training mode", lambda node: node.get("training_mode", 0) != 0),
        _first_output("BatchNormalization", since=(10, 0)),
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
    "GridSample": (Restriction("GridSample of an input that has not four dimensions", lambda node: _rank(node, 4)),),
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
        Restriction("layout 1 of LSTM", lambda node: node.get("layout", 0) != 0),
    ),
    "LayerNormalization": (_first_output("LayerNormalization"),),
    "LpNormalization": (_one_of("LpNormalization", "p", (1, 2), 2),),
    "LpPool": (*_pool("LpPool"), _one_of("LpPool", "p", (1, 2), 2)),
    "MaxPool": (*_pool("MaxPool"), _first_output("MaxPool")),
    "OneHot": (_stored("OneHot", 1, "the depth"),),
    "Pad": (_stored("Pad", 3, "the list of axes", until=(10, 4)),),
    "RNN": (_recurrence("RNN", 1),),
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
            "Resize is documented as nearest and linear alone", lambda node: node.get("mode", "") == "cubic", level="risk"
        ),
    ),
    "STFT": (_stored("STFT", 1, "the step"), _stored("STFT", 2, "the window")),
    "ScatterElements": (_one_of("ScatterElements", "reduction", ("none",), "none")._replace(until=(10, 0)),),
    "ScatterND": (_one_of("ScatterND", "reduction", ("none",), "none"),),
    "Slice": (_stored("Slice", 3, "the list of axes", until=(10, 3)),),
    "Squeeze": (_stored("Squeeze", 1, "the list of axes", until=(10, 7)),),
    "TopK": (
        Restriction("TopK that does not sort", lambda node: node.get("sorted", 1) == 0),
        Restriction("TopK of more than 3840 values", _too_many),
    ),
    "Unsqueeze": (_stored("Unsqueeze", 1, "the list of axes", until=(10, 7)),),
    "Upsample": (_one_of("Upsample", "mode", ("nearest", "linear", "bilinear"), "nearest"),),
    **{f"Reduce{kind}": (_stored(f"Reduce{kind}", 1, "the list of axes"),) for kind in _REDUCTIONS},
}
