"""What the programs for boards print: answers and errors of files that others wrote, and of a device without memory."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable

import pytest

from autoformer.cli.board.bundle import lacking
from autoformer.cli.board.program import Answer, Program, tell
from autoformer.errors import CheckpointError, MissingPackageError

NAME = "\x1b[2J\u202egnp.exe\n[b]"


def run(command: Callable[[argparse.Namespace], Answer], *words: str) -> int:
    program = Program("bundle", "A program.", stopped="stopped")
    program.add(command)
    return program.main([command.__name__, *words])


def test_names_are_shown_without_what_they_would_do_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def verify(_: argparse.Namespace) -> Answer:
        """Verifies."""
        return {NAME: {"classes": [NAME], "reason": NAME}}, True

    assert run(verify) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3, "a name does not make lines of its own"
    assert all(line.isprintable() and "\\x1b[2J\\u202egnp.exe\\n[b]" in line for line in lines)
    assert run(verify, "--json") == 0
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable()
    assert json.loads(text)[NAME]["reason"] == NAME


def test_an_error_is_one_line_without_what_names_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    def verify(_: argparse.Namespace) -> Answer:
        """Verifies."""
        raise CheckpointError(f"{NAME} is damaged")

    assert run(verify) == 2
    assert capsys.readouterr().err == "error: \\x1b[2J\\u202egnp.exe [b] is damaged\n"
    tell(NAME, 1, 1)
    assert capsys.readouterr().err == "\\x1b[2J\\u202egnp.exe\\n[b]: done\n"


def test_a_device_without_memory_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def verify(_: argparse.Namespace) -> Answer:
        """Verifies."""
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    def bench(_: argparse.Namespace) -> Answer:
        """Measures."""
        raise CheckpointError("model.onnx does not run here") from MemoryError()

    assert run(verify) == run(bench) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: there is not enough memory; end other programs, or take a smaller batch"
    assert second == "error: there is not enough memory, or model.onnx does not run here"


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (
            ModuleNotFoundError("no numpy", name="numpy"),
            "error: packages 'numpy', 'PIL', 'onnxruntime' are missing; install them with: pip install numpy pillow onnxruntime",
        ),
        (
            MissingPackageError("no engine runs"),
            "error: no engine runs; packages 'PIL', 'onnxruntime' are missing; install them with: pip install pillow onnxruntime",
        ),
    ],
)
def test_everything_that_is_missing_is_named_at_once(raised: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def verify(_: argparse.Namespace) -> Answer:
        """Verifies."""
        raise raised

    program = Program("bundle", "A program.", stopped="stopped", lacking=lambda: ["PIL", "onnxruntime"])
    program.add(verify)
    assert program.main(["verify"]) == 2
    assert capsys.readouterr().err.strip() == line


def test_what_a_bundle_lacks_is_every_package_and_onnxruntime_only_where_nothing_else_runs_its_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here: set[str] = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in here else None)
    monkeypatch.setattr("autoformer.cli.board.bundle.trtexec_path", lambda: None)
    assert lacking() == ["numpy", "PIL", "onnxruntime"]
    here |= {"numpy", "tensorrt"}
    assert lacking() == ["PIL"]
    here.clear()
    monkeypatch.setattr("autoformer.cli.board.bundle.trtexec_path", lambda: "/usr/bin/trtexec")
    assert lacking() == ["numpy", "PIL"]
