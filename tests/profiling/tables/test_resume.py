"""A table whose process is killed goes on with the passes it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoformer.profiling.tables.table import LatencyTable
from tests.support.commands import command
from tests.support.forked import program


@pytest.mark.slow
def test_a_killed_table_goes_on_where_it_was(tmp_path: Path) -> None:
    words = ["profile", "table", "--space", "micro", "--image-size", "16", "--backend", "torch-cpu", "--networks", "4"]
    words += ["--out", str(tmp_path / "table.json"), "--quiet"]
    passes = tmp_path / "table.json.work" / "passes.jsonl"
    assert program(*words).killed_when(lambda: b"\n" in passes.read_bytes()), "it ended by itself"
    kept = passes.read_bytes()
    first = json.loads(kept.splitlines()[0])["taken"]

    assert not (tmp_path / "table.json").exists()
    answer = command(*words)
    assert answer.code == 0, answer.err
    table = LatencyTable.load(tmp_path / "table.json")
    assert len(table.networks) == 4 == len({name.rsplit(" #", 1)[0] for name in first})
    assert not passes.parent.exists()
    assert table.stopped == "4 networks were asked for"
