"""`--unlabelled`: images without labels on the command line, what is said of them, and who never takes them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from autoformer.cli.chain.parent import check_taught, told_of_parent
from autoformer.cli.chain.recipe import Recipe, parse_recipe
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.errors import InterruptedRunError, RecipeError
from autoformer.files import read_json
from autoformer.profiling.reports.scores import part_table
from autoformer.training.config import FinetuneConfig
from autoformer.training.trainer import Surroundings, takes_unlabelled
from tests.support.commands import Answer, command
from tests.support.small_images import draw_digits
from tests.support.trainings import write_teacher


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_digits(tmp_path_factory.mktemp("others") / "more", 60)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(load_parts(DataConfig()), tmp_path_factory.mktemp("teacher") / "network")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "r.yaml"
    space = {"embed_dims": [16, 24], "depths": [1, 2], "num_heads": [1, 2], "mlp_ratios": [1.0, 2.0], "head_dim": 8}
    of_space = {**space, "patch_size": 4, "max_relative_position": 3}
    path.write_text(yaml.safe_dump({"space": of_space, "train": {"epochs": 1, "batch_size": 128, "warmup_epochs": 0}}))
    return path


def trained(recipe: Path, teacher: str, others: Path, out: Path, *more: object) -> Answer:
    return command("train", recipe, "--unlabelled", others, "--set", f"train.teacher.network={teacher}", "--out", out, *more)


def test_a_supernet_is_trained_on_them_and_what_it_is_used_for_does_without(
    recipe: Path, teacher: str, others: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(others, tmp_path / "more"))
    answer = trained(recipe, teacher, moved, tmp_path / "s")
    assert answer.code == 0, answer.err
    assert "images train: 989, search: 269, test: 539, unlabelled: 60; " in answer.err
    assert f"; {moved} adds images without labels, for distillation only" in " ".join(answer.err.split())
    assert trained(recipe, teacher, moved, tmp_path / "s", "--quiet").code == 0
    record = read_json(tmp_path / "s" / "supernet.json")
    assert (
        record["data"]["parts"]["unlabelled"]["images"]
        == read_json(tmp_path / "s" / "data.json")["parts"]["unlabelled"]["images"]
    )
    assert record["history"][0]["step"] == (989 + 60) // 128
    assert command("describe", tmp_path / "s", "--json").json["unlabelled"] == 60
    shutil.rmtree(moved)
    assert command("audit", tmp_path / "s", "--networks", 4, "--json", "--quiet").json["networks"]


def test_a_finetune_takes_them_beside_the_images_of_the_network(teacher: str, others: Path, tmp_path: Path) -> None:
    network = write_teacher(load_parts(DataConfig()), tmp_path / "n")
    words = ("finetune", network, "--data", "digits", "--out", tmp_path / "f", "--set", "epochs=1", "--set", "batch_size=128")
    options = ("--unlabelled", others, "--set", f"teacher.network={teacher}", "--quiet")
    assert command(*words, *options).code == 0
    record = read_json(tmp_path / "f" / "subnet.json")["data"]
    assert record["parts"]["unlabelled"]["images"] == 60
    again = ("finetune", tmp_path / "f", "--out", tmp_path / "g", "--set", "epochs=1", "--set", "batch_size=128", "--quiet")
    assert command(*again).code == 0  # without a teacher, since they are not asked for
    assert "unlabelled" not in read_json(tmp_path / "g" / "data.json")["parts"]
    assert command(*again[:3], tmp_path / "h", *again[4:], *options).code == 0
    assert read_json(tmp_path / "h" / "data.json")["parts"] == record["parts"]


def test_without_a_teacher_it_is_one_line_and_nothing_is_written(recipe: Path, others: Path, tmp_path: Path) -> None:
    answer = command("train", recipe, "--unlabelled", others, "--out", tmp_path / "s", "--quiet")
    assert "which only a teacher can teach; set train.teacher.network" in answer.error
    assert "only a teacher" in command("train", recipe, "--unlabelled", others, "--out", tmp_path / "s", "--dry-run").error
    run = command("run", recipe, "--unlabelled", others, "--out", tmp_path / "r", "--quiet")
    assert "which only a teacher can teach; set train.teacher.network" in run.error
    assert not any(tmp_path.iterdir())


def test_data_check_tells_of_them(others: Path, tmp_path: Path) -> None:
    answer = command("data", "check", "digits", "--unlabelled", others, "--no-near", "--json", "--quiet")
    assert answer.json["unlabelled"] == 60
    assert "60 images, for distillation only" in command("data", "check", "digits", "--unlabelled", others, "--no-near").out


def test_the_report_has_a_row_for_them_where_there_are_some() -> None:
    parts = {name: {"images": 5, "digest": "0" * 64} for name in ("train", "search", "test")}
    assert [row[0] for row in part_table({"data": {"parts": parts}}).rows] == ["train", "search", "test"]
    parts["unlabelled"] = {"images": 60, "digest": "1" * 64}
    assert part_table({"data": {"parts": parts}}).rows[-1][:3] == ("unlabelled", "60", "distillation only, without labels")


# --- of a run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(others: Path) -> DataParts:
    return load_parts(DataConfig(image_size=32, unlabelled=others))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """timm's small test network, of random weights in a file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False, num_classes=3, img_size=32).state_dict(), path)
    return f"timm:test_vit@{path}"


def values(words: str | None, **more: Any) -> dict[str, Any]:
    plan = {"epochs": 1, "batch_size": 128, "warmup_epochs": 0}
    return {"data": {"image_size": 32}, "parent": {"epochs": 1}, "train": {"start": words, **plan}, "finetune": plan, **more}


def test_the_parent_of_a_run_is_finetuned_without_them(words: str, both: DataParts, tmp_path: Path) -> None:
    folder = told_of_parent(parse_recipe(values(words)), both, tmp_path, Surroundings())
    record = read_json(folder / "data.json")
    assert "unlabelled" not in {*record["parts"], *record["config"]}
    assert record["layout"] == both.labelled.layout
    assert read_json(folder / "subnet.json")["history"][0]["step"] == 989 // 128


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, None),
        ({"parent": {"teaches": False}}, "set train.teacher.network"),
        ({"parent": None}, "set train.teacher.network"),
        ({"parent": None, "train": {"start": "timm:a", "teacher": {"network": "b"}}}, "set finetune.teacher.network"),
        ({"finetune": {"mixup": 0.2}}, "finetune.mixup and finetune.cutmix mix labels"),
    ],
)
def test_a_run_needs_its_parent_or_a_teacher_for_each_training(
    more: dict[str, Any], message: str | None, words: str, both: DataParts
) -> None:
    recipe: Recipe = parse_recipe(values(words, **more))
    check_taught(recipe, both.labelled)
    if message is None:
        check_taught(recipe, both)
        return
    with pytest.raises(RecipeError, match=message):
        check_taught(recipe, both)


def test_a_race_takes_them_where_its_finetune_can_use_them() -> None:
    config = FinetuneConfig.model_validate({"teacher": {"network": "a"}})
    assert takes_unlabelled(config)
    assert not takes_unlabelled(config.model_copy(update={"teacher": None}))
    assert not takes_unlabelled(config.model_copy(update={"cutmix": 1.0}))


def test_a_dry_run_counts_them_also_where_the_parent_knows_the_classes(
    words: str, both: DataParts, others: Path, tmp_path: Path
) -> None:
    """By hand: 989 digits are 7 batches of 128, with 60 more they are 8."""
    recipe, small = tmp_path / "r.yaml", {"population": 6, "generations": 2, "parents": 3, "mutated": 3, "crossed": 3}
    known = told_of_parent(parse_recipe(values(words)), both, tmp_path / "known", Surroundings())
    for start, steps in ((words, {"parent": 7, "train": 8, "finetune": 8}), (known, {"train": 8, "finetune": 8})):
        recipe.write_text(yaml.safe_dump(values(str(start), search=small, profile={"seconds": 0.1})))
        answer = command("run", recipe, "--unlabelled", others, "--out", tmp_path / "out", "--dry-run", "--json", "--quiet")
        assert answer.code == 0, answer.err
        told = {price["step"]: price["measured"] for price in answer.json["steps"]}
        assert {step: int(told[step].split()[0]) for step in told if step in ("parent", "train", "finetune")} == steps


@pytest.mark.slow
def test_a_run_distils_on_them_from_its_parent_and_searches_without_them(
    words: str, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the exports, features included; then again, from what is there."""
    recipe = tmp_path / "r.yaml"
    small = {"population": 6, "generations": 2, "parents": 3, "mutated": 3, "crossed": 3}
    recipe.write_text(yaml.safe_dump(values(words, search=small, parent={"epochs": 1, "features": 0.5})))

    def stopped(*arguments: Any, **named: Any) -> None:
        raise InterruptedRunError("stopped", 15)

    monkeypatch.setattr("autoformer.cli.chain.chain._export", stopped)
    for _ in range(2):
        assert command("run", recipe, "--unlabelled", others, "--out", tmp_path / "run", "--quiet").code == 143
    assert read_json(tmp_path / "run" / "run.json")["data"]["parts"]["unlabelled"]["images"] == 60
    for folder, file in (("supernet", "supernet.json"), ("finetuned", "subnet.json")):
        record = read_json(tmp_path / "run" / folder / file)
        assert record["train"]["teacher"]["features"] == 0.5
        assert record["data"]["parts"]["unlabelled"]["images"] == 60
        assert record["history"][0]["step"] == (989 + 60) // 128
    assert "unlabelled" not in read_json(tmp_path / "run" / "parent" / "data.json")["parts"]
    assert "holds another run" in command("run", recipe, "--out", tmp_path / "run", "--quiet").error
