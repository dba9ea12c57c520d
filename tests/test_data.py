"""Parts, class maps, digests and augmented images."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits
from timm.data import create_dataset

from autoformer.augment import AugmentConfig, TrainingImages
from autoformer.batches import Plan
from autoformer.data import DataConfig, check_readable, load_parts, parts_of_record, split_dataset
from autoformer.errors import DataError
from autoformer.images import folder_images
from autoformer.preprocessing import resize_matrix
from autoformer.splits import group_keys, grouped, stratified
from tests.conftest import draw_images


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
    images, classes = folder_images(tmp_path)
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
    images, _ = folder_images(tmp_path)
    assert list(images.labels) == [0, 0, 0, 1, 1, 1]
    assert images.repeated == (Path("a/again.png"), Path("a/folder"))


def test_links_to_images_and_folders_elsewhere_are_followed_and_doubles_left_out(tmp_path: Path) -> None:
    store = draw_images(tmp_path / "store", ("x", "y"), each=3)
    (tmp_path / "data" / "a").mkdir(parents=True)
    for index in range(3):
        (tmp_path / "data" / "a" / f"{index}.png").symlink_to(store / "x" / f"{index:03d}.png")
    (tmp_path / "data" / "a" / "twice.png").symlink_to(store / "x" / "000.png")
    (tmp_path / "data" / "b").symlink_to(store / "y")
    images, classes = folder_images(tmp_path / "data")
    assert classes == ("a", "b")
    assert [file.as_posix() for file in images.files] == [
        "a/0.png", "a/1.png", "a/2.png", "b/000.png", "b/001.png", "b/002.png",
    ]  # fmt: skip
    assert images.open(0).size == (20, 20)


@pytest.mark.parametrize("ending", [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".gif", ".tif", ".TIFF", ".ppm", ".pgm"])
def test_an_image_of_each_ending_is_taken_and_read(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L", (9, 7), 200).save(tmp_path / "a" / f"one{ending}")
    images, _ = folder_images(tmp_path)
    pixels = np.asarray(images.open(0).convert("L"))
    assert pixels.shape == (7, 9)
    assert abs(int(pixels[0, 0]) - 200) <= 2


def test_files_that_are_no_images_are_counted_and_named_and_leave_the_digest_alone(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=6)
    before = load_parts(DataConfig(source=str(tmp_path)))
    for name in ("notes.txt", "a/list.csv", "b/list.csv", ".hidden", "a/.hidden.png"):
        (tmp_path / name).write_text("words")
    parts = load_parts(DataConfig(source=str(tmp_path)))
    assert parts.layout == before.layout + "; 3 files that are no images were left out, e.g. a/list.csv"
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
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, target: str) -> None:
    draw_images(tmp_path, ("a", "b"), each=3)
    (tmp_path / "a" / "lost.png").symlink_to(tmp_path / "a" / target)
    with pytest.raises(DataError, match=r"lost\.png is a link that leads nowhere"):
        load_parts(DataConfig(source=str(tmp_path)))


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
    images, _ = folder_images(tmp_path)
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
    images, _ = folder_images(tmp_path)
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


def test_the_same_key_gives_the_same_augmented_pixels_and_another_key_others() -> None:
    parts = load_parts(DataConfig())
    images = TrainingImages(parts.train, parts.preprocessing, AugmentConfig())
    first, again, other = images[(5, 77)][0], images[(5, 77)][0], images[(5, 78)][0]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_augmentation_training_sees_the_images_as_they_are() -> None:
    parts = load_parts(DataConfig())
    plain = AugmentConfig(rotate_degrees=0, translate=0, scale=(1, 1))
    images = TrainingImages(parts.train, parts.preprocessing, plain)
    assert np.array_equal(images[(3, 0)][0][0], np.asarray(parts.train[3][0]))


@pytest.mark.parametrize(
    "config",
    [AugmentConfig(crop="random_resized", flip=0.5, color_jitter=0.3), AugmentConfig(rand_augment="rand-m9-mstd0.5-inc1")],
)
def test_photograph_augmentation_gives_images_of_the_right_shape(image_folder: Path, config: AugmentConfig) -> None:
    parts = load_parts(DataConfig(source=str(image_folder)))
    images = TrainingImages(parts.train, parts.preprocessing, config)
    assert images[(0, 1)][0].shape == (3, 16, 16)


def test_flips_happen_only_when_asked_for(image_folder: Path) -> None:
    parts = load_parts(DataConfig(source=str(image_folder)))
    still = {"rotate_degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0)}
    never = TrainingImages(parts.train, parts.preprocessing, AugmentConfig(**still))
    always = TrainingImages(parts.train, parts.preprocessing, AugmentConfig(**still, flip=1.0))
    assert np.array_equal(never[(0, 0)][0][..., ::-1], always[(0, 0)][0])


def test_an_epoch_takes_every_image_once_in_an_order_of_its_own() -> None:
    plan = Plan(images=100, batch_size=10, epochs=2, repeats=1, seed=7)
    first, second = ([position for step in range(e * 10, e * 10 + 10) for position, _ in plan.batch(step)] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_a_batch_larger_than_the_part_is_refused() -> None:
    with pytest.raises(DataError, match="batch_size 64 is larger than the train part of 7 images"):
        Plan(images=7, batch_size=64, epochs=1, repeats=1, seed=0)


@pytest.mark.parametrize(("old", "new"), [(224, 160), (64, 48), (8, 4), (9, 5), (32, 32)])
def test_the_resize_rule_is_antialiased_linear_interpolation_as_torch_has_it(old: int, new: int) -> None:
    image = torch.rand(2, 3, old, old)
    matrix = torch.from_numpy(resize_matrix(old, new))
    expected = torch.nn.functional.interpolate(image, (new, new), mode="bilinear", antialias=True, align_corners=False)
    assert torch.allclose(matrix @ image @ matrix.T, expected, atol=1e-5)


def test_preprocessing_for_a_smaller_network_equals_resizing_the_larger_input() -> None:
    parts = load_parts(DataConfig())
    full, small = parts.preprocessing, replace(parts.preprocessing, network_size=6)
    image = parts.train[0][0]
    matrix = resize_matrix(8, 6)
    assert np.allclose(small(image), matrix @ full(image) @ matrix.T, atol=1e-6)
    assert small(image).shape == (1, 6, 6)


# --- groups ------------------------------------------------------------------------------------------------------


def draw_videos(root: Path, videos: int = 12, frames: int = 5) -> Path:
    """Frames of videos in two classes, `CLASS/videoN_frameM.png`, the videos of different length."""
    rng = np.random.default_rng(0)
    for name in ("walk", "run"):
        (root / name).mkdir(parents=True)
        for video in range(videos):
            for frame in range(frames + video % 3):
                pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / f"video{video}_frame{frame}.png")
    return root


def test_images_of_a_group_stay_in_one_part_and_shares_are_kept(tmp_path: Path) -> None:
    config = DataConfig(source=str(draw_videos(tmp_path)), group_by=r"\w+/video\d+", search_fraction=0.2, test_fraction=0.3)
    parts = load_parts(config)
    groups = {
        part.name: {part.images.name(index).split("_")[0] for index in part.indices}  # type: ignore[union-attr]
        for part in (parts.train, parts.search, parts.test.sealed)
    }
    assert len(set.union(*groups.values())) == sum(map(len, groups.values())) == 24
    total = 2 * (12 * 5 + 4 * (0 + 1 + 2))
    for part, share in ((parts.train, 0.5), (parts.search, 0.2), (parts.test.sealed, 0.3)):
        assert abs(len(part) / total - share) < 0.06
        assert abs((part.labels == 0).mean() - 0.5) < 0.1
    assert "in whole groups (24 by" in parts.layout
    assert load_parts(config).digest == parts.digest
    assert load_parts(config.model_copy(update={"split_seed": 1})).digest != parts.digest


def test_every_class_is_in_every_part_even_when_groups_are_large() -> None:
    labels = [0] * 30 + [1] * 30
    groups = [f"{index // 10}" for index in range(60)]  # three groups of ten in each class
    cut = grouped(labels, groups, {"search": 0.15, "test": 0.3}, seed=0)
    assert {name: sorted({labels[index] for index in part}) for name, part in cut.items()} == {name: [0, 1] for name in cut}
    assert sorted(index for part in cut.values() for index in part) == list(range(60))


def test_the_group_is_the_first_group_of_the_expression_or_all_it_matches() -> None:
    assert group_keys(["a/cam1-7.png", "b/cam1-8.png"], r"(cam\d)-\d") == ["cam1", "cam1"]
    assert group_keys(["a/cam1-7.png", "b/cam2-8.png"], r"cam\d") == ["cam1", "cam2"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("scene", "matches no path, e.g. not 'run/video0_frame0.png'"),
        ("walk", "does not match 72 of 144 paths, e.g. 'run/"),
        ("(walk|run)", "class 'run' lies in 1 groups; 3 parts need as many"),
    ],
)
def test_groups_that_cannot_be_cut_are_refused_in_one_line(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load_parts(DataConfig(source=str(draw_videos(tmp_path)), group_by=pattern))


def test_group_by_needs_paths_and_a_regular_expression() -> None:
    with pytest.raises(DataError, match="images of this data set have none"):
        load_parts(DataConfig(group_by="video"))
    with pytest.raises(ValidationError, match="not a regular expression"):
        DataConfig(group_by="(video")


def test_groups_across_the_folders_of_parts_are_told(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        draw_videos(tmp_path / name, videos=4)
    parts = load_parts(DataConfig(source=str(tmp_path), group_by=r"\w+/video\d+"))
    assert "has nothing to cut; 8 groups lie in more than one part" in parts.layout


# --- images that cannot be read ----------------------------------------------------------------------------------


def damaged_folder(root: Path, names: tuple[str, ...]) -> Path:
    draw_images(root, ("a", "b"), each=12)
    for name in names:
        (root / name).write_bytes(b"no image")
    return root


BROKEN = ("a/000.png", "a/005.png", "b/003.png")


def test_unreadable_images_are_left_out_named_and_found_again_from_the_record(tmp_path: Path) -> None:
    source = str(damaged_folder(tmp_path, BROKEN))
    every = load_parts(DataConfig(source=source, unreadable="skip"))
    parts = check_readable(every)
    assert len(parts.train) + len(parts.search) + len(parts.test) == 21
    assert sorted(name for names in parts.unreadable.values() for name in names) == list(BROKEN)
    assert "3 images that cannot be read were left out: " in parts.layout
    assert parts.digest != every.digest
    assert parts_of_record(json.loads(json.dumps(parts.record))).record == parts.record
    assert parts.test.sealed.pixels(parts.preprocessing).shape[0] == len(parts.test)


def test_more_unreadable_images_than_allowed_are_refused_with_their_number(tmp_path: Path) -> None:
    config = DataConfig(source=str(damaged_folder(tmp_path, BROKEN)), unreadable="skip", max_unreadable=2)
    with pytest.raises(DataError, match=r"3 images cannot be read, more than max_unreadable=2; the first: .*no image"):
        check_readable(load_parts(config))


def test_a_class_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    source = str(damaged_folder(tmp_path, tuple(f"b/{index:03d}.png" for index in range(12))))
    with pytest.raises(DataError, match="no image of class 'b' can be read"):
        check_readable(load_parts(DataConfig(source=source, unreadable="skip")))


def test_an_image_left_out_once_and_gone_since_is_told(tmp_path: Path) -> None:
    parts = check_readable(load_parts(DataConfig(source=str(damaged_folder(tmp_path, BROKEN)), unreadable="skip")))
    record = json.loads(json.dumps(parts.record))
    record["unreadable"] = {name: ["a/gone.png"] for name in record["unreadable"]}
    with pytest.raises(DataError, match=r"a/gone\.png was left out of the \w+ part, and is there no longer"):
        parts_of_record(record)
    record["unreadable"] = ["a/gone.png"]
    with pytest.raises(DataError, match="damaged or foreign"):
        parts_of_record(record)


def test_timm_cannot_put_another_image_in_place_of_a_broken_one(tmp_path: Path) -> None:
    dataset = create_dataset("", root=str(damaged_folder(tmp_path, BROKEN)), search_split=False)
    parts = split_dataset(dataset, config=DataConfig(unreadable="skip", image_size=16))
    left_out = [name for names in check_readable(parts).unreadable.values() for name in names]
    assert sorted(left_out) == ["image 0 (a/000.png)", "image 15 (b/003.png)", "image 5 (a/005.png)"]


# --- archives ----------------------------------------------------------------------------------------------------


def pack(archive: Path, folder: Path, mode: str = "w") -> Path:
    """Everything below a folder, with names that begin there."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, path.relative_to(folder).as_posix())
    return archive


@pytest.mark.parametrize("names", [(), ("train", "val"), ("Train", "val", "TEST")])
def test_an_archive_gives_the_parts_of_the_folder_that_was_packed(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names or (".",):
        draw_images(tmp_path / "folder" / name, ("a", "b"), each=9)
    (tmp_path / "folder" / "notes.txt").write_text("words")
    archive = pack(tmp_path / "packed.tar", tmp_path / "folder")
    folder, packed = (load_parts(DataConfig(source=str(path))) for path in (tmp_path / "folder", archive))
    assert packed.digest == folder.digest
    assert parts_of_record(packed.record).digest == folder.digest
    assert np.array_equal(packed.train.pixels(packed.preprocessing), folder.train.pixels(folder.preprocessing))


def test_archives_beside_each_other_are_classes_shards_or_parts(tmp_path: Path) -> None:
    draw_images(tmp_path / "images", ("a", "b"), each=9)
    whole = load_parts(DataConfig(source=str(tmp_path / "images")))
    for name in ("a", "b"):
        pack(tmp_path / "classes" / f"{name}.tar", tmp_path / "images" / name)
    assert load_parts(DataConfig(source=str(tmp_path / "classes"))).digest == whole.digest

    for index in range(2):
        draw_images(tmp_path / "half" / str(index), ("a", "b"), each=9)
        for path in (tmp_path / "half" / str(index)).rglob("*.png"):
            if int(path.stem) % 2 != index:
                path.unlink()
        pack(tmp_path / "shards" / f"part-{index}.tar", tmp_path / "half" / str(index))
    assert load_parts(DataConfig(source=str(tmp_path / "shards"))).digest == whole.digest

    for name in ("train-0000", "train-0001", "val"):
        pack(tmp_path / "parts" / f"{name}.tar", tmp_path / ("images" if name == "val" else f"half/{int(name[-1])}"))
    parts = load_parts(DataConfig(source=str(tmp_path / "parts")))
    assert (len(parts.train) + len(parts.search), len(parts.test)) == (18, 18)

    for part in ("train", "val"):
        for name in ("a", "b"):
            pack(tmp_path / "both" / part / f"{name}.tar", tmp_path / "images" / name)
    assert load_parts(DataConfig(source=str(tmp_path / "both"))).digest == parts.digest


def test_the_numbers_beside_images_are_their_classes_as_webdataset_has_it(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for index in range(20):
        Image.new("L", (8, 8), 10 * index).save(tmp_path / "samples" / f"{index:04d}.png")
        (tmp_path / "samples" / f"{index:04d}.cls").write_text(f"{index % 2}\n")
    archive = pack(tmp_path / "samples.tar", tmp_path / "samples")
    parts = load_parts(DataConfig(source=str(archive), image_size=8))
    assert parts.classes == ("0", "1")
    for part in (parts.train, parts.search, parts.test.sealed):
        for image, label in (part[position] for position in range(len(part))):
            assert np.asarray(image)[0, 0] // 10 % 2 == label
    (tmp_path / "samples" / "0007.cls").unlink()
    with pytest.raises(DataError, match=r"image 0007\.png has no \.cls beside it"):
        load_parts(DataConfig(source=str(pack(tmp_path / "samples.tar", tmp_path / "samples"))))
    (tmp_path / "samples" / "0007.cls").write_text("999999999999")
    with pytest.raises(DataError, match=r"0007\.cls holds no class number"):
        load_parts(DataConfig(source=str(pack(tmp_path / "samples.tar", tmp_path / "samples"))))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"words" * 300), "cannot be read as a tar archive"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "cannot be read|images of|the archive ends"),
        (lambda path: path.write_bytes(b""), "cannot be read as a tar archive"),
    ],
)
def test_a_damaged_archive_is_one_line(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    draw_images(tmp_path / "folder", ("a", "b"), each=9)
    archive = pack(tmp_path / "packed.tar", tmp_path / "folder")
    spoil(archive)
    with pytest.raises(DataError, match=message):
        load_parts(DataConfig(source=str(archive)))


def test_an_archive_that_was_cut_off_later_is_one_line(tmp_path: Path) -> None:
    draw_images(tmp_path / "folder", ("a", "b"), each=9)
    archive = pack(tmp_path / "packed.tar", tmp_path / "folder")
    parts = load_parts(DataConfig(source=str(archive)))
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(DataError, match="the archive ends before it"):
        check_readable(parts)


def test_compressed_and_loose_archives_say_what_to_do(tmp_path: Path) -> None:
    draw_images(tmp_path / "folder", ("a", "b"), each=3)
    with pytest.raises(DataError, match="is compressed"):
        load_parts(DataConfig(source=str(pack(tmp_path / "packed.tar.gz", tmp_path / "folder", "w:gz"))))
    with pytest.raises(DataError, match=r"image 000\.png lies in no folder of the archive"):
        load_parts(DataConfig(source=str(pack(tmp_path / "loose.tar", tmp_path / "folder" / "a"))))


def test_a_data_set_read_in_order_may_take_so_much_memory_and_no_more() -> None:
    pairs = [(Image.new("RGB", (512, 512)), index % 2) for index in range(20)]  # 0.75 MiB each
    assert len(split_dataset(iter(pairs), config=DataConfig(max_memory_mib=15)).train) == 10
    with pytest.raises(DataError, match=r"6 images take more than max_memory_mib=4"):
        split_dataset(iter(pairs), config=DataConfig(max_memory_mib=4))


# --- data sets by name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [(("train", "validation", "test"), (20, 4, 6)), (("train", "validation"), (18, 2, 4)), (("train", "test"), (18, 2, 6))],
)
def test_the_splits_that_a_named_data_set_has_become_parts(
    monkeypatch: pytest.MonkeyPatch, splits: tuple[str, ...], sizes: tuple[int, int, int]
) -> None:
    def create(name: str, root: str | None, split: str, search_split: bool) -> list[tuple[Image.Image, int]]:
        if split not in splits:
            raise ValueError(f"Unknown split {split}")
        return [(Image.new("L", (8, 8), index), index % 2) for index in range({"train": 20, "validation": 4, "test": 6}[split])]

    monkeypatch.setattr("timm.data.create_dataset", create)
    parts = load_parts(DataConfig(source="hfds/someone/pictures", search_fraction=0.1))
    assert (len(parts.train), len(parts.search), len(parts.test)) == sizes
    splits = ("train",)
    with pytest.raises(DataError, match="split 'test'"):
        load_parts(DataConfig(source="hfds/someone/pictures"))


def test_torchvisions_own_files_are_read(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, number in (("train", 40), ("t10k", 20)):
        labels = np.arange(number, dtype=np.uint8) % 10
        pixels = np.repeat(labels, 28 * 28).reshape(number, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x0803, number, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x0801, number) + labels.tobytes())
    parts = load_parts(DataConfig(source="torch/mnist", root=tmp_path))
    assert (len(parts.train), len(parts.search), len(parts.test)) == (30, 10, 20)
    assert parts.classes[3] == "3 - three"
    assert all(np.asarray(image)[5, 5] == label for image, label in (parts.train[position] for position in range(30)))


def test_a_run_goes_on_with_the_same_images_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoformer.cli import chain
    from autoformer.cli.recipe import parse_recipe

    taken: list[Any] = []

    def interrupted(space: object, parts: Any, *_: object, **__: object) -> None:
        taken.append(parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(chain, "train_supernet", interrupted)
    images = {"source": str(damaged_folder(tmp_path / "images", BROKEN)), "unreadable": "skip"}
    recipe = parse_recipe({"data": images, "train": {"batch_size": 4}, "finetune": {"batch_size": 4}})
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            chain.run_recipe(recipe, tmp_path / "run")
    assert len(taken[0].train) + len(taken[0].search) + len(taken[0].test) == 21
    assert taken[0].record == taken[1].record
    left_out = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["unreadable"]
    assert sorted(name for names in left_out.values() for name in names) == list(BROKEN)
