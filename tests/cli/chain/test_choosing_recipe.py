"""Which recipe a data set gets: the choice, what it says, and that it speaks of the files that are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoformer.cli.chain.choosing_recipe import SHIPPED, STARTS, choose_recipe, recipe_for, stored_start
from autoformer.cli.chain.recipe import load_recipe
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig

RECIPES = Path(__file__).parents[3] / "recipes"
START, DINO = "timm:vit_tiny_patch16_224", f"timm:{STARTS[0]}"


@pytest.fixture(autouse=True)
def nothing_is_stored_and_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoformer.cli.chain.choosing_recipe.pretrained_start", lambda: None)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_known_of_a_recipe_is_what_its_file_says(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert recipe.data.image_size == SHIPPED[name].image_size
    assert recipe.train.batch_size == SHIPPED[name].batch_size
    if recipe.race is not None:  # those that finetune
        assert recipe.finetune.batch_size == SHIPPED[name].batch_size


@pytest.mark.parametrize(
    ("side", "images", "start", "expected"),
    [
        (8, 989, None, ("quickstart", None, None)),
        (16, 60_000, START, ("quickstart", None, None)),  # enlarged 14 times they would show no more
        (32, 50_000, None, ("cifar", None, 32)),
        (32, 50_000, START, ("cifar", None, 32)),
        (480, 3_000, None, ("images-64px", None, 64)),
        (480, 3_000, START, ("photos-pretrained", START, 128)),  # 8 patches of 16 px
        (480, 3_000, DINO, ("photos-pretrained", DINO, 126)),  # 9 of 14 px
        (480, 1_200_000, START, ("photos-pretrained", START, 128)),
        (480, 1_200_000, None, ("imagenet-tiny", None, 224)),
        (64, 1_200_000, None, ("images-64px", None, 64)),
    ],
)
def test_the_choice_follows_from_size_number_and_weights_that_are_there(
    side: int, images: int, start: str | None, expected: tuple[str, str | None, int | None]
) -> None:
    choice = choose_recipe(side, images, start=start)
    assert (choice.name, choice.start, choice.image_size) == expected
    assert f"{images:,} train images, shorter side {side} px (median)" in choice.reason
    assert "\n" not in choice.reason


@pytest.mark.parametrize(("images", "batch"), [(5_000, None), (1_024, None), (1_023, 64), (300, 32), (198, 16), (70, 8), (5, 5)])
def test_of_few_images_a_batch_is_smaller_so_that_an_epoch_has_steps(images: int, batch: int | None) -> None:
    expected = () if batch is None else (f"train.batch_size={batch}", f"finetune.batch_size={batch}")
    assert choose_recipe(480, images).settings == expected


def test_the_next_command_is_quoted_for_a_shell_and_its_settings_are_understood() -> None:
    command = choose_recipe(480, 198, start=START).command("my photos", ["data.crop_pct=0.9"])
    assert command == "autoformer run --data 'my photos' --max-latency 60% --set data.crop_pct=0.9"
    settings = [word for word in command.split() if "=" in word]
    assert load_recipe("photos-pretrained", settings).data.crop_pct == 0.9


def test_the_parts_of_a_data_set_tell_what_the_choice_asks() -> None:
    parts = load_parts(DataConfig())
    choice = recipe_for(parts, start=START)
    assert (choice.name, choice.size_for(parts).pixels) == ("quickstart", 8)
    assert "989 train images, shorter side 8 px (median)" in choice.reason
    asked = load_parts(DataConfig(image_size=16))
    assert choose_recipe(480, 3_000).size_for(asked).pixels == 16


def test_weights_are_looked_for_where_the_hub_stores_them_and_the_smallest_are_taken(tmp_path: Path) -> None:
    assert stored_start(tmp_path) is None
    for name in reversed(STARTS[1:]):
        place = tmp_path / f"models--timm--{name}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("abc")
        (place / "snapshots" / "abc").mkdir(parents=True)
        (place / "snapshots" / "abc" / "model.safetensors").touch()
    assert stored_start(tmp_path) == f"timm:{STARTS[1]}"
