"""The parent of a run: finetuned first, frozen, the start of the supernet and the teacher of all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from autoformer.cli.chain.chain import run_recipe
from autoformer.cli.chain.parent import (
    as_begun,
    begun_with,
    finetune_of,
    has_parent,
    taught_by,
    to_be_taught,
    told_of_parent,
)
from autoformer.cli.chain.recipe import Recipe, parse_recipe
from autoformer.cli.chain.starting import beginning, with_usual
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.errors import ArchitectureError, CheckpointError, InterruptedRunError, RecipeError
from autoformer.files import read_json, write_json
from autoformer.networks.folders import load_subnet, save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.pretrained.adapt import Wanted
from autoformer.pretrained.cutting import cut_by_images
from autoformer.pretrained.start import start_from
from autoformer.tensors import read_tensors, tensors_digest
from autoformer.training.config import TeacherConfig
from autoformer.training.runs import train_supernet
from autoformer.training.teacher import Teacher
from autoformer.training.trainer import Surroundings
from tests.support.commands import command
from tests.support.trainings import SPACE


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """timm's small test network, of random weights in a file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False, num_classes=3, img_size=32).state_dict(), path)
    return f"timm:test_vit@{path}"


@pytest.fixture(scope="module")
def parts() -> DataParts:
    return load_parts(DataConfig(image_size=32))


def values(words: str | None, **more: Any) -> dict[str, Any]:
    return {
        "data": {"image_size": 32},
        "parent": {"epochs": 2},
        "train": {"start": words, "epochs": 1, "batch_size": 128, "warmup_epochs": 0},
        "finetune": {"epochs": 3, "batch_size": 128, "learning_rate": 0.001, "warmup_epochs": 0},
        **more,
    }


def recipe_of(words: str | None, **more: Any) -> Recipe:
    return parse_recipe(values(words, **more))


@pytest.fixture(scope="module")
def finetuned(words: str, parts: DataParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return told_of_parent(recipe_of(words), parts, tmp_path_factory.mktemp("run"), Surroundings())


def test_the_supernet_starts_from_the_finetuned_parent(words: str, parts: DataParts, finetuned: Path) -> None:
    """The largest network gives the logits of the folder's network, and they have learned: far above one in ten."""
    recipe = recipe_of(words)
    space, cut_at_once, _ = beginning(recipe.model_copy(update={"train": with_usual(recipe.train, finetuned / "new")}), parts)
    assert space.mean_shift
    supernet, (network, _, classes) = begun_with(finetuned, parts, space), load_subnet(finetuned)
    assert cut_at_once is not None
    assert supernet.space == space == cut_at_once.space
    assert classes == parts.classes
    images = torch.randn(4, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        logits = supernet.double()(images, supernet.space.largest)
        assert torch.allclose(logits, network.double()(images), rtol=0, atol=1e-9)
    history = read_json(finetuned / "subnet.json")["history"]
    assert len(history) == 2
    assert history[-1]["scores"]["network"]["value"] > 0.3


def test_a_parent_that_knows_the_classes_is_not_finetuned_again(parts: DataParts, finetuned: Path, tmp_path: Path) -> None:
    recipe = recipe_of(str(finetuned))
    assert has_parent(recipe)
    assert told_of_parent(recipe, parts, tmp_path / "run", Surroundings()) == finetuned
    assert not (tmp_path / "run").exists()


def test_a_parent_of_other_classes_is_finetuned_from_its_folder(parts: DataParts, finetuned: Path, tmp_path: Path) -> None:
    renamed = parts.in_order([*parts.classes[1:], parts.classes[0]])
    folder = told_of_parent(recipe_of(str(finetuned)), renamed, tmp_path, Surroundings())
    assert folder == tmp_path / "parent"
    assert load_subnet(folder)[2] == renamed.classes


def test_the_parent_teaches_where_no_other_teacher_is_named(finetuned: Path, words: str) -> None:
    recipe = taught_by(recipe_of(words), finetuned)
    digest = tensors_digest(read_tensors(finetuned / "model.safetensors"))
    for config in (recipe.train, recipe.finetune):
        assert config.teacher is not None
        assert (config.teacher.network, config.teacher.weights) == (str(finetuned), digest)
    other = recipe_of(words, train={"start": words, "teacher": {"network": "timm:test_vit"}})
    recipe = taught_by(other, finetuned)
    assert recipe.train.teacher == TeacherConfig(network="timm:test_vit")
    assert recipe.finetune.teacher is not None
    silent = recipe_of(words, parent={"teaches": False})
    assert taught_by(silent, finetuned) == silent


def test_what_a_parent_says_is_kept_where_it_teaches(finetuned: Path, words: str, tmp_path: Path) -> None:
    asked = {"views": 3, "cache_mib": 5, "weight": 0.25}
    recipe = taught_by(recipe_of(words, parent=asked), finetuned)
    for config in (recipe.train, recipe.finetune):
        assert config.teacher is not None
        assert (config.teacher.views, config.teacher.cache_mib, config.teacher.weight) == (3, 5, 0.25)
    assert parse_recipe(recipe_of(words, parent=asked).model_dump(mode="json")) == recipe_of(words, parent=asked)
    assert to_be_taught(recipe_of(None, parent=asked)) == recipe_of(None, parent=asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune": {"batch_size": 128, "mixup": 0.8}}, "teacher.views keeps the teacher's logits of single images"),
        ({"parent": {"views": 2000, "cache_mib": 20}, "train": {"epochs": 3000}}, "teacher.cache_mib is 20; lower views to 1060"),
    ],
)
def test_a_parent_whose_logits_cannot_be_kept_is_refused_before_it_is_trained(
    words: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    given = values(words, parent={"views": 2})
    recipe = parse_recipe({**given, **{name: {**given[name], **more} for name, more in changes.items()}})
    with pytest.raises(RecipeError, match=message):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_parent_is_finetuned_as_the_delivered_network_but_shorter_and_untaught(words: str) -> None:
    recipe = recipe_of(words, finetune={"epochs": 60, "batch_size": 32, "patience": 3, "teacher": {"network": "x"}})
    assert recipe.parent is not None
    config = finetune_of(recipe.parent, recipe.finetune)
    assert (config.epochs, config.batch_size, config.patience, config.teacher) == (2, 32, None, None)
    assert config.learning_rate == recipe.finetune.learning_rate
    assert finetune_of(recipe.parent.model_copy(update={"learning_rate": 0.5}), recipe.finetune).learning_rate == 0.5


def test_a_teacher_that_moved_is_the_same_and_one_of_other_weights_is_refused(parts: DataParts, finetuned: Path) -> None:
    digest = tensors_digest(read_tensors(finetuned / "model.safetensors"))
    here, there = (TeacherConfig(network=place, weights=digest) for place in (str(finetuned), "elsewhere"))
    assert here.identity == there.identity
    assert TeacherConfig(network="a").identity != TeacherConfig(network="b").identity
    Teacher(here, parts.preprocessing, parts.classes, torch.device("cpu"))
    wrong = here.model_copy(update={"weights": "0" * 64})
    with pytest.raises(CheckpointError, match="other weights than those of teacher"):
        Teacher(wrong, parts.preprocessing, parts.classes, torch.device("cpu"))


@pytest.mark.parametrize("start", [None, "official:x.pth", "runs/a"])
def test_recipes_without_one_pretrained_network_are_written_as_before_there_were_parents(start: str | None) -> None:
    recipe = parse_recipe({"train": {"start": start}})
    assert not has_parent(recipe)
    assert "parent" not in recipe.model_dump(mode="json")


def test_a_recipe_keeps_what_it_says_of_the_parent_when_it_is_written_and_read(words: str) -> None:
    for parent in (None, {"epochs": 7}):
        recipe = recipe_of(words, parent=parent)
        assert parse_recipe(recipe.model_dump(mode="json")) == recipe


def test_a_run_begun_before_runs_had_a_parent_goes_on_without(words: str, tmp_path: Path) -> None:
    usual = parse_recipe({"train": {"start": words}})
    before = {key: value for key, value in usual.model_dump(mode="json").items() if key != "parent"}
    write_json({"recipe": before}, tmp_path / "old" / "identity.json")
    recipe, stated = as_begun(usual, tmp_path / "old")
    assert (has_parent(recipe), recipe.train.cut_images, stated) == (False, 0, before)
    recipe, stated = as_begun(usual, tmp_path / "new")
    assert (has_parent(recipe), stated) == (True, usual.model_dump(mode="json"))
    asked = recipe_of(words)  # of a run that never had one: refused later, since the recipes differ
    assert "parent" in as_begun(asked, tmp_path / "old")[1]


def test_a_curriculum_is_usual_from_one_pretrained_network_alone(words: str, finetuned: Path, tmp_path: Path) -> None:
    def share(start: str | None, out: Path = tmp_path / "new", **subnets: Any) -> float | None:
        return with_usual(recipe_of(words, train={"start": start, "subnets": subnets}).train, out).subnets.curriculum

    assert share(words) == share(str(finetuned)) == pytest.approx(1 / 3)
    assert share(None) is share("official:x.pth") is share("runs/a") is None
    assert share(words, curriculum=0) == 0
    write_json({"train": {"subnets": {"strategy": "uniform"}}}, tmp_path / "old" / "identity.json")
    assert share(words, tmp_path / "old") is None
    write_json({"train": {"subnets": {"curriculum": 0.2}}}, tmp_path / "begun" / "identity.json")
    assert share(words, tmp_path / "begun") == pytest.approx(1 / 3)


def test_a_cut_by_images_is_usual_from_one_pretrained_network_alone(words: str, finetuned: Path, tmp_path: Path) -> None:
    def images(start: str | None, out: Path = tmp_path / "new", **given: Any) -> int | None:
        return with_usual(recipe_of(words, train={"start": start, **given}).train, out).cut_images

    assert images(words) == images(str(finetuned)) == 1024
    assert images(None) is images("official:x.pth") is images("runs/a") is None
    assert (images(words, cut_images=0), images(words, cut_images=7)) == (0, 7)
    write_json({"train": {"subnets": {"curriculum": 0.2}}}, tmp_path / "old" / "identity.json")
    assert images(words, tmp_path / "old") is None
    write_json({"train": {"cut_images": 1024}}, tmp_path / "begun" / "identity.json")
    assert images(words, tmp_path / "begun") == 1024


@pytest.mark.parametrize(
    ("train", "space", "message"),
    [
        ({"cut_images": 8}, {}, "train.cut_images is for a start from one pretrained network, got train.start None"),
        ({"cut_images": 8, "start": "runs/a"}, {}, "from one pretrained network, got train.start runs/a; leave it out"),
        ({}, {"mean_shift": True}, "space.mean_shift keeps means that are measured .* set train.cut_images"),
    ],
)
def test_settings_of_a_cut_are_refused_where_nothing_is_cut(
    train: dict[str, Any], space: dict[str, Any], message: str, parts: DataParts
) -> None:
    recipe = parse_recipe({"data": {"image_size": 32}, "train": train, "space": space})
    with pytest.raises(RecipeError, match=message):
        beginning(recipe, parts)


def test_training_begins_with_weights_turned_by_its_own_images(
    words: str, parts: DataParts, finetuned: Path, tmp_path: Path
) -> None:
    """At no learning rate the supernet is the one that `cut_by_images` makes of the train part: its every 700th image or so."""
    train = {"start": str(finetuned), "epochs": 1, "batch_size": 128, "learning_rate": 1e-30, "warmup_epochs": 0, "cut_images": 2}
    recipe = recipe_of(words, train={**train, "weight_decay": 0, "min_learning_rate": 0})
    space, start, _ = beginning(recipe, parts)
    assert start is not None
    expected = start_from(str(finetuned), Wanted.by(parts), to_cut=True)
    half = len(parts.train) // 2
    pixels = parts.train.pixels(parts.preprocessing)[[0, half]]
    cut_by_images(expected, [torch.from_numpy(parts.preprocessing.prepare(pixels))])
    trained = train_supernet(space, parts, recipe.train, tmp_path / "super", start=start)
    assert float(expected.blocks[0].get_buffer("mean").abs().max()) > 0
    for name, weight in expected.state_dict().items():
        assert torch.allclose(trained.state_dict()[name], weight, atol=1e-6), name


def test_a_network_whose_blocks_differ_is_no_start_of_a_supernet(parts: DataParts, tmp_path: Path) -> None:
    network = Subnet.from_space(SPACE, SPACE.largest)
    small = load_parts(DataConfig())
    save_subnet(network, tmp_path / "n", preprocessing=small.preprocessing, classes=small.classes, record={})
    with pytest.raises(ArchitectureError, match="cannot be the largest of a supernet"):
        start_from(str(tmp_path / "n"))


def test_the_progress_of_the_parent_is_told_as_its_own(words: str, parts: DataParts, tmp_path: Path) -> None:
    told: list[str] = []

    def progress(work: str, done: int, total: int, note: str = "") -> None:
        told.append(work)

    told_of_parent(recipe_of(words, parent={"epochs": 1}), parts, tmp_path, Surroundings(progress=progress))
    assert set(told) == {"finetune parent"}


def test_a_dry_run_prices_the_parent_and_every_other_step_and_writes_nothing(words: str, tmp_path: Path) -> None:
    """Steps are counted by hand: 989 digits in batches of 128 make 7 steps an epoch."""
    recipe, small = tmp_path / "r.yaml", {"population": 6, "generations": 2, "parents": 3, "mutated": 3, "crossed": 3}
    recipe.write_text(yaml.safe_dump(values(words, search=small, profile={"seconds": 0.1}, race={"cost": 1})))
    done = command("run", recipe, "--out", tmp_path / "out", "--dry-run", "--json", "--quiet")
    assert done.code == 0
    prices = {price["step"]: price for price in json.loads(done.out)["steps"]}
    assert list(prices) == ["parent", "train", "search", "race", "export", "test"]
    assert prices["parent"]["measured"].startswith("14 steps of 128 images")
    assert prices["train"]["measured"].startswith("7 steps of 128 images")
    assert prices["search"]["measured"].startswith("12 networks × ")
    assert prices["race"]["measured"].startswith("up to 2 networks start, 1 of the search's own; 4 × one network exported")
    assert all(price["seconds"] > 0 for price in prices.values())
    assert json.loads(done.out)["seconds"] == pytest.approx(sum(price["seconds"] for price in prices.values()))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_from_a_pretrained_network_finetunes_it_first_and_is_resumed_there(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs up to their exports, one of them killed after the parent's finetune: the same bits in every folder."""
    recipe = tmp_path / "r.yaml"
    small = {"population": 6, "generations": 2, "parents": 3, "mutated": 3, "crossed": 3}
    recipe.write_text(yaml.safe_dump(values(words, search=small)))

    def run(out: Path, *more: str) -> Any:
        return command("run", recipe, "--out", out, "--quiet", *more)

    def stopped(*arguments: Any, **named: Any) -> None:
        raise InterruptedRunError("stopped", 15)

    monkeypatch.setattr("autoformer.cli.chain.chain._export", stopped)
    assert run(tmp_path / "whole").code == 143
    with monkeypatch.context() as patch:
        patch.setattr("autoformer.cli.chain.chain.train_supernet", stopped)
        assert run(tmp_path / "died").code == 143
    assert (tmp_path / "died" / "parent" / "subnet.json").exists()
    monkeypatch.chdir(tmp_path)  # the same folder by another path
    assert run(Path("died")).code == 143
    for folder in ("parent", "supernet", "finetuned"):
        whole, died = (tensors_digest(read_tensors(tmp_path / run / folder / "model.safetensors")) for run in ("whole", "died"))
        assert whole == died, folder
    assert read_json(tmp_path / "whole" / "steps.json")["seconds"]["parent"] > 0
    supernet = read_json(tmp_path / "whole" / "supernet" / "supernet.json")
    assert supernet["train"]["subnets"]["curriculum"] == pytest.approx(1 / 3)
    assert supernet["train"]["teacher"]["network"].endswith("whole/parent")
    assert command("describe", tmp_path / "whole" / "parent").code == 0
    assert "holds another run" in run(tmp_path / "whole", "--set", "parent.epochs=3").error
