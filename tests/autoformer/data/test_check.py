"""What `data check` finds in folders where every finding was put there by hand, and what training then really does."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from autoformer.data.check import DataCheck, Finding, check_data
from autoformer.data.decoding import ORIENTATION, decode
from autoformer.data.examining import near_pairs, same_groups
from autoformer.data.loading import check_readable, load_parts
from autoformer.data.parts import DataConfig
from autoformer.data.preprocessing import convert
from autoformer.data.splits import group_keys
from autoformer.errors import DataError
from tests.support.commands import command
from tests.support.small_images import draw_images


def scene(seed: int, size: int = 48) -> NDArray[np.uint8]:
    """A smooth colour image of its own, like a photograph in that neighbouring pixels resemble each other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def three_parts(root: Path) -> Path:
    """`train`, `val` and `test`, two classes each, all images different."""
    for number, part in enumerate(("train", "val", "test")):
        for label, name in enumerate(("a", "b")):
            (root / part / name).mkdir(parents=True)
            for index in range(6):
                Image.fromarray(scene(100 * number + 10 * label + index)).save(root / part / name / f"{index}.png")
    return root


def finding(check: DataCheck, kind: str) -> Finding:
    found = [entry for entry in check.findings if entry.kind == kind]
    assert len(found) == 1, [entry.kind for entry in check.findings]
    return found[0]


def test_clean_parts_are_counted_and_only_their_small_size_is_told(tmp_path: Path) -> None:
    check = check_data(DataConfig(source=str(three_parts(tmp_path))))
    assert check.images == {"train": (6, 6), "search": (6, 6), "test": (6, 6)}
    assert [entry.kind for entry in check.findings] == ["few"]
    assert check.is_usable


def test_the_same_pixels_in_another_format_are_one_image_wherever_they_lie(tmp_path: Path) -> None:
    three_parts(tmp_path)
    original = Image.open(tmp_path / "train" / "a" / "0.png")
    original.save(tmp_path / "test" / "a" / "again.bmp")
    Image.open(tmp_path / "train" / "a" / "1.png").save(tmp_path / "train" / "a" / "twice.tiff")
    Image.open(tmp_path / "val" / "b" / "3.png").save(tmp_path / "val" / "a" / "other.webp", lossless=True)
    check = check_data(DataConfig(source=str(tmp_path)))
    assert finding(check, "duplicates across").examples == ("train: a/0.png = test: a/again.bmp",)
    assert finding(check, "duplicates within").count == 2
    assert finding(check, "label conflicts").examples == ("search: a/other.webp (a) = search: b/3.png (b)",)
    assert check.is_usable


def test_an_image_stored_again_smaller_brighter_and_lossy_is_a_near_duplicate(tmp_path: Path) -> None:
    three_parts(tmp_path)
    original = Image.open(tmp_path / "train" / "a" / "2.png")
    changed = original.resize((40, 40)).point(lambda value: 20 + 0.8 * value)
    changed.save(tmp_path / "test" / "b" / "changed.jpg", quality=70)
    check = check_data(DataConfig(source=str(tmp_path)))
    found = finding(check, "near duplicates across")
    assert found.examples == ("train: a/2.png (a) = test: b/changed.jpg (b)",)
    assert "1 of them under different classes" in found.text
    without = check_data(DataConfig(source=str(tmp_path)), near=False)
    assert "near duplicates across" not in [entry.kind for entry in without.findings]


def test_near_pairs_are_those_that_pearson_correlation_names() -> None:
    rng = np.random.default_rng(0)
    images = np.stack([np.asarray(Image.fromarray(scene(seed)).resize((16, 16))) for seed in range(40)])
    noisy = np.clip(images[:20] + rng.normal(0, 6, (20, 16, 16, 3)), 0, 255).astype(np.uint8)
    every = np.concatenate([images, noisy])
    grey = (every @ np.array([0.299, 0.587, 0.114])).reshape(60, 256)
    correlation = np.corrcoef(grey)
    expected = {(i, j) for i in range(40) for j in range(40, 60) if correlation[i, j] >= 0.99}
    assert set(near_pairs(every, range(40), range(40, 60))) == expected
    assert expected == {(index, 40 + index) for index in range(20)}


def test_flat_images_are_not_compared() -> None:
    flat = np.full((2, 16, 16, 3), 200, dtype=np.uint8)
    flat[1] += 1
    assert list(near_pairs(flat, [0], [1])) == []


def test_equal_keys_are_grouped_in_order() -> None:
    assert same_groups(["x", "y", "x", "z", "y", "x"]) == [(0, 2, 5), (1, 4)]


def odd_files(folder: Path) -> None:
    """One file of each odd kind."""
    image = Image.fromarray(scene(7))
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    image.save(folder / "rotated.jpg", exif=turned)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray((scene(8)[..., 0].astype(np.uint16)) * 257).save(folder / "deep.png")
    Image.fromarray(scene(9)[..., 0].astype(np.float32)).save(folder / "float.tiff")
    clear = image.convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    clear.save(folder / "transparent.png")
    image.convert("RGBA").save(folder / "opaque.png")
    image.save(folder / "animated.gif", save_all=True, append_images=[Image.fromarray(scene(10))])
    Image.fromarray(scene(11, 200)[:40]).save(folder / "long.png")
    Image.fromarray(scene(12, 12)).save(folder / "small.png")
    Image.fromarray(scene(13)[..., 0]).save(folder / "grey.png")
    Image.new("RGB", (4100, 4000)).save(folder / "large.png")


def test_every_odd_kind_is_named_with_what_is_done_about_it(tmp_path: Path) -> None:
    three_parts(tmp_path)
    odd_files(tmp_path / "train" / "a")
    check = check_data(DataConfig(source=str(tmp_path)), near=False)
    for kind in ("rotated", "cmyk", "float", "transparent", "animated", "long", "small", "large"):
        found = finding(check, kind)
        assert (found.count, found.examples[0].partition(".")[0]) == (1, f"train: a/{kind}")
        assert found.consequence
    assert finding(check, "deep").examples == ("train: a/deep.png",)
    assert finding(check, "grey").examples == ("train: a/deep.png", "train: a/float.tiff", "train: a/grey.png")
    assert check.is_usable


def test_sixteen_bits_of_a_colour_file_are_seen_in_its_header(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)  # 16 × 16, 16 bit, RGB
    rows = b"".join(b"\0" + bytes(range(96)) for _ in range(16))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    three_parts(tmp_path)
    (tmp_path / "val" / "a" / "deep.png").write_bytes(content)
    found = finding(check_data(DataConfig(source=str(tmp_path)), near=False), "deep")
    assert found.examples == ("search: a/deep.png",)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_in_exif_is_applied(format: str, orientation: int) -> None:
    """The transforms of the EXIF standard (2.32, tag 274), from stored rows and columns to what is seen."""
    upright = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }  # fmt: skip
    stored = scene(3, 32)[:16]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    Image.fromarray(stored).save(file, format, exif=exif, lossless=True, quality=100, subsampling=0)
    seen = np.asarray(convert(decode(file.getvalue(), "file"), 3)).astype(int)
    expected = upright[orientation](stored).astype(int)
    assert seen.shape == expected.shape
    assert np.abs(seen - expected).max() <= (8 if format == "JPEG" else 0)


def test_cmyk_becomes_the_colour_that_the_inks_give() -> None:
    inks = np.zeros((8, 8, 4), dtype=np.uint8)
    inks[..., 0] = 255  # cyan takes the red away
    image = Image.frombytes("CMYK", (8, 8), inks.tobytes())
    assert np.asarray(convert(image, 3))[0, 0].tolist() == [0, 255, 255]


def test_unreadable_files_are_all_named_and_refuse_unless_they_may_be_skipped(tmp_path: Path) -> None:
    three_parts(tmp_path)
    for name in ("train/a/0.png", "val/b/2.png", "test/a/4.png"):
        (tmp_path / name).write_bytes(b"no image")
    config = DataConfig(source=str(tmp_path))
    check = check_data(config)
    assert finding(check, "unreadable").examples == ("train: a/0.png", "search: b/2.png", "test: a/4.png")
    for usable, changes in ((False, {}), (True, {"unreadable": "skip"}), (False, {"unreadable": "skip", "max_unreadable": 2})):
        changed = config.model_copy(update=changes)
        assert check_data(changed).is_usable is usable
        if usable:
            check_readable(load_parts(changed))
        else:
            with pytest.raises(DataError, match="cannot be read"):
                check_readable(load_parts(changed))


def test_groups_across_parts_are_named(tmp_path: Path) -> None:
    three_parts(tmp_path)
    Image.fromarray(scene(500)).save(tmp_path / "test" / "a" / "0b.png")
    check = check_data(DataConfig(source=str(tmp_path), group_by=r"\w/(\d)"))
    found = finding(check, "groups across")
    assert found.count == 6
    assert found.examples[0] == "'0': 2 in train, 2 in search, 3 in test"
    assert group_keys(["a/0b.png"], r"\w/(\d)") == ["0"]


def test_small_and_unequal_classes_are_told(tmp_path: Path) -> None:
    draw_images(tmp_path, ("many",), each=140)
    draw_images(tmp_path / "x", ("few",), each=8)
    (tmp_path / "x" / "few").rename(tmp_path / "few")
    (tmp_path / "x").rmdir()
    check = check_data(DataConfig(source=str(tmp_path)), near=False)
    assert check.images["train"] == (5, 77)  # 8 and 140, less 15 % and 30 % of each
    assert finding(check, "few").examples == ("few (5)",)
    assert "77 images, the smallest 5" in finding(check, "imbalance").text


def test_the_command_ends_with_code_1_where_training_would_be_refused(tmp_path: Path) -> None:
    three_parts(tmp_path)
    answer = command("data", "check", tmp_path, "--json", "--quiet")
    assert (answer.code, answer.json["is_usable"], answer.json["images"]["train"]) == (0, True, [6, 6])
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"no image")
    answer = command("data", "check", tmp_path, "--quiet")
    assert answer.code == 1
    assert "train: a/0.png" in answer.out
    assert "not usable" in answer.out
    assert command("data", "check", tmp_path, "--quiet", "--set", "data.unreadable=skip").code == 0
    answer = command("data", "check", tmp_path / "nowhere", "--json", "--quiet")
    assert answer.code == 1
    assert "is no folder or .tar file that exists, nor 'digits'" in answer.json["findings"][0]["text"]


def test_the_command_reads_the_test_part_without_scoring_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the test part was asked for in its ledger's name")

    monkeypatch.setattr("autoformer.data.parts.TestPart.read", refuse)
    answer = command("data", "check", three_parts(tmp_path), "--json")
    assert sum(json.loads(answer.out)["images"]["test"]) == 12
    assert "look at images: 36/36" in answer.err


def test_the_command_cuts_by_group(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=60)
    answer = command("data", "check", tmp_path, "--json", "--quiet", "--no-near", "--group-by", r"\w/\d\d")
    assert "in whole groups (12 by" in answer.json["layout"]
    answer = command("data", "check", tmp_path, "--json", "--quiet", "--group-by", "scene")
    assert answer.code == 1
    assert command("data", "check", tmp_path, "--group-by", "(scene").error.count("not a regular expression") == 1
