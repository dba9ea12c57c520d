"""What lies in a data folder and is not used: said where images are read, found by `data check`, and never waited for."""

from __future__ import annotations

import os
import re
import socket
import tarfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from autoformer.data.check import DataCheck, check_data
from autoformer.data.images import IMAGE_ENDINGS
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.errors import DataError
from tests.support.small_images import draw_images

CAFE, DECOMPOSED = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


def found(check: DataCheck) -> dict[str, tuple[int, str]]:
    """Count and text of each finding on what lies beside the images."""
    image_kinds = ("few", "small", "grey", "imbalance", "missing")
    return {entry.kind: (entry.count, entry.text) for entry in check.findings if entry.kind not in image_kinds}


def checked(folder: Path) -> DataCheck:
    return check_data(DataConfig(source=str(folder)), near=False)


def test_a_class_folder_without_an_image_is_said_and_found(tmp_path: Path) -> None:
    draw_images(tmp_path, ("cat", "dog"), each=6)
    (tmp_path / "horse" / "deep").mkdir(parents=True)
    (tmp_path / "horse" / "deep" / "list.txt").touch()
    assert "; 1 folder holds no image and is no class, e.g. horse" in load_parts(DataConfig(source=str(tmp_path))).layout
    assert found(checked(tmp_path))["empty"][0] == 1


def test_files_are_counted_by_ending_and_images_under_other_endings_are_told_apart(tmp_path: Path) -> None:
    draw_images(tmp_path, ("cat", "dog"), each=6)
    for number in range(3):
        (tmp_path / "cat" / f"{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
        (tmp_path / "cat" / f"{number}.txt").write_text("words")
    (tmp_path / "dog" / "labels").write_text("words")
    Image.new("L", (8, 8)).save(tmp_path / "dog" / "photo", "PNG")
    Image.new("L", (8, 8)).save(tmp_path / "dog" / "photo.jpeg_original", "JPEG")
    check = checked(tmp_path)
    assert found(check) == {
        "formats": (3, "images of formats that are not read (.heic 3)"),
        "endings": (2, "images under endings that are not taken (no ending 1, .jpeg_original 1)"),
        "others": (4, "files that are not taken as images (.txt 3, no ending 1)"),
    }
    assert check.is_usable


def test_a_folder_of_other_formats_alone_says_which(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for number in range(2):
        (tmp_path / "cat" / f"{number}.heic").touch()
    with pytest.raises(DataError, match=r"holds no images, only files of other endings \(\.heic 2\)"):
        load_parts(DataConfig(source=str(tmp_path)))


def test_hidden_thumbnails_are_no_classes_and_no_images_wherever_they_lie(tmp_path: Path) -> None:
    draw_images(tmp_path, ("cat", "dog"), each=6)
    for place in ("@eaDir", "__MACOSX", ".thumbnails", "cat/@eaDir", "dog/.ipynb_checkpoints"):
        draw_images(tmp_path / place, ("cat", "a.png"), each=2)
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    archive = tmp_path / "packed.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(tmp_path.iterdir()):
            if path != archive:
                tar.add(path, path.name)
    for source in (tmp_path, archive):
        parts = load_parts(DataConfig(source=str(source)))
        assert parts.classes == ("cat", "dog")
        assert len(parts.train) + len(parts.search) + len(parts.test) == 12
        assert set(parts.remarks.hidden) == {
            ".thumbnails", "@eaDir", "__MACOSX", "cat/@eaDir", "cat/Thumbs.db", "dog/.ipynb_checkpoints",
        }  # fmt: skip
        assert "6 hidden names and folders of thumbnails were left out" in parts.layout
    assert found(checked(tmp_path))["hidden"][0] == 6


def test_two_folders_of_one_name_in_two_unicode_forms_are_refused(tmp_path: Path) -> None:
    draw_images(tmp_path / "folder", (CAFE, DECOMPOSED, "tea"), each=6)
    with tarfile.open(tmp_path / "packed.tar", "w") as tar:
        tar.add(tmp_path / "folder", "")
    for source in ("folder", "packed.tar"):
        with pytest.raises(DataError, match=r"twice, in two Unicode forms \('cafe\\u0301', 'caf\\xe9'\)"):
            load_parts(DataConfig(source=str(tmp_path / source)))


def test_a_part_that_spells_a_class_in_another_form_is_the_same_class_and_said(tmp_path: Path) -> None:
    draw_images(tmp_path / "train", (CAFE, "tea"), each=6)
    draw_images(tmp_path / "test", (DECOMPOSED, "tea"), each=6)
    parts = load_parts(DataConfig(source=str(tmp_path)))
    assert parts.classes == (CAFE, "tea")
    assert parts.test.sealed.labels.tolist() == [0] * 6 + [1] * 6
    assert "1 class was found by a name in another Unicode form" in parts.layout


def test_links_in_an_archive_are_said_and_so_is_what_lies_beside_the_parts(tmp_path: Path) -> None:
    draw_images(tmp_path / "train", ("cat", "dog"), each=6)
    draw_images(tmp_path / "test", ("cat", "dog"), each=6)
    os.link(tmp_path / "train" / "cat" / "000.png", tmp_path / "train" / "dog" / "again.png")
    (tmp_path / "train" / "dog" / "soft.png").symlink_to("000.png")
    (tmp_path / "labels.csv").write_text("words")
    draw_images(tmp_path / "more", ("cat",), each=2)
    with tarfile.open(tmp_path / "packed.tar", "w") as tar:
        for name in ("train", "test", "more", "labels.csv"):
            tar.add(tmp_path / name, name)
    check = checked(tmp_path / "packed.tar")
    assert found(check)["links"][0] == 2
    assert found(check)["beside"] == (2, "what lies beside the parts")
    assert found(checked(tmp_path))["beside"][0] == 3  # packed.tar too
    assert "3 names beside the parts are not used, e.g. labels.csv" in load_parts(DataConfig(source=str(tmp_path))).layout


def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_images(tmp_path, ("cat", "dog"), each=6)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    os.mkfifo(tmp_path / "more.tar")
    os.mkfifo(tmp_path / "dog" / "pipe")
    (tmp_path / "dog" / "linked.png").symlink_to("pipe")
    monkeypatch.chdir(tmp_path)  # the path of a socket may be 100 characters long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("cat/socket.jpg")
        check = checked(tmp_path)
    assert found(check)["special"][0] == 5
    assert sum(map(sum, check.images.values())) == 12


def test_pipes_in_archives_and_among_archives_are_never_opened(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", ("cat", "dog"), each=6)
    os.mkfifo(tmp_path / "photos" / "cat" / "pipe.png")
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "all.tar", "w") as tar:
        tar.add(tmp_path / "photos", "")
    os.mkfifo(tmp_path / "packed" / "pipe.tar")
    parts = load_parts(DataConfig(source=str(tmp_path / "packed")))
    assert parts.remarks.special == ("cat/pipe.png",)
    assert parts.remarks.beside == ("pipe.tar",)
    with pytest.raises(DataError, match=r"is no folder or \.tar file that exists"):
        load_parts(DataConfig(source=str(tmp_path / "packed" / "pipe.tar")))


def test_a_path_that_is_no_place_of_images_says_what_it_is(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", ("cat", "dog"), each=6)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "identity.json").write_text("{}")
    for name, said in {
        "fotos": rf"is no folder or \.tar file that exists; did you mean {re.escape(str(tmp_path / 'photos'))}\?",
        "photos/cat/000.png": r"is a file, not a folder of one folder per class or a \.tar file",
        "runs": r"runs holds what this tool wrote \(first/identity\.json\); give the folder of the images",
        "runs/first": r"holds what this tool wrote \(identity\.json\)",
    }.items():
        with pytest.raises(DataError, match=said):
            load_parts(DataConfig(source=str(tmp_path / name)))


@pytest.mark.skipif(".avif" not in IMAGE_ENDINGS, reason="this Pillow was built without AVIF")
def test_avif_is_taken_where_pillow_reads_it(tmp_path: Path) -> None:
    draw_images(tmp_path, ("cat", "dog"), each=6)
    Image.new("RGB", (16, 16)).save(tmp_path / "cat" / "new.avif")
    check = checked(tmp_path)
    assert sum(map(sum, check.images.values())) == 13
    assert "unreadable" not in found(check)


def test_folders_that_may_be_folds_are_said_and_found(tmp_path: Path) -> None:
    for fold in ("fold1", "fold2"):
        draw_images(tmp_path / fold, ("circle", "cross"), each=12)
    config = DataConfig(source=str(tmp_path), image_size=16)
    assert "2 classes all hold folders of the same names" in load_parts(config).layout
    assert [(one.kind, one.count) for one in check_data(config).findings if one.kind == "alike"] == [("alike", 2)]
