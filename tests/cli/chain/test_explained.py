"""Every setting of a recipe is told: in the program, and in docs/settings.md, which a program writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoformer.cli.chain.explained import every_setting, explained
from autoformer.cli.chain.recipe import Recipe, parse_recipe
from autoformer.errors import RecipeError
from tests.support.commands import command
from tests.support.settings_page import PAGE, page


def test_every_setting_says_what_it_means() -> None:
    silent = [setting.key for setting in every_setting() if not setting.meaning]
    assert silent == []


def test_every_key_that_a_recipe_takes_is_among_them() -> None:
    known = {setting.key for setting in every_setting()}
    teachers = [f"{section}.teacher.network=x" for section in ("train", "finetune")]
    full = parse_recipe({}, ["race.cost=2", *teachers, "train.start=timm:x"]).model_dump()

    def keys(values: dict[str, object], prefix: str = "") -> set[str]:
        found = set()
        for name, value in values.items():
            found |= keys(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
        return found

    assert keys(full) <= known
    assert {name.partition(".")[0] for name in known} == set(Recipe.model_fields)


def test_a_setting_is_explained_with_its_bounds_and_default() -> None:
    [found] = explained("train.label_smoothing")
    assert (found.takes, found.default) == ("number from 0 below 1", "0.1")
    assert explained("search.method")[0].takes == "evolution, random, pareto, predictor"
    assert [one.key for one in explained("mixup")] == ["train.mixup", "finetune.mixup"]
    limits = {"max_params", "min_params", "max_flops", "min_flops", "max_latency"}
    assert {one.key for one in explained("budget")} == {f"budget.{name}" for name in limits}


def test_a_setting_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no setting 'train.mixupp'; the nearest are train.mixup"):
        explained("train.mixupp")


def test_a_setting_without_a_name_is_answered_with_an_example() -> None:
    with pytest.raises(RecipeError, match=r"autoformer recipe explain train\.mixup"):
        explained(" ")


def test_a_file_that_is_no_recipe_is_neither_shown_nor_copied(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("- a list\n")
    for words in (("show", other), ("copy", other, tmp_path / "copy.yaml")):
        answer = command("recipe", *words)
        assert (answer.code, answer.out) == (2, "")
        assert str(other) in answer.error
    assert not (tmp_path / "copy.yaml").exists()


def test_settings_are_explained_and_recipes_checked_without_torch() -> None:
    """It takes seconds to import, which a person waits for a line."""
    program = "import sys, autoformer.cli.chain.explained; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_commands_list_show_copy_and_explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listed = command("recipe", "list", "--json").json
    assert listed["quickstart"]["what"].startswith("The whole chain in small")
    shown = command("recipe", "show", "quickstart").out
    assert shown.startswith("# The whole chain in small")
    assert command("recipe", "copy", "quickstart", "mine.yaml").code == 0
    assert command("recipe", "show", "mine.yaml").out == shown
    assert "mine.yaml exists" in command("recipe", "copy", "quickstart", "mine.yaml").error
    assert command("recipe", "explain", "train.epochs", "--json").json[0]["key"] == "train.epochs"
    assert "timm's mixup alpha" in command("recipe", "explain", "mixup").out


def test_the_page_of_settings_is_what_its_program_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.support.settings_page"
