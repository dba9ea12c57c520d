"""The log of a training that goes on: lines behind its checkpoint, and lines that are damaged, are written again."""

from __future__ import annotations

import json
from pathlib import Path

from autoformer.training.log import TrainingLog


def test_going_on_keeps_the_whole_lines_up_to_the_checkpoint(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step}).encode() for step in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([*lines, b"\xff\xfe", b'{"step": 2']))
    TrainingLog(tmp_path, first_step=2).write({"step": 3, "loss": 0.5})
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        {"step": 1}, {"step": 2}, {"step": 3, "loss": 0.5},
    ]  # fmt: skip
