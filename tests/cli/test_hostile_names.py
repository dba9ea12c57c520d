"""Names that repaint terminals, turn the direction of writing or look like markup, through the commands themselves."""

from __future__ import annotations

import ast
import io
import resource
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from autoformer.cli import console
from autoformer.errors import memory_shortage
from tests.support.commands import Answer, command
from tests.support.source_tree import ROOT, files

HOSTILE = ("\x1b[31mred", "\u202egnp.exe", "[bold]x[/nope]", "<img src=x onerror=alert(1)>", "a|b`", "new\nerror: line")
MAY_PRINT = {  # files that write on stdout or stderr themselves, each by way of `escaping`, or nothing from files
    "cli/app.py", "cli/console.py", "cli/board/program.py", "profiling/profiles/cold_start.py",
}  # fmt: skip


def hidden(answer: Answer) -> set[str]:
    """What a terminal would not show, but for the ends of lines."""
    shown = (answer.out + answer.err).replace("\n", "")
    return {letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "hostile\x1b[2J"
    for index, name in enumerate(HOSTILE):
        for number in range(8):
            (folder / name.replace("/", "\u2215")).mkdir(parents=True, exist_ok=True)
            pixels = np.full((8, 8, 3), 30 * index + number, np.uint8)
            Image.fromarray(pixels).save(folder / name.replace("/", "\u2215") / f"{number}\x1b[5m\n\u202e.png")
    return folder


def test_data_check_shows_names_without_what_they_would_do(images: Path) -> None:
    (images / HOSTILE[0] / "broken\x1b[2J.png").write_bytes(b"no image")
    answer = command("data", "check", images)
    assert not hidden(answer)
    assert "\\x1b[31mred" in answer.out
    assert "\\u202egnp.exe" in answer.out
    assert "[bold]x[\u2215nope]" in answer.out, "rich's markup is not read"
    assert "broken\\x1b[2J.png" in answer.out
    as_json = command("data", "check", images, "--json")
    assert not hidden(as_json)
    assert HOSTILE[0] in as_json.json["classes"]


def test_an_error_shows_names_without_what_they_would_do(images: Path) -> None:
    answer = command("train", images / "no\x1b]0;title\x07.yaml", "--out", "x")
    assert not hidden(answer)
    assert "no\\x1b]0;title\\x07.yaml" in answer.error


def test_node_names_of_a_file_are_shown_without_what_they_would_do(tmp_path: Path) -> None:
    node = helper.make_node("Det", ["x\x1b[2J"], ["y"], name="\u202eevil\x1b[31m[/b]")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 2][: 3 - at]) for at, name in ((0, "x\x1b[2J"), (2, "y"))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    answer = command("check", tmp_path / "m.onnx")
    assert "evil" in answer.out
    assert not hidden(answer)


def test_progress_shows_names_without_what_they_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "dumb")
        with console.progress_bar() as progress:
            progress("read \x9b31m[/b]", 1, 1, "of \u202e[/x]")
        assert not {"\x9b", "\u202e"} & set(stream.getvalue())


def test_warnings_are_one_line_without_what_names_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    with console.warnings_as_lines(quiet=False):
        warnings.simplefilter("always")
        warnings.warn("a\x1b[31m\nb", stacklevel=1)
    assert capsys.readouterr().err == "warning: a\\x1b[31m b\n"


def test_no_other_file_writes_on_the_terminal() -> None:
    found = set()
    for path in files().values():
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "print(" in text or ".write(" in text else ():
            prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            if prints or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout.write", "sys.stderr.write")):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == MAY_PRINT


# --- memory ------------------------------------------------------------------------------------------------------


def test_torch_without_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, images: Path) -> None:
    monkeypatch.setattr("autoformer.data.check.check_data", lambda *_, **__: torch.empty(1 << 60))
    answer = command("data", "check", images)
    assert answer.error.startswith("error: there is not enough memory; make the network, the images or the batch smaller")
    assert answer.code == 2


def test_a_limit_of_memory_that_not_even_torch_fits_into_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("data: {source: digits}\n")
    limit = 256 << 20  # torch's libraries map more
    found = subprocess.run(
        [sys.executable, "-m", "autoformer.cli", "train", "r.yaml", "--out", "o", "--quiet"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert (found.returncode, found.stderr.count("\n")) == (2, 1), found.stderr
    assert found.stderr.startswith("error: there is not enough memory")


def test_torch_that_cannot_make_its_types_for_want_of_memory_is_known() -> None:
    assert memory_shortage(RuntimeError("Unable to instantiate PyTypeObject for HardswishBackwardBackward0")) is not None
    assert memory_shortage(ImportError("No module named 'torch'")) is None


@pytest.mark.slow
def test_a_training_under_a_limit_of_memory_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "data: {source: digits, image_size: 256}\nspace: {preset: micro, patch_size: 4}\ntrain: {epochs: 1, batch_size: 256}\n"
    )
    imports = "import autoformer.training.runs, sklearn.datasets; print(open('/proc/self/status').read())"
    status = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=True).stdout
    limit = (int(status.split("VmPeak:")[1].split()[0]) << 10) + (1 << 30)  # what the libraries map, and one GiB; tens are needed
    found = subprocess.run(
        [sys.executable, "-m", "autoformer.cli", "train", "r.yaml", "--out", "o", "--quiet"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    assert "not enough memory" in found.stderr or "no further thread" in found.stderr
