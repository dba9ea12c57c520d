"""Who can start in the race of a run, counted by hand: one of every kind in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoformer.cli.chain.chain import planned
from autoformer.cli.chain.places import Places, few_places, places_of
from autoformer.cli.chain.recipe import Recipe, load_recipe, parse_recipe
from autoformer.conditions import MeasurementConditions
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import device_name
from tests.support.short_runs import QUICKSTART
from tests.support.tables import fitted

PARENT = "timm:vit_small_patch16_224.augreg_in21k_ft_in1k"  # whose smaller sibling is vit_tiny
FOUR, FIVE, TWO = {"epochs": 12}, {"epochs": 20}, {"epochs": 6}  # epochs that leave so many places beside a warm-up of one


def recipe_of(finetune: dict[str, Any], start: str | None = None, table: str | None = None, **race: Any) -> Recipe:
    values = {"finetune": {"warmup_epochs": 1, **finetune}, "race": race, "train": {"start": start}, "profile": {"table": table}}
    return parse_recipe(values)


@pytest.mark.parametrize(
    ("recipe", "image_size", "expected"),
    [
        (recipe_of(TWO), 64, Places(2, 1, 7)),  # a finalist, a rival
        (recipe_of(FOUR), 64, Places(4, 3, 7)),  # a homogeneous one and the most expensive after these
        (recipe_of(FIVE), 64, Places(5, 4, 7)),  # and a second finalist
        (recipe_of(FOUR, PARENT), 64, Places(4, 2, 7)),  # a finalist, a rival, the sibling, a homogeneous one
        (recipe_of(TWO), 8, Places(2, 2, 7)),  # below 16 px there are no rivals
        (recipe_of(TWO, rivals=["timm:resnet18@scratch"]), 8, Places(2, 1, 7)),
        (recipe_of(FIVE, finalists=1, homogeneous=0), 64, Places(5, 2, 2)),
    ],
)
def test_places_are_counted_as_the_race_fills_them(recipe: Recipe, image_size: int, expected: Places) -> None:
    assert recipe.race is not None
    assert places_of(recipe, recipe.race, image_size) == expected


@pytest.mark.parametrize(("device", "expected"), [(None, Places(2, 1, 7)), ("a board", Places(2, 2, 7))])
def test_rivals_start_where_the_latency_table_is_of_this_machine(device: str | None, expected: Places, tmp_path: Path) -> None:
    """On another device their latencies are not known."""
    conditions = MeasurementConditions(
        statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu",
        device=device or device_name(DeviceFacts.collect(), "onnxruntime-cpu", 1),
    )  # fmt: skip
    fitted(lambda index, flops: flops * (1 + index % 2), conditions=conditions).save(tmp_path / "table.json")
    recipe = recipe_of(TWO, table=str(tmp_path / "table.json"))
    assert recipe.race is not None
    assert places_of(recipe, recipe.race, 64) == expected


def test_a_race_with_hardly_any_network_of_the_search_is_announced_in_one_line() -> None:
    (line,) = few_places(recipe_of(TWO), 64)
    assert line.startswith("the race has room for 2 networks, at most 1 of the search's own: ")
    assert "race.cost" in line


def test_a_run_and_its_dry_run_say_so_once(tmp_path: Path) -> None:
    """Both begin with the plan."""
    said: list[str] = []
    settings = ("finetune.epochs=6", "race.rivals=[timm:resnet18@scratch]")
    planned(load_recipe(QUICKSTART, settings), tmp_path / "run", say=said.append)
    assert len([line for line in said if line.startswith("the race has room for 3 networks, at most 2 of")]) == 1


@pytest.mark.parametrize(
    "recipe", [recipe_of(FOUR), recipe_of(FIVE, finalists=1, homogeneous=0), parse_recipe({"race": None, "finetune": TWO})]
)
def test_a_race_with_enough_of_them_or_no_race_is_not(recipe: Recipe) -> None:
    assert list(few_places(recipe, 64)) == []
