"""The story of two machines: a kit goes to a board, its answer becomes a table, and what a search chose is checked there.

The board is another folder and another Python: 3.10 with numpy, Pillow and ONNX Runtime, and once nothing but the standard
library and a `trtexec`, which is scripted and prints what TensorRT 10 and 11 print.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from autoformer.architecture import Architecture
from autoformer.cost import count_flops
from autoformer.profiling.kits.kit import Kit
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace
from tests.support.bundles import python310
from tests.support.commands import command
from tests.support.scripted_trtexec import write_trtexec
from tests.support.short_runs import QUICKSTART, SHORT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(python310() is None, reason="no Python 3.10 is installed")]

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit of real networks, made on the host."""
    place = tmp_path_factory.mktemp("host")
    space = place / "space.yaml"
    fields = {key: value for key, value in SPACE.to_dict().items() if key != "format"}
    space.write_text(json.dumps(fields))  # JSON is YAML
    words = ("--space", space, "--networks", 6, "--seconds", 0.05, "--rounds", 8, "--interval", 0.2, "--out", place / "kit")
    answer = command("profile", "kit", *words, "--precision", "fp32", "--precision", "fp16", "--quiet", "--json")
    assert answer.code == 0, answer.err
    return place / "kit"


@pytest.fixture(scope="module")
def board_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of the board, with its three packages."""
    place = tmp_path_factory.mktemp("python")
    subprocess.run([str(python310()), "-m", "venv", place / "venv"], check=True)
    python = place / "venv" / "bin" / "python"
    packages = ["numpy", "Pillow", "onnxruntime"]
    installed = subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=False)
    if installed.returncode:
        pytest.skip("numpy, Pillow and onnxruntime cannot be installed for Python 3.10")
    return python


def on_board(python: str | Path, program: Path, *words: object, path: str = "/usr/bin:/bin") -> dict[str, Any]:
    """What the program in a folder of the board answers, in an environment without this project."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {"PATH": path}
    called = [str(word) for word in (python, program, *words)]
    done = subprocess.run(called, env=clean, cwd=program.parent, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_board_with_onnx_runtime(kit: Path, board_python: Path, tmp_path: Path) -> None:
    board = tmp_path / "board"
    shutil.copytree(kit, board / "kit")
    answer = on_board(board_python, board / "kit" / "board.pyz", "measure", "--json", "--quiet")
    assert answer["runtime"] == "onnxruntime-cpu"
    table_file = tmp_path / "board.json"
    made = command("profile", "table", "--from", board / "kit" / "result.json", "--out", table_file)
    assert made.code == 0, made.err
    table = LatencyTable.load(table_file)
    assert table.measurement_conditions.backend == "onnxruntime-cpu"
    assert table.device.python.startswith("3.10")
    assert table.rebuilding is not None
    assert len(table.networks) == 6

    settings = [*SHORT, f"profile.table={table_file}", "export.max_disagreement=0.2", "budget.max_latency=90%"]
    settings.append('export.precisions=["fp32"]')
    run = command("run", QUICKSTART, "--out", tmp_path / "run", "--quiet", *[word for one in settings for word in ("--set", one)])
    assert run.code == 0, run.err
    bundled = command("bundle", tmp_path / "run", "--out", tmp_path / "bundle")
    assert bundled.code == 0, bundled.err
    assert bundled.err.startswith("bundle: 0/3 reads the images that it is checked with")
    shutil.copytree(tmp_path / "bundle", board / "bundle")
    verified = on_board(
        board_python, board / "bundle" / "board.pyz", "verify", "--json", "--seconds", "0.5", "--out", board / "found.json"
    )
    assert verified["files"] == []
    assert verified["artefacts"]["onnx fp32"]["status"] == "matches"
    latency = verified["budget"]["max_latency_ms"]
    assert latency["status"] in ("within budget", "over budget", "inconclusive")
    assert latency["limit means"] == str(table.measurement_conditions)
    assert latency["limit"] == pytest.approx(0.9 * table.predict(SPACE.largest), rel=1e-6)

    assert command("report", "import", board / "found.json", "--run", tmp_path / "run").code == 0
    (imported,) = json.loads((tmp_path / "run" / "report.json").read_text())["boards"]
    assert imported["budget"]["max_latency_ms"]["status"] == latency["status"]
    assert "limit max_latency_ms" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("version", ["10.3.0", "11.0.0"])
def test_a_board_with_trtexec_and_nothing_else(kit: Path, finished_run: Path, tmp_path: Path, version: str) -> None:
    def known_ms(architecture: Architecture) -> float:
        return 0.5 + 20 * count_flops(architecture, SPACE) / 1e9

    board = tmp_path / "board"
    shutil.copytree(kit, board / "kit")
    times = {
        name: known_ms(network.architecture) for network in Kit.load(kit).networks for name in (Path(network.files["fp16"]).name,)
    }
    program = write_trtexec(board / "tensorrt", version, gpu_ms=(1.0,), gpu_ms_of=times, gpu="Orin")
    bare = (python310(), "-I", "-S")  # no packages at all
    called = [*bare, board / "kit" / "board.pyz", "measure", "--precision", "fp16", "--json", "--quiet"]
    clean = {"PATH": f"{program.parent}:/usr/bin:/bin"}
    done = subprocess.run(list(map(str, called)), env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runtime"] == "trtexec"
    table_file = tmp_path / "orin.json"
    made = command("profile", "table", "--from", board / "kit" / "result.json", "--out", table_file)
    assert made.code == 0, made.err
    table = LatencyTable.load(table_file)
    graph = 0.75  # what the scripted program takes for a run from a CUDA graph
    assert table.predict(SPACE.middle) == pytest.approx(graph * known_ms(SPACE.middle), rel=1e-3)
    assert str(table.measurement_conditions) == "p50, batch 1, fp16, trtexec, Orin"

    if version == "10.3.0":
        where = ("--supernet", finished_run / "supernet", "--latency-table", table_file, "--out", tmp_path / "s")
        few = ("--set", "population=4", "--set", "generations=2", "--quiet")
        found = command("search", *where, "--max-latency", "90%", *few)
        assert found.code == 0, found.err
        answer = json.loads((tmp_path / "s" / "latency_answer.json").read_text())
        assert "use `autoformer profile run`" in answer["not_measured"] or "this machine is" in answer["not_measured"]
        assert (answer["qualification"]["backend"], answer["qualification"]["device"]) == ("trtexec", "Orin")
