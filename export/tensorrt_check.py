"""What TensorRT would make of an ONNX file, version by version, told without TensorRT.

A file with a finding of level "fails" is known not to build; one without is not proved to (only building proves that).
"falls back" means that something is computed in another precision or outside a CUDA graph, "not fused" that it takes several
kernels where one would do, "risk" that accuracy or the build depends on the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from autoformer.errors import ExportError
from autoformer.export.attention_pattern import GraphView
from autoformer.export.onnx_graph import read_model
from autoformer.export.tensorrt_rules import RULES, Level, Version

LEVELS: tuple[Level, ...] = ("fails", "falls back", "not fused", "risk")
TARGETS = ("8.6", "10.3", "10.9", "10.13", "10.16", "11.4")  # JetPack 6.0, JetPack 6.1 and 6.2, servers, Thor, servers


@dataclass(frozen=True)
class Finding:
    """One thing that TensorRT would object to, in some of the versions asked about."""

    level: Level
    rule: str
    where: str  # node, value, or the file
    why: str
    source: str  # where it is written
    versions: tuple[str, ...]


def parsed(version: str) -> Version:
    """A version as numbers. Raises `ExportError` for what is not like 10.3, or not 8.6, 10.x or 11.x."""
    major, dot, rest = version.partition(".")
    minor = rest.partition(".")[0]
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise ExportError(f"TensorRT version {version[:40]!r} is not understood; write it like {TARGETS[1]}")
    if (int(major), int(minor)) != (8, 6) and int(major) not in (10, 11):
        raise ExportError(f"nothing is known about TensorRT {version[:40]}; known are 8.6, 10.x and 11.x")
    return int(major), int(minor)


def check_tensorrt(path: Path, versions: Sequence[str] = TARGETS) -> list[Finding]:
    """The findings for any ONNX file, the worst first. Raises `CheckpointError` when it cannot be read."""
    return check_model(read_model(path, weights_beside=True), versions)


def check_model(model: onnx.ModelProto, versions: Sequence[str] = TARGETS) -> list[Finding]:
    """The findings for a model, the worst first; what several versions object to is one finding."""
    graph = GraphView.of(model)
    held: dict[tuple[str, Any], list[str]] = {}
    for version in versions:
        target = parsed(version)
        for name, rule in RULES.items():
            for objection in dict.fromkeys(rule(model, graph, target)):
                held.setdefault((name, objection), []).append(version)
    found = [Finding(o.level, name, o.where, o.why, o.source, tuple(texts)) for (name, o), texts in held.items()]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


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
