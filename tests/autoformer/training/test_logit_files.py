"""Logits in files: what was written is found again, what was damaged is missing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoformer.errors import TrainingError
from autoformer.training import logit_files
from autoformer.training.logit_files import LogitFiles

IMAGES, CLASSES = 300, 5  # chunks of 128, 128 and 44


def rows_of(chunk: int) -> np.ndarray[Any, np.dtype[np.float16]]:
    size = (128, 128, 44)[chunk]
    return (np.arange(size * CLASSES).reshape(size, CLASSES) / 8 + chunk).astype(np.float16)


@pytest.fixture
def files(tmp_path: Path) -> LogitFiles:
    """Two views, the first one whole but for its second chunk."""
    made = LogitFiles(tmp_path / "logits", IMAGES, CLASSES)
    assert made.missing(0) == made.missing(1) == [0, 1, 2]
    for chunk in (2, 0):
        made.keep(0, chunk, rows_of(chunk))
    return made


def test_rows_are_found_where_they_were_written(files: LogitFiles) -> None:
    assert (files.missing(0), files.missing(1)) == ([1], [0, 1, 2])
    files.keep(0, 1, rows_of(1))
    assert np.array_equal(files.rows(0), np.concatenate([rows_of(0), rows_of(1), rows_of(2)]))
    assert (files.folder / "view-000.f16").stat().st_size == files.bytes_of_view == 300 * 5 * 2


def test_the_log_holds_the_digest_of_the_bytes_of_each_chunk(files: LogitFiles) -> None:
    lines = [json.loads(line) for line in (files.folder / "view-000.jsonl").read_text().splitlines()]
    content = (files.folder / "view-000.f16").read_bytes()
    parts = {0: content[: 128 * 10], 2: content[256 * 10 :]}
    assert {line["chunk"]: line["sha256"] for line in lines} == {
        chunk: hashlib.sha256(part).hexdigest() for chunk, part in parts.items()
    }


@pytest.mark.parametrize(("place", "missing"), [(0, [0, 1]), (128 * 10 - 1, [0, 1]), (2999, [1, 2])])
def test_a_chunk_of_which_a_bit_was_lost_is_missing(files: LogitFiles, place: int, missing: list[int]) -> None:
    path = files.folder / "view-000.f16"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert files.missing(0) == missing
    files.keep(0, missing[0], rows_of(missing[0]))
    assert files.missing(0) == missing[1:]


@pytest.mark.parametrize("length", [0, 1000, 2000, 5000])
def test_a_file_of_another_length_gets_its_own_again(files: LogitFiles, length: int) -> None:
    path = files.folder / "view-000.f16"
    os.truncate(path, length)
    assert files.missing(0) == ([0, 1, 2] if length <= 1000 else [1, 2] if length == 2000 else [1])
    assert path.stat().st_size == 3000


@pytest.mark.parametrize("damage", ["half", "edited", "words", "other"])
def test_a_chunk_whose_line_was_damaged_is_missing(files: LogitFiles, damage: str) -> None:
    path = files.folder / "view-000.jsonl"
    first, second = path.read_text().splitlines()  # of the chunks 2 and 0
    changed = {"half": second[:40], "edited": second.replace('"chunk":0', '"chunk":1'), "words": "[" * 9, "other": "[1]"}[damage]
    path.write_text(f"{first}\n{changed}" + ("" if damage == "half" else "\n"))
    assert files.missing(0) == [0, 1]
    files.keep(0, 0, rows_of(0))
    assert files.missing(0) == [1]


def test_a_full_disk_is_one_line(files: LogitFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(logit_files, "append_line", full)
    with pytest.raises(TrainingError, match=r"view-000\.f16 cannot be written \(No space left on device\); make room"):
        files.keep(0, 1, rows_of(1))
    (files.folder / "view-001.jsonl").mkdir()
    with pytest.raises(TrainingError, match=r"view-001\.f16 cannot be written \(Is a directory\)"):
        files.missing(1)


def test_a_process_that_does_not_see_the_files_says_that_all_need_them(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"view-000\.f16 cannot be read: .* put it on a disk that they all have"):
        LogitFiles(tmp_path / "elsewhere", IMAGES, CLASSES).rows(0)
