"""What TensorRT would refuse, compute in another type or not fuse in an ONNX file, found without TensorRT.

First the check and what it finds; then the rules, a function each of the graph and a version, with the page that says so. A rule
knows nothing but what NVIDIA wrote down: where behaviour differs between versions, the version is in the rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, get_args

import onnx
from onnx import TensorProto

from autoformer.errors import ExportError
from autoformer.export.graphs.attention_pattern import attentions
from autoformer.export.graphs.graph_view import GraphView, calls, named
from autoformer.export.graphs.onnx_graph import opset_of
from autoformer.export.graphs.onnx_reading import read_model
from autoformer.export.graphs.tensorrt_operators import (
    FOLLOWED,
    FUNCTIONS_SINCE,
    OPERATORS,
    OWN_OPERATORS,
    OWN_PLUGINS,
    READ,
    REFUSED,
    RTX,
    SHAPED_BY,
    SINCE,
    Level,
    Version,
)
from autoformer.export.graphs.tensorrt_restrictions import SAME_SOURCE, broken

LEVELS: tuple[Level, ...] = get_args(Level)  # the worst first
TARGETS = ("8.6", "10.3", "10.9", "10.13", "10.16", "11.4")  # JetPack 6.0, JetPack 6.1 and 6.2, servers, Thor, servers


class Objection(NamedTuple):
    """One thing that one version objects to."""

    level: Level
    where: str  # node, value, or the file
    why: str
    source: str  # where it is written


@dataclass(frozen=True)
class Finding:
    """What some of the versions asked about object to, with the rule that found it."""

    level: Level
    where: str
    why: str
    source: str
    rule: str
    versions: tuple[str, ...]


def check_tensorrt(path: Path, versions: Sequence[str] = TARGETS) -> list[Finding]:
    """The findings for any ONNX file, the worst first. Raises `CheckpointError` when it cannot be read."""
    return check_model(read_model(path, weights_beside=True), versions)


def check_model(model: onnx.ModelProto, versions: Sequence[str] = TARGETS) -> list[Finding]:
    """The findings for a model, the worst first; what several versions object to is one finding."""
    views = tuple(GraphView.of(model, READ | REFUSED).every())
    held: dict[tuple[str, Objection], list[str]] = {}
    for version in versions:
        target = parsed(version)
        for view, (name, rule) in product(views, RULES.items()):
            for objection in dict.fromkeys(rule(model, view, target)):
                placed = objection._replace(where=view.place + objection.where)
                held.setdefault((name, placed), []).append(version)
    found = [Finding(**objection._asdict(), rule=name, versions=tuple(texts)) for (name, objection), texts in held.items()]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def parsed(version: str) -> Version:
    """A version as numbers. Raises `ExportError` for what is not like 10.3, or not 8.6, 10.x or 11.x."""
    major, dot, rest = version.partition(".")
    minor = rest.partition(".")[0]
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise ExportError(f"TensorRT version {version[:40]!r} is not understood; write it like {TARGETS[1]}")
    if (int(major), int(minor)) != (8, 6) and int(major) not in (10, 11):
        raise ExportError(f"nothing is known about TensorRT {version[:40]}; known are 8.6, 10.x and 11.x")
    return int(major), int(minor)


def grouped(findings: Sequence[Finding]) -> list[tuple[Finding, int]]:
    """Findings that differ only in the place, as the first of them and how many there are."""
    counts = Counter((finding.level, finding.why, finding.versions) for finding in findings)
    first = {(finding.level, finding.why, finding.versions): finding for finding in reversed(findings)}
    return [(first[key], count) for key, count in counts.items()]


def to_dict(findings: Sequence[Finding], versions: Sequence[str]) -> dict[str, Any]:
    """The JSON form, with the versions for which nothing fails."""
    return {
        "format": "autoformer/tensorrt-check/1",
        "versions": list(versions),
        "readable": [text for text in versions if not any(f.level == "fails" and text in f.versions for f in findings)],
        "findings": [asdict(finding) for finding in findings],
    }


# --- what NVIDIA wrote down ---

BYTES = "TensorRT documentation, DataType UINT8 (the same since 8.5); issue NVIDIA/TensorRT 3985"
PARSER = "TensorRT's ONNX parser (ModelImporter.cpp of onnx-tensorrt)"
CHANGES = "changes of TensorRT's ONNX parser (onnx-tensorrt, docs/Changelog.md), 9.0"
IMPORTER = "TensorRT's ONNX importer, quantise and dequantise (onnxOpImporters.cpp)"
FUSION = "TensorRT documentation, fused attention"
QUANTISE = "TensorRT documentation, operators, Quantize"
SHAPES = "TensorRT documentation, ITensor.is_shape_tensor"
GRAPHS = "CUDA programming guide, stream capture"

STANDARD = ("", "ai.onnx")
NEWEST_OPSET = (((8, 6), 17), ((10, 0), 20), ((10, 9), 22), ((10, 13), 24), ((11, 5), 25))  # from this version on
OLDEST_OPSET = 9  # documented since 10.0
QUANTISED_SINCE: dict[int, Version] = {
    TensorProto.INT8: (8, 6), TensorProto.FLOAT8E4M3FN: (10, 0), TensorProto.INT4: (10, 1), TensorProto.FLOAT4E2M1: (10, 8),
}  # fmt: skip
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
HALF_BYTES = (TensorProto.INT4, TensorProto.FLOAT4E2M1)
TYPES_SINCE: dict[int, Version] = {
    **dict.fromkeys(
        [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32,
         TensorProto.INT64, TensorProto.BOOL], (8, 6),
    ),
    **QUANTISED_SINCE, TensorProto.BFLOAT16: (10, 0),
}  # fmt: skip
BYTES_TAKEN = (
    "Cast",
    "CastLike",
    "Equal",
    "QuantizeLinear",
    "Shape",
    "Size",
)  # as TensorRT-RTX answers; documented is Cast alone


def opset(model: onnx.ModelProto, graph: GraphView, target: Version) -> Iterator[Objection]:
    """Newer operator sets than the parser reads, and older ones than it promises."""
    newest = max(newest for since, newest in NEWEST_OPSET if since <= target)
    if graph.outer is not None:
        return
    if 0 < (written := opset_of(model)) < OLDEST_OPSET:
        yield Objection("risk", "the file", f"opset {written}; documented are those from {OLDEST_OPSET} on", OPERATORS)
    if written > newest:
        if target < (10, 0):  # operators whose inputs changed are read as they were before
            why = f"opset {written}, this version reads up to {newest}; export with an opset of {newest} or below"
            yield Objection("fails", "the file", why, OPERATORS)
        else:
            why = f"opset {written}, documented are those up to {newest}: what changed in an operator since is not looked at"
            yield Objection("risk", "the file", why, PARSER)


def functions(model: onnx.ModelProto, graph: GraphView, target: Version) -> Iterator[Objection]:
    """Calls of the model's own functions, which are read by name, after the operators of that name."""
    if graph.outer is not None:
        return
    for node in calls(model):
        called = f"{node.domain}.{node.op_type}"
        if node.op_type in READ and SINCE.get(node.op_type, (0, 0)) <= target:
            why = f"the function {called} is passed over: operators go by their names, and {node.op_type} is one"
            yield Objection("risk", named(node), why, PARSER)
        elif node.op_type not in REFUSED and target < FUNCTIONS_SINCE:
            why = (
                f"{called} is a function of the model; functions are read from TensorRT {'.'.join(map(str, FUNCTIONS_SINCE))} on"
            )
            yield Objection("fails", named(node), why, CHANGES)


def operators(model: onnx.ModelProto, graph: GraphView, target: Version) -> Iterator[Objection]:
    """Operators that need a plugin, a newer version or the host, or are used as no version reads them."""
    for node in graph.nodes:
        kind, called = node.op_type, node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"
        if kind in REFUSED:
            yield Objection("fails", named(node), f"{called} is not supported", OPERATORS)
        elif kind in READ:
            if (since := SINCE.get(kind, (0, 0))) > target:
                if kind in graph.functions and target >= FUNCTIONS_SINCE:
                    continue  # an operator of a later version's, which is a function to this one
                yield Objection("fails", named(node), f"{called} is read from TensorRT {since[0]}.{since[1]} on", OPERATORS)
                continue
            if node.domain not in STANDARD and kind not in graph.functions:
                why = f"{called} is read as the standard {kind}: operators go by their names, whatever the domain"
                yield Objection("risk", named(node), why, PARSER)
            for one in broken(node, graph, target):
                yield Objection(one.level, named(node), one.why, one.source)
            if kind in ("If", "Loop", "Scan", "NonZero", "NonMaxSuppression"):
                why = f"{kind} decides shapes or steps at run time, which keeps the network out of a CUDA graph"
                yield Objection("falls back", named(node), why, GRAPHS)
        elif kind.startswith(OWN_OPERATORS) or kind.endswith(OWN_PLUGINS):
            why = f"{called} is TensorRT's own; which versions have it, and with which plugin library, is not known here"
            yield Objection("risk", named(node), why, PARSER)
        elif kind not in graph.functions:
            why = (
                f"{called} is not supported"
                if node.domain in STANDARD
                else f"{called} is not a standard operator; it needs a plugin"
            )
            yield Objection("fails", named(node), why, OPERATORS)


def types(model: onnx.ModelProto, graph: GraphView, target: Version) -> Iterator[Objection]:
    """Types that are refused, or computed in another."""
    inputs, outputs = (graph.inputs if graph.outer is None else set()), graph.outputs
    for name, kind in graph.own_types.items():
        if kind and kind not in TYPES_SINCE:
            yield Objection("fails", name, f"{type_name(kind)} is not a type of TensorRT", OPERATORS)
        elif kind and (since := TYPES_SINCE[kind]) > target:
            yield Objection("fails", name, f"{type_name(kind)} is read from TensorRT {since[0]}.{since[1]} on", OPERATORS)
        elif kind == TensorProto.DOUBLE:
            yield Objection("falls back", name, "DOUBLE is computed as FLOAT", OPERATORS)
        elif kind == TensorProto.UINT8 and name in inputs:
            users = {user.op_type for user in graph.users.get(name, ())} - {"Cast"}
            if target >= SAME_SOURCE and users and name not in outputs and users <= set(BYTES_TAKEN):
                why = f"a UINT8 input goes into {', '.join(sorted(users))}; documented is a Cast first, and nowhere else"
                yield Objection("risk", name, why, RTX)
            elif users or name in outputs:
                yield Objection("fails", name, "a UINT8 input must go into a Cast first, and nowhere else", BYTES)
            if {entry.i for user in graph.users.get(name, ()) if user.op_type == "Cast" for entry in user.attribute} - FLOATS:
                why = "a UINT8 input is cast to another type than FLOAT or FLOAT16, which alone are documented for it"
                yield Objection("risk", name, why, BYTES)
        elif kind == TensorProto.UINT8 and (maker := graph.maker.get(name)) is not None:
            ends = maker.op_type == "Cast" and name in outputs and not graph.users.get(name)
            if not ends and maker.op_type not in ("QuantizeLinear", "Constant"):  # their bytes are the other rule's matter
                yield Objection("fails", name, "UINT8 is a type of inputs and outputs alone; no layer computes in it", BYTES)
    if graph.outer is None and target < (10, 0) and any(TensorProto.FLOAT16 in view.own_types.values() for view in graph.every()):
        why = "half precision needs the builder's FP16 flag in this version; without it float32 is computed"
        yield Objection("falls back", "the file", why, "TensorRT 8.6 documentation, reduced precision")


def quantisation(model: onnx.ModelProto, graph: GraphView, target: Version) -> Iterator[Objection]:
    """Q/DQ nodes that are refused, and products that stay in floating point beside them."""
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 2:
            continue
        scale, zero_point = node.input[1], node.input[2] if len(node.input) > 2 else ""
        if not graph.is_fixed(scale) and target < SAME_SOURCE:
            yield Objection("fails", named(node), "the scale is computed; it must be stored", QUANTISE)
        elif not graph.is_fixed(scale):
            yield Objection("risk", named(node), "the scale is computed; documented is a stored one", QUANTISE)
        elif (scales := graph.values(scale)) is not None and not (scales.astype("float32") > 0).all():
            yield Objection("fails", named(node), "a scale is not positive", IMPORTER)
        if (zeros := graph.values(zero_point)) is not None and zeros.astype("float32").any():
            yield Objection("fails", named(node), "zero points other than zero; quantise symmetrically", IMPORTER)
        if zero_point and not graph.is_fixed(zero_point) and graph.types.get(zero_point) != TensorProto.FLOAT8E4M3FN:
            yield Objection("fails", named(node), "the zero point is computed; it must be stored", QUANTISE)
        data = graph.stored.get(node.input[0])
        if node.op_type == "DequantizeLinear" and data is not None and data.data_type == TensorProto.UINT8:
            yield Objection("fails", named(node), "stored values of UINT8; INT8 is expected", IMPORTER)
            continue
        value = node.input[0] if node.op_type == "DequantizeLinear" else node.output[0]
        kind = graph.types.get(zero_point or value, TensorProto.UINT8)
        if kind == TensorProto.INT32:
            yield Objection("fails", named(node), "INT32 is dequantised, as biases are; keep them in floating point", IMPORTER)
        elif kind == TensorProto.UINT8:
            why = "quantised to UINT8; INT8 is expected, with a zero point that says so"
            if target < (10, 0):
                yield Objection("fails", named(node), why, IMPORTER)
            else:
                yield Objection(
                    "risk", named(node), f"{why}; this version computes it as INT8 and clips what is larger", IMPORTER
                )
        elif kind not in QUANTISED_SINCE:
            why = f"quantised to {type_name(kind)}; INT8 is expected, with a zero point that says so"
            yield Objection("fails", named(node), why, IMPORTER)
        elif kind in HALF_BYTES and (zero_point or node.op_type == "QuantizeLinear") and _is_odd(graph.shapes.get(node.input[0])):
            yield Objection(
                "fails", named(node), f"an odd number of {type_name(kind)} values, two of which share a byte", IMPORTER
            )
        elif (since := QUANTISED_SINCE[kind]) > target:
            why = f"quantised to {type_name(kind)}, which is read from TensorRT {since[0]}.{since[1]} on"
            yield Objection("fails", named(node), why, IMPORTER)
    for node in graph.nodes:
        if node.op_type in ("MatMul", "Gemm", "Conv") and len(node.input) > 1:
            sides = [name in graph.maker and graph.maker[name].op_type == "DequantizeLinear" for name in node.input[:2]]
            if any(sides) and not all(sides):
                why = f"one input of this {node.op_type} is dequantised and one is not; it runs in floating point"
                yield Objection("falls back", named(node), why, "TensorRT documentation, working with quantised types")


def attention(model: onnx.ModelProto, graph: GraphView, target: Version) -> Iterator[Objection]:
    """Attention that would not become one kernel."""
    for found in attentions(graph):
        for why in found.objections:
            yield Objection("not fused", found.name, f"attention: {why}", FUSION)
    for node in graph.nodes:
        if node.op_type == "Attention" and target >= SINCE["Attention"]:
            why = "Attention is not taken apart by default: where no fused kernel fits its sizes, the build fails"
            yield Objection("risk", named(node), why, "issue NVIDIA/TensorRT 4705")


def normalisation(model: onnx.ModelProto, graph: GraphView, target: Version) -> Iterator[Objection]:
    """Layer normalisation in half precision, or taken apart."""
    for node in graph.nodes:
        if node.op_type == "LayerNormalization" and graph.types.get(node.input[0]) == TensorProto.FLOAT16:
            why = "LayerNormalization of half precision values loses accuracy; cast to float32 before it"
            yield Objection("risk", named(node), why, "issue NVIDIA/TensorRT 4493")
        elif node.op_type == "Sqrt" and _of_a_variance(node, graph):
            why = "a layer normalisation taken apart; as LayerNormalization (opset 17) it is one kernel"
            yield Objection("not fused", named(node), why, "issue NVIDIA/TensorRT 2564")


def shapes(model: onnx.ModelProto, graph: GraphView, target: Version) -> Iterator[Objection]:
    """Inputs whose sizes are open."""
    for value in model.graph.input if graph.outer is None else ():
        if value.name in graph.stored:
            continue
        shape = graph.shapes.get(value.name)
        if shape is None:
            yield Objection("fails", value.name, "how many dimensions it has is not stated", OPERATORS)
        elif any(size is None for size in shape[1:]):
            why = "sizes beside the batch are open; kernels are tuned for one size of their range"
            yield Objection("falls back", value.name, why, "TensorRT documentation, optimisation profiles")


def sizes(model: onnx.ModelProto, graph: GraphView, target: Version) -> Iterator[Objection]:
    """Outputs as large as the contents of an input say, which are whole numbers alone."""
    for node in graph.nodes:
        deciding = [node.input[index] for index in SHAPED_BY.get(node.op_type, ()) if index < len(node.input)]
        for name in dict.fromkeys(source for value in deciding for source in graph.sources_of(value, FOLLOWED)):
            kind, shape = graph.types.get(name, 0), graph.shapes.get(name)
            if kind in (TensorProto.INT32, TensorProto.INT64, 0):
                continue
            why = f"the contents of {name}, which is {type_name(kind)}, decide a size; of INT32 or INT64 they may"
            is_open = shape is None or None in shape  # through sums over open axes TensorRT does not follow them
            yield Objection("risk" if is_open else "fails", named(node), why, SHAPES)


def type_name(kind: int) -> str:
    """The name of an ONNX data type."""
    return TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else f"type {kind}"


def _is_odd(shape: tuple[int | None, ...] | None) -> bool:
    return shape is not None and None not in shape and prod(size or 0 for size in shape) % 2 == 1


def _of_a_variance(node: onnx.NodeProto, graph: GraphView) -> bool:
    """Whether this Sqrt is of a mean (of squares) and something is divided by it."""
    before = graph.made_by(node.input[0])
    if before is not None and before.op_type == "Add":
        before = next((maker for name in before.input if (maker := graph.made_by(name)) is not None), None)
    after = {user.op_type for user in graph.used_by(node.output[0])}
    return before is not None and before.op_type == "ReduceMean" and bool(after & {"Div", "Reciprocal"})


RULES: dict[str, Callable[[onnx.ModelProto, GraphView, Version], Iterator[Objection]]] = {
    rule.__name__: rule for rule in (opset, functions, operators, types, quantisation, attention, normalisation, shapes, sizes)
}  # fmt: skip
