"""The static rules of `autoformer check` against a parser of NVIDIA's: every model of onnx's own operator tests, asked of both.

    pip install tensorrt-rtx && python benchmarks/tensorrt_rules.py --files FOLDER --out benchmarks/results/tensorrt_rules.json

TensorRT-RTX parses and builds without a GPU and without a driver, and its parser shares its source with that of TensorRT 10.15
and later. It is another product all the same: where it differs from TensorRT, and where a file is refused after it was parsed,
the difference stands in `DIFFERENCES` with its source, and what stands in none is a fault of the rules. Prints the confusion for
each version asked about, and each disagreement; exit code 1 when one is not explained. Takes seconds.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from autoformer.errors import CheckpointError
from autoformer.export.engines.tensorrt_versions import TENSORRT_RTX, import_tensorrt, titled
from autoformer.export.engines.trial import Limits, TrialProcess
from autoformer.export.graphs.tensorrt_rules import check_model, check_tensorrt
from autoformer.files import write_json
from autoformer.temporary import temporary_folder

VERSIONS = ("10.16", "11.4")  # of TensorRT, whose parsers share their source with the one asked
LEAST_AGREEMENT = 0.98
LIMITS = Limits(seconds=60)  # for one model


class Difference(NamedTuple):
    """A way in which both sides may differ, as the rules or the parser put it, and why that is right."""

    ours: str
    words: str  # in the parser's error where we pass a file, in each of our findings where we fail it
    reason: str
    source: str


IMPORTERS, RELEASES = "onnx-tensorrt, onnxOpImporters.cpp", "github.com/NVIDIA/TensorRT, releases"
DIFFERENCES = (
    Difference(
        "passes", "DeformConv: Assertion failed: creator: Plugin not found",
        "a plugin of TensorRT's plugin library, which TensorRT-RTX comes without", f"{IMPORTERS}, DeformConv; {RELEASES}, 10.1",
    ),
    Difference(
        "passes", ": Unsupported reduction type",
        "TensorRT adds up in its plugin ScatterElements, which TensorRT-RTX comes without", f"{IMPORTERS}, ScatterElements",
    ),
    Difference(
        "passes", "RoiAlign: Assertion failed: plugin != nullptr",
        "a plugin that asks for a CUDA driver when it is made, so that it is refused where there is none",
        f"{IMPORTERS}, RoiAlign; TensorRT-RTX 1.5 release notes",
    ),
    Difference(
        "passes", "NonZero: Assertion failed: creator",
        "a layer of TensorRT, for which TensorRT-RTX looks for a plugin",
        "onnx-tensorrt, docs/operators.md; NVIDIA/TensorRT-RTX issue 32",
    ),
    Difference(
        "passes", "DFT: creator && \"Plugin not found",
        "from 11.2 on a plugin of TensorRT's plugin library, which TensorRT-RTX comes without", f"{RELEASES}, 11.2",
    ),
    Difference(
        "fails", "Swish is read from TensorRT 11.0 on",
        "the parser asked is newer than this version", f"{RELEASES}, 11.0",
    ),
    Difference(
        "fails", "GridSample of an input that has not four dimensions",
        "the parser asked is newer than this version; five are read from 11.2 on", f"{RELEASES}, 11.2",
    ),
    Difference(
        "fails", "the zero point is computed; it must be stored",
        "parsed, and refused when the engine is built, by TensorRT-RTX too: a zero point that is not an initializer",
        "TensorRT documentation, operators, Quantize",
    ),
    Difference(
        "unread", "of IR version",
        "onnx reads no file of a newer IR version, so that the rules see nothing of it; TensorRT looks at none",
        "onnx-tensorrt, ModelImporter.cpp",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A model of which both sides say different things; `reason` and `source` are empty where nothing explains it."""

    model: str
    version: str
    ours: str
    theirs: str
    words: tuple[str, ...]  # our findings, or the parser's errors
    reason: str
    source: str


def operator_tests() -> Iterator[tuple[str, onnx.ModelProto]]:
    """The models of onnx's own operator tests, each by its name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their expected values overflow on purpose
        cases = collect_testcases(None)
    for case in cases:
        yield case.name, case.model


def static_verdict(model: onnx.ModelProto | Path, version: str) -> tuple[str, tuple[str, ...]]:
    """`passes`, `fails` or `unread`, with what was found."""
    try:
        findings = check_tensorrt(model, (version,)) if isinstance(model, Path) else check_model(model, (version,))
    except CheckpointError as error:
        return "unread", (str(error).replace(f"{model.parent}/", "") if isinstance(model, Path) else str(error),)
    failing = tuple(dict.fromkeys(finding.why for finding in findings if finding.level == "fails"))
    return ("fails" if failing else "passes"), failing


def parser_verdict(attempt: TrialProcess, path: Path) -> tuple[str, tuple[str, ...]]:
    """`read`, `refused` or `crashed`, with the parser's errors, each as operator and words."""
    found = attempt(path, build=False)
    if found.error is None:
        return "read", ()
    words = found.error.partition(f"cannot read {path.resolve()}: ")[2] or found.error
    errors = tuple(re.sub(r"^operator (\S*) of node .*?: ", r"\1: ", each) for each in words.split("; operator "))
    return ("crashed" if found.crashed else "refused"), errors


def compare(files: Sequence[Path] = ()) -> tuple[dict[str, Counter[tuple[str, str]]], list[Disagreement]]:
    """How often each pair of verdicts was given, by version; and where they do not go together."""
    confusions: dict[str, Counter[tuple[str, str]]] = {version: Counter() for version in VERSIONS}
    disagreements: list[Disagreement] = []
    models: list[tuple[str, onnx.ModelProto | Path]] = [*operator_tests(), *((path.name, path) for path in files)]
    with temporary_folder("rules") as work, TrialProcess(TENSORRT_RTX, LIMITS) as attempt:
        for name, model in models:
            path = model if isinstance(model, Path) else work / "model.onnx"
            if not isinstance(model, Path):
                path.write_bytes(model.SerializeToString())
            theirs, errors = parser_verdict(attempt, path)
            for version in VERSIONS:
                ours, found = static_verdict(model, version)
                confusions[version][ours, theirs] += 1
                if (ours, theirs) not in (("passes", "read"), ("fails", "refused")):
                    words = errors if ours == "passes" else found
                    reason, source = explained(ours, words)
                    disagreements.append(
                        Disagreement(
                            model=name, version=version, ours=ours, theirs=theirs, words=words, reason=reason, source=source
                        )
                    )
    return confusions, disagreements


def explained(ours: str, words: Sequence[str]) -> tuple[str, str]:
    """The reason for a disagreement and its source, empty where none is known."""
    for one in DIFFERENCES:
        if one.ours == ours and words and all(one.words in text for text in words):
            return one.reason, one.source
    return "", ""


def agreement(confusion: Counter[tuple[str, str]]) -> float:
    """The share of models on which both sides agree."""
    return (confusion["passes", "read"] + confusion["fails", "refused"]) / confusion.total()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=Path, metavar="FOLDER", help="also the .onnx files of this folder")
    options.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON")
    given = options.parse_args()
    confusions, disagreements = compare(sorted(given.files.glob("*.onnx")) if given.files else ())
    for version, confusion in confusions.items():
        print(f"\nTensorRT {version}: {agreement(confusion):.2%} of {confusion.total()} models alike")
        columns = sorted({theirs for _, theirs in confusion})
        print(f"{'':>10}" + "".join(f"{theirs:>10}" for theirs in columns))
        for ours in sorted({ours for ours, _ in confusion}, reverse=True):
            print(f"{ours:>10}" + "".join(f"{confusion[ours, theirs]:>10}" for theirs in columns))
        alike = Counter((one.ours, one.theirs, one.reason or "not explained", one.source) for one in disagreements
                        if one.version == version)  # fmt: skip
        for (ours, theirs, reason, source), count in alike.most_common():
            print(f"{count:>6} {ours}, {theirs}: {reason} ({source})")
    unexplained = [one for one in disagreements if not one.reason]
    for one in unexplained:
        print(f"not explained: {one.model}, {one.version}: {one.ours}, {one.theirs}: {'; '.join(one.words)[:200]}")
    if given.out:
        write_json(_to_dict(confusions, disagreements), given.out)
    raise SystemExit(1 if unexplained else 0)


def _to_dict(confusions: dict[str, Counter[tuple[str, str]]], disagreements: Sequence[Disagreement]) -> dict[str, Any]:
    return {
        "format": "autoformer/tensorrt-rules/1",
        "parser": f"{titled(import_tensorrt(TENSORRT_RTX))}, which parses without a device",
        "onnx": onnx.__version__,
        "models": max(confusion.total() for confusion in confusions.values()),
        "agreement": {version: round(agreement(confusion), 4) for version, confusion in confusions.items()},
        "confusion": {
            version: {f"{ours}, {theirs}": count for (ours, theirs), count in sorted(confusion.items())}
            for version, confusion in confusions.items()
        },
        "disagreements": [asdict(one) for one in disagreements],
    }


if __name__ == "__main__":
    main()
