"""Values come back from their JSON form, and what a damaged file holds instead is named with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from autoformer.architecture import PUBLISHED, Architecture
from autoformer.errors import CheckpointError
from autoformer.records import from_json, stored_as, to_json


@dataclass(frozen=True)
class Leaf:
    name: str
    size: tuple[int, int]
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.size[0] < 0:
            raise ValueError(f"a size of {self.size[0]}")


@dataclass(frozen=True)
class Tree:
    kind: Literal["oak", "elm"]
    leaves: tuple[Leaf, ...]
    heights: Mapping[str, float] = field(default_factory=dict)
    place: Path | None = None
    mixed: int | str = 0
    architecture: Architecture | None = None
    tall: bool = False
    anything: Any = None


TREE = Tree(
    "oak", (Leaf("a", (1, 2)), Leaf("b", (3, 4), 0.5)), {"one": 1, "two": 2.5}, Path("x/y"), "many",
    PUBLISHED["AutoFormer-T"], True, [1]
)  # fmt: skip


def test_a_value_comes_back_equal_from_json_text() -> None:
    assert from_json(Tree, json.loads(json.dumps(to_json(TREE)))) == TREE


def test_the_json_form_is_the_fields_by_name_with_lists_for_tuples() -> None:
    assert to_json(Leaf("a", (1, 2))) == {"name": "a", "size": [1, 2], "weight": None}


def test_a_field_has_the_name_in_files_that_it_says() -> None:
    @dataclass(frozen=True)
    class Renamed:
        speed: float = field(default=1.0, metadata=stored_as("pace"))

    assert to_json(Renamed(2.0)) == {"pace": 2.0}
    assert from_json(Renamed, {"pace": 2.0}) == Renamed(2.0)
    assert from_json(Renamed, {}) == Renamed()
    with pytest.raises(CheckpointError, match=r"has unknown keys \['speed'\]; known are pace"):
        from_json(Renamed, {"speed": 2.0})


def test_a_key_of_a_later_version_is_its_default_and_a_key_beside_is_passed_over() -> None:
    values = {"kind": "elm", "leaves": [], "format": "tree/1"}
    assert from_json(Tree, values, beside=("format",)) == Tree("elm", ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "ash"}, "kind is 'ash', expected one of oak, elm"),
        ({"kind": None}, "kind is None, expected one of oak, elm"),
        ({"leaves": 3}, "leaves is 3, expected a list"),
        ({"leaves": [7]}, "leaves[0] is 7, expected a JSON object"),
        ({"leaves": [{"name": "a"}]}, "leaves[0] lacks 'size'; it was edited or damaged"),
        ({"leaves": [{"name": "a", "size": [1]}]}, "leaves[0].size has 1 items, expected 2"),
        ({"leaves": [{"name": "a", "size": [1, True]}]}, "leaves[0].size[1] is True, expected a whole number"),
        ({"leaves": [{"name": "a", "size": [-1, 1]}]}, "leaves[0]: a size of -1"),
        ({"leaves": [{"name": "a", "size": [1, 1], "weight": float("nan")}]}, "leaves[0].weight is nan, expected a number"),
        ({"heights": {"one": "high"}}, "heights.one is 'high', expected a number"),
        ({"heights": {"one": 10**400}}, f"heights.one is 1{'0' * 59} … (401 letters), expected a number"),
        ({"heights": [1]}, "heights is [1], expected a JSON object"),
        ({"place": 5}, "place is 5, expected a text"),
        ({"mixed": 1.5}, "mixed is 1.5, expected a whole number or a text"),
        ({"tall": 1}, "tall is 1, expected true or false"),
        (
            {"hollow": 1},
            "Tree has unknown keys ['hollow']; known are kind, leaves, heights, place, mixed, architecture, tall, anything",
        ),
    ],
)
def test_what_cannot_be_is_named_with_its_place(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_json(Tree, {"kind": "oak", "leaves": [], **changes})
    assert str(caught.value) == said


def test_what_the_reader_of_a_part_refuses_is_an_error_of_the_whole() -> None:
    with pytest.raises(CheckpointError, match="Tree: not an architecture"):
        from_json(Tree, {"kind": "oak", "leaves": [], "architecture": {"embed_dim": 64}})


def test_what_is_no_object_is_refused_under_the_name_of_its_place() -> None:
    with pytest.raises(CheckpointError, match=r"^device is 'Orin', expected a JSON object$"):
        from_json(Leaf, "Orin", "device")
