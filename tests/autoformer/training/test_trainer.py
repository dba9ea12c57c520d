"""Trainings that are interrupted, fail, finetune or stop early."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import list_optimizers
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.data.parts import DataParts
from autoformer.errors import AutoformerError, DataError, InterruptedRunError, TrainingError
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.metric import score
from autoformer.networks.folders import load_subnet, load_supernet, save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.tensors import read_tensors, tensors_digest, write_tensors
from autoformer.training.choosing import chooser, only_one
from autoformer.training.config import FinetuneConfig, SubnetsConfig, SupernetConfig
from autoformer.training.runs import finetune, train_supernet
from autoformer.training.step import TrainStep
from autoformer.training.trainer import Surroundings, Trainer
from tests.support.trainings import QUICK, SPACE, trainer_of


def weights_of(folder: Path) -> str:
    return tensors_digest(read_tensors(folder / "model.safetensors"))


# --- survival ----------------------------------------------------------------------------------------------------


def test_gradients_that_are_not_finite_move_nothing(parts: DataParts, tmp_path: Path) -> None:
    trainer = trainer_of(parts, tmp_path)
    pixels, facts = next(trainer.loader(0))
    trainer.steps.run(trainer.network, pixels, facts, 0)
    before = tensors_digest(trainer.network.state_dict())
    loss = trainer.steps.loss
    trainer.steps.loss = lambda *words: loss(*words) * float("nan")  # type: ignore[method-assign]
    trainer.steps.run(trainer.network, pixels, facts, 1)
    assert tensors_digest(trainer.network.state_dict()) == before
    trainer.steps.loss = loss  # type: ignore[method-assign]
    trainer.steps.run(trainer.network, pixels, facts, 2)
    assert tensors_digest(trainer.network.state_dict()) != before
    assert float(trainer.steps.nonfinite_in_a_row) == 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_without_finite_gradients_stops_and_leaves_its_images_and_networks(
    parts: DataParts, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = TrainStep.loss
    monkeypatch.setattr(TrainStep, "loss", lambda self, *words: loss(self, *words) * float("inf"))
    config = QUICK.model_copy(update={"max_nonfinite": 4, "optimizer": optimizer})
    with pytest.raises(TrainingError, match=r"4 steps in a row .* the last of them step 4") as caught:
        train_supernet(SPACE, parts, config, tmp_path / "s")
    assert "lower learning_rate" in str(caught.value)
    told = json.loads((tmp_path / "s" / "nonfinite-step-000000003.json").read_text())
    assert Architecture.from_dict(told["networks"][0]) == chooser(SubnetsConfig(), SPACE, 0)(3)[0]
    saved = read_tensors(tmp_path / "s" / "nonfinite-step-000000003.safetensors")
    assert saved["pixels"].shape == (64, 1, 8, 8)


def interrupted(
    kind: signal.Signals, at: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]
) -> InterruptedRunError:
    steps = TrainStep.run

    def step_then_signal(self: TrainStep, forward: nn.Module, pixels: Tensor, facts: Tensor, step: int) -> Tensor:
        loss = steps(self, forward, pixels, facts, step)
        if step == at:
            os.kill(os.getpid(), kind)
        return loss

    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError, match="run the same command again") as caught:  # noqa: PT012
        patch.setattr(TrainStep, "run", step_then_signal)
        work()
    return caught.value


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_step_saves_and_resumes_within_the_epoch(
    parts: DataParts, tmp_path: Path, kind: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = QUICK.model_copy(update={"ema_decay": 0.9, "log_every": 4})
    train_supernet(SPACE, parts, config, tmp_path / "whole")
    error = interrupted(kind, 20, monkeypatch, lambda: train_supernet(SPACE, parts, config, tmp_path / "s"))
    assert error.exit_code == code
    assert (tmp_path / "s" / "checkpoints" / "step-000000021.safetensors").exists()
    train_supernet(SPACE, parts, config, tmp_path / "s")
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "s")
    logs = [
        [
            (line["event"], line["step"], line["loss"])
            for line in map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        ]
        for name in ("whole", "s")
    ]
    assert logs[0] == logs[1]
    assert [step for _, step, _ in logs[0]] == [4, 8, 12, 15, 16, 20, 24, 28, 30]


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(
    parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = write_tensors

    def full(tensors: Any, path: Path, metadata: Any = None) -> None:
        if "step-000000030" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr("autoformer.training.state.write_tensors", full)
        with pytest.raises(TrainingError, match=r"step-000000030\.safetensors cannot be written \(No space left on device\)"):
            train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    assert (tmp_path / "s" / "checkpoints" / "step-000000015.safetensors").exists()
    train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    train_supernet(SPACE, parts, QUICK, tmp_path / "whole")
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "s")


# --- finetuning --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_finetuning_stops_when_its_score_no_longer_rises_and_keeps_the_best(parts: DataParts, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = FinetuneConfig(epochs=40, batch_size=64, evaluate_every=1, patience=3, learning_rate=0.02, warmup_epochs=0)
    finetune(Subnet.from_space(SPACE, SPACE.smallest), parts, config, tmp_path / "f")
    record = json.loads((tmp_path / "f" / "subnet.json").read_text())
    scores = [entry["scores"]["network"]["value"] for entry in record["history"]]
    best = int(np.argmax(scores)) + 1
    assert record["best"] == {"epoch": best, "score": max(scores)}
    assert len(scores) == best + 3 < 40
    subnet, preprocessing, _ = load_subnet(tmp_path / "f")
    search = EvaluationSet.of(parts.search, preprocessing)
    assert score(predictions(predict_with(subnet), search), search.labels).value == max(scores)


def test_folding_trains_on_the_search_part_too_and_says_so(parts: DataParts, tmp_path: Path) -> None:
    config = FinetuneConfig(epochs=1, batch_size=64, fold_search=True)
    finetune(Subnet.from_space(SPACE, SPACE.smallest), parts, config, tmp_path / "f")
    record = json.loads((tmp_path / "f" / "subnet.json").read_text())
    assert record["folded"] is True
    assert record["history"][0]["step"] == (len(parts.train) + len(parts.search)) // 64
    assert "scores" not in record["history"][0]
    with pytest.raises(ValueError, match="choose one"):
        FinetuneConfig(fold_search=True, patience=3)


def test_layer_wise_decay_slows_the_first_layers(parts: DataParts, tmp_path: Path) -> None:
    """Two blocks: the head learns at the full rate, each layer below it at 0.5 times the rate of the one above."""
    config = FinetuneConfig(epochs=1, batch_size=64, layer_decay=0.5, learning_rate=1.0, warmup_epochs=0)
    network = Subnet.from_space(SPACE, SPACE.largest)
    trainer = Trainer(network, parts, config, tmp_path, only_one, {"network": None}, parts.preprocessing)
    trainer.steps.set_rate(0)
    rates = {id(weight): group["lr"] for group in trainer.steps.optimizer.param_groups for weight in group["params"]}
    found = [
        rates[id(network.get_parameter(name))]
        for name in ("head.weight", "blocks.1.mlp.fc1.weight", "blocks.0.mlp.fc1.weight", "cls_token")
    ]
    assert found == pytest.approx([1.0, 0.5, 0.25, 0.125])


def test_the_moving_average_is_what_a_training_ends_with_and_what_is_scored(parts: DataParts, tmp_path: Path) -> None:
    """timm's warm-up of the decay: 1 - (1 + step)^(-2/3) after the first step, at most the decay asked for."""
    config = QUICK.model_copy(update={"epochs": 1, "batch_size": 400, "ema_decay": 0.999, "warmup_epochs": 0.0})
    trainer = trainer_of(parts, tmp_path / "hand", config)
    expected: dict[str, Tensor] = {}
    for step, (pixels, facts) in enumerate(trainer.loader(0)):
        trainer.steps.run(trainer.network, pixels, facts, step)
        decay = 0.0 if step == 0 else 1 - (1 + step) ** (-2 / 3)
        for name, weight in trainer.network.state_dict().items():
            expected[name] = weight.clone() if not step else decay * expected[name] + (1 - decay) * weight
    trained = trainer_of(parts, tmp_path / "run", config).run()
    for name, weight in trained.network.state_dict().items():
        assert torch.allclose(weight, expected[name], atol=1e-6), name
    search = EvaluationSet.of(parts.search, parts.preprocessing)
    found = score(predictions(predict_with(trained.network, SPACE.largest), search), search.labels).value
    assert trained.history[-1]["scores"]["largest"]["value"] == found


def test_a_supernet_starts_from_the_weights_it_is_given(parts: DataParts, tmp_path: Path) -> None:
    torch.manual_seed(9)
    start = Supernet(SPACE)
    config = QUICK.model_copy(update={"epochs": 1, "learning_rate": 1e-9, "min_learning_rate": 0.0, "warmup_learning_rate": 0.0})
    kept = {name: weight.clone() for name, weight in start.state_dict().items()}
    train_supernet(SPACE, parts, config, tmp_path / "s", start=start)
    for name, weight in load_supernet(tmp_path / "s").state_dict().items():
        assert torch.allclose(weight, kept[name], atol=1e-5), name


def test_a_finetuning_with_patience_is_scored_every_epoch(parts: DataParts, tmp_path: Path) -> None:
    """Or it would stop for want of scores: scored every 10 epochs, with a patience of 2."""
    config = FinetuneConfig(epochs=6, batch_size=64, evaluate_every=10, patience=2, learning_rate=1e-3)
    finetune(Subnet.from_space(SPACE, SPACE.largest), parts, config, tmp_path / "f")
    history = json.loads((tmp_path / "f" / "subnet.json").read_text())["history"]
    assert all("scores" in record for record in history)
    assert len(history) > 3


def test_a_damaged_best_checkpoint_costs_the_best_weights_and_no_more(parts: DataParts, tmp_path: Path) -> None:
    config = FinetuneConfig(epochs=3, batch_size=64, patience=3, learning_rate=0.02)
    torch.manual_seed(0)
    network = Subnet.from_space(SPACE, SPACE.smallest)
    trainer = Trainer(network, parts, config, tmp_path, only_one, {"network": None}, parts.preprocessing)
    trainer.run()
    path = tmp_path / "checkpoints" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    again = Trainer(network, parts, config, tmp_path, only_one, {"network": None}, parts.preprocessing)
    with pytest.warns(UserWarning, match="the last weights are kept instead of the best"):
        again.run()
    assert again.state.best is None


def test_skipped_steps_are_counted_and_leave_the_loss_of_the_others(parts: DataParts, tmp_path: Path) -> None:
    """Every third step without a finite loss: the mean is that of the others, and the log holds no NaN."""
    trainer = trainer_of(parts, tmp_path, QUICK.model_copy(update={"epochs": 1}))
    loss, losses = trainer.steps.loss, list[float]()

    def poisoned(*words: Any) -> Tensor:
        found = loss(*words)
        if len(losses) % 3 == 2:
            losses.append(float("nan"))
            return found * float("nan")
        losses.append(float(found.detach()))
        return found

    trainer.steps.loss = poisoned  # type: ignore[assignment, method-assign]
    (record,) = trainer.run().history
    assert record["skipped"] == 5
    assert record["loss"] == pytest.approx(np.nanmean(losses))
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_progress_is_told_in_steps_with_loss_and_rate(parts: DataParts, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    config = QUICK.model_copy(update={"log_every": 5})
    around = Surroundings(progress=lambda work, done, total, note="": told.append((done, total, note)))
    train_supernet(SPACE, parts, config, tmp_path / "s", around=around)
    assert [(done, total) for done, total, _ in told] == [(step, 30) for step in (5, 10, 15, 20, 25, 30)]
    assert all(word in told[0][2] for word in ("epoch 1", "loss", "rate", "images/s"))


def test_a_better_epoch_than_the_last_stays_beside_the_supernet(parts: DataParts, tmp_path: Path) -> None:
    config = SupernetConfig(epochs=6, batch_size=64, evaluate_every=1, learning_rate=0.03, warmup_epochs=0, init_std=0.1)
    train_supernet(SPACE, parts, config, tmp_path / "s")
    record = json.loads((tmp_path / "s" / "supernet.json").read_text())
    means = [np.mean([entry["value"] for entry in epoch["scores"].values()]) for epoch in record["history"]]
    assert record["best"] == {"epoch": int(np.argmax(means)) + 1, "score": pytest.approx(max(means))}
    assert (tmp_path / "s" / "best.safetensors").exists() == (np.argmax(means) != 5)


def resumed_equals_undisturbed(optimizer: str, parts: DataParts, folder: Path) -> None:
    """Three steps, a checkpoint, three more from it, against six in a row."""
    config = SupernetConfig(epochs=1, batch_size=64, optimizer=optimizer, learning_rate=1e-3, warmup_epochs=0)

    def steps(trainer: Trainer, first: int, last: int) -> None:
        loader = trainer.loader(first)
        for step in range(first, last):
            trainer.steps.run(trainer.network, *next(loader), step)
        trainer.state.step = last

    whole = trainer_of(parts, folder / "a", config)
    steps(whole, 0, 6)
    half = trainer_of(parts, folder / "b", config)
    steps(half, 0, 3)
    half.state.save()
    rest = trainer_of(parts, folder / "b", config)
    rest.state.load_newest()
    assert rest.state.step == 3
    steps(rest, 3, 6)
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, rest.network.state_dict()[name]), (optimizer, name)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb", "lion", "adan", "adafactor", "laprop"])
def test_an_optimiser_goes_on_as_if_nothing_had_happened(optimizer: str, parts: DataParts, tmp_path: Path) -> None:
    resumed_equals_undisturbed(optimizer, parts, tmp_path)


@pytest.mark.slow
def test_every_optimiser_goes_on_as_if_nothing_had_happened_or_is_refused_at_once(parts: DataParts, tmp_path: Path) -> None:
    works, refused, wrong = [], [], []
    for optimizer in list_optimizers():
        if optimizer.startswith("kron"):  # compiles for minutes
            continue
        try:
            resumed_equals_undisturbed(optimizer, parts, tmp_path / optimizer)
            works.append(optimizer)
        except TrainingError:
            refused.append(optimizer)
        except (AssertionError, AutoformerError) as error:
            wrong.append(f"{optimizer}: {str(error)[:100]}")
    assert not wrong, "\n".join(wrong)
    assert len(works) > 60, f"refused: {refused}"


def test_a_teacher_of_other_classes_is_refused(parts: DataParts, tmp_path: Path) -> None:
    subnet = Subnet.from_space(SPACE, SPACE.largest)
    names = tuple(f"not {name}" for name in parts.classes)
    save_subnet(subnet, tmp_path / "network", preprocessing=parts.preprocessing, classes=names, record={})
    config = SupernetConfig.model_validate({**QUICK.model_dump(), "teacher": {"network": str(tmp_path / "network")}})
    with pytest.raises(DataError, match="knows class 'not 0'"):
        train_supernet(SPACE, parts, config, tmp_path / "s")
