"""What is handed over: everything in one folder, and a program that checks it on the device."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from autoformer.cli.board.bundle_program import main
from autoformer.cli.commands.bundle import expected_results, licence_text
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import AutoformerError, CheckpointError, DataError, ExportError, OutputExistsError
from autoformer.export import bundle as bundles
from autoformer.export.bundle import model_card, unpack_bundle, write_bundle
from autoformer.export.expected import ExpectedResults
from autoformer.export.manifest import Manifest
from autoformer.export.predictor import open_predictor
from autoformer.export.program import board_program, modules_of
from autoformer.files import read_json
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from tests.support.bundles import python310
from tests.support.commands import command
from tests.support.exporting import write_export

SPACE = SearchSpace.preset("micro", image_size=16, in_chans=3, num_classes=4)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
LABELS = np.arange(12) % 4
PREPROCESSING = Preprocessing(image_size=16, in_chans=3, mean=(0.5,) * 3, std=(0.2,) * 3)
CLASSES = ("cat", "dog", "hare", "o\nx")
PROGRAM = board_program("autoformer.cli.board.bundle_program")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("bundle") / "export"
    write_export(
        Subnet.from_space(SPACE, SPACE.smallest).eval(), out, images=PREPROCESSING.normalise(PIXELS), labels=LABELS,
        preprocessing=PREPROCESSING, classes=CLASSES, precisions=("fp32",), formats=("onnx",),
    )  # fmt: skip
    return out


def written(export: Path, out: Path, licence: str | None = None, **changes: Any) -> Path:
    given: dict[str, Any] = {"name": "animals", "budget": {"max_params": 1e6}, "labels": tuple(LABELS.tolist()), **changes}
    return write_bundle(export, out, ExpectedResults(**given), pixels=PIXELS, program=PROGRAM, licence=licence)


@pytest.fixture
def bundle(export: Path, tmp_path: Path) -> Path:
    return written(export, tmp_path / "bundle")


def board(folder: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """What the board program does in this process."""
    code = main(["--bundle", str(folder), *words])
    return code, *capsys.readouterr()


# --- what is in it -----------------------------------------------------------------------------------------------


def test_a_bundle_names_every_file_with_its_digest_and_holds_nothing_else(bundle: Path) -> None:
    import hashlib

    record = read_json(bundle / "bundle.json")
    files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    del files["bundle.json"]
    assert record["files"] == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert {"model.fp32.onnx", "board.pyz", "labels.txt", "preprocessing.json", "README.md"} <= set(files)
    assert record["labels"] == LABELS.tolist()


def test_check_images_are_the_pixels_and_their_logits_those_of_the_file(bundle: Path) -> None:
    stored = np.stack([np.asarray(Image.open(bundle / "check" / f"{index:04d}.png")) for index in range(12)])
    assert np.array_equal(stored, PIXELS)
    expected = open_predictor(bundle / "model.fp32.onnx")(PREPROCESSING.normalise(PIXELS))
    np.testing.assert_allclose(np.load(bundle / "check" / "logits.npy"), expected, atol=1e-6)


def test_the_triton_repository_names_the_files_inputs_and_outputs(bundle: Path) -> None:
    config = (bundle / "triton" / "animals" / "config.pbtxt").read_text()
    for line in ('name: "animals"', 'platform: "onnxruntime_onnx"', "max_batch_size: 64", "dims: [ 3, 16, 16 ]", "dims: [ 4 ]"):
        assert line in config
    assert (bundle / "triton" / "animals" / "1" / "model.onnx").read_bytes() == (bundle / "model.fp32.onnx").read_bytes()
    assert (bundle / "triton" / "animals" / "labels.txt").read_text() == "cat\ndog\nhare\no x\n"


def test_the_model_card_quotes_scores_latency_and_the_licence_of_the_user(export: Path, tmp_path: Path) -> None:
    scored = {"value": 0.9, "low": 0.85, "high": 0.93, "images": 200, "words": "accuracy", "part": "test"}
    out = written(
        export, tmp_path / "b", licence="MIT, for bees", accuracy={"onnx fp32": scored},
        latency={"model.fp32.onnx": {"p50_ms": 1.25, "means": "p50, batch 1", "verdict": "VALID"}},
    )  # fmt: skip
    card = (out / "README.md").read_text()
    assert "accuracy on 200 images of the test part" in card
    assert "90 % [85, 93]" in card
    assert "1.25 ms (p50, batch 1; VALID)" in card
    assert (out / "licence.txt").read_text() == "MIT, for bees"
    assert "not stated by those who made this bundle" in (written(export, tmp_path / "c") / "README.md").read_text()


def test_the_file_that_the_run_says_to_ship_stands_first_under_use(export: Path, tmp_path: Path) -> None:
    out = written(export, tmp_path / "a", ship="model.fp32.onnx", ship_why="The fastest of the 2 files.")
    assert "## Use\n\nShip **model.fp32.onnx**. The fastest of the 2 files.\n\n    python3" in (out / "README.md").read_text()
    assert "Ship" not in (written(export, tmp_path / "b") / "README.md").read_text()


def test_the_card_says_how_far_a_latency_can_be_trusted_and_what_shape_the_files_take(export: Path, tmp_path: Path) -> None:
    latency = {"model.fp32.onnx": {"p50_ms": 1.5, "means": "p50", "verdict": "UNSTABLE: drift 9 %"}}
    card = (written(export, tmp_path / "bundle", latency=latency) / "README.md").read_text()
    assert "1.5 ms (p50; UNSTABLE: drift 9 %)" in card
    assert "[batch, 3, 16, 16]" in card


def test_an_export_without_a_run_knows_how_many_of_the_judged_images_each_file_got_right(export: Path) -> None:
    manifest = Manifest.load(export)
    (artefact,) = manifest.artefacts
    assert artefact.parity is not None
    found = expected_results(None, manifest, "animals", [0]).accuracy["onnx fp32"]
    assert (found["correct"], found["images"], found["part"]) == (artefact.correct, artefact.parity.images, "search")
    assert found["low"] <= found["value"] <= found["high"]


def test_a_licence_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "licence.txt").write_bytes("Lizenz für alle".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 text"):
        licence_text(tmp_path / "licence.txt")


def test_a_network_of_others_is_not_said_to_be_trained_on_the_check_images(export: Path) -> None:
    record = {"source": "/home/me/photos", "parts": {"train": {"images": 7}}}
    manifest = replace(Manifest.load(export), data=record)
    one = ExpectedResults(name="a", labels=(0,))
    ours = model_card(manifest, one)
    assert "photos: 7 to train on" in ours
    assert "/home/me" not in ours
    others = model_card(replace(manifest, network="timm:x"), one)
    assert "to train on" not in others
    assert "calibrated and checked on" in others


def test_a_batch_that_a_file_does_not_take_is_not_measured_in_its_place(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(export, tmp_path / "bundle")
    manifest = read_json(folder / "manifest.json")
    manifest["artefacts"][0]["input_shape"][0] = 3
    (folder / "manifest.json").write_text(json.dumps(manifest))
    _, said, _ = board(folder, "bench", "--seconds", "0.01", "--batch", "2", "--json", capsys=capsys)
    assert json.loads(said)["not measured"] == {"onnx fp32": "it takes exactly 3 images, asked for 2"}


def test_what_exists_is_never_overwritten_and_a_changed_export_not_packed(export: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError):
        written(export, bundle)
    (tmp_path / "b.zip").write_text("mine")
    with pytest.raises(OutputExistsError):
        written(export, tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_text() == "mine"
    changed = shutil.copytree(export, tmp_path / "changed")
    (changed / "model.fp32.onnx").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="not the file that the manifest describes"):
        written(changed, tmp_path / "d")
    assert not (tmp_path / "d").exists()


# --- the program -------------------------------------------------------------------------------------------------


def test_the_program_holds_what_runs_without_torch_and_equal_sources_give_equal_bytes() -> None:
    assert board_program("autoformer.cli.board.bundle_program") == PROGRAM
    modules = modules_of("autoformer.cli.board.bundle_program")
    assert {"autoformer.data.preprocessing", "autoformer.export.parity", "autoformer.profiling.measuring.measure"} <= set(modules)
    assert not {"autoformer.networks.supernet", "autoformer.evaluate", "autoformer.networks.subnet"} & set(modules)
    with pytest.raises(ExportError, match=r"autoformer.evaluate imports 'numpy' when it is loaded"):
        board_program("autoformer.evaluate")


def test_a_bundle_without_engines_says_how_to_build_them(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = board(bundle, "inspect", capsys=capsys)
    assert (code, said) == (2, f"error: {bundle} holds no engine; build there first: python3 board.pyz build\n")


def test_a_bundle_as_it_was_made_verifies(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = board(bundle, "verify", "--json", capsys=capsys)
    answer = json.loads(out)
    assert code == 0
    assert answer["files"] == []
    assert answer["artefacts"]["onnx fp32"]["status"] == "matches"
    right = (np.load(bundle / "check" / "logits.npy").argmax(1) == LABELS).sum()
    assert answer["artefacts"]["onnx fp32"]["right"] == right
    assert answer["budget"]["max_params"]["status"] == "within budget"


def test_a_changed_file_a_broken_budget_and_other_logits_fail(
    export: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "labels.txt").write_text("dog\ncat\n")
    (bundle / "README.md").unlink()
    code, out, _ = board(bundle, "verify", "--json", capsys=capsys)
    assert code == 1
    assert json.loads(out)["files"] == ["README.md is missing", "labels.txt is another file than the bundle was made with"]

    large = written(export, tmp_path / "large", budget={"max_params": 10.0})
    code, out, _ = board(large, "verify", "--json", capsys=capsys)
    assert (code, json.loads(out)["budget"]["max_params"]["status"]) == (1, "over budget")

    other = written(export, tmp_path / "other")
    np.save(other / "check" / "logits.npy", np.load(other / "check" / "logits.npy") + 1, allow_pickle=False)
    record = read_json(other / "bundle.json")
    del record["files"]["check/logits.npy"]
    (other / "bundle.json").write_text(json.dumps(record))
    code, out, _ = board(other, "verify", "--json", capsys=capsys)
    assert (code, json.loads(out)["artefacts"]["onnx fp32"]["status"]) == (1, "does not match")


def test_a_latency_limit_is_measured_on_the_device(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, limit, status in (
        ("slow", 1e5, {"within budget", "inconclusive"}),
        ("fast", 1e-6, {"over budget", "inconclusive"}),
    ):
        folder = written(export, tmp_path / name, budget={"max_latency_ms": limit}, latency_means="p50, batch 1")
        _, out, _ = board(folder, "verify", "--seconds", "0.1", "--json", capsys=capsys)
        found = json.loads(out)["budget"]["max_latency_ms"]
        assert found["status"] in status
        assert found["status"] != "inconclusive" or not found["verdict"].startswith("VALID")
        assert found["low_ms"] <= found["median_ms"] <= found["high_ms"]


def test_the_program_predicts_what_the_toolchain_predicts(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(PIXELS[3]).resize((40, 30)).save(tmp_path / "photo.png")
    code, out, _ = board(bundle, "predict", str(tmp_path / "photo.png"), "--top", "4", "--json", capsys=capsys)
    (answer,) = command("predict", bundle, tmp_path / "photo.png", "--top", "4", "--json").json
    assert code == 0
    found = json.loads(out)[str(tmp_path / "photo.png")]
    assert [entry["name"] for entry in found] == [entry["name"] for entry in answer["classes"]]
    assert [entry["probability"] for entry in found] == pytest.approx([entry["probability"] for entry in answer["classes"]])


def test_what_the_program_cannot_use_is_one_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.jpg").write_text("words")
    for words, reason in (
        (("predict", str(tmp_path / "notes.jpg")), "cannot be read as an image"),
        (("predict", str(tmp_path / "absent.jpg")), "does not exist"),
        (("predict", "--precision", "int8", str(tmp_path / "notes.jpg")), "no file of precision 'int8', only fp32"),
        (("build",), "TensorRT"),
    ):
        code, out, err = board(bundle, *words, capsys=capsys)
        assert (code, out) == (2, "")
        assert reason in err
        assert err.count("\n") == 1
    code, _, err = board(tmp_path, "verify", capsys=capsys)
    assert code == 2
    assert "bundle.json does not exist" in err
    record = read_json(bundle / "bundle.json")
    record["files"]["../outside"] = "00"
    (bundle / "bundle.json").write_text(json.dumps(record))
    code, _, err = board(bundle, "verify", capsys=capsys)
    assert code == 2
    assert "not inside its folder" in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "autoformer/bundle/9"}, "has format 'autoformer/bundle/9', expected 'autoformer/bundle/1'"),
        ({"budget": {"max_price": 3}}, "a limit 'max_price' in the budget, known are max_params"),
        ({"budget": {"max_params": "small"}}, "budget.max_params is 'small', expected a number"),
        ({"labels": []}, "labels that are not the numbers of classes"),
        ({"labels": [0, -1]}, "labels that are not the numbers of classes"),
        ({"files": {"model.onnx": 3}}, "files.model.onnx is 3, expected a text"),
        ({"architecture": {"embed_dim": 3}}, "not an architecture"),
    ],
)
def test_a_damaged_record_of_a_bundle_is_one_line(
    bundle: Path, change: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_json(bundle / "bundle.json")
    (bundle / "bundle.json").write_text(json.dumps({**record, **change}))
    code, out, err = board(bundle, "verify", capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{bundle / 'bundle.json'}" in err
    assert said in err


def test_bench_measures_every_file_that_runs_here(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = board(bundle, "bench", "--seconds", "0.1", "--json", capsys=capsys)
    taken = json.loads(out)["measurements"]["onnx fp32"]
    assert code == 0
    assert taken["stats"]["n"] == len(taken["samples_ms"]) >= 20
    _, lines, _ = board(bundle, "bench", "--seconds", "0.1", capsys=capsys)
    assert "p50 ms, 95 % interval" in lines
    assert f"onnx fp32  {taken['batch']} " in lines
    assert "samples_ms" not in lines


# --- archives ----------------------------------------------------------------------------------------------------


def test_an_archive_unpacks_to_the_same_bundle_and_predicts(export: Path, bundle: Path, tmp_path: Path) -> None:
    archive = written(export, tmp_path / "packed.zip")
    folder = unpack_bundle(archive, tmp_path / "again")
    files = [path.relative_to(bundle) for path in sorted(bundle.rglob("*")) if path.is_file()]
    assert [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()] == files
    assert all((folder / name).read_bytes() == (bundle / name).read_bytes() for name in files)
    expected = open_predictor(bundle)(PREPROCESSING.normalise(PIXELS))
    np.testing.assert_array_equal(open_predictor(archive)(PREPROCESSING.normalise(PIXELS)), expected)
    with pytest.raises(OutputExistsError):
        unpack_bundle(archive, tmp_path / "again")


def archive_of(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return path


def test_archives_that_mean_harm_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link.zip"
    with zipfile.ZipFile(link, "w") as packed:
        entry = zipfile.ZipInfo("bundle.json")
        entry.external_attr = 0o120777 << 16
        packed.writestr(entry, "/etc/passwd")
    text = tmp_path / "text.zip"
    text.write_text("no archive")
    whole = archive_of(tmp_path / "whole.zip", **{"bundle.json": "{}" * 500})
    cut = tmp_path / "cut.zip"
    cut.write_bytes(whole.read_bytes()[:-30])
    cases = {
        link: "holds a link",
        text: "is a text of 10 bytes",
        cut: "truncated or not a zip file",
        archive_of(tmp_path / "up.zip", **{"../bundle.json": "{}"}): "not inside its folder",
        archive_of(tmp_path / "root.zip", **{"/bundle.json": "{}"}): "not inside its folder",
        archive_of(tmp_path / "empty.zip", **{"readme.txt": "-"}): "holds 0 bundles",
        archive_of(tmp_path / "two.zip", **{"a/bundle.json": "{}", "b/bundle.json": "{}"}): "holds 2 bundles",
        archive_of(tmp_path / "words.zip", **{"bundle.json": "words"}): "cannot be unpacked",
        tmp_path / "absent.zip": "does not exist",
    }
    for archive, reason in cases.items():
        with pytest.raises(CheckpointError, match=reason):
            unpack_bundle(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    monkeypatch.setattr(bundles, "MAX_UNPACKED_BYTES", 999)
    with pytest.raises(CheckpointError, match="would unpack to 1 files"):
        unpack_bundle(whole, tmp_path / "out")
    assert not (tmp_path.parent / "bundle.json").exists()


def test_what_comes_out_of_an_archive_is_counted_whatever_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes in the directory of the archive are made small; reading stops at the limit or at the first mismatch."""
    archive = archive_of(tmp_path / "bomb.zip", **{"bundle.json": "{" + " " * 5000 + "}"})
    held = bytearray(archive.read_bytes())
    place = held.index(b"PK\x01\x02")
    held[place + 24 : place + 28] = (10).to_bytes(4, "little")  # uncompressed size in the central directory
    archive.write_bytes(held)
    monkeypatch.setattr(bundles, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(CheckpointError):
        unpack_bundle(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", [3000])
def test_damaged_archives_are_one_line_or_as_good_as_whole(export: Path, tmp_path: Path, count: int) -> None:
    archive = written(export, tmp_path / "b.zip")
    whole, rng, refused = archive.read_bytes(), np.random.default_rng(count), []
    for number in range(count):
        held = bytearray(whole)
        for place in rng.integers(0, len(held), 4):
            held[place] = rng.integers(256)
        archive.write_bytes(held[: rng.integers(1, len(held))] if number % 3 == 0 else held)
        out = tmp_path / str(number)
        try:
            unpack_bundle(archive, out)
            was_refused = False
        except AutoformerError as error:
            refused.append(str(error))
            was_refused = True
        assert out.exists() != was_refused
        shutil.rmtree(out, ignore_errors=True)
    assert len(refused) > count / 3
    assert not any("\n" in line for line in refused)


# --- a clean machine ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(python310() is None, reason="no Python 3.10 is installed")
def test_the_program_runs_on_python_3_10_with_three_packages_from_another_folder(export: Path, tmp_path: Path) -> None:
    archive = written(export, tmp_path / "b.zip")
    subprocess.run([str(python310()), "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "numpy", "Pillow", "onnxruntime"]
    subprocess.run(install, check=True, capture_output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([python, "-m", "zipfile", "-e", archive, elsewhere], check=True)
    program = elsewhere / "b" / "board.pyz"
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    loaded = subprocess.run([python, "-c", "import torch"], env=clean, capture_output=True)
    assert loaded.returncode != 0
    for words in (("verify",), ("predict", elsewhere / "b" / "check" / "0000.png"), ("bench", "--seconds", "0.2")):
        done = subprocess.run([python, program, *words], env=clean, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert sys.version_info >= (3, 11)  # what made it is another Python


def images_of(folder: Path) -> NDArray[np.float32]:
    return Manifest.load(folder).preprocessing.normalise(PIXELS)


@pytest.mark.slow
def test_a_finished_run_is_bundled_and_evaluated_by_the_command_line(finished_run: Path, tmp_path: Path) -> None:
    answer = command("bundle", finished_run, "--out", tmp_path / "b", "--images", "20", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["accuracy"]["onnx fp32"]["images"] == 539
    assert set(answer.json["budget"]) == {"max_params", "max_flops", "max_latency_ms"}
    assert "p50" in answer.json["latency_means"]
    assert {"model.fp32.onnx", "model.fp16.onnx"} <= set(answer.json["latency"])
    assert command("evaluate", tmp_path / "b").code == 0


def test_the_card_tells_the_patch_stem_kernels_and_halving_of_a_network_that_names_them(export: Path) -> None:
    one, manifest = ExpectedResults(name="a", labels=(0,)), Manifest.load(export)
    assert "a vision transformer of" in model_card(manifest, one)
    space = replace(SearchSpace.preset("compact-96"), patch_sizes=(8, 16), mlp_kernels=(0, 3))
    card = model_card(replace(manifest, architecture=space.smallest), one)
    assert "a vision transformer (patch 16 px, stem depth 1, MLP kernels 0,0,0, grid halved after block 1) of" in card
