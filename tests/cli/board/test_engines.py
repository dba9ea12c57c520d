"""A bundle on a device whose TensorRT has no Python bindings: engines built, verified and timed by a scripted trtexec."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoformer.cli.board.bundle_program import main
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import ExportError, MissingPackageError
from autoformer.export.bundle import write_bundle
from autoformer.export.engines import tensorrt_versions
from autoformer.export.engines.artefact import how_to_build, read_batches
from autoformer.export.expected import ExpectedResults
from autoformer.export.predictor import open_predictor
from autoformer.export.program import board_program
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from tests.support.exporting import write_export
from tests.support.scripted_trtexec import calls, write_trtexec

SPACE = SearchSpace.preset("micro", image_size=16, in_chans=3, num_classes=4)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
LABELS = np.arange(12) % 4
PREPROCESSING = Preprocessing(image_size=16, in_chans=3, mean=(0.5,) * 3, std=(0.2,) * 3)
Board = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("board") / "export"
    write_export(
        Subnet.from_space(SPACE, SPACE.smallest).eval(), out, images=PREPROCESSING.normalise(PIXELS), labels=LABELS,
        preprocessing=PREPROCESSING, classes=tuple("abcd"), precisions=("fp32", "fp16"), formats=("onnx",),
    )  # fmt: skip
    return out


@pytest.fixture
def board(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Board:
    """The board program on a device with this trtexec: exit code and its answer, or its error."""
    expected = ExpectedResults(
        name="letters", budget={"max_latency_ms": 3.0}, latency_means="p50, batch 1, fp16, trtexec, Orin",
        labels=tuple(LABELS.tolist()),
    )  # fmt: skip
    write_bundle(export, tmp_path / "bundle", expected, pixels=PIXELS, program=b"")

    def run(*words: str, version: str | None = "10.3.0", **script: Any) -> tuple[int, Any]:
        if version is not None:
            write_trtexec(tmp_path / "bin", version, **script)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
        code = main(["--bundle", str(tmp_path / "bundle"), *words, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else said.err

    return run


@pytest.mark.slow
@pytest.mark.parametrize("version", ["8.6.2", "10.3.0", "11.0.0"])
def test_engines_are_built_compared_and_verified_without_bindings(board: Board, tmp_path: Path, version: str) -> None:
    code, answer = board("build", "--engine-batch", "1:2:4", version=version)
    assert code == 0, answer
    assert answer["built with"] == f"trtexec {version}"
    assert {answer[precision]["status"] for precision in ("fp32", "fp16")} == {"exported"}
    record = json.loads((tmp_path / "bundle" / "engines" / "manifest.json").read_text())["artefacts"][0]
    assert record["made"]["config"]["profiles"] == [[1, 2, 4]]
    assert record["made"]["built_with"] == f"trtexec {version}"
    assert record["correct"] is not None
    code, answer = board("verify", version=version, gpu_ms=(2.0,))
    assert code == 0, answer
    assert answer["artefacts"]["tensorrt fp16"]["status"] == "matches"
    limit = answer["budget"]["max_latency_ms"]
    assert (limit["measured"], limit["median_ms"], limit["status"]) == ("tensorrt fp16", 2.0, "within budget")


@pytest.mark.slow
def test_bench_gives_two_rows_an_engine_and_says_under_which_conditions(board: Board, tmp_path: Path) -> None:
    board("build", "--precision", "fp16")
    code, answer = board("bench", "--seconds", "0.05", "--out", str(tmp_path / "result.json"), gpu_ms=(2.0,))
    assert code == 0
    plain, graph = (answer["measurements"][f"tensorrt fp16{word}"] for word in ("", " CUDA graph"))
    assert (plain["stats"]["p50_ms"], graph["stats"]["p50_ms"]) == (2.0, 1.5)
    assert (plain["settings"]["cuda_graph"], graph["settings"]["cuda_graph"]) == ("off", "on")
    assert plain["backend"] == "trtexec"
    assert plain["conditions"]["cores"] == plain["device"]["cores"]
    assert plain["settings"]["trtexec"] == "10.3.0"
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["format"], result["command"], result["bundle"]) == ("autoformer/board/1", "bench", "letters")
    assert result["answer"] == answer
    code, said = board("bench", "--out", str(tmp_path / "result.json"))
    assert code == 2
    assert "result.json" in said


@pytest.mark.slow
def test_an_engine_with_other_answers_is_rejected_and_gone(board: Board, tmp_path: Path) -> None:
    logits = tmp_path / "bundle" / "check" / "logits.npy"
    np.save(logits, np.load(logits)[::-1].copy())  # what the network would have said of other images
    code, answer = board("build", "--precision", "fp32")
    assert code == 1
    assert answer["fp32"]["status"] == "rejected"
    assert not list((tmp_path / "bundle" / "engines").glob("*.plan"))


@pytest.mark.slow
def test_a_plan_of_another_version_or_with_other_bytes_is_not_run(board: Board, tmp_path: Path) -> None:
    board("build", "--precision", "fp32")
    for here, said in (
        ({"version": "11.0.0"}, "was built by trtexec 10.3.0, here is 11.0.0; build it again on this device"),
        ({"gpu": "H200"}, "was built for Orin, here is H200; build it again on this device"),
    ):
        code, answer = board("verify", "--seconds", "0.01", **here)
        found = answer["artefacts"]["tensorrt fp32"]
        assert (code, found["status"]) == (1, "not run")
        assert said in found["reason"]
    plan = tmp_path / "bundle" / "engines" / "model.fp32.plan"
    plan.write_bytes(plan.read_bytes() + b" ")
    before = len(calls(tmp_path / "bin" / "trtexec"))
    code, answer = board("verify", "--seconds", "0.01")
    assert code != 0
    assert "is not the plan that the manifest describes" in str(answer)
    assert len(calls(tmp_path / "bin" / "trtexec")) == before


@pytest.mark.slow
def test_a_failed_build_keeps_the_engines_that_are_there(board: Board, tmp_path: Path) -> None:
    assert board("build", "--precision", "fp32")[0] == 0
    code, answer = board("build", "--precision", "fp16", fails={"--onnx": "[TRT] out of memory"})
    assert code == 1
    assert "out of memory" in answer["fp16"]["reason"]
    code, answer = board("verify", "--seconds", "0.01")
    assert answer["artefacts"]["tensorrt fp32"]["status"] == "matches"


def test_without_tensorrt_one_line_says_what_is_missing_and_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoformer.export.engines.trtexec.PLACES", ())
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(
        MissingPackageError, match=r"TensorRT is not installed; .*pip install .*; trtexec is not here either"
    ) as said:
        how_to_build()
    assert "\n" not in str(said.value)


@pytest.mark.slow
def test_predictions_come_from_a_plan_that_trtexec_runs(board: Board, tmp_path: Path) -> None:
    board("build", "--precision", "fp32", "--engine-batch", "2:2:4")
    images = PREPROCESSING.normalise(PIXELS)
    with open_predictor(tmp_path / "bundle" / "engines" / "model.fp32.plan") as engine:
        assert engine.kind == "tensorrt"
        given = engine(images[:7])  # 4, then 3; a single one would be filled up to 2
        np.testing.assert_allclose(engine(images[:1]), given[:1], atol=1e-5)
    with open_predictor(tmp_path / "bundle") as graph:
        np.testing.assert_allclose(graph(images[:7]), given, atol=1e-5)


def test_batches_are_read_as_people_write_them() -> None:
    assert read_batches("8") == (8, 8, 8)
    assert read_batches("1:8:32") == (1, 8, 32)
    for words in ("", "0", "1:2", "a", "1:8:32:64"):
        with pytest.raises(ExportError, match="expected one number like 8, or smallest:tuned for:largest"):
            read_batches(words)


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, export: Path) -> None:
    expected, program = ExpectedResults(labels=tuple(LABELS.tolist())), board_program("autoformer.cli.board.bundle_program")
    write_bundle(export, tmp_path / "b", expected, pixels=PIXELS, program=program)
    words = f"{sys.executable} {tmp_path / 'b' / 'board.pyz'} predict {tmp_path / 'b' / 'check' / '0000.png'} | true"
    done = subprocess.run(words, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_on_a_board_nobody_is_told_to_install_the_toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "autoformer-toolchain[tensorrt]" in tensorrt_versions.where()

    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    assert "autoformer" not in tensorrt_versions.where()
    assert "JetPack" in tensorrt_versions.where()
    assert tensorrt_versions.how_to_rebuild() == "build it again on this device: python3 board.pyz build"


@pytest.mark.parametrize(
    "words", ["build --workspace 0", "bench --batch -3", "bench --threads 0", "verify --seconds nan", "predict --top 0 x.png"]
)
def test_numbers_that_mean_nothing_are_refused_before_anything_is_done(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert "error: argument --" in capsys.readouterr().err
