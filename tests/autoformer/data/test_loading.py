"""Groups, unreadable images, archives and data sets by name become parts."""

from __future__ import annotations

import json
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from timm.data import create_dataset

from autoformer.data.loading import check_readable, load_parts, parts_of_record, split_dataset, without_recorded
from autoformer.data.parts import DataConfig
from autoformer.data.splits import group_keys, grouped
from autoformer.errors import DataError
from tests.support.small_images import draw_images

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


def test_what_a_record_left_out_is_left_out_once_and_what_broke_since_besides(tmp_path: Path) -> None:
    """As a training of a network does, whose images are those of its record."""
    parts = check_readable(load_parts(DataConfig(source=str(damaged_folder(tmp_path, BROKEN)), unreadable="skip")))
    again = parts_of_record(json.loads(json.dumps(parts.record)))
    assert check_readable(again).record == parts.record
    assert without_recorded(again, {"unreadable": {name: list(names) for name, names in again.unreadable.items()}}) == again
    (tmp_path / "a" / "007.png").write_bytes(b"no image")
    since = check_readable(again)
    assert sorted(name for names in since.unreadable.values() for name in names) == sorted((*BROKEN, "a/007.png"))
    assert len(since.train) + len(since.search) + len(since.test) == 20


def test_more_unreadable_images_than_allowed_are_refused_with_their_number(tmp_path: Path) -> None:
    config = DataConfig(source=str(damaged_folder(tmp_path, BROKEN)), unreadable="skip", max_unreadable=2)
    with pytest.raises(DataError, match=r"3 images cannot be read, more than max_unreadable=2; the first: .*not an image"):
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
    from autoformer.cli.chain import chain
    from autoformer.cli.chain.recipe import parse_recipe

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


def test_images_that_are_named_from_another_folder_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_images(tmp_path / "photos", ("a", "b"), each=8)
    monkeypatch.chdir(tmp_path)
    record = load_parts(DataConfig(source="photos")).record
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="names it from the folder where the training was started: go there, or give --data"):
        parts_of_record(record)
    assert parts_of_record(record, str(tmp_path / "photos")).classes == ("a", "b")
