"""Where the time of a network goes: the time of each layer that a runtime ran, joined to the torch module it came from.

A layer is what the runtime computes in one go, often several nodes of the ONNX file. Its `scope` is the name of a torch module,
"blocks.3.attn.qkv", `ROOT` for the network itself, or empty where nothing says it. Times are taken with the runtime's
profiler on, which slows it down, so their sum is told beside the time of a run without it and is never scaled to fit.

The JSON of trtexec's --exportProfile is read and written: [{"count": N}, {"name", "timeMs", "averageMs", "medianMs",
"percentage"}, …].
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from autoformer.errors import CheckpointError, MeasurementError, short
from autoformer.files import believing

FORMAT = "autoformer/layers/1"
REFORMAT = "Reformat"  # what a layer of an engine that only copies is called here
COPIES = {
    REFORMAT,
    "ReorderInput",
    "ReorderOutput",
    "Cast",
    "MemcpyFromHost",
    "MemcpyToHost",
    "QuantizeLinear",
    "DequantizeLinear",
}
NORMS = {"LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "BatchNormalization"}
# What a part of a module's name says about it; the first that fits counts.
KINDS = (
    ("norm", re.compile(r"(^|\.)(norm|ln|fc_norm|layer_norm|layernorm)\w*$")),
    ("attention", re.compile(r"(^|\.)(attn|attention|self_attn)(\.|$)")),
    ("MLP", re.compile(r"(^|\.)(mlp|ffn|fc1|fc2)(\.|$)")),
    ("embed", re.compile(r"(^|\.)(patch_embed|pos_embed|cls_token|stem|embeddings?)(\.|$)")),
    ("head", re.compile(r"(^|\.)(head|classifier)(\.|$)")),
)
BLOCK = re.compile(r"^((?:[\w.]*\.)?(?:blocks|layers|layer)\.\d+)(?:\.|$)")
OTHER, NO_BLOCK = "other", "outside of blocks"
ROOT = "network"


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """One layer."""

    name: str
    operator: str  # "" where the runtime does not say
    scope: str
    total_ms: float  # over all runs
    average_ms: float  # of one run
    median_ms: float

    @property
    def kind(self) -> str:
        """ "embed", "attention", "MLP", "norm", "head", "copies" or "other"."""
        if self.operator in COPIES or self.name.startswith("Reformatting CopyNode"):
            return "copies"
        if self.operator in NORMS:
            return "norm"
        return next((kind for kind, words in KINDS if words.search(self.scope)), OTHER)

    @property
    def block(self) -> str:
        """The transformer block, "blocks.3", or `NO_BLOCK`."""
        found = BLOCK.match(self.scope)
        return found[1] if found else NO_BLOCK


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """The layers of one network on one runtime, in the order they ran. None where it is not known."""

    name: str
    backend: str
    precision: str | None
    batch: int | None
    threads: int | None
    runs: int
    layers: tuple[LayerTime, ...]
    end_to_end_ms: float | None = None  # median of a run without the profiler

    @property
    def sum_ms(self) -> float:
        """The average times of all layers together."""
        return sum(layer.average_ms for layer in self.layers)

    @property
    def ratio(self) -> float | None:
        """Sum of the layers over a run without the profiler; mostly above 1, since profiling costs time."""
        return None if self.end_to_end_ms is None else self.sum_ms / self.end_to_end_ms

    @property
    def joined(self) -> float:
        """The share of the time whose torch module is known."""
        return sum(layer.average_ms for layer in self.layers if layer.scope) / self.sum_ms if self.sum_ms else 0.0

    def by(self, what: str) -> dict[str, float]:
        """Average ms of one run by "kind", "block", "operator" or "scope"; blocks in their order, others dearest first."""
        found: dict[str, float] = {}
        for layer in self.layers:
            key = getattr(layer, what) or "unknown"
            found[key] = found.get(key, 0.0) + layer.average_ms
        if what == "block":
            return dict(sorted(found.items(), key=lambda item: _place(item[0])))
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `load` reads it back."""
        return {
            "format": FORMAT,
            **asdict(self),
            "layers": [{**asdict(layer), "kind": layer.kind, "block": layer.block} for layer in self.layers],
            "sum_ms": self.sum_ms,
            "sum_over_end_to_end": self.ratio,
            "joined_share": self.joined,
            "by_kind_ms": self.by("kind"),
            "by_block_ms": self.by("block"),
            "by_operator_ms": self.by("operator"),
        }

    def to_trtexec(self) -> list[dict[str, Any]]:
        """What trtexec --exportProfile would write."""
        total = sum(layer.total_ms for layer in self.layers)
        return [
            {"count": self.runs},
            *(
                {
                    "name": layer.name,
                    "timeMs": layer.total_ms,
                    "averageMs": layer.average_ms,
                    "medianMs": layer.median_ms,
                    "percentage": 100 * layer.total_ms / total if total else 0.0,
                }
                for layer in self.layers
            ),
        ]

    @classmethod
    def load(cls, path: Path, scopes: Mapping[str, str] = {}) -> LayerProfile:
        """Reads our JSON or trtexec's. `scopes` are the torch modules of the nodes of the ONNX file that an engine came from.

        Raises `CheckpointError` naming the file when it is neither.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}); expected a JSON file of layers") from error
        with believing(path, "expected ours or trtexec's", fault="holds no times of layers"):
            values: Any = json.loads(text)
            if isinstance(values, list):
                return _from_trtexec(values, path.stem, scopes)
            if values.get("format") != FORMAT:
                raise MeasurementError(f"its format is {short(values.get('format'), 40)!r}, expected {FORMAT!r}")
            layers = tuple(
                LayerTime(**{name: entry[name] for name in LayerTime.__dataclass_fields__}) for entry in values["layers"]
            )
            known = {name: values[name] for name in cls.__dataclass_fields__ if name != "layers"}
            read = cls(**known, layers=layers)
            if not all(_is_time(value) for layer in layers for value in (layer.total_ms, layer.average_ms, layer.median_ms)):
                raise MeasurementError("times of layers are no numbers")
            return read


def _from_trtexec(values: Sequence[Mapping[str, Any]], name: str, scopes: Mapping[str, str]) -> LayerProfile:
    if not values:
        raise MeasurementError("the list is empty")
    count, *entries = values
    layers = tuple(
        LayerTime(
            name=str(entry["name"]),
            operator="",
            scope=scope_of_engine_layer(str(entry["name"]), scopes),
            total_ms=float(entry["timeMs"]),
            average_ms=float(entry["averageMs"]),
            median_ms=float(entry.get("medianMs", entry["averageMs"])),  # TensorRT 8.4 and older write none
        )
        for entry in entries
    )
    if not layers or not all(
        _is_time(value) for layer in layers for value in (layer.total_ms, layer.average_ms, layer.median_ms)
    ):
        raise MeasurementError("there is no layer, or its time is no number")
    runs = count["count"]
    if type(runs) is not int or runs < 1:
        raise MeasurementError(f"it counts {short(runs, 40)} runs")
    return LayerProfile(name=name, backend="tensorrt", precision=None, batch=None, threads=None, runs=runs, layers=layers)


def scope_of_engine_layer(name: str, scopes: Mapping[str, str]) -> str:
    """The torch module of an engine's layer: what the modules of all ONNX nodes that its name lists have in common."""
    nodes = re.findall(r"[\w./:]+", name.replace("...", " "))
    found = [scope for node in nodes if (scope := scopes.get(node) or scopes.get(node.split("/")[0]) or scope_in_path(node))]
    return common_scope(found)


def common_scope(scopes: Sequence[str]) -> str:
    """The innermost module that holds all `scopes`; empty where there is none."""
    if not scopes:
        return ""
    parts = [scope.split(".") for scope in scopes]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared)


def scope_in_path(name: str) -> str:
    """The module in a node's name as torch's older exporter writes it: "/blocks/blocks.0/attn/MatMul" is "blocks.0.attn"."""
    parts = [part for part in name.split("/") if part]
    if not name.startswith("/") or len(parts) < 2:
        return ""
    kept = [part for part, following in pairwise(parts) if not following.startswith(f"{part}.")]
    return ".".join(kept)


def _place(block: str) -> tuple[int, int]:
    number = re.search(r"(\d+)$", block)
    return (0, int(number[1])) if number else (1, 0)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
