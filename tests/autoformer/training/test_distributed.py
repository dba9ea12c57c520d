"""Training in two processes (gloo, CPU): what one process would learn, and a clear end when a process is lost."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.networks.folders import save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.tensors import read_tensors
from autoformer.training.config import SubnetsConfig, SupernetConfig
from autoformer.training.distributed import World, joined
from tests.support.ddp_worker import start
from tests.support.forked import Forked
from tests.support.small_images import draw_digits
from tests.support.trainings import SPACE, write_teacher

CONFIG = SupernetConfig.model_validate(
    {
        "epochs": 1, "batch_size": 64, "mixup": 0.8, "cutmix": 1.0, "augment": {"erase": 0.5}, "clip_norm": 0.5,
        "subnets": SubnetsConfig(strategy="sandwich", between=1, distill=True), "ema_decay": 0.9,
        "log_every": 1, "drop_path_rate": 0.3,
    }
)  # fmt: skip


def finish(processes: list[Forked]) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    return [process.finish(120) for process in processes]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Sandwich with distillation, mixing, erasing, clipping and a moving average; float64, so that 1e-10 is rounding."""
    for name, size in (("one", 1), ("two", 2)):
        for code, errors in finish(start(tmp_path / name, CONFIG, size)):
            assert code == 0, errors
    one, two = (read_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    moved = 0.0
    torch.manual_seed(0)
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], rtol=0, atol=1e-10), name
        moved = max(moved, float(weight.abs().max()))
    assert moved > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [{}, {"strategy": "sandwich", "between": 1, "distill": True}])
def test_two_processes_learn_from_a_teacher_and_from_images_without_labels_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: dict[str, Any]
) -> None:
    """Predictions and features; networks in float64, their teacher in float32, so that 1e-5 is rounding."""
    others = draw_digits(tmp_path / "others", 200)
    monkeypatch.setenv("IMAGES_WITHOUT_LABELS", str(others))
    teacher = write_teacher(load_parts(DataConfig()), tmp_path / "teacher")
    values = {
        "epochs": 1, "batch_size": 64, "teacher": {"network": teacher, "features": 0.5}, "subnets": strategy, "ema_decay": 0.9,
        "drop_path_rate": 0.3, "learning_rate": 0.002,
    }  # fmt: skip
    for name, size in (("one", 1), ("two", 2)):
        for code, errors in finish(start(tmp_path / name, SupernetConfig.model_validate(values), size)):
            assert code == 0, errors
    one, two = (read_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(weight, two[name], rtol=0, atol=1e-5) for name, weight in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_that_loses_a_process_ends_with_one_line_and_goes_on_when_started_again(
    tmp_path: Path, kind: signal.Signals
) -> None:
    config = CONFIG.model_copy(update={"epochs": 4, "keep_checkpoints": 1})
    pair = start(tmp_path / "s", config, 2)
    while "\n18\n" not in pair[0].out.read_text():  # the second epoch has begun
        assert [process.poll() for process in pair] == [None, None]
        time.sleep(0.002)
    pair[1].send_signal(kind)
    (code, errors), (other, _) = finish(pair)
    if kind == signal.SIGKILL:
        assert (code, other) == (5, -signal.SIGKILL)
        assert "lost contact" in errors.splitlines()[-1]
        assert "run the same command again" in errors
    else:  # one process is asked to stop: both finish the step and save
        assert (code, other) == (143, 143)
    for code, errors in finish(start(tmp_path / "s", config, 2)):
        assert code == 0, errors
    for code, errors in finish(start(tmp_path / "whole", config, 2)):
        assert code == 0, errors
    whole, resumed = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "s"))
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def taught(teacher: Path) -> SupernetConfig:
    """Three epochs of two views, of which a network of the digits has said before what they are."""
    parts, network = load_parts(DataConfig()), Subnet.from_space(SPACE, SPACE.largest)
    save_subnet(network, teacher, preprocessing=parts.preprocessing, classes=parts.classes, record={})
    told = {"network": str(teacher), "views": 2, "weight": 0.9}
    values = {"epochs": 3, "batch_size": 128, "accumulate": 2, "augment": {"erase": 0.5}, "drop_path_rate": 0.3, "teacher": told}
    return SupernetConfig.model_validate({**values, "log_every": 1})


@pytest.mark.slow
def test_two_processes_learn_what_one_does_from_logits_that_are_kept_and_go_on_after_a_loss(tmp_path: Path) -> None:
    """To rounding as many as one, and to the bit as two that nothing happened to; lost while the second view is filled."""
    config, log = taught(tmp_path / "teacher"), Path("logits")
    for name, size in (("one", 1), ("two", 2)):
        for code, errors in finish(start(tmp_path / name, config, size)):
            assert code == 0, errors
    pair = start(tmp_path / "s", config, 2)
    while not list((tmp_path / "s" / log).glob("*/view-001.jsonl")):
        assert [process.poll() for process in pair] == [None, None]
        time.sleep(0.002)
    pair[1].kill()
    (code, errors), _ = finish(pair)
    assert code == 5, errors
    for code, errors in finish(start(tmp_path / "s", config, 2)):
        assert code == 0, errors
    one, two, resumed = (read_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two", "s"))
    assert all(torch.allclose(weight, two[name], rtol=0, atol=1e-10) for name, weight in one.items())
    assert all(torch.equal(weight, resumed[name]) for name, weight in two.items())
    assert not (tmp_path / "s" / log).exists()


def test_a_process_alone_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as world:
        assert (world.rank, world.size, world.leads) == (0, 1, True)
    assert World().gather([1, 2]) == [1, 2]
    assert World().from_leader("x") == "x"
    assert World().any(True, False) == (True, False)
    network = torch.nn.Linear(2, 2)
    assert World().wrap(network, some_unused=True) is network
