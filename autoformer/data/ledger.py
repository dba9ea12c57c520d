"""The ledger of the test part: who read it, of which digest, and when. It only grows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoformer.files import believing, read_document, write_json
from autoformer.records import fields_to_json, from_json

LEDGER, FORMAT = "test_ledger.json", "autoformer/test-ledger/1"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One reading of the test part."""

    reader: str
    split: str
    images: int
    time: str


@dataclass(frozen=True, kw_only=True)
class _Ledger:
    readings: tuple[Reading, ...]


def read_ledger(path: Path) -> tuple[Reading, ...]:
    """Every reading in the ledger. Raises `CheckpointError` naming the file when it is missing, damaged or something else."""
    record = read_document(path, FORMAT, expected="a file of a finished run")
    with believing(path, "copy the whole folder again or run into a new one"):
        return from_json(_Ledger, record, beside=("format",)).readings


def add_reading(reading: Reading, path: Path) -> None:
    """Appends a reading to the file, which need not exist. Raises as `read_ledger` does."""
    before = read_ledger(path) if path.exists() else ()
    write_json({"format": FORMAT, "readings": [fields_to_json(one) for one in (*before, reading)]}, path)
