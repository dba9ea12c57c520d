"""What TensorRT made of a network: the layers of an engine, what they were in the ONNX file, and what each takes.

The inspector's JSON has two schemas, of TensorRT 8 to 10 and of 11; both are read. Layers are joined to ONNX nodes through the
metadata that the parser leaves ("[ONNX Layer: name]"), or through their names where there is none, and to torch modules through
the graph's scopes file. A transformer may become one opaque layer whose inside nobody sees: such nodes count as unknown. Built
`detailed`, an engine shows most. Runs on boards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from autoformer.errors import CheckpointError, MeasurementError, short
from autoformer.export.engines.engine import Engine
from autoformer.export.graphs.onnx_file import OnnxFile, module_scopes

# Words for types in both schemas, the narrowest first: what a layer reads decides what it computes in.
TYPES = {
    "int4": "int4", "fp4": "fp4", "fp8": "fp8", "int8": "int8", "fp16": "fp16", "half": "fp16", "bf16": "bf16",
    "bfloat16": "bf16", "fp32": "fp32", "float32": "fp32", "float": "fp32", "int32": "int32", "int64": "int64", "bool": "bool",
    "uint8": "uint8",
}  # fmt: skip
ORDER = tuple(dict.fromkeys(TYPES.values()))
OPAQUE = "{ForeignNode["  # a whole subgraph, named by its first and last node
ATTENTION = re.compile(r"mha|flash|fused_attention", re.IGNORECASE)  # in a name, type or tactic: one attention kernel
ONNX_NAME = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
PRODUCTS = ("MatMul", "Gemm", "Conv")
BETWEEN = ("Add", "Sub", "Mul", "Div", "Where", "Cast", "QuantizeLinear", "DequantizeLinear")  # scales, masks and types


@dataclass(frozen=True)
class LayerTensor:
    """What goes into or out of a layer."""

    name: str
    shape: tuple[int, ...]
    format: str  # how it lies in memory, in TensorRT's words
    data_type: str  # "fp16" and so on; "" where it is not said


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine; of engines that are not `detailed` only the name is known."""

    name: str
    type: str = ""
    tactic: str = ""
    precision: str = ""  # the narrowest type it reads
    inputs: tuple[LayerTensor, ...] = ()
    outputs: tuple[LayerTensor, ...] = ()
    onnx_nodes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()  # of torch

    @property
    def is_opaque(self) -> bool:
        """Whether it hides a whole subgraph."""
        return OPAQUE in self.name

    @property
    def is_reformat(self) -> bool:
        """Whether it only copies values into another format."""
        return self.type.lower() in ("reformat", "reformatting", "noop") or self.name.startswith("Reformatting CopyNode")

    @property
    def is_attention(self) -> bool:
        """Whether it is attention in one kernel, by its name or tactic."""
        return bool(ATTENTION.search(f"{self.name} {self.type} {self.tactic}"))


@dataclass(frozen=True)
class Judgement:
    """For which ONNX nodes something holds, does not hold, or cannot be seen."""

    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = (("yes", self.yes), ("no", self.no), ("cannot be seen", self.unknown))
        return ", ".join(f"{len(names)} {word}" for word, names in parts if names) or "none in this network"


@dataclass(frozen=True)
class EngineLayers:
    """All layers in order, and what was asked about them."""

    layers: tuple[EngineLayer, ...]
    attention: Judgement = Judgement()  # of Softmax nodes: are they part of one attention kernel?
    layer_norm: Judgement = Judgement()  # of LayerNormalization nodes: are they one layer together with neighbours?
    int8: Judgement = Judgement()  # of quantised products: do they read int8?

    @property
    def reformats(self) -> tuple[EngineLayer, ...]:
        """Layers that only move values."""
        return tuple(layer for layer in self.layers if layer.is_reformat)

    @property
    def attention_kernels(self) -> tuple[EngineLayer, ...]:
        """Layers that are attention in one kernel; known without the ONNX file."""
        return tuple(layer for layer in self.layers if layer.is_attention)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"reformats": len(self.reformats), "attention_kernels": len(self.attention_kernels)}


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """What one layer takes: the median over runs."""

    name: str
    median_ms: float
    share: float  # of the sum over layers
    modules: tuple[str, ...] = ()


def inspect_engine(engine: Engine | Path, graph: Path | None = None, *, sha256: str | None = None) -> EngineLayers:
    """The layers of an engine, or of a plan that is loaded for it as `Engine.load` does.

    With the ONNX file it was built from, its questions are answered and its layers joined to torch modules. Raises
    `CheckpointError` when the inspector's answer or the file cannot be read.
    """
    if isinstance(engine, Engine):
        return read_layers(engine.layer_information(), graph)
    with Engine.load(engine, sha256=sha256) as loaded:
        return read_layers(loaded.layer_information(), graph)


def read_layers(information: str, graph: Path | None = None) -> EngineLayers:
    """What the inspector's JSON says, in the schema of any version."""
    try:
        return layers_of(json.loads(information)["Layers"], graph)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"TensorRT's inspector gave something that cannot be read: {short(error)}") from error


def layers_of(entries: Sequence[Any], graph: Path | None = None) -> EngineLayers:
    """The layers of a list in the schema of any version, as `read_layers`; raises `CheckpointError` for the ONNX file."""
    file = None if graph is None else OnnxFile.read(graph)
    known = {} if file is None else {node.name: node.operator for node in file.nodes}
    scopes = {} if graph is None else module_scopes(graph)
    layers = tuple(_layer(entry, known, scopes) for entry in entries)
    return EngineLayers(layers) if file is None else _judged(layers, file)


def layer_times(engine: Engine, runs: int = 50, layers: EngineLayers | None = None) -> tuple[LayerTime, ...]:
    """What each layer of the prepared engine takes, in order; `layers` join the torch modules.

    Their sum is not the latency: layers overlap, and profiling costs time itself. Raises `MeasurementError` without runs.
    """
    if runs < 1:
        raise MeasurementError(f"layers are timed in at least one run, asked for {runs}")
    modules = {} if layers is None else {layer.name: layer.modules for layer in layers.layers}
    taken: dict[str, list[float]] = {}
    for run in engine.time_layers(runs):
        once: dict[str, float] = {}
        for name, ms in run:  # layers in several pieces have equal names
            once[name] = once.get(name, 0.0) + ms
        for name, ms in once.items():
            taken.setdefault(name, []).append(ms)
    medians = {name: median(values) for name, values in taken.items()}
    whole = sum(medians.values())
    return tuple(
        LayerTime(name=name, median_ms=ms, share=ms / whole if whole else 0.0, modules=modules.get(name, ()))
        for name, ms in medians.items()
    )


def _layer(entry: Any, known: Mapping[str, str], scopes: Mapping[str, str]) -> EngineLayer:
    if isinstance(entry, str):
        entry = {"Name": entry}
    name = str(entry["Name"])
    inputs, outputs = (tuple(_tensor(one) for one in entry.get(key) or ()) for key in ("Inputs", "Outputs"))
    read = {tensor.data_type for tensor in inputs or outputs}
    nodes = tuple(dict.fromkeys(_nodes_of(str(entry.get("Metadata") or ""), name, known)))
    return EngineLayer(
        name=name,
        type=str(entry.get("LayerType", "")),
        tactic=str(entry.get("TacticName", "")),
        precision=next((kind for kind in ORDER if kind in read), ""),
        inputs=inputs,
        outputs=outputs,
        onnx_nodes=nodes,
        modules=tuple(dict.fromkeys(scope for node in nodes if (scope := scopes.get(node)))),
    )


def _tensor(entry: Mapping[str, Any]) -> LayerTensor:
    """A tensor in either schema: format and type in one text, or in two."""
    given = {key.lower().replace(" ", ""): value for key, value in entry.items()}
    text = str(given.get("datatype") or given.get("format/datatype") or "")
    words = re.findall(r"[a-z]+[0-9]*", text.lower())
    kind = next((TYPES[word] for word in words if word in TYPES), "")
    layout = str(given.get("format") or given.get("format/datatype") or "")
    return LayerTensor(str(given.get("name", "")), tuple(given.get("dimensions") or ()), layout, kind)


def _nodes_of(metadata: str, name: str, known: Mapping[str, str]) -> Iterator[str]:
    """The ONNX nodes of a layer, from what the parser left; else those whose names are in its name."""
    if found := ONNX_NAME.findall(metadata):
        yield from found
        return
    for word in re.split(r"\.\.\.|[\s+,(){}\[\]|]+", name):
        if word in known:
            yield word
        elif (plain := re.sub(r"_\d+$", "", word)) in known:  # the parser numbers layers of equal name
            yield plain


def products_around(file: OnnxFile) -> dict[str, frozenset[str]]:
    """By Softmax, the product of query and keys before it and that with the values after it, as far as they stand there.

    Masks and scales may stand between; a mask that is computed has products of its own, which are not those.
    """
    maker = {name: node for node in file.nodes for name in node.outputs}
    found = {}
    for node in file.nodes:
        if node.operator != "Softmax":
            continue
        products, waiting = set[str](), [maker[name] for name in node.inputs if name in maker]
        while waiting and not products:  # the nearest first
            products = {each.name for each in waiting if each.operator == "MatMul"}
            between = [each for each in waiting if each.operator in BETWEEN]
            waiting = [maker[name] for each in between for name in each.inputs if name in maker]
        users = [user for user in file.nodes if set(user.inputs) & set(node.outputs)]
        while users and all(user.operator in BETWEEN for user in users):
            given = {name for user in users for name in user.outputs}
            users = [user for user in file.nodes if set(user.inputs) & given]
        found[node.name] = frozenset({*products, *(user.name for user in users if user.operator == "MatMul")})
    return found


def _judged(layers: Sequence[EngineLayer], file: OnnxFile) -> EngineLayers:
    kind = {node.name: node.operator for node in file.nodes}
    of_node: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        for node in layer.onnx_nodes:
            of_node.setdefault(node, []).append(layer)

    def judge(nodes: Sequence[str], holds: Callable[[EngineLayer, str], bool]) -> Judgement:
        answers: dict[str, list[str]] = {"yes": [], "no": [], "unknown": []}
        for node in nodes:
            seen = [layer for layer in of_node.get(node, ()) if not layer.is_opaque]
            answer = "unknown" if not seen else "yes" if any(holds(layer, node) for layer in seen) else "no"
            answers[answer].append(node)
        return Judgement(**{word: tuple(names) for word, names in answers.items()})

    around = products_around(file)

    def is_whole_attention(layer: EngineLayer, softmax: str) -> bool:
        products = around.get(softmax, frozenset())
        return layer.is_attention or (len(products) > 1 and products <= set(layer.onnx_nodes))

    dequantised = {name for node in file.nodes if node.operator == "DequantizeLinear" for name in node.outputs}
    quantised = [
        node.name for node in file.nodes if node.operator in PRODUCTS and all(name in dequantised for name in node.inputs[:2])
    ]
    return EngineLayers(
        tuple(layers),
        attention=judge([name for name in kind if kind[name] == "Softmax"], is_whole_attention),
        layer_norm=judge(
            [name for name in kind if kind[name] == "LayerNormalization"], lambda layer, _: len(layer.onnx_nodes) > 1
        ),
        int8=judge(quantised, lambda layer, _: layer.precision == "int8"),
    )
