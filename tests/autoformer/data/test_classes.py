"""Orders of classes and class maps: timm's own sorting and reader say what is right."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import create_dataset
from timm.utils.misc import natural_key

from autoformer.data.classes import CLASS_MAP, by_number, by_text, read_class_map, shown_order, write_class_map
from autoformer.data.loading import load_parts, parts_of_record
from autoformer.data.parts import DataConfig
from autoformer.errors import DataError
from autoformer.networks.folders import save_subnet
from tests.support.small_images import draw_images
from tests.support.subnets import PREPROCESSING, make_subnet

NAMES = ("1", "10", "2", "Bee", "ant", "a b", "zoé", "x007", "x07b", "x7a")


def test_the_natural_order_is_the_one_that_timm_sorts_by() -> None:
    rng = random.Random(0)
    for _ in range(300):
        names = {"".join(rng.choices("aB1209 _é٣", k=rng.randint(1, 6))) for _ in range(12)}
        assert [natural_key(name) for name in by_number(names)] == sorted(natural_key(name) for name in names)
    assert by_number({"01", "1", "A", "a"}) == ("01", "1", "A", "a")  # timm leaves these to chance
    assert by_number(["9" * 5000, "10"]) == ("10", "9" * 5000)


def test_the_beginning_of_an_order_is_shown_from_where_it_leaves_the_other() -> None:
    text, natural = by_text(map(str, range(1, 13))), by_number(map(str, range(1, 13)))
    assert (shown_order(text, natural), shown_order(natural, text)) == ("1, 10, 11", "1, 2, 3")
    assert shown_order(("a", "b", "c", "y", "x", "z"), ("a", "b", "c", "x", "y", "z")) == "..., c, y, x"


def test_timms_reader_numbers_classes_as_the_map_beside_a_saved_network_does(tmp_path: Path) -> None:
    draw_images(tmp_path / "images", NAMES, each=1)
    for number, order in enumerate((by_text(NAMES), by_number(NAMES), NAMES)):
        folder = tmp_path / str(number)
        save_subnet(make_subnet(num_classes=len(order)), folder, preprocessing=PREPROCESSING, classes=order, record={})
        dataset = create_dataset("", root=str(tmp_path / "images"), class_map=str(folder / CLASS_MAP))
        assert dataset.reader.class_to_idx == {name: place for place, name in enumerate(order)}
        assert read_class_map(folder / CLASS_MAP) == order


@pytest.mark.parametrize("name", ["two\nlines", " led", "trailed\t", "re\rturn", "", "\ud800"])
def test_names_that_no_map_can_hold_give_none_instead_of_another(tmp_path: Path, name: str) -> None:
    write_class_map(["cat", name], tmp_path)
    assert not (tmp_path / CLASS_MAP).exists()


@pytest.mark.parametrize("content", [b"b\na\n", b"b\r\na\r\n\r\n", b"\xef\xbb\xbfb\na", b"b \n\ta\n\n"])
def test_a_map_is_read_however_its_editor_ends_lines(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "map.txt").write_bytes(content)
    assert read_class_map(tmp_path / "map.txt") == ("b", "a")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"), (b"a\n\nb\n", "line 2 is empty"), (b"a\nb\na\n", "names class 'a' more than once"),
        (b"\xff\xfea", "not UTF-8"), (b"a\0b", "not a text file"), (None, "is a folder"),
    ],
)  # fmt: skip
def test_what_is_no_class_map_is_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "map.txt"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_class_map(path)
    assert "a class name per line" in str(caught.value)


def test_another_order_numbers_the_same_members_anew_and_is_restored_from_the_record(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        (tmp_path / str(number)).mkdir()
        for index in range(8):
            Image.new("L", (8, 8), 20 * number + index).save(tmp_path / str(number) / f"{index}.png")
    text = load_parts(DataConfig(source=str(tmp_path)))
    natural = text.in_order(by_number(text.classes))
    assert (text.classes, natural.classes) == (("1", "10", "2"), ("1", "2", "10"))
    for before, after in zip((text.train, text.search), (natural.train, natural.search), strict=True):
        assert before.indices == after.indices
        assert [text.classes[label] for label in before.labels] == [natural.classes[label] for label in after.labels]
        image, label = after[0]
        assert int(np.asarray(image)[0, 0]) // 20 == int(natural.classes[label])
    assert natural.train.images is natural.search.images
    restored = parts_of_record(natural.record)
    assert (restored.classes, restored.digest) == (natural.classes, natural.digest)
    assert parts_of_record(natural.record, str(tmp_path)).classes == natural.classes
    assert text.digest != natural.digest


def test_a_class_map_may_name_classes_without_images_and_in_another_unicode_form(tmp_path: Path) -> None:
    draw_images(tmp_path, (unicodedata.normalize("NFD", "é"), "b"), each=6)
    parts = load_parts(DataConfig(source=str(tmp_path))).in_order(("z", unicodedata.normalize("NFC", "é"), "b"))
    assert set(parts.train.labels.tolist()) == {1, 2}
