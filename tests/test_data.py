"""Parts, class maps, digests and augmented images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from autoformer.augment import AugmentConfig, TrainingImages, epoch_order
from autoformer.data import DataConfig, load_parts, parts_of_record, split_dataset, stratified
from autoformer.errors import DataError
from autoformer.preprocessing import resize_matrix
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
    draw_images(tmp_path / "val", ("c",), each=2)
    parts = load_parts(DataConfig(source=str(tmp_path)))
    assert set(parts.test.sealed.labels.tolist()) == {2}


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
    first, again, second = (epoch_order(100, 10, 7, epoch) for epoch in (0, 0, 1))
    assert first == again != second
    assert sorted(position for batch in first for position, _ in batch) == list(range(100))


def test_a_set_smaller_than_a_batch_still_trains() -> None:
    assert [len(batch) for batch in epoch_order(7, 64, 0, 0)] == [7]


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
