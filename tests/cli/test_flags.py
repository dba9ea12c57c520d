"""Words that people bring along from other programs are answered with those that are understood here; help is where one looks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from autoformer.cli.app import app
from autoformer.cli.device import VISIBLE, choose_device
from autoformer.cli.flags import ELSEWHERE
from autoformer.cli.help import PANELS
from autoformer.errors import RecipeError
from tests.support.commands import command


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("export", "n", "-o", "x", "--half"), "no option --half here; write export --precision fp16"),
        (("export", "n", "-o", "x", "--int8"), "write export --precision int8"),
        (("export", "n", "-o", "x", "--dynamic"), "write export --batch dynamic, which is the default"),
        (("run", "--imgsz", "224"), "--set data.image_size=PIXELS"),
        (("race", "-o", "x", "--epochs", "3"), "--set finetune.epochs=N"),
        (("run", "--format", "engine"), "--set export.formats=[onnx,tensorrt]"),
        (("run", "--precision", "fp16"), "--set export.precisions=[fp32,fp16,int8]"),
        (("train", "quickstart", "-o", "x", "--batch-size", "3"), "--set train.batch_size=N"),
        (("train", "quickstart", "-o", "x", "--resume"), "leave it out: the same command goes on where it stopped"),
        (("predict", "n", "i", "--topk", "1"), "write --top N"),
        (("export", "n", "-o", "x", "--set", "export.precisions=[fp32]"), "--set is of run, train, search, race and finetune"),
        (("train", "--data", "photos"), "for photos: autoformer run --data PHOTOS"),
        (("train", "quickstart", "-o", "x", "epochs=5"), "unexpected epochs=5: options are written --name VALUE"),
        (("predict", "model=runs/photos", "source=new"), "options are written --name VALUE"),
    ],
)
def test_flags_of_other_programs_are_answered_with_the_right_words(words: tuple[str, ...], meant: str) -> None:
    answer = command(*words)
    assert answer.code == 2
    assert meant in answer.error


def test_an_unknown_option_that_nobody_brings_along_is_named() -> None:
    assert "No such option: --zebra" in command("export", "n", "--out", "x", "--zebra").error


def test_every_answer_is_a_phrase_that_ends_without_a_full_stop() -> None:
    assert all(words and not words.endswith(".") for words in ELSEWHERE.values())


@pytest.mark.parametrize("words", [("-m", "autoformer"), ("-m", "autoformer", "-h"), ("-m", "autoformer.cli", "--help")])
def test_help_is_shown_without_a_command_and_is_no_failure(words: tuple[str, ...]) -> None:
    shown = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout
    for panel in ("Data:", "Train:", "Search:", "Export:", "Measure:", "Deploy:", "Report:"):
        assert f"\n{panel}\n" in shown


def commands_of(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands_of(one, (*words, name))
        else:
            yield (*words, name), one


def test_every_command_that_writes_takes_the_short_o_too() -> None:
    writing = {
        words: parameter.opts
        for words, one in commands_of(typer.main.get_group(app))
        for parameter in one.params
        if "--out" in parameter.opts
    }
    assert len(writing) > 15
    assert [words for words, options in writing.items() if "-o" not in options] == []


def test_an_engine_is_asked_for_by_its_name_elsewhere(finished_run: Path, tmp_path: Path) -> None:
    answers = [
        command("export", finished_run / "finetuned", "-o", tmp_path / "x", "--format", word) for word in ("tensorrt", "engine")
    ]
    assert answers[0] == answers[1]
    assert "Input should be" not in answers[1].err


@pytest.mark.parametrize("name", ["train", "finetune"])
def test_epochs_are_said_once(name: str, tmp_path: Path) -> None:
    answer = command(name, "quickstart", "-o", tmp_path, "--epochs", 3, "--set", "train.epochs=4", "--set", "epochs=4")
    assert answer.code == 2
    assert "--epochs and --set" in answer.error


def test_every_command_is_in_one_panel_of_the_help() -> None:
    listed = [name for names in PANELS.values() for name in names]
    assert sorted(listed) == sorted(typer.main.get_group(app).commands)


# --- devices -----------------------------------------------------------------------------------------------------


def test_cpu_hides_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")
    choose_device("cpu")
    assert os.environ[VISIBLE] == ""


@pytest.mark.parametrize(
    ("words", "visible", "message"),
    [
        ("gpu", None, "device 'gpu' is not understood; write cpu, cuda or cuda:1"),
        ("cuda:2", "5,7", f"{VISIBLE} shows 2 GPUs"),
        ("cuda:-1", None, "is not understood"),
    ],
)
def test_a_device_that_cannot_be_is_refused(
    words: str, visible: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, visible or "")
    if visible is None:
        monkeypatch.delenv(VISIBLE)
    with pytest.raises(RecipeError, match=message):
        choose_device(words)


def test_a_number_counts_among_the_gpus_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "5,7")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    choose_device("cuda:1")
    assert os.environ[VISIBLE] == "7"
