"""A finetuned network's folder can go to Hugging Face's Hub as it lies: read with its own client, and left out with git."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from autoformer.data.loading import split_dataset
from autoformer.data.parts import DataConfig, DataParts
from autoformer.files import read_json
from autoformer.metric import Metric, Score
from autoformer.networks.card import Card, data_name, search_score
from autoformer.networks.folders import load_subnet, save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.classifier import classifier_from
from autoformer.training.config import FinetuneConfig
from autoformer.training.runs import finetune
from tests.support.trainings import SPACE

TUNE = FinetuneConfig(epochs=2, batch_size=64, evaluate_every=1, tensorboard=True)
CARD = Card(
    name="e16", kind="A vision transformer", is_ours=True, params=1234, image_size=8, classes=("0", "1"), licence=None
)  # fmt: skip


@pytest.fixture(scope="module")
def finetuned(parts: DataParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    out = tmp_path_factory.mktemp("hub") / "net"
    finetune(Subnet.from_supernet(Supernet(SPACE), SPACE.smallest), parts, TUNE, out)
    return out


def uploaded(folder: Path) -> set[str]:
    """What git takes of a folder."""
    alone = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    git = ["git", f"--git-dir={folder.parent / 'git'}", f"--work-tree={folder}"]
    subprocess.run([*git, "init", "--quiet"], check=True, env=alone)
    listed = [*git, "ls-files", "--others", "--exclude-standard"]
    return set(subprocess.run(listed, check=True, env=alone, cwd=folder, capture_output=True, text=True).stdout.split())


def test_what_goes_to_the_hub_is_the_network_with_its_card_and_no_log_lock_or_trace_of_this_machine(finetuned: Path) -> None:
    here = {path.name for path in finetuned.iterdir()}
    assert {"log.jsonl", "identity.json", "data.json", "tensorboard"} <= here
    assert ".lock" not in here
    for left in ("nonfinite-step-000000003.json", "checkpoints/step-1.safetensors", "logits/a/b", "trackers.json"):
        (finetuned / left).parent.mkdir(parents=True, exist_ok=True)
        (finetuned / left).touch()
    assert uploaded(finetuned) == {
        ".gitignore", "README.md", "architecture.json", "class_map.txt", "config.json", "model.safetensors", "subnet.json",
    }  # fmt: skip


def test_the_hubs_client_reads_library_tags_licence_and_the_score_of_the_record(finetuned: Path) -> None:
    card: Any = ModelCard.load(finetuned / "README.md").data
    assert (card.library_name, card.pipeline_tag, card.license) == ("timm", "image-classification", "unknown")
    assert {"timm", "autoformer", "image-classification"} <= set(card.tags)
    assert card.metrics == ["accuracy"]
    assert card.datasets is None
    (result,) = card.eval_results
    record = read_json(finetuned / "subnet.json")
    assert result.metric_type == "accuracy"
    assert result.metric_value == pytest.approx(record["history"][-1]["scores"]["network"]["value"], abs=1e-6)
    assert (result.task_type, result.dataset_name) == ("image-classification", "digits")
    assert record["data"]["source"] == "digits"


def test_the_card_says_size_classes_and_score_and_not_where_the_images_lay(finetuned: Path, parts: DataParts) -> None:
    subnet, _, classes = load_subnet(finetuned)
    text = (finetuned / "README.md").read_text()
    params = sum(weight.numel() for weight in subnet.parameters())
    assert f"{params:,} parameters, for images of 8 × 8 pixels and {len(classes)} classes: 0, 1, 2" in text
    score = read_json(finetuned / "subnet.json")["history"][-1]["scores"]["network"]
    assert score["images"] == 269  # of which whole points remain
    assert f"{100 * score['value']:.0f} % accuracy, 95 % interval [{100 * score['low']:.0f}, " in text
    assert "import autoformer.networks" in text


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"data": {"source": "/home/someone/secret/photos"}}, "photos"),
        ({"data": {"source": "photos.tar"}}, "photos"),
        ({"data": {"source": "torch/cifar10"}}, "cifar10"),
        ({"data": {}}, "unnamed"),
        ({}, "unnamed"),
    ],
)
def test_the_card_names_the_images_and_not_where_they_lay(record: dict[str, Any], name: str) -> None:
    assert data_name(record) == name


def test_a_network_that_was_cut_out_and_not_scored_names_no_metric(parts: DataParts, tmp_path: Path) -> None:
    subnet = Subnet.from_supernet(Supernet(SPACE), SPACE.smallest)
    save_subnet(subnet, tmp_path / "net", preprocessing=parts.preprocessing, classes=parts.classes, record={"made_by": "extract"})
    card: Any = ModelCard.load(tmp_path / "net" / "README.md")
    assert card.data.metrics is None
    assert card.data.eval_results is None
    assert "It was not scored" in card.text


def test_a_finetuned_network_of_timm_keeps_timms_licence_and_needs_no_package_of_ours(tmp_path: Path) -> None:
    colours = ("red", "green")
    images = [(Image.new("RGB", (32, 32), colour), label) for label, colour in enumerate(colours)] * 12
    parts = split_dataset(images, classes=colours, config=DataConfig(image_size=32))
    made, parts, _ = classifier_from("timm:test_vit@scratch", parts)
    made.network.pretrained_cfg = {**made.network.pretrained_cfg, "license": "apache-2.0"}  # type: ignore[dict-item, assignment]
    finetune(made, parts, FinetuneConfig(epochs=1, batch_size=8), tmp_path / "net")
    card: Any = ModelCard.load(tmp_path / "net" / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.tags == ["image-classification", "timm"]
    assert "autoformer" not in card.text
    assert "apache-2.0." in card.text


@pytest.mark.parametrize(("metric", "named"), [("balanced_accuracy", "balanced_accuracy"), ("macro_f1", "f1")])
def test_another_metric_goes_by_the_hubs_name_for_it(metric: Metric, named: str, tmp_path: Path) -> None:
    scores = {"network": Score(metric, 0.5, 0.25, 0.75, 12).to_dict()}
    CARD.write(tmp_path, {"history": [{"epoch": 1, "scores": scores}]})
    card: Any = ModelCard.load(tmp_path / "README.md").data
    assert [(one.metric_type, one.metric_value) for one in card.eval_results] == [(named, 0.5)]


def test_with_patience_the_score_is_that_of_the_epoch_that_was_kept_and_after_folding_there_is_none() -> None:
    history = [{"epoch": n, "scores": {"network": Score("macro_f1", 0.1 * n, 0.0, 1.0, 9).to_dict()}} for n in (4, 7, 5)]
    kept = search_score({"history": history, "best": {"epoch": 2}, "train": {"patience": 1}})
    last = search_score({"history": history, "best": {"epoch": 2}, "train": {"patience": None}})
    assert kept is not None
    assert last is not None
    assert kept.value == pytest.approx(0.7)
    assert last.value == pytest.approx(0.5)
    assert search_score({"history": [{"epoch": 1}]}) is None


def test_names_of_classes_cannot_write_into_the_card(tmp_path: Path) -> None:
    classes = ("a\n---\nlicense: mit", "<img src=x>", "[a](http://b)", *map(str, range(20)))
    replace(CARD, classes=classes).write(tmp_path, {})
    card: Any = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "unknown"
    assert "<img" not in card.text
    assert r"[a\](http" in card.text  # no link
    assert "\n---" not in card.text
    assert ", 8 ..." in card.text
    assert ", 9" not in card.text
