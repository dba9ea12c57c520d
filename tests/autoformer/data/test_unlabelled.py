"""Images without labels beside the parts: where they are found, which are left out, and what a record says of them."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from autoformer.data.check import check_data
from autoformer.data.loading import check_readable, load_parts, parts_of_record, with_unlabelled, without_recorded
from autoformer.data.parts import DataConfig, DataParts, describe_parts
from autoformer.errors import DataError
from tests.support.small_images import draw_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("photos") / "photos", ("cat", "dog"), each=10)


def noise(path: Path, seed: int, size: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Four images, two of them deep, and what is no image."""
    for number, name in enumerate(("a.png", "b.png", "inside/a.png", "inside/deep/c.JPG")):
        noise(tmp_path / "others" / name, number)
    (tmp_path / "others" / "notes.txt").write_text("no image")
    noise(tmp_path / "others" / ".hidden" / "d.png", 9)
    return tmp_path / "others"


def both(photos: Path, others: Path, **more: Any) -> DataParts:
    return load_parts(DataConfig(source=str(photos), unlabelled=others, **more))


def names_of(parts: DataParts) -> list[str | None]:
    assert parts.unlabelled is not None
    part = parts.unlabelled.part
    return [part.images.name(index) for index in part.indices]


def files_of(parts: DataParts, name: str) -> list[Path]:
    """The files of a part with labels."""
    part = {one.name: one for one in parts.three}[name]
    return [Path(parts.source) / str(part.images.name(index)) for index in part.indices]


# --- where they are ----------------------------------------------------------------------------------------------


def packed(folder: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname=".")
    return archive


@pytest.mark.parametrize("kind", ["folder", "archive", "folder of archives"])
def test_images_of_any_depth_are_taken_without_a_label(photos: Path, others: Path, tmp_path: Path, kind: str) -> None:
    place, start = others, ""
    if kind == "archive":
        place = packed(others, tmp_path / "o.tar")
    if kind == "folder of archives":
        place, start = packed(others, tmp_path / "archives" / "deep" / "o.tar").parents[1], "deep/o.tar/"
    parts = both(photos, place)
    assert names_of(parts) == [start + name for name in ("a.png", "b.png", "inside/a.png", "inside/deep/c.JPG")]
    assert parts.unlabelled is not None
    assert parts.unlabelled.part.labels.tolist() == [-1] * 4
    assert parts.unlabelled.part[2][0].size == (20, 20)
    assert parts.record["layout"].endswith(
        f"; {place} adds images without labels, for distillation only; 1 file is not taken as an image (.txt 1), e.g. "
        f"{place}/{start}notes.txt; 1 hidden name or folder of thumbnails was left out, e.g. {place}/{start}.hidden"
    )


def test_an_epoch_takes_the_train_part_first_and_the_others_behind_it(photos: Path, others: Path) -> None:
    parts = both(photos, others)
    every = parts.trained_on
    assert len(every) == len(parts.train) + 4
    assert every.labels.tolist() == [*parts.train.labels.tolist(), -1, -1, -1, -1]
    assert np.array_equal(np.asarray(every[len(parts.train)][0]), np.asarray(Image.open(others / "a.png")))
    assert load_parts(DataConfig(source=str(photos))).trained_on.name == "train"


def test_they_change_neither_the_parts_nor_what_is_measured_of_them(photos: Path, others: Path) -> None:
    plain, parts = load_parts(DataConfig(source=str(photos))), both(photos, others)
    assert [part.digest for part in plain.three] == [part.digest for part in parts.three]
    assert plain.preprocessing == parts.preprocessing
    renamed = parts.in_order(("dog", "cat"))
    assert renamed.unlabelled == parts.unlabelled
    assert renamed.train.labels.tolist() == [1 - label for label in parts.train.labels.tolist()]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root, photos: root / "nowhere", "nowhere are neither a folder nor a .tar file that exists; give one of images"),
        (lambda root, photos: Path("~nobody-here/x"), "begins with a home folder that is not known here; write the whole path"),
        (lambda root, photos: root, "holds no images; expected a folder or a .tar file of images without labels"),
        (lambda root, photos: photos / "cat", "cat is taken as a class of .*photos; move it elsewhere"),
        (lambda root, photos: noise(root / "x.png", 0), "are neither a folder nor a .tar file"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(
    make: Callable[[Path, Path], Path], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        both(photos, make(tmp_path, photos))
    assert "\n" not in str(caught.value)


# --- which are left out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archive", [False, True])
def test_images_that_are_held_out_are_left_out_and_counted_and_train_images_are_not(
    photos: Path, others: Path, tmp_path: Path, archive: bool
) -> None:
    parts = load_parts(DataConfig(source=str(photos)))
    for name, part in (("s", "search"), ("t", "test"), ("u", "test"), ("kept", "train")):
        shutil.copy(files_of(parts, part)[-1 if name == "u" else 0], others / f"{name}.png")
    found = both(photos, packed(others, tmp_path / "o.tar") if archive else others)
    assert found.unlabelled is not None
    assert found.unlabelled.held_out == ("s.png", "t.png", "u.png")
    assert names_of(found) == ["a.png", "b.png", "inside/a.png", "inside/deep/c.JPG", "kept.png"]
    assert "for distillation only, 3 that the search or test part holds left out, e.g. s.png" in "\n".join(describe_parts(found))
    assert found.test.ledger == []


def test_a_file_of_the_same_size_and_ends_is_another_where_its_middle_differs(tmp_path: Path) -> None:
    """Bitmaps are as long as their pixels are many: these have more than 8 KiB, and one pixel in the middle decides."""
    photos = draw_images(tmp_path / "photos", ("cat", "dog"), each=10, size=80)
    for path in sorted(photos.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    held_out = files_of(load_parts(DataConfig(source=str(photos))), "test")[0]
    content = bytearray(held_out.read_bytes())
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "same.bmp").write_bytes(content)
    content[len(content) // 2] ^= 1
    (tmp_path / "others" / "different.bmp").write_bytes(content)
    found = both(photos, tmp_path / "others")
    assert len(content) > 2 * 4096
    assert names_of(found) == ["different.bmp"]


def test_images_that_are_no_files_are_known_by_their_pixels(tmp_path: Path) -> None:
    """Digits that were stored as files: those of the search and test part go, those of train stay."""
    plain = load_parts(DataConfig())
    numbers = [part.indices[0] for part in plain.three]
    for number in numbers:
        pixels = np.round(load_digits().images[number] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:04d}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = load_parts(DataConfig(unlabelled=tmp_path, unreadable="skip"))
    assert names_of(found) == [f"{numbers[0]:04d}.png", "broken.png"]


def test_nothing_but_held_out_images_is_refused(photos: Path, tmp_path: Path) -> None:
    path = files_of(load_parts(DataConfig(source=str(photos))), "test")[0]
    shutil.copy(path, tmp_path / "x.png")
    with pytest.raises(DataError, match=r"holds only images that the search or test part of .* holds; give others"):
        both(photos, tmp_path)


def test_those_that_cannot_be_read_stop_or_are_left_out_as_in_the_other_parts(photos: Path, others: Path) -> None:
    (others / "inside" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"inside/bad\.png"):
        check_readable(both(photos, others))
    skipping = both(photos, others, unreadable="skip")
    found = check_readable(skipping)
    assert found.record["unreadable"] == {"unlabelled": ["inside/bad.png"]}
    assert names_of(found) == ["a.png", "b.png", "inside/a.png", "inside/deep/c.JPG"]
    assert "1 that cannot be read left out, e.g. inside/bad.png" in found.record["layout"]
    assert without_recorded(skipping, found.record).record == found.record
    assert found.labelled.record == load_parts(DataConfig(source=str(photos), unreadable="skip")).record


# --- what a record says ------------------------------------------------------------------------------------------


def test_a_record_has_the_part_only_where_there_is_one(photos: Path, others: Path) -> None:
    plain, parts = load_parts(DataConfig(source=str(photos))), both(photos, others)
    assert "unlabelled" not in json.dumps(plain.record)
    assert parts.record["parts"].keys() - plain.record["parts"].keys() == {"unlabelled"}
    assert parts.record["parts"]["unlabelled"]["images"] == 4
    assert parts.digest != plain.digest == parts.labelled.digest
    assert parts.labelled.record == plain.record
    noise(others / "b.png", 77)
    assert both(photos, others).digest != parts.digest


def test_they_come_out_of_a_record_where_they_are_asked_for_and_are_checked(photos: Path, others: Path) -> None:
    record = json.loads(json.dumps(both(photos, others).record))
    assert json.loads(json.dumps(parts_of_record(record, unlabelled=True).record)) == record
    noise(others / "b.png", 77)
    with pytest.raises(DataError, match="the unlabelled part is not the one of the record"):
        parts_of_record(record, unlabelled=True)
    shutil.rmtree(others)
    plain = load_parts(DataConfig(source=str(photos)))
    assert parts_of_record(record).record == plain.record
    assert parts_of_record(record, str(photos), unlabelled=True).record == plain.record


def test_they_are_added_to_parts_that_are_there(photos: Path, others: Path) -> None:
    added = with_unlabelled(load_parts(DataConfig(source=str(photos))), others)
    assert added.record == both(photos, others).record


def test_a_check_counts_them_and_names_those_that_show_held_out_images(photos: Path, others: Path) -> None:
    """One file of the test part, and one stored again as JPEG, which is nearly equal; neither is a conflict of labels."""
    parts = load_parts(DataConfig(source=str(photos)))
    shutil.copy(files_of(parts, "test")[0], others / "same.png")
    Image.open(files_of(parts, "search")[0]).save(others / "again.jpg", quality=98, subsampling=0)
    shutil.copy(files_of(parts, "train")[0], others / "train.png")
    config = DataConfig(source=str(photos), unlabelled=others)
    found = check_data(config)
    kinds = {finding.kind: finding for finding in found.findings}
    before = {finding.kind for finding in check_data(DataConfig(source=str(photos))).findings}
    assert found.unlabelled == found.to_dict()["unlabelled"] == 6
    assert found.images.keys() == {"train", "search", "test"}
    assert kinds["unlabelled held out"].examples == ("same.png",)
    again = kinds["unlabelled near held out"]
    assert any(example.startswith("unlabelled: again.jpg = search: ") for example in again.examples)
    assert kinds.keys() - before <= {"unlabelled held out", "unlabelled near held out", "small", "clipped"}
    assert "unlabelled near held out" not in {finding.kind for finding in check_data(config, near=False).findings}
    assert "unlabelled" not in check_data(DataConfig(source=str(photos))).to_dict()
