"""`--log`: which commands take it, what they say where the package is missing, and who passes it on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoformer.cli.chain import chain
from autoformer.cli.chain.chain import step_helpers
from autoformer.cli.chain.recipe import load_recipe
from autoformer.training.trackers import Mlflow, TensorBoard
from tests.support.commands import command
from tests.support.fake_trackers import MlflowServer
from tests.support.short_runs import QUICKSTART

COMMANDS: dict[str, tuple[object, ...]] = {
    "train": ("train", QUICKSTART),
    "finetune": ("finetune", "nowhere"),
    "race": ("race", "--supernet", "nowhere", "--search", "nowhere"),
    "run": ("run", QUICKSTART),
}


class Started(Exception):
    pass


@pytest.mark.parametrize("name", COMMANDS)
def test_a_tracker_whose_package_is_missing_ends_a_command_before_it_reads_anything(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    answer = command(*COMMANDS[name], "--out", tmp_path / "out", "--log", "wandb")
    assert answer.error.startswith("error: --log wandb needs the package wandb")
    assert answer.error.endswith(": pip install wandb")
    assert not (tmp_path / "out").exists()
    if name in ("train", "run"):
        assert command(*COMMANDS[name], "--out", tmp_path / "out", "--log", "wandb", "--dry-run").error == answer.error


def test_an_unknown_tracker_is_answered_with_those_there_are(tmp_path: Path) -> None:
    answer = command("train", QUICKSTART, "--out", tmp_path, "--log", "comet")
    assert all(name in answer.error for name in ("'comet'", "wandb", "mlflow", "tensorboard"))


def test_a_run_hands_its_trackers_to_its_trainings_and_its_recipe_does_not_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", MlflowServer().module())
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    seen: list[Any] = []

    def begin(*_: object, around: Any, **__: object) -> None:
        seen.append(around)
        raise Started

    monkeypatch.setattr(chain, "train_supernet", begin)
    words = ("--set", "budget.max_latency=null", "--quiet")
    with pytest.raises(Started):
        command("run", QUICKSTART, "--out", tmp_path / "run", *words, "--log", "tensorboard", "--log", "mlflow")
    with pytest.raises(Started):  # the same folder: to log elsewhere, or not at all, is no other run
        command("run", QUICKSTART, "--out", tmp_path / "run", *words)
    assert [list(around.trackers) for around in seen] == [[Mlflow, TensorBoard], []]


def test_processes_that_share_a_race_tell_the_same_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def note(words: list[str], **_: object) -> None:
        calls.append(words)
        raise Started

    monkeypatch.setattr(subprocess, "Popen", note)
    for step in ("race", "search"):
        with pytest.raises(Started), step_helpers(step, load_recipe(QUICKSTART), tmp_path, "2", ("mlflow", "wandb")):
            pass
    racing, searching = calls
    place = racing.index("--log")
    assert racing[place : place + 4] == ["--log", "mlflow", "--log", "wandb"]
    assert "--log" not in searching  # it trains nothing
