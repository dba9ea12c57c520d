"""Where the time of a network goes: the time of each layer that a runtime ran, joined to the torch module it came from.

A layer is what the runtime computes at once, often several nodes of the ONNX file. Its `scope` is the name of a torch module,
"blocks.3.attn.qkv", `ROOT` for the network itself, or empty where it is unknown. Times are taken with the runtime's profiler
on, which slows it down, so their sum is reported beside the time of a run without it and is never scaled to fit.

The JSON of trtexec's --exportProfile is read and written: [{"count": N}, {"name", "timeMs", "averageMs", "medianMs",
"percentage"}, …].
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from autoformer.errors import CheckpointError, MeasurementError, short
from autoformer.files import believing, unsealed
from autoformer.records import fields_to_json, from_json

FORMAT = "autoformer/layers/1"
REFORMAT = "Reformat"  # what a layer of an engine that only copies is called here
COPIES = {
    REFORMAT, "ReorderInput", "ReorderOutput", "Cast", "MemcpyFromHost", "MemcpyToHost", "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip
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
GROUPS = ("kind", "block", "operator")  # whose times stand in the file
BESIDE = ("format", "sum_ms", "sum_over_end_to_end", "joined_share")  # in the file, derived from the layers


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """One layer."""

    name: str
    operator: str  # "" where the runtime does not say
    scope: str
    total_ms: float  # over all runs
    average_ms: float  # of one run
    median_ms: float

    def __post_init__(self) -> None:
        if not all(0 <= time < math.inf for time in (self.total_ms, self.average_ms, self.median_ms)):
            raise MeasurementError(f"layer {short(self.name, 40)!r} has a time below 0 or without end")

    @classmethod
    def of(cls, name: str, operator: str, scope: str, times_ms: Sequence[float]) -> LayerTime:
        """From the time of each run."""
        total, average, middle = sum(times_ms), fmean(times_ms), median(times_ms)
        return cls(name=name, operator=operator, scope=scope, total_ms=total, average_ms=average, median_ms=middle)

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

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return {**fields_to_json(self), "kind": self.kind, "block": self.block}

    @classmethod
    def from_dict(cls, values: object) -> LayerTime:
        """Reads the JSON form. Raises `CheckpointError` for what it does not hold, `MeasurementError` for impossible times."""
        return from_json(cls, values, "layer", beside=("kind", "block"))


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

    def __post_init__(self) -> None:
        if self.end_to_end_ms is not None and self.end_to_end_ms <= 0:
            raise ValueError(f"a run took {self.end_to_end_ms} ms")

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
        """Average ms of one run by "kind", "block", "operator" or "scope"; blocks in their order, others slowest first."""
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
            **fields_to_json(self),
            "sum_ms": self.sum_ms,
            "sum_over_end_to_end": self.ratio,
            "joined_share": self.joined,
            **{f"by_{what}_ms": self.by(what) for what in GROUPS},
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
            text = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}); expected a JSON file of layers") from error
        with believing(path, "expected ours or trtexec's", fault="holds no times of layers"):
            values: Any = json.loads(text)
            if isinstance(values, list):
                return _from_trtexec(values, path.stem, scopes)
            values = unsealed(values, "the file")
            if (have := values.get("format")) != FORMAT:
                raise MeasurementError(f"its format is {short(have, 40)!r}, expected {FORMAT!r}")
            return from_json(cls, values, beside=(*BESIDE, *(f"by_{what}_ms" for what in GROUPS)))


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
    if not layers:
        raise MeasurementError("there is no layer")
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
