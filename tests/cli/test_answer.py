"""What a finished run tells a person to type next."""

from __future__ import annotations

import os
from pathlib import Path

from autoformer.cli.answer import next_commands


def test_the_bundle_that_is_proposed_can_be_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert f"autoformer bundle {run} --out {run}-bundle" in next_commands(run)
    (tmp_path / "run-bundle").mkdir()
    (tmp_path / "run-bundle-2").mkdir()
    assert f"autoformer bundle {run} --out {run}-bundle-3" in next_commands(run)


def test_where_times_do_not_stand_a_new_measurement_comes_first(tmp_path: Path) -> None:
    assert next(iter(next_commands(tmp_path, unsure=True))).endswith("--measure-again")
    assert not any("--measure-again" in words for words in next_commands(tmp_path))


def test_a_bundle_that_is_there_already_is_named_and_no_other_advised(tmp_path: Path) -> None:
    for folder, held in (("run/export", "now"), ("run-bundle", "before"), ("run-bundle-2", "now")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "manifest.json").write_text(held)
    said = next_commands(tmp_path / "run")
    assert list(said) == ["python3 board.pyz verify"]
    assert f"in {tmp_path / 'run-bundle-2'}, which is there already" in said["python3 board.pyz verify"]
    (tmp_path / "run" / "report.json").write_text("{}")
    os.utime(tmp_path / "run-bundle-2" / "manifest.json", (0, 0))  # before the report, which may name another file to ship
    assert len(next_commands(tmp_path / "run")) == 2
