"""`finetune` of networks that are not ours, and what the other commands make of its folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.networks.folders import record_of_network
from autoformer.pretrained.classifier import classifier_from
from autoformer.training.config import FinetuneConfig
from autoformer.training.runs import finetune
from tests.support.commands import command
from tests.support.trainings import dying_at


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colours in noise, 30 images each."""
    root, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir()
        for number in range(30):
            pixels = draws.integers(0, 80, (32, 32, 3))
            pixels[..., label] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def test_a_network_of_timm_is_finetuned_and_every_command_finds_its_images(photos: Path, tmp_path: Path) -> None:
    settings = ("--set", "epochs=2", "--set", "batch_size=16", "--set", "drop_path_rate=0.1", "--quiet", "--json")
    words = ("finetune", "timm:test_resnet@scratch", "--data", photos, "--image-size", 32, "--out", tmp_path / "net")
    answer = command(*words, *settings)
    assert answer.code == 0, answer.err
    assert answer.json["last_epoch"]["epoch"] == 2
    scored = command("evaluate", tmp_path / "net", "--json", "--quiet")
    assert scored.code == 0, scored.err
    assert scored.json["value"] == answer.json["last_epoch"]["scores"]["network"]["value"]
    again = command("finetune", tmp_path / "net", "--out", tmp_path / "more", *settings)
    assert again.code == 0, again.err
    record = record_of_network(tmp_path / "more")
    assert record is not None
    assert record["data"]["parts"] == (record_of_network(tmp_path / "net") or {})["data"]["parts"]
    assert "brings no images" in command("finetune", "timm:test_resnet@scratch", "--out", tmp_path / "none").error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnet18", "convnext_atto", "efficientvit_b0", "repvit_m0_9"])
def test_a_known_network_trains_resumes_exports_and_verifies(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    parts = load_parts(DataConfig(source=str(photos), image_size=32))
    config = FinetuneConfig(epochs=4, batch_size=21, evaluate_every=4, learning_rate=1e-3, warmup_epochs=1)

    def train(out: Path) -> None:
        finetune(classifier_from(f"timm:{name}@scratch", parts)[0], parts, config, out)

    train(tmp_path / "whole")
    with dying_at(5, monkeypatch):
        train(tmp_path / "cut")
    train(tmp_path / "cut")
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("whole", "cut")]
    assert weights[0] == weights[1]

    # Of half precision torch makes a trace of its own, for int8 layers are chosen one by one.
    others = ("fp16", "int8") if name in ("mobilenetv3_small_100", "convnext_atto") else ()
    precisions = [word for precision in ("fp32", *others) for word in ("--precision", precision)]
    exported = command(
        "export", tmp_path / "whole", "--out", tmp_path / "export", *precisions, "--no-measure", "--json", "--quiet"
    )
    assert exported.code == 0, exported.err
    entries = {entry["precision"]: entry for entry in exported.json["artefacts"] if entry["format"] == "onnx"}
    assert entries["fp32"]["status"] == "exported"
    assert all(entry["status"] == "exported" or entry["reason"] for entry in entries.values())
    assert command("bundle", tmp_path / "export", "--out", tmp_path / "bundle", "--quiet").code == 0
    verified = subprocess.run(
        [sys.executable, "board.pyz", "verify", "--json"], cwd=tmp_path / "bundle", capture_output=True, text=True, timeout=300
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_few_images_are_given_in_small_batches_as_by_a_run_unless_a_size_is_asked_for(photos: Path, tmp_path: Path) -> None:
    words = ("finetune", "timm:test_resnet@scratch", "--data", photos, "--image-size", 32, "--set", "epochs=1")
    answer = command(*words, "--out", tmp_path / "net")
    assert answer.code == 0, answer.err
    config = json.loads((tmp_path / "net" / "network.json").read_text())["train"]
    usual = FinetuneConfig().batch_size
    assert f"finetune: batches of {config['batch_size']} images, not {usual}, since there are" in answer.err
    assert config["batch_size"] < usual
    asked = command(*words, "--set", "batch_size=20", "--out", tmp_path / "asked")
    assert "finetune: batches of" not in asked.err
    assert json.loads((tmp_path / "asked" / "network.json").read_text())["train"]["batch_size"] == 20
