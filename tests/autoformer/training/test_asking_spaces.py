"""Trainings of a space that asks for all four: patch sizes, a convolutional stem, kernels and halving."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoformer.data.parts import DataParts
from autoformer.networks.folders import load_subnet, load_supernet
from autoformer.networks.subnet import Subnet
from autoformer.tensors import read_tensors, tensors_digest
from autoformer.training.config import FinetuneConfig, SubnetsConfig, SupernetConfig
from autoformer.training.runs import finetune, train_supernet
from tests.support.ddp_worker import start
from tests.support.trainings import SPACE, dying_at

ASKING = replace(
    SPACE, depths=(2, 3), patch_size=2, patch_sizes=(2, 4), stem="conv", stem_dim=8, stem_depths=(0, 1), mlp_kernels=(0, 3),
    pool_after=(0, 1), class_token=False,
)  # fmt: skip
CHOSEN = ASKING.largest
CONFIG = SupernetConfig.model_validate(
    {
        "batch_size": 256, "mixup": 0.8, "clip_norm": 0.5, "log_every": 4, "ema_decay": 0.9, "drop_path_rate": 0.3,
        "subnets": SubnetsConfig(strategy="sandwich", between=1, distill=True),
    }
)  # fmt: skip


def weights_of(folder: Path) -> str:
    return tensors_digest(read_tensors(folder / "model.safetensors"))


def test_a_training_that_died_ends_with_the_same_bits(parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sandwich steps with stochastic depth and a moving average."""
    config = CONFIG.model_copy(update={"epochs": 2})
    train_supernet(ASKING, parts, config, tmp_path / "whole")
    with dying_at(4, monkeypatch):
        train_supernet(ASKING, parts, config, tmp_path / "s")
    train_supernet(ASKING, parts, config, tmp_path / "s")
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "s")
    trained = load_supernet(tmp_path / "s")
    assert trained.space == ASKING
    kernels = trained.get_parameter("blocks.0.kernels")
    assert kernels[:, 0, 1, 1].mean() > 0.9  # still near those that change nothing, and moved
    assert kernels[:, 0, 0, 0].abs().max() > 0


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, so that 1e-10 is rounding."""
    monkeypatch.setenv("SPACE_TO_TRAIN", json.dumps(ASKING.to_dict()))
    for name, size in (("one", 1), ("two", 2)):
        for process in start(tmp_path / name, CONFIG.model_copy(update={"epochs": 1}), size):
            code, errors = process.finish(120)
            assert code == 0, errors
    one, two = (read_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert "patch_embed.further.4.0.gain" in one
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], rtol=0, atol=1e-10), name


def test_checkpointing_changes_no_step_of_a_finetuning(parts: DataParts, tmp_path: Path) -> None:
    """With stochastic depth and the moving average that it ends with."""
    found = []
    for enable in (False, True):
        torch.manual_seed(0)
        network = Subnet.from_space(ASKING, CHOSEN)
        network.set_grad_checkpointing(enable)
        config = FinetuneConfig(epochs=1, batch_size=400, drop_path_rate=0.2, ema_decay=0.9)
        finetune(network, parts, config, tmp_path / str(enable))
        found.append(load_subnet(tmp_path / str(enable))[0])
        assert found[-1].architecture == CHOSEN
    for (name, weight), (_, other) in zip(found[0].named_parameters(), found[1].named_parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-5, msg=name)
