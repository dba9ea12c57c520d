"""How long the steps of a run took, over all its resumptions, and what they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autoformer.cli.chain.steps import Steps, disturbed_line
from autoformer.errors import StorageError
from autoformer.profiling.tables.limit import LatencyAnswer
from tests.support.commands import command
from tests.support.short_runs import QUICKSTART, shortened


def test_what_a_stopped_step_took_counts_when_it_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("autoformer.cli.chain.steps.time.perf_counter", lambda: now[0])

    def stopped() -> None:
        now[0] += 113
        raise KeyboardInterrupt

    def done() -> str:
        now[0] += 109
        return "table"

    with pytest.raises(KeyboardInterrupt):
        Steps(tmp_path, ["latency table"], lambda line: None).timed("latency table", stopped)
    again = Steps(tmp_path, ["latency table"], lambda line: None)
    assert again.timed("latency table", done) == "table"
    assert again.seconds == Steps(tmp_path, [], lambda line: None).seconds == {"latency table": 222.0}


def test_the_error_of_a_step_is_told_also_where_its_time_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    def fails() -> None:
        raise ValueError("of the step")

    monkeypatch.setattr("autoformer.cli.chain.steps.write_json", full)
    with pytest.raises(ValueError, match="of the step"):
        Steps(tmp_path, ["train"], lambda line: None).timed("train", fails)


def test_a_run_says_when_the_machine_has_not_the_speed_of_its_table(
    finished_run: Path, latency_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatencyAnswer, "off_alike", "all 5 took about 2 times what the table says")
    out = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for report in out.glob("report.*"):
        report.unlink()
    answer = command("run", QUICKSTART, "--out", out, *shortened(latency_table))
    assert answer.code == 0, answer.err
    assert "latency in the loop: all 5 took about 2 times what the table says" in answer.err


def test_a_training_whose_machine_was_busy_for_some_epochs_says_so(tmp_path: Path) -> None:
    def log(*seconds: float) -> Path:
        rows = [
            {"event": "start"},
            *({"event": "epoch", "epoch": place, "seconds": each} for place, each in enumerate(seconds, 1)),
        ]
        (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return tmp_path / "log.jsonl"

    assert disturbed_line(log(*[2.0] * 18, 42.0, 22.0)).startswith(
        "train: 2 of 20 epochs took over 3 times the median, 1 min 0 s more in all: "
    )
    assert disturbed_line(log(*[2.0] * 20)) == ""
    assert disturbed_line(log(*[2.0] * 19, 20.0)) == "", "18 s are not worth a line"
    assert disturbed_line(log(*[100.0] * 19, 310.0)) == "", "nor is less than a tenth"
    assert disturbed_line(log()) == ""
    for damaged in (
        b'{"event": "epoch", "seconds"',
        b"[]",
        b'{"event": "epoch", "seconds": 1e999}',
        b"\xff",
        b'{"event": "epoch"}',
    ):
        (tmp_path / "log.jsonl").write_bytes(damaged + b"\n")
        assert disturbed_line(tmp_path / "log.jsonl") == "", damaged
