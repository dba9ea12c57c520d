"""Answers counted by class as scikit-learn counts them, and the worst mistakes with the pictures of their images."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from autoformer.data.images import FileImages
from autoformer.data.loading import load_every_image
from autoformer.data.parts import DataConfig, Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, DataError
from autoformer.export.judging.answers import Answers, ask
from autoformer.export.judging.mistakes import LONGEST, SHORTEST, load_mistakes, save_mistakes, worst_mistakes
from autoformer.export.judging.per_class import class_counts, confusions, matrix_of, worst_first
from autoformer.export.judging.tables import FILES, write_tables
from autoformer.files import read_json
from tests.support.small_images import draw_images

CLASSES = tuple("abcdefg")
PREPARATION = Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3)


def drawn(seed: int, images: int = 400) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels of all classes but the last, and predictions that are mostly right; class f is never named."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, images)
    predicted = np.where(rng.random(images) < 0.7, labels, rng.integers(0, 7, images))
    return labels, np.where(predicted == 5, 6, predicted)


def red_share(images: NDArray[Any]) -> NDArray[np.float32]:
    """Logits of three classes from the mean of each channel."""
    return np.asarray(4 * images.mean((2, 3)), np.float32)


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Part, ...]:
    """Images of three classes in two parts."""
    draw_images(tmp_path / "data" / "train", ("blue", "green", "red"), each=9)
    draw_images(tmp_path / "data" / "test", ("blue", "green", "red"), each=5, size=30)
    return load_every_image(DataConfig(source=str(tmp_path / "data"))).parts


@pytest.mark.parametrize("seed", range(3))
def test_recall_precision_f1_and_the_matrix_are_those_of_scikit_learn(seed: int) -> None:
    labels, predicted = drawn(seed)
    counts = class_counts(labels, predicted, CLASSES)
    assert [one.name for one in counts] == list(CLASSES)  # f has images and was never named, g was named and has none
    numbers = range(len(CLASSES))
    precision, recall, f1, images = precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0)
    assert [one.recall or 0 for one in counts] == pytest.approx(recall)
    assert [one.precision or 0 for one in counts] == pytest.approx(precision)
    assert [one.f1 for one in counts] == pytest.approx(f1)
    assert [one.images for one in counts] == images.tolist()
    assert (counts[5].precision, counts[6].recall) == (None, None)
    assert np.array_equal(matrix_of(labels, predicted, len(CLASSES)), confusion_matrix(labels, predicted, labels=numbers))


def test_confusions_are_what_lies_beside_the_diagonal_the_most_frequent_first() -> None:
    labels, predicted = drawn(1)
    matrix = confusion_matrix(labels, predicted, labels=range(7))
    found = confusions(labels, predicted, CLASSES)
    assert {(one.name, one.taken_for): one.images for one in found} == {
        (CLASSES[row], CLASSES[column]): matrix[row, column]
        for row in range(7)
        for column in range(7)
        if row != column and matrix[row, column]
    }
    assert [one.images for one in found] == sorted((one.images for one in found), reverse=True)
    assert confusions(labels, labels, CLASSES) == ()


def test_classes_are_ordered_by_recall_and_large_ones_stand_before_small_ones() -> None:
    labels = np.repeat([0, 1, 2], [2, 8, 4])
    predicted = np.where(np.arange(14) % 2, labels, 3)
    assert [one.name for one in worst_first(class_counts(labels, predicted, CLASSES))] == ["b", "c", "a"]


@pytest.mark.parametrize("batch", [4, 7, 100])
def test_every_image_of_all_parts_is_asked_about_once_whatever_the_batch(parts: tuple[Part, ...], batch: int) -> None:
    answers = ask(red_share, parts, PREPARATION, batch_size=batch)
    assert len(answers) == sum(map(len, parts)) == 42
    for number, (part, index) in enumerate(answers.places):
        images = parts[part].images
        logits = red_share(PREPARATION(images.open(index))[None])[0]
        assert answers.predicted[number] == logits.argmax()
        assert answers.probability[number] == pytest.approx(softmax(logits.astype(float)).max(), abs=1e-6)
        assert answers.labels[number] == images.labels[index]
        assert answers.names[number] == f"{parts[part].name}/{images.name(index)}"


def test_images_that_cannot_be_read_are_named_and_left_out_or_end_it(parts: tuple[Part, ...]) -> None:
    images = parts[1].images
    assert isinstance(images, FileImages)
    (images.root / images.files[3]).write_bytes(b"no image")
    answers = ask(red_share, parts, PREPARATION, skip_unreadable=True)
    assert (len(answers), answers.unreadable) == (41, (f"{parts[1].name}/{images.name(3)}",))
    with pytest.raises(DataError, match="cannot be read as an image"):
        ask(red_share, parts, PREPARATION)
    for file in images.files:
        (images.root / file).write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        ask(red_share, parts[1:], PREPARATION, skip_unreadable=True)


def test_the_worst_mistakes_are_the_surest_and_show_the_image_as_it_is_stored(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (600, 300), (250, 10, 10)).save(tmp_path / "a" / "red.png")
    Image.new("RGB", (12, 24), (10, 250, 10)).save(tmp_path / "a" / "green.png")
    Image.new("RGB", (40, 40), (10, 10, 250)).save(tmp_path / "a" / "blue.png")
    files = tuple(Path(f"a/{name}.png") for name in ("red", "green", "blue"))
    part = Part("all", FileImages(tmp_path, files, (0, 0, 0)), (0, 1, 2))
    answers = Answers(
        names=tuple(map(str, files)), places=((0, 0), (0, 1), (0, 2)), labels=np.array([0, 0, 0]),
        predicted=np.array([1, 2, 0]), probability=np.array([0.6, 0.9, 0.99]),
    )  # fmt: skip
    found = worst_mistakes(answers, [part])
    assert [(one.image, one.index, one.predicted) for one in found] == [("a/green.png", 1, 2), ("a/red.png", 0, 1)]
    assert worst_mistakes(answers, [part], most=1) == found[:1]
    green, red = (Image.open(io.BytesIO(base64.b64decode(one.picture))) for one in found)
    assert (green.size, red.size) == ((SHORTEST // 2, SHORTEST), (LONGEST, LONGEST // 2))
    assert np.abs(np.asarray(green).mean((0, 1)) - (10, 250, 10)).max() < 4
    save_mistakes(found, tmp_path, reader="onnx fp32", split="abc")
    assert load_mistakes(tmp_path, split="abc") == found
    with pytest.raises(CheckpointError, match="of other images than the test part"):
        load_mistakes(tmp_path, split="abd")
    assert load_mistakes(tmp_path / "a", split="abc") is None


def test_a_file_of_mistakes_that_was_edited_is_refused(tmp_path: Path) -> None:
    save_mistakes([], tmp_path, reader="onnx fp32", split="abc")
    path = tmp_path / "mistakes.json"
    path.write_text(path.read_text().replace('"mistakes": []', '"mistakes": [1]'))
    with pytest.raises(CheckpointError, match="damaged or edited"):
        read_json(path)
    with pytest.raises(CheckpointError, match="damaged or edited"):
        load_mistakes(tmp_path, split="abc")


def test_tables_hold_every_image_every_class_and_the_whole_matrix(tmp_path: Path) -> None:
    labels, predicted = drawn(2, 60)
    names = tuple(f'a "b", {number}\n.png' for number in range(60))
    answers = Answers(names, tuple((0, number) for number in range(60)), labels, predicted, np.linspace(0.2, 1, 60))
    write_tables(answers, CLASSES, tmp_path)
    images, classes, matrix = (read(tmp_path / name) for name in FILES)
    assert [row[0] for row in images[1:]] == list(names)
    assert [int(row[4]) for row in images[1:]] == (labels == predicted).astype(int).tolist()
    assert [CLASSES.index(row[2]) for row in images[1:]] == predicted.tolist()
    assert [row[0] for row in classes[1:]] == matrix[0][1:] == [row[0] for row in matrix[1:]]
    present = [CLASSES.index(name) for name in matrix[0][1:]]
    expected = confusion_matrix(labels, predicted, labels=present)
    assert [[int(cell) for cell in row[1:]] for row in matrix[1:]] == expected.tolist()
