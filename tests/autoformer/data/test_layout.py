"""Which folders are parts, which only look like parts and are refused, and which are classes whatever their names hold."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from autoformer.data.layout import Shape, alike, parts_among
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.errors import DataError

DEEP = Shape(False, ("cat", "dog"))
FLAT = Shape(True, ())


def refused(**folders: Shape) -> str | None:
    """What is said of folders at the top; None where they are parts or classes."""
    try:
        parts_among("photos", sorted(folders), folders.__getitem__)
    except DataError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "folders",
    [
        {"training_set": DEEP, "test_set": DEEP},
        {
            "seg_train": Shape(False, ("seg_train",)),
            "seg_test": Shape(False, ("seg_test",)),
            "seg_pred": Shape(False, ("seg_pred",)),
        },
        {"train": DEEP, "test1": FLAT},
        {"train": FLAT, "test1": FLAT},
        {"train": DEEP, "train_extra": DEEP},
        {"train": DEEP, "train_extra": FLAT},
        {"train": DEEP, "unlabeled": FLAT},
        {"TrainImages": DEEP, "TestImages": DEEP},
        {"trainset": DEEP, "testset": DEEP, "annotations": Shape(False, ())},
        {"trainA": FLAT, "trainB": FLAT, "testA": FLAT, "testB": FLAT},
        {"train2017": FLAT, "val2017": FLAT},
        {"Training Data": DEEP, "Validation Data": DEEP},
        {"cats_train": DEEP, "other_test": DEEP},  # the folders within are the same
        {"train-1": DEEP, "train-2": DEEP},
    ],
)
def test_folders_that_look_like_parts_are_refused_and_named(folders: dict[str, Shape]) -> None:
    said = refused(**folders)
    assert said is not None
    assert "look like parts of a data set and not like classes" in said
    assert all(name in said for name in folders if name != "annotations")
    assert "called train (training), val (validation, valid, dev) and test (testing, eval)" in said


@pytest.mark.parametrize(
    "folders",
    [
        {"freight_train": FLAT, "passenger_train": FLAT, "bus": FLAT},
        {"freight_train": DEEP, "passenger_train": DEEP},
        {"train": FLAT, "car": FLAT},
        {"train": DEEP, "car": DEEP, "bus": DEEP},
        {"steam_train": FLAT, "test_tube": FLAT},
        {"valid": FLAT, "invalid": FLAT},
        {"valid_ticket": FLAT, "test_ticket": FLAT, "void": FLAT},
        {"dev_board": FLAT, "test_board": FLAT},
        {"positive_test": DEEP, "negative_test": DEEP},
        {"training_shoes": FLAT, "running_shoes": FLAT},
        {"strain": FLAT, "contest": FLAT},
        {"val_gardena": FLAT, "monte_rosa": FLAT},
    ],
)
def test_classes_whose_names_hold_such_a_word_stay_classes(folders: dict[str, Shape]) -> None:
    assert parts_among("photos", sorted(folders), folders.__getitem__) is None


def test_known_parts_are_taken_and_what_lies_beside_them_is_told() -> None:
    found = parts_among("photos", ["Test", "TRAIN", "labels", "val"], lambda name: DEEP)
    assert found is not None
    assert found.folders == {"train": "TRAIN", "val": "val", "test": "Test"}
    assert found.beside == ("labels",)


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ({"train": DEEP, "training": DEEP, "test": DEEP}, "holds both train and training"),
        (
            {"a": Shape(False, ("train", "test")), "b": Shape(False, ("test", "train"))},
            r"parts inside its classes \(a/train, a/test\)",
        ),
        ({"archive": DEEP}, "holds one folder, archive, with folders cat, dog in it; give what lies in it, photos/archive"),
        ({"val": DEEP, "test": DEEP}, "val and test but no train"),
    ],
)
def test_layouts_that_would_mix_or_lose_parts_are_refused(folders: dict[str, Shape], said: str) -> None:
    with pytest.raises(DataError, match=said):
        parts_among("photos", list(folders), folders.__getitem__)


def draw(folder: Path, count: int = 8) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("L", (8, 8), 9 * index).save(folder / f"{index}.png")


def test_the_same_holds_for_folders_for_archives_and_for_archives_beside_each_other(tmp_path: Path) -> None:
    for part in ("seg_train", "seg_test"):
        for name in ("cat", "dog"):
            draw(tmp_path / "photos" / part / name)
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "one.tar", "w") as whole:
        whole.add(tmp_path / "photos", "")
    for part in ("seg_train", "seg_test"):
        with tarfile.open(tmp_path / "packed" / f"{part}.tar", "w") as archive:
            archive.add(tmp_path / "photos" / part, "")
    for source in ("photos", "one.tar", "packed"):
        with pytest.raises(DataError, match=r"seg_test\S* .*look like parts of a data set"):
            load_parts(DataConfig(source=str(tmp_path / source)))
    for part in ("train", "test"):
        (tmp_path / "photos" / f"seg_{part}").rename(tmp_path / "photos" / part)
        (tmp_path / "packed" / f"seg_{part}.tar").rename(tmp_path / "packed" / f"{part}.tar")
    for source in ("photos", "packed"):
        parts = load_parts(DataConfig(source=str(tmp_path / source)))
        assert (parts.classes, len(parts.test)) == (("cat", "dog"), 16)


def test_one_archive_too_many_does_not_mix_the_parts(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        draw(tmp_path / "photos" / name)
    for part in ("train", "test", "more"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as archive:
            archive.add(tmp_path / "photos", "")
    (tmp_path / "photos").rename(tmp_path.parent / f"{tmp_path.name}-photos")
    with pytest.raises(DataError, match=r"holds .*train\.tar.* and would be mixed"):
        load_parts(DataConfig(source=str(tmp_path)))


def test_classes_that_hold_the_same_folders_may_be_folds_of_a_data_set() -> None:
    folds = {"fold1": DEEP, "fold2": DEEP, "fold3": DEEP}
    assert refused(**folds) is None  # they may be classes that are sorted further
    assert alike(sorted(folds), folds.__getitem__) == ("fold1", "fold2", "fold3")
    for others in ({"a": DEEP, "b": FLAT}, {"a": DEEP, "b": Shape(False, ("cat", "emu"))}, {"a": FLAT, "b": FLAT}, {"a": DEEP}):
        assert alike(sorted(others), others.__getitem__) == ()
