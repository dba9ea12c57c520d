"""What the programs for devices refuse before they look at anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoformer.cli.board.bundle_program import main


def test_a_pipe_for_an_image_is_one_line_and_never_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "photo.png")
    assert main(["--bundle", str(tmp_path), "predict", str(tmp_path / "photo.png")]) == 2
    assert capsys.readouterr().err.endswith("not opened, since that may wait for ever: save a file first\n")
