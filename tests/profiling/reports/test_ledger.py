"""How often the test part was read, by one run and by those beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoformer.data.ledger import read_ledger
from autoformer.errors import CheckpointError
from autoformer.profiling.reports.run_folder import Beside, readings_beside
from autoformer.profiling.reports.run_page import build_report, summary_lines
from tests.support.run_folder import make_run

SPLIT, OTHER = "a" * 64, "b" * 64


def ledger(folder: Path, *splits: str) -> Path:
    """A folder with nothing but a ledger of these readings."""
    folder.mkdir()
    readings = [{"reader": "finetuned", "split": split, "images": 9, "time": "2026-01-02T03:04:05+0000"} for split in splits]
    record = {"format": "autoformer/test-ledger/1", "readings": readings}
    (folder / "test_ledger.json").write_text(json.dumps(record))
    return folder


def test_readings_of_the_same_split_by_runs_beside_are_counted(tmp_path: Path) -> None:
    own = ledger(tmp_path / "own", SPLIT)
    ledger(tmp_path / "first", SPLIT, SPLIT, OTHER)
    ledger(tmp_path / "second", SPLIT)
    ledger(tmp_path / "elsewhere", OTHER)
    ledger(tmp_path / "unread")
    (tmp_path / "no run").mkdir()
    (tmp_path / "file").touch()
    assert readings_beside(own, SPLIT) == Beside(runs=2, readings=3, damaged=())


def test_a_run_under_two_names_is_counted_once(tmp_path: Path) -> None:
    own = ledger(tmp_path / "own", SPLIT)
    (tmp_path / "latest").symlink_to(own)
    (tmp_path / "again").symlink_to(ledger(tmp_path / "first", SPLIT))
    assert readings_beside(tmp_path / "latest", SPLIT) == Beside(runs=1, readings=1, damaged=())


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"format": "other", "readings": []}',
     '{"format": "autoformer/test-ledger/1", "readings": [{"reader": 1}]}',
     '{"format": "autoformer/test-ledger/1", "readings": 3}', "[" * 100_000],
)  # fmt: skip
def test_a_damaged_ledger_beside_is_left_out_by_name(tmp_path: Path, content: str) -> None:
    own = ledger(tmp_path / "own", SPLIT)
    ledger(tmp_path / "sound", SPLIT)
    damaged = ledger(tmp_path / "damaged", SPLIT) / "test_ledger.json"
    damaged.write_text(content)
    assert readings_beside(own, SPLIT) == Beside(runs=1, readings=1, damaged=("damaged",))
    with pytest.raises(CheckpointError, match=r"test_ledger\.json"):
        read_ledger(damaged)


def line(report: dict[str, Any]) -> str:
    return next(line for line in summary_lines(report) if line.startswith("test part"))


def test_the_report_says_how_often_the_test_part_was_read(tmp_path: Path) -> None:
    """Four readings of its own, as tests/support/run_folder.py makes them."""
    run = make_run(tmp_path / "run")
    report = build_report(run)
    split = report["data"]["parts"]["test"]["digest"]
    assert line(report) == f"test part {split[:12]} was read 4 times for this run's networks"
    ledger(tmp_path / "earlier", *[split] * 3)
    ledger(tmp_path / "damaged")
    (tmp_path / "damaged" / "test_ledger.json").write_text("<b>")
    report = build_report(run)
    found = report["test_readings"]
    assert [found[name] for name in ("this_run", "all_runs", "runs", "damaged")] == [4, 7, 2, ["damaged"]]
    words = "was read 4 times for this run's networks, 7 times for those of the 2 runs in this place; "
    words += "not counted, because the ledger cannot be read: damaged"
    assert line(report).endswith(words)
    assert words in " ".join((run / "report.md").read_text(encoding="utf-8").split())
