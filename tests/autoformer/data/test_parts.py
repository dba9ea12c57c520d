"""Parts, class maps, digests and augmented images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from autoformer.data.folders import folder_images
from autoformer.data.loading import check_readable, load_parts, parts_of_record, split_dataset
from autoformer.data.parts import DataConfig
from autoformer.data.splits import stratified
from autoformer.errors import DataError
from tests.support.small_images import draw_images


def members(parts: object, name: str) -> set[int]:
    part = parts.test.sealed if name == "test" else getattr(parts, name)  # type: ignore[attr-defined]
    return set(part.indices)


def test_digits_are_cut_into_three_disjoint_parts_that_hold_every_image_once() -> None:
    parts = load_parts(DataConfig())
    sets = [members(parts, name) for name in ("train", "search", "test")]
    assert sum(len(s) for s in sets) == 1797
    assert set.union(*sets) == set(range(1797))
    assert len(parts.test) >= 500


def test_parts_are_stratified_so_that_each_class_has_its_share() -> None:
    labels = [0] * 100 + [1] * 20
    cut = stratified(labels, {"search": 0.2, "test": 0.3}, seed=3)
    assert [sum(labels[i] == c for i in cut["search"]) for c in (0, 1)] == [20, 4]
    assert [sum(labels[i] == c for i in cut["test"]) for c in (0, 1)] == [30, 6]
    assert [sum(labels[i] == c for i in cut["rest"]) for c in (0, 1)] == [50, 10]


def test_the_split_depends_on_its_seed_alone() -> None:
    first, again, other = (load_parts(DataConfig(split_seed=seed)) for seed in (0, 0, 1))
    assert first.digest == again.digest
    assert first.digest != other.digest


def test_digits_have_the_pixels_of_scikit_learn() -> None:
    parts = load_parts(DataConfig())
    image, label = parts.train[0]
    index = parts.train.indices[0]
    data = load_digits()
    assert label == data.target[index]
    assert np.array_equal(np.asarray(image), np.round(data.images[index] * 255 / 16).astype(np.uint8))
    assert parts.preprocessing.in_chans == 1


def test_the_normalised_training_images_have_mean_zero_and_deviation_one() -> None:
    parts = load_parts(DataConfig())
    pixels = parts.preprocessing.normalise(parts.train.pixels(parts.preprocessing))
    assert abs(float(pixels.mean())) < 0.03
    assert abs(float(pixels.std()) - 1) < 0.03


def test_a_folder_of_classes_gives_colour_parts_and_a_grid_that_divides(image_folder: Path) -> None:
    parts = load_parts(DataConfig(source=str(image_folder)))
    assert parts.classes == ("circle", "cross", "stripes")
    assert (parts.preprocessing.in_chans, parts.preprocessing.image_size) == (3, 16)


def test_train_and_val_folders_make_val_the_test_part_and_take_search_out_of_train(tmp_path: Path) -> None:
    draw_images(tmp_path / "train", each=10)
    draw_images(tmp_path / "val", each=4)
    parts = load_parts(DataConfig(source=str(tmp_path), search_fraction=0.2))
    assert (len(parts.train), len(parts.search), len(parts.test)) == (24, 6, 12)
    assert "search taken out of train" in parts.layout


def test_train_val_and_test_folders_are_used_as_they_are(tmp_path: Path) -> None:
    for name, each in (("train", 6), ("val", 3), ("test", 4)):
        draw_images(tmp_path / name, each=each)
    parts = load_parts(DataConfig(source=str(tmp_path)))
    assert (len(parts.train), len(parts.search), len(parts.test)) == (18, 9, 12)


def test_val_shares_the_class_map_of_train_even_when_classes_are_missing(tmp_path: Path) -> None:
    draw_images(tmp_path / "train", ("a", "b", "c"), each=4)
    draw_images(tmp_path / "val", ("b", "c"), each=2)
    parts = load_parts(DataConfig(source=str(tmp_path)))
    assert set(parts.test.sealed.labels.tolist()) == {1, 2}


@pytest.mark.parametrize("single", ["val", "test"])
def test_a_part_of_one_class_is_refused(tmp_path: Path, single: str) -> None:
    for name in ("train", "val", "test"):
        draw_images(tmp_path / name, ("a",) if name == single else ("a", "b"), each=3)
    with pytest.raises(DataError, match=r"one class only \(a\)"):
        load_parts(DataConfig(source=str(tmp_path)))


def test_split_folders_are_known_in_capitals(tmp_path: Path) -> None:
    draw_images(tmp_path / "Train", ("a", "b"), each=10)
    draw_images(tmp_path / "TEST", ("a", "b"), each=3)
    parts = load_parts(DataConfig(source=str(tmp_path), search_fraction=0.2))
    assert parts.classes == ("a", "b")
    assert (len(parts.train), len(parts.search), len(parts.test)) == (16, 4, 6)


def test_two_folders_that_differ_in_capitals_only_are_refused(tmp_path: Path) -> None:
    for name in ("train", "Train", "test"):
        draw_images(tmp_path / name, ("a", "b"), each=2)
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system does not tell capitals apart")
    with pytest.raises(DataError, match="both Train and train"):
        load_parts(DataConfig(source=str(tmp_path)))


@pytest.mark.parametrize("names", [("val", "test"), ("Validation",)])
def test_parts_without_train_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        draw_images(tmp_path / name, ("a", "b"), each=3)
    with pytest.raises(DataError, match="expected a folder 'train' beside"):
        load_parts(DataConfig(source=str(tmp_path)))


def test_train_alone_is_cut_and_train_beside_other_classes_is_a_class(tmp_path: Path) -> None:
    draw_images(tmp_path / "alone" / "train", ("a", "b"), each=6)
    draw_images(tmp_path / "vehicles", ("car", "train"), each=6)
    assert load_parts(DataConfig(source=str(tmp_path / "alone"))).classes == ("a", "b")
    assert load_parts(DataConfig(source=str(tmp_path / "vehicles"))).classes == ("car", "train")


def test_the_class_is_the_top_folder_however_deep_the_images_lie(tmp_path: Path) -> None:
    draw_images(tmp_path / "cat", ("black", "white"), each=4)
    draw_images(tmp_path / "dog", ("black", "white"), each=2)
    images, classes, _ = folder_images(tmp_path)
    assert classes == ("cat", "dog")
    assert list(images.labels) == [0] * 8 + [1] * 4
    assert list(images.files) == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))


def test_an_image_beside_the_class_folders_is_refused_by_name(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=2)
    Image.new("L", (8, 8)).save(tmp_path / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png beside its folders"):
        folder_images(tmp_path)


def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "stray.png")
    with pytest.raises(DataError, match="no folder per class"):
        folder_images(tmp_path)


def test_a_loop_of_links_ends_and_counts_each_image_once(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=8)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    parts = load_parts(DataConfig(source=str(tmp_path)))
    assert len(parts.train) + len(parts.search) + len(parts.test) == 16
    assert "2 links to what is there already were left out, e.g. a/self" in parts.layout


def test_an_image_linked_from_another_class_keeps_the_class_it_lies_in(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=3)
    (tmp_path / "a" / "again.png").symlink_to(tmp_path / "b" / "000.png")
    (tmp_path / "a" / "folder").symlink_to(tmp_path / "b")
    images, _, remarks = folder_images(tmp_path)
    assert list(images.labels) == [0, 0, 0, 1, 1, 1]
    assert remarks.repeated == ("a/again.png", "a/folder")


def test_links_to_images_and_folders_elsewhere_are_followed_and_doubles_left_out(tmp_path: Path) -> None:
    store = draw_images(tmp_path / "store", ("x", "y"), each=3)
    (tmp_path / "data" / "a").mkdir(parents=True)
    for index in range(3):
        (tmp_path / "data" / "a" / f"{index}.png").symlink_to(store / "x" / f"{index:03d}.png")
    (tmp_path / "data" / "a" / "twice.png").symlink_to(store / "x" / "000.png")
    (tmp_path / "data" / "b").symlink_to(store / "y")
    images, classes, _ = folder_images(tmp_path / "data")
    assert classes == ("a", "b")
    assert [file.as_posix() for file in images.files] == [
        "a/0.png", "a/1.png", "a/2.png", "b/000.png", "b/001.png", "b/002.png",
    ]  # fmt: skip
    assert images.open(0).size == (20, 20)


@pytest.mark.parametrize(
    "ending", [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".gif", ".tif", ".TIFF", ".ppm", ".pgm", ".JPE", ".jfif"]
)
def test_an_image_of_each_ending_is_taken_and_read(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L", (9, 7), 200).save(tmp_path / "a" / f"one{ending}", "JPEG" if ending == ".jfif" else None)
    images, _, _ = folder_images(tmp_path)
    pixels = np.asarray(images.open(0).convert("L"))
    assert pixels.shape == (7, 9)
    assert abs(int(pixels[0, 0]) - 200) <= 2


def test_files_that_are_no_images_are_counted_and_named_and_leave_the_digest_alone(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=6)
    before = load_parts(DataConfig(source=str(tmp_path)))
    for name in ("notes.txt", "a/list.csv", "b/list.csv", ".hidden", "a/.hidden.png"):
        (tmp_path / name).write_text("words")
    parts = load_parts(DataConfig(source=str(tmp_path)))
    assert parts.layout == before.layout + (
        "; 3 files are not taken as images (.csv 2, .txt 1), e.g. a/list.csv"
        "; 2 hidden names and folders of thumbnails were left out, e.g. .hidden"
    )
    assert parts.digest == before.digest


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_images(tmp_path, ("a", "locked"), each=3)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"locked cannot be read \(Permission denied\)"):
        load_parts(DataConfig(source=str(tmp_path)))


@pytest.mark.parametrize("target", ["missing.png", "lost.png"])
def test_an_image_link_that_leads_nowhere_is_an_image_that_cannot_be_read(tmp_path: Path, target: str) -> None:
    draw_images(tmp_path, ("a", "b"), each=3)
    (tmp_path / "a" / "lost.png").symlink_to(tmp_path / "a" / target)
    config = DataConfig(source=str(tmp_path), test_fraction=0.3)
    with pytest.raises(DataError, match=r"lost\.png is a link that leads nowhere; repair or remove it"):
        check_readable(load_parts(config))
    assert sum(map(len, check_readable(load_parts(config.model_copy(update={"unreadable": "skip"}))).three)) == 6


@pytest.mark.parametrize("name", [b"caf\xe9/000.png", b"a/caf\xe9.png"])
def test_a_name_that_is_not_utf8_is_one_printable_line(tmp_path: Path, name: bytes) -> None:
    draw_images(tmp_path, ("a", "b"), each=3)
    path = os.path.join(os.fsencode(tmp_path), name)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"an image")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DataError, match="is not UTF-8") as caught:
        load_parts(DataConfig(source=str(tmp_path)))
    assert "caf\\udce9" in str(caught.value)
    assert str(caught.value).encode().count(b"\n") == 0


def test_an_image_that_vanished_is_one_line(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=2)
    images, _, _ = folder_images(tmp_path)
    (tmp_path / "a" / "000.png").unlink()
    with pytest.raises(DataError, match=r"000\.png cannot be read"):
        images.identity(0)
    with pytest.raises(DataError, match=r"000\.png cannot be read"):
        images.open(0)


@pytest.mark.parametrize("size", [100, 5000, 20000])
def test_the_identity_of_a_file_is_its_path_its_size_and_the_digest_of_its_ends(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(0).bytes(size)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(content)
    expected = hashlib.sha256(content[:4096] + content[-4096:]).hexdigest()
    assert folder_images(tmp_path)[0].identity(0) == f"a/x.png:{size}:{expected}"


def test_the_digest_of_parts_notices_changed_content_of_equal_size(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=6)
    for path in tmp_path.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    record = load_parts(DataConfig(source=str(tmp_path))).record
    path = tmp_path / "a" / "000.bmp"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    assert path.stat().st_size == size
    with pytest.raises(DataError, match="changed"):
        parts_of_record(record)


def test_the_identity_is_read_once(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=1)
    images, _, _ = folder_images(tmp_path)
    first = images.identity(0)
    (tmp_path / "a" / "000.png").write_bytes(b"other")
    assert images.identity(0) == first


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_the_check_names_an_unreadable_image_in_any_part(tmp_path: Path, part: str) -> None:
    for name in ("train", "val", "test"):
        draw_images(tmp_path / name, ("a", "b"), each=3)
    parts = load_parts(DataConfig(source=str(tmp_path)))
    (tmp_path / part / "b" / "001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"{part}/b/001\.png cannot be read as an image"):
        check_readable(parts)


def test_the_check_reads_all_images_and_leaves_the_ledger_empty(image_folder: Path) -> None:
    parts = load_parts(DataConfig(source=str(image_folder)))
    calls: list[tuple[str, int, int]] = []
    check_readable(parts, lambda work, done, total, note="": calls.append((work, done, total)))
    assert calls == [("check images", done, 42) for done in range(1, 43)]
    assert parts.test.ledger == []


def test_the_check_skips_parts_that_are_too_large(tmp_path: Path) -> None:
    for name, each in (("train", 5), ("val", 2), ("test", 2)):
        draw_images(tmp_path / name, ("a", "b"), each=each)
    parts = load_parts(DataConfig(source=str(tmp_path)))
    (tmp_path / "train" / "a" / "000.png").write_bytes(b"no image")
    calls: list[int] = []
    check_readable(parts, lambda work, done, total, note="": calls.append(total), most=4)
    assert calls == [8] * 8


@pytest.mark.parametrize(
    "values", [{"image_size": 4097}, {"max_image_size": 4097}, {"split_seed": -1}, {"split_seed": 2**31}, {"image_size": 3}]
)
def test_settings_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        DataConfig.model_validate(values)


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no config": lambda record: record.pop("config"),
    "no parts": lambda record: record.pop("parts"),
    "a part is missing": lambda record: record["parts"].pop("search"),
    "a digest is missing": lambda record: record["parts"]["test"].pop("digest"),
    "parts are a list": lambda record: record.update(parts=[1, 2, 3]),
    "a foreign key": lambda record: record["config"].update(folder="x"),
    "a foreign value": lambda record: record["config"].update(search_fraction="much"),
    "a foreign config": lambda record: record.update(config="digits"),
    "neither config nor source": lambda record: (record.update(config=None), record.pop("source")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_one_line(damage: str) -> None:
    record = json.loads(json.dumps(load_parts(DataConfig()).record))
    DAMAGES[damage](record)
    with pytest.raises(DataError, match="record of data is damaged") as caught:
        parts_of_record(record)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(DataError, match="record of data is damaged"):
        parts_of_record(None)  # type: ignore[arg-type]


def test_a_class_that_train_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    draw_images(tmp_path / "train", ("a", "b"), each=4)
    draw_images(tmp_path / "val", ("a", "zebra"), each=2)
    with pytest.raises(DataError, match="zebra"):
        load_parts(DataConfig(source=str(tmp_path)))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        load_parts(DataConfig(source=str(tmp_path)))


def test_one_class_is_refused(tmp_path: Path) -> None:
    draw_images(tmp_path, ("only",))
    with pytest.raises(DataError, match="at least two"):
        load_parts(DataConfig(source=str(tmp_path)))


def test_a_class_with_too_few_images_is_named(tmp_path: Path) -> None:
    draw_images(tmp_path, ("many", "more"))
    draw_images(tmp_path / "x", ("rare",), each=2)
    (tmp_path / "x" / "rare").rename(tmp_path / "rare")
    (tmp_path / "x").rmdir()
    with pytest.raises(DataError, match="rare"):
        load_parts(DataConfig(source=str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n truncated"])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    draw_images(tmp_path, ("a", "b"), each=8)
    broken = tmp_path / "a" / "broken.png"
    broken.write_bytes(content)

    def read_all() -> None:
        parts = load_parts(DataConfig(source=str(tmp_path)))
        for part in (parts.train, parts.search, parts.test.sealed):
            part.pixels(parts.preprocessing)

    with pytest.raises(DataError, match=r"broken\.png cannot be read as an image"):
        read_all()


def test_an_unknown_source_says_what_is_known() -> None:
    with pytest.raises(DataError, match="digits"):
        load_parts(DataConfig(source="nowhere"))


def test_a_named_data_set_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cifar10") as caught:
        load_parts(DataConfig(source="torch/cifar10", root=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_torchvision_data_set_works_by_the_name_timm_gives_it(tmp_path: Path) -> None:
    draw_images(tmp_path / "train", ("a", "b"), each=8)
    draw_images(tmp_path / "val", ("a", "b"), each=3)
    parts = load_parts(DataConfig(source="torch/image_folder", root=tmp_path))
    assert parts.classes == ("a", "b")
    assert len(parts.test) == 6


def test_a_notebooks_own_data_set_is_cut_the_same_way() -> None:
    rng = np.random.default_rng(1)
    mine = [(Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)), index % 2) for index in range(40)]
    parts = split_dataset(mine, classes=["even", "odd"])
    assert (len(parts.train), len(parts.search), len(parts.test)) == (22, 6, 12)


def test_the_ledger_counts_every_reading_of_the_test_part(tmp_path: Path) -> None:
    parts = load_parts(DataConfig())
    for reader in ("fp32", "int8"):
        parts.test.read(reader, tmp_path / "ledger.json")
    text = (tmp_path / "ledger.json").read_text()
    assert text.count(parts.test.digest) == 2


def test_the_test_part_gives_no_image_without_a_reading() -> None:
    parts = load_parts(DataConfig())
    with pytest.raises(TypeError):
        parts.test[0]  # type: ignore[index]


def test_a_record_gives_the_same_parts_and_notices_changed_images(tmp_path: Path) -> None:
    draw_images(tmp_path / "d", ("a", "b"), each=8)
    parts = load_parts(DataConfig(source=str(tmp_path / "d")))
    assert parts_of_record(parts.record).digest == parts.digest
    next(iter((tmp_path / "d" / "a").iterdir())).unlink()
    with pytest.raises(DataError, match="changed"):
        parts_of_record(parts.record)
