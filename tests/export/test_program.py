"""What is packed for devices: the modules that the two programs import, and Python 3.10 loads them without any package."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from autoformer.export.program import board_program, imports_of, modules_of, rooms_of, source_of
from tests.support.bundles import python310

ENTRIES = ("autoformer.cli.board.bundle_program", "autoformer.cli.board.kit_program")
COMMANDS = {ENTRIES[0]: ("verify", "predict", "bench", "build", "refit", "inspect"), ENTRIES[1]: ("measure",)}
MOST_MODULES, MOST_LINES = 57, 8820  # of one program


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_program_holds_its_modules_their_rooms_and_nothing_else(entry: str, tmp_path: Path) -> None:
    (tmp_path / "board.pyz").write_bytes(board_program(entry))
    modules = modules_of(entry)
    rooms = {"autoformer", *rooms_of(modules)}
    expected = {f"{name.replace('.', '/')}.py" for name in modules} | {f"{room.replace('.', '/')}/__init__.py" for room in rooms}
    with zipfile.ZipFile(tmp_path / "board.pyz") as program:
        assert set(program.namelist()) == expected | {"__main__.py"}
    assert not set(modules) & rooms  # a room is no module beside itself
    assert not any("training" in name or "search" in name or "networks" in name or "reports" in name for name in modules)
    assert len(modules) <= MOST_MODULES
    assert sum(source_of(name).count("\n") for name in modules) <= MOST_LINES


def test_a_module_that_is_imported_from_its_room_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from autoformer.cli.board import bench\nfrom autoformer import __version__\nfrom autoformer.errors import short\n"
    monkeypatch.setattr("autoformer.export.program.source_of", lambda name: source)
    assert list(imports_of("any")) == [("autoformer.cli.board.bench", True), ("autoformer", True), ("autoformer.errors", True)]


@pytest.mark.skipif(python310() is None, reason="no Python 3.10 is installed")
@pytest.mark.parametrize("entry", ENTRIES)
def test_python_3_10_without_packages_loads_every_module_and_explains_every_command(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "board.pyz"
    path.write_bytes(board_program(entry))
    bare = (str(python310()), "-I", "-S")
    load = f"[importlib.import_module(name) for name in {modules_of(entry)}]"
    code = f"import importlib, sys; sys.path.insert(0, {str(path)!r}); {load}"
    done = subprocess.run([*bare, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in ((), *((command,) for command in COMMANDS[entry])):
        done = subprocess.run([*bare, path, *words, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(" ".join(("usage: board.pyz", *words))), done.stdout
