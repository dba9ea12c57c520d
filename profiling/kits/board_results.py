"""Results that came back from a target device: files of `board.pyz verify | bench --out` and of kits, as rows of a table.

A file says what it was run on; nothing here can check that. What can be checked is: the format, every verdict against its
samples, and that a run's bundle is the one that the result is of.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

from autoformer.errors import DataError, short
from autoformer.export.engines.artefact import settings_of
from autoformer.export.engines.target_gpus import in_words
from autoformer.export.expected import DIFFERS, EARLIER, MATCHES, RESULT_FORMAT
from autoformer.export.manifest import FILE_NAME, Manifest, sha256_of
from autoformer.files import believing, read_document, replacing
from autoformer.profiling.kits.result import KitResult
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.verdict import INCONCLUSIVE, VALID, WITHIN_BUDGET, Verdict, count_status, limit_status
from autoformer.profiling.tables.limit import agrees, status_from
from autoformer.records import from_json

PARTS = ("measurements", "not_measured", "artefacts", "budget")  # of an answer, which says "not measured"
FOLDER = "boards"  # in the folder of a run
COLUMNS = ("runtime", "device", "what was run", "date")
BEGIN, END = "<!-- ran on: begin -->", "<!-- ran on: end -->"  # around the table in a Markdown file
RUNTIMES = {
    "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX", "trtexec": "trtexec of TensorRT",
    "torch": "torch",
}  # fmt: skip
VERSIONS = ("onnxruntime", "tensorrt", "tensorrt-rtx")  # in the facts of a kit's result
_HEAD = "| " + " | ".join(COLUMNS) + " |"
_RULE = "|" + "---|" * len(COLUMNS)


@dataclass(frozen=True)
class RanOn:
    """One row: a runtime with its version, the device, what was run there, and the day."""

    runtime: str
    device: str
    what: str
    date: str  # ISO 8601


@dataclass(frozen=True, kw_only=True)
class BoardResult:
    """What one command of a board program found. Raises `ValueError` for a date that there is not."""

    command: Literal["verify", "bench"]
    bundle: str
    model: str | None = None  # SHA-256 of the bundle's fp32 ONNX file, which every other file is made from
    created: str
    device: DeviceFacts
    measurements: Mapping[str, Measurement]
    not_measured: Mapping[str, str]
    artefacts: Mapping[str, Mapping[str, Any]]  # of verify, by name: "status", "reason"
    budget: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]  # of the runtimes that ran

    def __post_init__(self) -> None:
        if date.fromisoformat(self.created[:10]).isoformat() != self.created[:10]:
            raise ValueError(f"created on {short(self.created, 40)!r}")

    @classmethod
    def load(cls, path: Path) -> BoardResult:
        """Raises `CheckpointError` when the file is missing, damaged, edited or something else."""
        values = read_document(path, RESULT_FORMAT, expected="a file of board.pyz verify or bench --out")
        with believing(path, "run the board program again"):
            answer = values.pop("answer")
            parts = {name: answer.get(name.replace("_", " "), {}) for name in PARTS}
            parts["measurements"] = {name: {**entry, "name": name} for name, entry in parts["measurements"].items()}
            found = from_json(cls, {**values, **parts}, beside=("format",))
            return replace(
                found,
                measurements={name: taken.believed() for name, taken in found.measurements.items()},
                artefacts={
                    name: {**entry, "status": EARLIER.get(str(entry["status"]), entry["status"])}
                    for name, entry in found.artefacts.items()
                },
                budget={name: _followed(name, entry) for name, entry in found.budget.items()},
            )

    def ran_on(self) -> tuple[RanOn, ...]:
        """A row for each runtime that really ran something. Raises `DataError` when none did."""
        ran: dict[str, list[str]] = {}
        for name, taken in self.measurements.items():
            ran.setdefault(_family(taken.backend), []).append(f"{name}, batch {taken.batch}")
        for name, found in self.artefacts.items():
            if found["status"] in (MATCHES, DIFFERS):
                format = name.split()[0]
                family = "onnxruntime" if format == "onnx" else format
                if family == "tensorrt" and "trtexec" in self.versions:
                    family = "trtexec"
                ran.setdefault(family, []).append(f"{name} {found['status']}")
        if not ran:
            raise DataError(f"the result of {self.command} ran nothing: {'; '.join(self.not_measured.values()) or 'no file'}")
        gpu = self.device.gpu_name if self.device.has_gpu else "a GPU that it does not name"
        return tuple(
            RanOn(
                runtime=f"{RUNTIMES.get(family, family)} {self.versions.get(family, 'of unknown version')}",
                device=self.device.short_name if family in ("onnxruntime", "torch") else gpu,
                what=f"{self.command} of {self.bundle}: {'; '.join(dict.fromkeys(words))}",
                date=self.created[:10],
            )
            for family, words in ran.items()
        )


def _followed(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A limit of `verify`. Raises `ValueError` where its status does not follow from the numbers beside it."""
    status, limit, verdict = status_from(entry["status"]), entry["limit"], Verdict(VALID)
    if "median_ms" in entry:
        level, _, reasons = str(entry["verdict"]).partition(": ")
        verdict = Verdict(level, tuple(reasons.split("; ")))
        follows = limit_status(limit, verdict, entry["low_ms"], entry["high_ms"])
    elif (value := entry.get("value")) is not None:
        follows = count_status(name, limit, value)
    else:
        follows = INCONCLUSIVE if status == WITHIN_BUDGET else status
    if not agrees(status, follows, verdict):
        raise ValueError(f"{short(name, 40)} is {status!r}, the numbers beside it say {follows!r}")
    return {**entry, "status": status}


def rows_of_kit(result: KitResult) -> tuple[RanOn, ...]:
    """The row of a kit that was measured on a device."""
    family = _family(result.runtime)
    version = next((result.facts[name] for name in VERSIONS if name in result.facts), "of unknown version")
    space, settings = result.kit.space.get("name"), "; ".join(map(str, result.stopped))
    device = result.device.short_name if family == "onnxruntime" else result.device.gpu_name
    what = f"a kit of {len(result.kit.networks)} networks of space {space}: {settings}"
    return (RanOn(f"{RUNTIMES.get(family, family)} {version}", device, what, result.created[:10]),)


def rows_of_export(path: Path, manifest: Manifest) -> tuple[RanOn, ...]:
    """A row for each setting with which engines of an export were built ahead of time. They ran nowhere yet, and it says so.

    Raises `DataError` when none was; `path` is the file of the manifest.
    """
    built: dict[tuple[str, str, str], list[str]] = {}
    for artefact in manifest.artefacts:
        if artefact.status == "built":
            runtime = f"{RUNTIMES[artefact.format]} {artefact.made.get(artefact.format, 'of unknown version')}"
            key = runtime, in_words(settings_of(artefact).gpus), str(artefact.made.get("date", "unknown"))
            built.setdefault(key, []).append(f"{artefact.precision} {(artefact.bytes or 0) / 1e6:.3g} MB")
    if not built:
        raise DataError(f"{path} lists no engine built ahead of time; make one: autoformer export --format tensorrt-rtx")
    name = manifest.network or (f"a network of {manifest.params:,} parameters")
    return tuple(
        RanOn(runtime, f"none yet: built ahead of time for {gpus}", f"engines of {name}, not run: {'; '.join(words)}", day)
        for (runtime, gpus, day), words in built.items()
    )


def _family(backend: str) -> str:
    return "tensorrt-rtx" if backend.startswith("tensorrt-rtx") else backend.split("-")[0]


def read_markdown(path: Path) -> str:
    """The text that `add_rows` takes. Raises `DataError` when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a Markdown file in UTF-8; expected one with marks for the table") from error


def add_rows(text: str, rows: Sequence[RanOn]) -> str:
    """A Markdown text with these rows added to the table between its marks, newest last; rows that are there stay once.

    Raises `DataError` when the marks are missing.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"the file has no place for the table; put these two lines where it shall stand: {BEGIN} and {END}")
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    lines = [line.strip() for line in table.splitlines() if line.strip().startswith("|")]
    new = {_line(row, earlier=True): _line(row) for row in rows}  # by the line that earlier versions wrote
    there = [new.get(line, line) for line in lines if line not in (_HEAD, _RULE)]
    every = list(dict.fromkeys([*there, *new.values()]))
    return f"{before}{BEGIN}\n{_HEAD}\n{_RULE}\n" + "".join(f"{line}\n" for line in every) + END + after


def _line(row: RanOn, *, earlier: bool = False) -> str:
    what = row.what
    for old, word in EARLIER.items() if earlier else ():
        what = what.replace(f" {word}", f" {old}")
    return "| " + " | ".join(map(_cell, (row.runtime, row.device, what, row.date))) + " |"


def _cell(words: str) -> str:
    """Text from a file of somebody else, as one harmless cell."""
    shown = short(" ".join("".join(letter if letter.isprintable() else " " for letter in words).split()), 160)
    for letter, safe in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "\\|"),
        ("`", "'"),
        ("[", "("),
        ("]", ")"),
        ("://", "\\://"),
    ):
        shown = shown.replace(letter, safe)
    return shown


def keep_with_run(path: Path, result: BoardResult, run: Path) -> Path:
    """Copies a result file into the folder of its run, under its own digest, so that once imported is imported once.

    Raises `DataError` when `run` is not a finished run, or the result is of other files than the run exported.
    """
    if not (run / "export" / FILE_NAME).is_file():
        raise DataError(f"{run} is not a finished run: it has no export/{FILE_NAME}")
    model = Manifest.load(run / "export").find("onnx", "fp32")
    if model is None or result.model != model.sha256:
        raise DataError(f"{path} is of the bundle {short(result.bundle)!r}, which holds other files than {run} exported")
    kept = run / FOLDER / f"{result.created[:10]}-{sha256_of(path)[:12]}.json"
    kept.parent.mkdir(exist_ok=True)
    with replacing(kept) as beside:
        shutil.copyfile(path, beside)
    return kept


def results_of(run: Path) -> tuple[BoardResult, ...]:
    """The results that were imported into a run, in order of their dates. Raises `CheckpointError` for a damaged one."""
    return tuple(BoardResult.load(path) for path in sorted((run / FOLDER).glob("*.json")))
