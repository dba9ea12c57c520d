"""What the command line asks of a run becomes a recipe: by name, by the images, from a network, within limits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from autoformer.cli.chain.asked import Asked, resolved
from autoformer.cli.chain.begun_from import fitting_size, recipe_from
from autoformer.cli.chain.recipe import load_recipe
from autoformer.cli.chain.shipped import found_recipe, header, shipped
from autoformer.errors import AutoformerError, BudgetError, CheckpointError, DataError, RecipeError
from autoformer.files import claim_folder
from tests.support.commands import command
from tests.support.small_images import draw_images

VIT, DEIT = "timm:vit_tiny_patch16_224@x.pth", "timm:deit_small_patch16_224@x.pth"
COLOUR = ("cifar", "images-64px", "photos-pretrained", "imagenet-tiny", "imagenet-small", "imagenet-base")


@pytest.fixture(autouse=True)
def no_pretrained_network_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoformer.cli.chain.choosing_recipe.pretrained_start", lambda: None)


# --- by name -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_is_found_by_its_name_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(name) == load_recipe(shipped()[name])
    assert found_recipe(f"recipes/{name}.yaml").samefile(shipped()[name])  # as the documents write it
    said = header(shipped()[name])
    assert said[""].endswith(".")
    assert {"source", "command", "cost"} <= set(said)


def test_a_file_counts_before_a_recipe_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cifar").write_text("seed: 77\n")
    assert load_recipe("cifar").seed == 77


def test_an_unknown_name_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'quickstrat': .* shipped are cifar, .*; did you mean quickstart\?"):
        load_recipe("quickstrat")


# --- by the images -----------------------------------------------------------------------------------------------


def test_without_a_recipe_the_images_decide_and_the_choice_is_said(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", ("cat", "dog", "eel"), each=30, size=200)
    found = resolved(Asked(data=str(tmp_path / "photos"), limits={"max_latency": "5ms"}))
    assert (found.name, found.recipe.data.source) == ("images-64px", str(tmp_path / "photos"))
    assert found.recipe.budget.max_latency == "5ms"
    assert found.recipe.budget.max_flops is None
    assert found.lines[0].startswith("recipe images-64px: ")
    assert found.recipe.train.batch_size == found.recipe.finetune.batch_size == 8
    assert found.lines[1].startswith("51 images are few to learn from nothing: --from timm:NAME@FILE starts from a pretrained")
    assert found.lines[2] == (
        "since there are 51 images to train on, not as in the recipe: train.batch_size=8, finetune.batch_size=8"
    )
    assert found.lines[3] == "limits: max_latency=5ms, not the recipe's max_flops"


def test_images_are_looked_at_for_the_choice_as_they_will_be_for_the_training(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", ("cat", "dog", "eel"), each=30, size=200)
    (tmp_path / "photos" / "dog" / "003.png").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"003\.png cannot be read .*, or leave out what cannot be read: --set data\.unreadable=skip"
    ):
        resolved(Asked(data=str(tmp_path / "photos")))
    found = resolved(Asked(data=str(tmp_path / "photos"), settings=["data.unreadable=skip", "train.epochs=3"]))
    assert (found.name, found.recipe.data.unreadable, found.recipe.train.epochs) == ("images-64px", "skip", 3)


def test_photographs_start_from_a_network_that_is_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoformer.cli.chain.choosing_recipe.pretrained_start", lambda: "timm:vit_tiny_patch16_224")
    draw_images(tmp_path / "photos", ("cat", "dog", "eel"), each=30, size=200)
    found = resolved(Asked(data=str(tmp_path / "photos")))
    assert (found.name, found.recipe.train.start) == ("photos-pretrained", "timm:vit_tiny_patch16_224")
    assert found.recipe.data.image_size == 128  # 8 patches of 16 px, nearest to the recipe's 126


@pytest.mark.parametrize("out", [None, Path("mine")])
def test_a_run_goes_on_from_what_it_began_with_whatever_can_be_had_today(
    out: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_images(tmp_path / "photos", ("cat", "dog", "eel"), each=30, size=200)
    asked = Asked(data="photos", out=out)
    for at_first, today in ((None, "timm:vit_tiny_patch16_224"), ("timm:vit_tiny_patch16_224", None)):
        offer = "autoformer.cli.chain.choosing_recipe.pretrained_start"
        monkeypatch.setattr(offer, lambda had=at_first: had)
        begun = resolved(asked)
        claim_folder(begun.out, {"kind": "run", "recipe": begun.recipe.model_dump(mode="json")})
        monkeypatch.setattr(offer, lambda had=today: had)
        again = resolved(asked)
        assert (again.out, again.recipe) == (begun.out, begun.recipe)
        assert begun.recipe.train.start == at_first
        shutil.rmtree(begun.out)
    assert resolved(asked).recipe.train.start is None  # nothing lies there any more


def test_neither_recipe_nor_data_is_refused_with_both_ways_to_go_on() -> None:
    with pytest.raises(RecipeError, match="autoformer run --data FOLDER; or name a recipe: autoformer run quickstart"):
        resolved(Asked())


# --- limits and epochs -------------------------------------------------------------------------------------------


def test_limits_that_are_given_take_the_place_of_the_recipes() -> None:
    own = load_recipe("quickstart").budget
    assert (own.max_params, own.max_latency) != (None, None)
    found = resolved(Asked(recipe="quickstart", limits={"max_flops": "1M"})).recipe.budget
    assert dict(found) == {"max_params": None, "min_params": None, "max_flops": "1M", "min_flops": None, "max_latency": None}
    kept = resolved(Asked(recipe="quickstart", limits={"max_flops": "1M"}, settings=["budget.max_params=70%"])).recipe.budget
    assert (kept.max_flops, kept.max_params) == ("1M", "70%")
    assert resolved(Asked(recipe="quickstart")).recipe.budget == own


def test_epochs_are_of_the_supernet_and_the_finetune_keeps_its_share() -> None:
    own, found = load_recipe("cifar"), resolved(Asked(recipe="cifar", epochs=20)).recipe
    assert (own.train.epochs, own.finetune.epochs) == (200, 60)
    assert (found.train.epochs, found.finetune.epochs) == (20, 6)
    asked = resolved(Asked(recipe="cifar", epochs=20, settings=["finetune.epochs=3"])).recipe
    assert (asked.train.epochs, asked.finetune.epochs) == (20, 3)
    parent = resolved(Asked(recipe="photos-pretrained", epochs=12)).recipe.parent
    assert parent is not None
    assert parent.epochs == 5


def test_a_setting_that_no_recipe_knows_is_refused_before_any_image_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoformer.cli.chain.asked.load_parts", lambda config: pytest.fail("images are read"))
    with pytest.raises(RecipeError, match=r"unknown key 'train.epoch'; did you mean 'train.epochs'\?"):
        resolved(Asked(data="photos", settings=["train.epoch=3"]))


def test_a_folder_that_is_no_run_is_refused_before_any_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoformer.cli.chain.asked.load_parts", lambda config: pytest.fail("images are read"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").touch()
    error = command("run", "--data", tmp_path / "photos", "--out", tmp_path / "photos").error
    assert error.endswith("photos already exists; choose another --out or move it away (nothing was written)")


def test_epochs_that_are_said_twice_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"--epochs and --set train\.epochs say the same thing twice"):
        resolved(Asked(recipe="cifar", epochs=4, settings=["train.epochs=2"]))


@pytest.mark.parametrize("limit", ["0ms", "0%", "0.0us"])
def test_a_limit_of_nothing_is_refused_before_any_image_is_read(limit: str) -> None:
    with pytest.raises(BudgetError, match=f"limit '{limit}' on latency must be above 0"):
        resolved(Asked(data="nowhere", limits={"max_latency": limit}))


def test_a_folder_in_the_place_of_a_recipe_is_answered_with_how_to_run_its_images(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is a folder, not a recipe; to run its images: autoformer run --data "):
        load_recipe(str(tmp_path))


# --- from a network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [VIT, DEIT])
@pytest.mark.parametrize("name", COLOUR)
def test_space_and_sizes_follow_from_the_network_and_are_said(name: str, start: str) -> None:
    recipe, said = recipe_from(name, start)
    assert recipe.train.start == start
    assert recipe.space.model_dump(exclude_none=True) == {"preset": "micro"}  # nothing of the recipe's
    assert recipe.data.image_size is not None
    assert recipe.data.image_size % 16 == 0
    assert recipe.data.image_size >= 7 * 16
    assert recipe.train.learning_rate <= 2e-4
    before = load_recipe(name)
    assert any(line.startswith("images: ") for line in said) == (before.data.image_size != recipe.data.image_size)


def test_what_the_command_line_says_stays_as_it_is() -> None:
    asked = ["data.image_size=32", "train.learning_rate=0.01", "space.depths=[8, 12]"]
    recipe, said = recipe_from("cifar", VIT, asked)
    assert (recipe.data.image_size, recipe.train.learning_rate, recipe.space.depths) == (32, 0.01, (8, 12))
    assert not any(line.startswith(("images", "train.learning_rate")) for line in said)


def test_a_recipe_that_is_begun_from_a_supernet_is_as_it_is_written() -> None:
    assert recipe_from("cifar", "official:x.pth")[0].space == load_recipe("cifar").space


@pytest.mark.parametrize(
    ("size", "patch", "fitting"), [(None, 16, 112), (32, 16, 112), (126, 16, 128), (126, 14, 126), (224, 14, 224), (230, 14, 224)]
)
def test_images_fit_the_patches_and_make_a_grid_of_seven_at_least(size: int | None, patch: int, fitting: int) -> None:
    assert fitting_size(size, patch) == fitting


def test_no_parent_stays_no_parent(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("parent: null\ntrain:\n  epochs: 3\n")
    recipe, said = recipe_from(tmp_path / "r.yaml", VIT)
    assert recipe.parent is None
    assert not any("parent" in line for line in said)


def test_settings_of_the_space_are_of_the_networks_own(words_and_parts: Any) -> None:
    words, parts = words_and_parts
    from autoformer.cli.chain.starting import beginning

    recipe, _ = recipe_from("quickstart", words, ["space.depths=[1, 3]", "data.image_size=32"])
    space, _, _ = beginning(recipe, parts)
    assert (space.depths, space.embed_dims[-1], space.pooling) == ((1, 3), 48, "token")


@pytest.fixture
def words_and_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small ViT of random weights in a file, and images for it."""
    import timm
    from safetensors.torch import save_file

    from autoformer.data.loading import load_parts
    from autoformer.data.parts import DataConfig
    from autoformer.networks.subnet import TIMM_NAME
    from tests.support.timm_networks import SMALL, random_vit

    create, sizes = timm.create_model, {**SMALL, "img_size": 32, "patch_size": 8, "depth": 3}
    save_file(random_vit("deit_tiny_patch16_224", **sizes).state_dict(), tmp_path / "vit.safetensors")

    def small(name: str, **options: Any) -> Any:
        return create(name, **(options if name == TIMM_NAME else {**sizes, **options}))

    monkeypatch.setattr(timm, "create_model", small)
    return f"timm:deit_tiny_patch16_224@{tmp_path / 'vit.safetensors'}", load_parts(DataConfig(image_size=32))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_small_patch16_224"])
def test_every_recipe_for_colour_images_can_be_begun_from_a_network_of_timm(name: str, tmp_path: Path) -> None:
    """All that is checked before a training: images, space, budget; with random weights."""
    import timm
    from safetensors.torch import save_file

    from autoformer.cli.chain.chain import planned

    save_file(timm.create_model(name).state_dict(), tmp_path / "vit.safetensors")
    draw_images(tmp_path / "photos", ("cat", "dog"), each=20, size=130)
    for recipe in COLOUR:
        small = ["train.batch_size=8", "finetune.batch_size=8"]
        asked = Asked(
            recipe=recipe, data=str(tmp_path / "photos"), start=f"timm:{name}@{tmp_path / 'vit.safetensors'}",
            limits={"max_flops": "60%"}, settings=small,
        )  # fmt: skip
        plan = planned(resolved(asked).recipe, tmp_path / recipe)
        assert plan.start is not None
        assert plan.space == plan.start.space
        assert (plan.space.pooling, plan.space.norm_eps, plan.space.patch_size, plan.space.mean_shift) == (
            "token",
            1e-6,
            16,
            True,
        )
        assert plan.space.num_classes == 2


# --- before any image is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"limits": {"max_latency": "5"}}, "limit '5' on latency is not understood; write 5ms"),
        ({"limits": {"max_params": "x"}}, "limit 'x' on params is not understood; write 6M"),
        ({"start": "timm:nonsense"}, "timm has no model 'nonsense'"),
        (
            {"start": "timm:vit_tiny_patch16_224@no.pth"},
            "no.pth does not exist; expected a file with the weights of timm's",
        ),
        ({"start": "runs/none"}, "cannot start from 'runs/none': there is no such file or folder; expected timm:NAME"),
    ],
)
def test_words_that_cannot_be_understood_are_refused_at_once(
    asked: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoformer.cli.chain.asked.load_parts", lambda config: pytest.fail("images were read"))
    with pytest.raises(AutoformerError, match=message):
        resolved(Asked(data="photos", **asked))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("timm:mobilenetv3_small_100@x.pth", "timm's mobilenetv3_small_100 has .*, which this tool's networks lack"),
        ("timm:swin_tiny_patch4_window7_224@x.pth", "timm's swin_tiny_patch4_window7_224 has "),
        ("timm:vit_tiny_patch16_224@x.pth", r"x\.pth does not exist"),
        ("timm:vit_tiny_patch16_224", "are not stored here, and .* cannot be asked \\(HF_HUB_OFFLINE is set\\)"),
    ],
)
def test_what_cannot_start_a_run_is_refused_before_any_image_is_read(
    start: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match=said):
        resolved(Asked(data="nowhere", start=start))
