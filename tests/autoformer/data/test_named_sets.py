"""Data sets by name: the folder they need, and what is said where it or the files are missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torchvision.datasets as torchvision_sets

from autoformer.data.loading import load_parts
from autoformer.data.named_sets import TORCHVISION, how_to_get, place_of
from autoformer.data.parts import DataConfig
from autoformer.errors import DataError
from tests.support.commands import command
from tests.support.small_images import draw_images

RECIPE = "data: {source: torch/cifar10}\nspace: {preset: micro}\ntrain: {epochs: 1}\n"


@pytest.mark.parametrize("name", [*TORCHVISION, "inat", "CIFAR10", "folder"])
def test_a_set_of_torchvision_without_a_folder_asks_for_it_in_one_line(name: str) -> None:
    with pytest.raises(DataError, match=rf"torch/{name}.*data\.root.*torch/{name}@FOLDER") as caught:
        load_parts(DataConfig(source=f"torch/{name}"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600, "longer lines are cut"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_folder_that_is_promised_is_torchvisions_own(name: str) -> None:
    own = getattr(torchvision_sets, name.upper()).base_folder
    assert f"which makes {own}/ in it" in how_to_get(f"torch/{name}", Path("F"))


@pytest.mark.parametrize("name", [name for name, (call, _) in TORCHVISION.items() if call is not None])
def test_the_advised_program_names_a_class_of_torchvision(name: str) -> None:
    program = re.search(r'python -c "(.*?)"', how_to_get(f"torch/{name}", Path("F")))
    assert program is not None
    calls: list[object] = []

    class Recorded:
        def __init__(self, root: str, *_: object, download: bool, **__: object) -> None:
            calls.append((root, download))

    kinds = dict.fromkeys(torchvision_sets.__all__, Recorded)
    exec(program[1].removeprefix("from torchvision.datasets import *; "), kinds)
    assert calls
    assert set(calls) == {("F", True)}


def test_missing_files_are_told_how_to_get_without_an_option_that_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"FashionMNIST\('.*', download=True\)") as caught:
        load_parts(DataConfig(source="torch/fashion_mnist", root=tmp_path))
    assert "You can use" not in str(caught.value)
    assert "FashionMNIST/raw/" in str(caught.value)


def test_a_name_carries_its_folder_wherever_no_root_can_be_given(tmp_path: Path) -> None:
    draw_images(tmp_path / "train", ("a", "b"), each=8)
    draw_images(tmp_path / "val", ("a", "b"), each=3)
    parts = load_parts(DataConfig(source=f"torch/image_folder@{tmp_path}", root=tmp_path / "of a recipe"))
    assert (parts.source, len(parts.test)) == ("torch/image_folder", 6)
    assert place_of("wds/shards-@0001.tar", tmp_path) == ("wds/shards-@0001.tar", tmp_path)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"torch/svhn.*torch/cifar10, torch/cifar100"):
        load_parts(DataConfig(source="torch/svhn"))
    with pytest.raises(DataError, match="expected hfds/NAME"):
        load_parts(DataConfig(source="hfds/"))
    with pytest.raises(DataError, match=r"wds/x.*set data\.root.*_info\.json"):
        load_parts(DataConfig(source="wds/x"))


@pytest.mark.parametrize("words", [["data", "check", "torch/cifar10", "--json"], ["train", "r.yaml", "--out", "o", "--dry-run"],
                                   ["run", "r.yaml", "--out", "o"]])  # fmt: skip
def test_commands_ask_for_the_folder_before_any_work(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    answer = command(*words)
    assert answer.code != 0
    assert "torch/cifar10@FOLDER" in answer.out + answer.err
    assert "Traceback" not in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]
