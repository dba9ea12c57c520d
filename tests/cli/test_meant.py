"""Commands of other programs, commands with a word left out, and the words of recipes' heads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from autoformer.cli.app import app
from autoformer.cli.board.bundle_program import main as board
from autoformer.cli.chain.shipped import header, shipped
from autoformer.cli.meant import ELSEWHERE
from tests.support.commands import command


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("verify",), "no command 'verify'; write python3 board.pyz verify, in the folder of a bundle"),
        (("benchmark", "x"), "write autoformer profile run"),
        (("val",), "write autoformer evaluate"),
        (("test",), "write autoformer evaluate --part test"),
        (("infer", "a.png"), "write autoformer predict"),
        (("profile", "runs/photos", "--seconds", "1"), "did you mean: autoformer profile run runs/photos --seconds 1"),
        (("profile", "timm:resnet18"), "did you mean: autoformer profile run timm:resnet18"),
        (("report", "my runs/a"), "did you mean: autoformer report build 'my runs/a'"),
        (("data", "./photos"), "did you mean: autoformer data check ./photos"),
        (("recipe", "quickstart"), "did you mean: autoformer recipe show quickstart"),
        (("quickstart",), "did you mean: autoformer run quickstart"),
        (("runs/photos",), "did you mean: autoformer describe runs/photos"),
        (("trian",), "Did you mean 'train'?"),
        (("profile", "zebra"), "No such command 'zebra'"),
    ],
)
def test_a_command_that_is_none_is_answered_with_what_is_meant(words: tuple[str, ...], meant: str) -> None:
    answer = command(*words)
    assert answer.code == 2
    assert meant in answer.error


def test_every_command_that_an_answer_names_is_there() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = {name for words in ELSEWHERE.values() for name in re.findall(r"autoformer ([a-z]+)", words)}
    assert named <= set(commands)
    assert not set(ELSEWHERE) & set(commands)


def test_the_program_of_a_bundle_shows_its_help_where_nothing_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert board([]) == 0
    assert "verify" in capsys.readouterr().out


@pytest.mark.parametrize("name", shipped())
def test_the_head_of_a_recipe_names_the_command_that_works_after_pip_install(name: str) -> None:
    said = header(shipped()[name])
    assert re.search(rf"autoformer(\.cli)? (run|train) {name}( |$)", said["command"])
    assert not any("recipes/" in words or "make " in words for words in said.values())
    assert not Path(name).exists()
