"""The runtimes of a kit: which is taken, what it builds, and that only plans built here are used again."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoformer.cli.board.kit_program import main
from autoformer.errors import MissingPackageError
from autoformer.export.engines import trtexec as trtexec_module
from autoformer.export.engines.trtexec import Trtexec
from autoformer.profiling.kits.kit import Kit
from autoformer.profiling.kits.result import KitResult
from autoformer.profiling.kits.runtimes import OnnxRuntimeRuntime, TrtexecRuntime, runtime_here
from autoformer.profiling.measuring.sensors import MachineSensors
from tests.support.kits import FACTS, RULE, small_kit
from tests.support.scripted_trtexec import calls, write_trtexec


@pytest.fixture
def _small_heap() -> Iterator[None]:
    """Every visit collects garbage first, which takes long where torch is loaded; on a board it is not."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kits") / "kit"
    small_kit(place)
    return place


@pytest.mark.parametrize("version", ["8.6.2", "10.3.0", "11.0.0"])
def test_trtexec_builds_once_and_times_at_every_visit(folder: Path, tmp_path: Path, version: str) -> None:
    network = Kit.load(folder).networks[0]
    program = write_trtexec(tmp_path / "bin", version, gpu_ms=(2.0, 2.5, 3.0), gpu="Orin")
    runtime = TrtexecRuntime(folder, tmp_path / "engines", Trtexec.find(program), FACTS, MachineSensors())
    made = runtime.prepare(network, "fp32", 4, 0)
    assert made["gpu"] == "Orin"
    assert runtime.prepare(network, "fp32", 4, 0) == {}  # this very plan was built here
    taken = runtime.visit(network, "fp32", 4, 0, RULE)
    graph = 0.75  # of the scripted program
    assert taken.samples_ms[:3] == pytest.approx([graph * time for time in (2.0, 2.5, 3.0)])
    assert (taken.backend, taken.batch, taken.precision) == ("trtexec", 4, "fp32")
    assert taken.conditions is not None
    assert taken.conditions.cores == FACTS.cores
    built, timed = calls(program)
    assert built["--optShapes"] == timed["--shapes"] == "images:4x1x8x8"
    assert "--timingCacheFile" in built
    runtime.prepare(network, "fp32", 4, 1)
    assert "--timingCacheFile" not in calls(program)[-1]  # what rebuilding changes is to be seen


def test_a_plan_that_was_changed_or_is_of_another_version_is_built_anew(folder: Path, tmp_path: Path) -> None:
    network = Kit.load(folder).networks[0]
    program = Trtexec.find(write_trtexec(tmp_path / "bin", "10.3.0"))
    runtime = TrtexecRuntime(folder, tmp_path / "engines", program, FACTS, MachineSensors())
    runtime.prepare(network, "fp32", 1, 0)
    (plan,) = (tmp_path / "engines").glob("*.plan")
    plan.write_bytes(plan.read_bytes() + b" ")
    assert runtime.prepare(network, "fp32", 1, 0)
    newer = Trtexec.find(write_trtexec(tmp_path / "bin", "11.0.0"))
    assert TrtexecRuntime(folder, tmp_path / "engines", newer, FACTS, MachineSensors()).prepare(network, "fp32", 1, 0)


def test_the_first_runtime_that_is_here_is_taken(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(**given: Any) -> object:
        return runtime_here(given.pop("name", None), folder, tmp_path, threads=1, device=FACTS, **given)

    monkeypatch.setattr(trtexec_module, "PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    found = here()
    assert isinstance(found, OnnxRuntimeRuntime)
    assert found.facts["threads"] == "1"
    with pytest.raises(MissingPackageError, match="trtexec is not here"):
        here(name="trtexec")
    program = write_trtexec(tmp_path / "bin", "10.3.0")
    assert isinstance(here(trtexec=program), TrtexecRuntime)


@pytest.mark.slow
@pytest.mark.usefixtures("_small_heap")
def test_the_program_measures_with_onnx_runtime_and_goes_on_when_called_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--kit",
        str(folder),
        "measure",
        "--runtime",
        "onnxruntime-cpu",
        "--work",
        str(tmp_path / "work"),
        "--quiet",
        "--json",
    ]
    assert main([*words, "--out", str(tmp_path / "result.json")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["networks"] == 4
    assert list(answer["measured"]) == ["fp32, batch 1"]
    result = KitResult.load(tmp_path / "result.json")
    assert {row.network for row in result.rows} == {network.name for network in Kit.load(folder).networks}
    rows = (tmp_path / "work" / "onnxruntime-cpu.jsonl").read_bytes()
    assert main([*words, "--out", str(tmp_path / "again.json")]) == 0  # nothing is left to measure
    assert (tmp_path / "work" / "onnxruntime-cpu.jsonl").read_bytes() == rows
    assert main([*words, "--out", str(tmp_path / "again.json")]) == 2
    assert "already exists" in capsys.readouterr().err


def test_what_the_program_cannot_use_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, reason in (
        (["--kit", str(tmp_path), "measure"], "kit.json does not exist"),
        (
            ["--kit", str(folder), "measure", "--runtime", "onnxruntime-cpu", "--precision", "int8"],
            "no precision int8, only fp32",
        ),
        (["--kit", str(folder), "measure", "--runtime", "tensorrt"], "ensorrt"),
    ):
        assert main([*words, "--work", str(tmp_path / "w"), "--out", str(tmp_path / "r.json"), "--quiet"]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert reason in said.err
