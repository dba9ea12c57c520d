"""Networks of timm are finetuned by the trainer of ours: to the bit after an interruption, into folders that timm opens."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from autoformer.data.parts import DataParts
from autoformer.errors import TrainingError
from autoformer.networks.folders import record_of_network
from autoformer.pretrained.classifier import classifier_from
from autoformer.pretrained.named_network import open_network
from autoformer.tensors import read_tensors
from autoformer.training.choosing import only_one
from autoformer.training.config import FinetuneConfig
from autoformer.training.runs import finetune
from autoformer.training.trainer import Trainer
from tests.support.trainings import dying_at

WORDS = "timm:test_efficientnet@scratch"
TUNE = FinetuneConfig(epochs=2, batch_size=128, evaluate_every=2, drop_path_rate=0.1, ema_decay=0.9)


def test_a_finetune_of_a_cnn_goes_on_to_the_same_bits_and_timm_opens_its_folder(
    parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(classifier_from(WORDS, parts)[0], parts, TUNE, tmp_path / "whole")
    with dying_at(11, monkeypatch):
        finetune(classifier_from(WORDS, parts)[0], parts, TUNE, tmp_path / "cut")
    finetune(classifier_from(WORDS, parts)[0], parts, TUNE, tmp_path / "cut")
    names = ("model.safetensors", "config.json")
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes() for name in names)

    named = open_network(str(tmp_path / "whole"))
    assert named.classes == parts.classes
    assert named.preprocessing == parts.preprocessing
    record = record_of_network(tmp_path / "whole")
    assert record is not None
    assert record["format"] == "autoformer/network/1"
    assert len(record["history"]) == 2
    reversed_parts = parts.in_order(tuple(reversed(parts.classes)))
    again, ordered, new_head = classifier_from(str(tmp_path / "whole"), reversed_parts)
    assert (ordered.classes, new_head) == (parts.classes, False)
    assert torch.equal(again.network.state_dict()["classifier.weight"], named.network.state_dict()["classifier.weight"])
    images = torch.randn(4, 1, 8, 8)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'whole'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(named.network(images), theirs(images), rtol=0, atol=1e-6)


def test_batch_norms_learn_in_training_and_forget_the_images_of_a_skipped_step(parts: DataParts, tmp_path: Path) -> None:
    network = classifier_from(WORDS, parts)[0].network
    trainer = Trainer(network, parts, TUNE, tmp_path, only_one, {"network": None}, parts.preprocessing)
    pixels, facts = next(trainer.loader(0))
    network.train()
    before = network.state_dict()["bn1.running_mean"].clone()
    trainer.steps.run(network, pixels, facts, 0)
    after = network.state_dict()["bn1.running_mean"].clone()
    assert not torch.equal(before, after)
    with torch.no_grad():
        network.get_parameter("conv_stem.weight")[0, 0, 0, 0] = float("nan")
    trainer.steps.run(network, pixels, facts, 1)
    assert torch.equal(network.state_dict()["bn1.running_mean"], after)
    assert int(trainer.steps.skipped) == 1


def test_a_batch_of_one_is_refused_for_batch_norms(parts: DataParts, tmp_path: Path) -> None:
    network = classifier_from(WORDS, parts)[0].network
    config = FinetuneConfig(epochs=1, batch_size=4, accumulate=4)
    with pytest.raises(TrainingError, match="a batch norm needs two images"):
        Trainer(network, parts, config, tmp_path, only_one, {"network": None}, parts.preprocessing)


def test_a_finetuned_network_of_timm_teaches(parts: DataParts, tmp_path: Path) -> None:
    finetune(classifier_from(WORDS, parts)[0], parts, TUNE.model_copy(update={"epochs": 1}), tmp_path / "teacher")
    config = FinetuneConfig.model_validate({"epochs": 1, "batch_size": 256, "teacher": {"network": str(tmp_path / "teacher")}})
    finetune(classifier_from("timm:test_resnet@scratch", parts)[0], parts, config, tmp_path / "pupil")
    assert read_tensors(tmp_path / "pupil" / "model.safetensors")


def test_a_finetune_that_stops_after_some_epochs_goes_on_to_the_same_bits(parts: DataParts, tmp_path: Path) -> None:
    config = TUNE.model_copy(update={"epochs": 3, "patience": 3})
    finetune(classifier_from(WORDS, parts)[0], parts, config, tmp_path / "whole")
    for until in (1, 2):
        finetune(classifier_from(WORDS, parts)[0], parts, config, tmp_path / "rungs", until=until)
        assert not (tmp_path / "rungs" / "network.json").exists()
    finetune(classifier_from(WORDS, parts)[0], parts, config, tmp_path / "rungs", until=3)
    whole, rungs = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "rungs"))
    assert all(torch.equal(whole[name], rungs[name]) for name in whole)
