"""Folders of killed processes are removed by the next that needs the like; those of living processes are not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from autoformer.files import write_json
from autoformer.temporary import folder_beside, remove_leftovers, temporary_folder

HOLDS = """
import sys, time
from pathlib import Path
from autoformer.temporary import folder_beside, temporary_folder
with folder_beside(Path(sys.argv[1]) / "X.zip") as beside, temporary_folder("bundle") as temporary:
    (beside / "X" / "triton").mkdir(parents=True)
    (temporary / "half.onnx").write_text("half")
    print(beside, temporary, sep="\\n", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.mark.usefixtures("_own_temporary_folder")
def test_what_a_killed_process_left_goes_with_the_next_of_its_kind_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    made = [Path(holder.stdout.readline().strip()) for _ in range(2)]
    with folder_beside(tmp_path / "X.zip") as mine, temporary_folder("bundle"):
        assert all(path.is_dir() for path in made)
        assert mine.name.startswith(".X.zip.")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with folder_beside(tmp_path / "Y.zip"), temporary_folder("kit"):
        assert all(path.is_dir() for path in made)  # of other work
    with folder_beside(tmp_path / "X.zip"), temporary_folder("bundle"):
        assert not any(path.exists() for path in made)
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_leftovers_of_earlier_versions_go_where_their_process_is_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".a.json.{gone.pid}.partial").write_text("half")
    (tmp_path / f".a.json.{os.getppid()}.partial").write_text("somebody writes it")
    (tmp_path / ".b.json.1.partial").write_text("of another file")
    write_json({}, tmp_path / "a.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".a.json.{os.getppid()}.partial", ".b.json.1.partial", "a.json"]


def test_a_link_that_looks_like_a_leftover_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / ".a.json.x.partial").symlink_to(tmp_path / "mine")
    write_json({}, tmp_path / "a.json")
    assert (tmp_path / "mine" / "file").exists()


@pytest.mark.usefixtures("_own_temporary_folder")
def test_leftovers_anywhere_in_a_folder_go_when_asked_and_what_a_living_process_has_stays(tmp_path: Path) -> None:
    (gone := tmp_path / "a" / "b" / ".race.json.x.partial").mkdir(parents=True)
    (gone / "race.json").write_text("half")
    (tmp_path / "a" / "mine.partial").write_text("no hidden one, so somebody's own")
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    held = Path(holder.stdout.readline().strip())
    remove_leftovers(tmp_path)
    assert not gone.exists()
    assert held.is_dir()
    assert (tmp_path / "a" / "mine.partial").exists()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b", "mine.partial"]


def test_files_are_written_where_there_are_no_locks(tmp_path: Path) -> None:
    """As on Windows, where the program of a board runs."""
    code = """
import os, sys
from pathlib import Path
sys.modules["fcntl"] = None
del os.getuid
from autoformer.files import replacing
for words in ("first", "second"):
    with replacing(Path(sys.argv[1])) as beside:
        beside.write_text(words)
"""
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out.json")], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.json", "second")]
