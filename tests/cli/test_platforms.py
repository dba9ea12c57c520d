"""Linux and macOS are served; anywhere else the program says so in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.commands import command
from tests.support.source_tree import ROOT


@pytest.mark.parametrize("words", [("doctor",), (), ("train", "quickstart", "--out", "x")])
@pytest.mark.parametrize("platform", ["win32", "cygwin"])
def test_windows_is_refused_in_one_line_that_says_where_it_works(
    platform: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    answer = command(*words)
    assert answer.error == (
        f"error: {platform} is not supported: autoformer runs on Linux and macOS; on Windows, inside WSL 2 (wsl --install)"
    )
    assert (answer.code, answer.out) == (2, "")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_linux_and_macos_are_let_in(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert command("--version").code == 0


def test_the_program_comes_as_far_as_that_line_without_what_windows_lacks() -> None:
    """Forks and locks on files; a traceback from an import would come before any check."""
    code = """
import sys, os, typer, rich.console, click, subprocess, tempfile
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
del os.register_at_fork, os.fork
sys.platform, sys.argv = "win32", ["autoformer", "doctor"]
from autoformer.cli.app import main
main()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("error: win32 is not supported")
    assert len(found.stderr.splitlines()) == 1


def test_the_packages_classifiers_name_the_same_systems() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    systems = {entry for entry in classifiers if entry.startswith("Operating System")}
    assert systems == {"Operating System :: POSIX :: Linux", "Operating System :: MacOS"}
    assert "Linux or macOS" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_torchvision_that_was_built_for_another_torch_is_said_in_one_line(tmp_path: Path) -> None:
    """What its import raises then, as seen where torch alone came from the index of packages without CUDA."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')", encoding="utf-8"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    words = [sys.executable, "-m", "autoformer.cli", "run", "quickstart", "--dry-run"]
    found = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert found.returncode == 2
    assert found.stderr.strip().splitlines()[-1] == (
        f"error: torch {version('torch')} and torchvision {version('torchvision')} do not fit together; install both from one "
        "index: pip install --force-reinstall torch torchvision"
    )
    assert "Traceback" not in found.stderr
