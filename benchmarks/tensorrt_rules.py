"""The static rules of `autoformer check` against a parser of NVIDIA's: every model of onnx's own operator tests, asked of both.

    pip install tensorrt-rtx && python benchmarks/tensorrt_rules.py --files FOLDER --out benchmarks/results/tensorrt_rules.json

TensorRT-RTX parses and builds without a GPU and without a driver, and its parser shares its source with that of TensorRT 10.15
and later. It is another product all the same: where it differs from TensorRT, and where a file is refused after it was parsed,
the difference stands in `DIFFERENCES` with its source, and what stands in none is a fault of the rules. Prints the confusion for
each version asked about, and each disagreement; exit code 1 when one is not explained. Takes seconds.

The parser lives in a process of its own, which takes one model after the other and is started again when it dies or hangs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import struct
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import onnx

from autoformer.errors import CheckpointError
from autoformer.export.graphs.tensorrt_rules import check_model, check_tensorrt
from autoformer.files import write_json

VERSIONS = ("10.16", "11.4")  # of TensorRT, whose parsers share their source with the one asked
LEAST_AGREEMENT = 0.98
LIMIT_S = 60  # for one model


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
        "unread", "of IR version", "onnx reads no file of a newer IR version, so that the rules see nothing of it; TensorRT looks at none",
        "onnx-tensorrt, ModelImporter.cpp",
    ),
)  # fmt: skip


class Answer(NamedTuple):
    """What the parser made of a model: `read`, `refused` or `crashed`, with its errors as operator and words."""

    verdict: str
    errors: tuple[str, ...]


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


class Parser:
    """NVIDIA's parser in a process of its own; a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, model: bytes, path: Path | None = None) -> Answer:
        """What it says of a model; `path` is where weights beside it are found."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        try:
            _send(process.stdin, str(path or "").encode())
            _send(process.stdin, model)
            if (found := _receive(process.stdout)) is not None:
                return Answer("read" if (said := json.loads(found))["parsed"] else "refused", tuple(said["errors"]))
        except BrokenPipeError:
            pass
        finally:
            timer.cancel()
        self._stop()
        return Answer("crashed", ())

    def version(self) -> str:
        """Of the package asked."""
        code = "import tensorrt_rtx; print(tensorrt_rtx.__version__)"
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, "--answer"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **pipes)
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


def answer() -> None:
    """The other end: models come in and answers go out until nobody asks any more."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what the library prints is no answer
        trt = importlib.import_module("tensorrt_rtx")
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        trt.init_libnvinfer_plugins(logger, "")
        flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        while (path := _receive(sys.stdin.buffer)) is not None and (model := _receive(sys.stdin.buffer)) is not None:
            network = builder.create_network(flag)
            parser = trt.OnnxParser(network, logger)
            parsed = parser.parse(model, path.decode()) if path else parser.parse(model)
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            words = [f"{error.node_operator()}: {error.desc()}" for error in errors]
            _send(out, json.dumps({"parsed": bool(parsed), "errors": words}).encode())
            del parser, network  # in this order: a parser lives no longer than its network


def _send(pipe: BinaryIO | Any, data: bytes) -> None:
    pipe.write(struct.pack("<q", len(data)) + data)
    pipe.flush()


def _receive(pipe: BinaryIO | Any) -> bytes | None:
    head = pipe.read(8)
    if len(head) < 8:
        return None
    size: int = struct.unpack("<q", head)[0]
    data: bytes = pipe.read(size)
    return data if len(data) == size else None


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


def compare(files: Sequence[Path] = ()) -> tuple[dict[str, Counter[tuple[str, str]]], list[Disagreement]]:
    """How often each pair of verdicts was given, by version; and where they do not go together."""
    confusions: dict[str, Counter[tuple[str, str]]] = {version: Counter() for version in VERSIONS}
    disagreements: list[Disagreement] = []
    models: list[tuple[str, onnx.ModelProto | Path]] = [*operator_tests(), *((path.name, path) for path in files)]
    with Parser() as parser:
        for name, model in models:
            said = parser.ask(model.read_bytes(), model) if isinstance(model, Path) else parser.ask(model.SerializeToString())
            for version in VERSIONS:
                ours, found = static_verdict(model, version)
                confusions[version][ours, said.verdict] += 1
                if (ours, said.verdict) not in (("passes", "read"), ("fails", "refused")):
                    words = said.errors if ours == "passes" else found
                    reason, source = explained(ours, words)
                    disagreements.append(
                        Disagreement(
                            model=name, version=version, ours=ours, theirs=said.verdict, words=words, reason=reason, source=source
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
    options.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.answer:
        answer()
        return
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
        "parser": f"TensorRT-RTX {Parser().version()}, which parses without a device",
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
