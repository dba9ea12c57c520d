"""The board program refits the engines of another bundle and looks into them, on a device with TensorRT's bindings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoformer.cli.board.bundle_program import main
from autoformer.data.preprocessing import Preprocessing
from autoformer.export.bundle import write_bundle
from autoformer.export.expected import ExpectedResults
from autoformer.export.manifest import Manifest
from tests.support.engines import RTX, Install, small_subnet
from tests.support.exporting import write_export

pytestmark = pytest.mark.slow  # two exports
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(12) % 5
PREPROCESSING = Preprocessing(image_size=8, in_chans=3, mean=(0.5,) * 3, std=(0.2,) * 3)
Board = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    for seed in (0, 1):
        write_export(
            small_subnet(seed), folder / str(seed), images=PREPROCESSING.normalise(PIXELS), labels=LABELS,
            preprocessing=PREPROCESSING, classes=tuple("abcde"), precisions=("fp32",), formats=("onnx",),
        )  # fmt: skip
    return folder


@pytest.fixture
def board(exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Board:
    """The board program of the bundle "first" or "second"."""
    for seed, name in ((0, "first"), (1, "second")):
        expected = ExpectedResults(name=name, labels=tuple(LABELS.tolist()))
        write_bundle(exports / str(seed), tmp_path / name, expected, pixels=PIXELS, program=b"")

    def run(bundle: str, *words: str) -> tuple[int, Any]:
        code = main(["--bundle", str(tmp_path / bundle), *words, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else said.err

    return run


def test_engines_of_another_bundle_get_the_weights_of_this_one(board: Board, tmp_path: Path, install: Install) -> None:
    install()
    assert board("first", "build", "--precision", "fp32", "--refittable")[0] == 0
    code, answer = board("second", "refit", str(tmp_path / "first"))
    assert (code, answer["fp32"]["status"]) == (0, "exported"), answer
    code, answer = board("second", "verify")
    assert answer["artefacts"]["tensorrt fp32"]["status"] == "matches"
    assert board("first", "verify")[1]["artefacts"]["tensorrt fp32"]["status"] == "matches"


def test_engines_that_cannot_be_refitted_are_rejected_with_the_reason(board: Board, tmp_path: Path, install: Install) -> None:
    install()
    code, said = board("second", "refit", str(tmp_path / "first"))
    assert code == 2
    assert "holds no engine; build there first" in said
    board("first", "build", "--precision", "fp32")
    code, answer = board("second", "refit", str(tmp_path / "first"))
    assert (code, answer["fp32"]["status"]) == (1, "rejected")
    assert "not built to be refitted" in answer["fp32"]["reason"]
    assert not list((tmp_path / "second" / "engines").glob("*.plan"))


def test_layers_of_engines_are_shown_on_the_device(board: Board, tmp_path: Path, install: Install) -> None:
    install()
    board("first", "build", "--precision", "fp32")
    code, answer = board("first", "inspect")
    assert code == 0
    assert answer["fp32"]["is_twin"]
    assert any("blocks.0.attn" in layer["modules"] for layer in answer["fp32"]["layers"])
    assert len(answer["fp32"]["times"]) == len(answer["fp32"]["layers"])
    assert main(["--bundle", str(tmp_path / "first"), "inspect"]) == 0


def test_engines_of_the_other_product_are_inspected_under_their_own_names_and_not_refitted(
    board: Board, tmp_path: Path, install: Install
) -> None:
    install(RTX, gpu="RTX 4090", capability=(8, 9))
    code, said = board("first", "build")
    assert code == 2
    assert "TensorRT is not installed" in said
    assert said.endswith("for TensorRT-RTX: python3 board.pyz build --format tensorrt-rtx\n")
    assert not (tmp_path / "first" / "engines").exists()
    assert board("first", "build", "--precision", "fp32", "--format", "tensorrt-rtx")[0] == 0
    code, said = board("second", "refit", str(tmp_path / "first"))
    assert code == 2
    assert "are of TensorRT-RTX and cannot be refitted; build it again on this device" in said
    code, answer = board("first", "inspect")
    assert (code, list(answer)) == (0, ["tensorrt-rtx fp32"]), answer
    board("second", "build", "--precision", "fp32", "--format", "tensorrt-rtx")
    install()
    board("first", "build", "--precision", "fp32", "--refittable")
    board("second", "refit", str(tmp_path / "first"))
    kept = Manifest.load(tmp_path / "second" / "engines")
    assert [one.name for one in kept.artefacts] == ["tensorrt-rtx fp32", "tensorrt fp32"]


def test_engines_that_came_with_a_bundle_are_inspected(board: Board, tmp_path: Path, install: Install) -> None:
    install(RTX, gpu="RTX 4090", capability=(8, 9))
    board("first", "build", "--precision", "fp32", "--format", "tensorrt-rtx")
    bundle, engines = tmp_path / "first", tmp_path / "first" / "engines"
    (built,) = Manifest.load(engines).artefacts
    (engines / str(built.file)).rename(bundle / str(built.file))
    shutil.rmtree(engines)
    there = Manifest.load(bundle)
    replace(there, artefacts=(*there.artefacts, replace(built, status="built"))).save(bundle)
    code, answer = board("first", "inspect")
    assert (code, list(answer)) == (0, ["tensorrt-rtx fp32"]), answer
