"""How one image is opened: formats, orientation, damaged metadata, and whatever else Pillow raises."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from autoformer.data import decoding
from autoformer.data.decoding import decode, has_frames, open_image, orientation_of, upright
from autoformer.data.images import DatasetImages
from autoformer.data.loading import check_readable, load_parts, split_dataset
from autoformer.data.parts import DataConfig
from autoformer.data.preprocessing import Preprocessing, convert
from autoformer.errors import DataError
from tests.support.image_files import XMP, every_kind, exif, png, saved
from tests.support.small_images import draw_images

PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10  # 4 high, 6 wide
GREY = Image.fromarray(PIXELS)
DDS = b"DDS " + struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44) + struct.pack("<2I", 32, 4) + b"XXXX" + bytes(60)
OTHERS = (
    struct.error, KeyError, IndexError, ZeroDivisionError, EOFError, OverflowError, zlib.error, RuntimeError, MemoryError,
    AttributeError, AssertionError, TypeError, UnicodeDecodeError, RecursionError, Image.DecompressionBombError,
)  # fmt: skip


def cut_animation() -> bytes:
    """A GIF that ends within its second frame."""
    first, second = (Image.fromarray(np.full((24, 24), shade, np.uint8)).quantize(4) for shade in (30, 200))
    whole = saved(first, "GIF", save_all=True, append_images=[second])
    at = whole.index(b"\x2c", len(saved(first, "GIF")) - 1)  # the second frame's descriptor
    return whole[: at + 8]


def tagged_tiff() -> bytes:
    """A TIFF turned by EXIF, with a tag of a kind that Pillow reads and cannot write again."""
    whole = bytearray(saved(GREY, "TIFF", tiffinfo={274: 6, 271: "maker"}))
    at = whole.index(struct.pack("<HH", 271, 2))
    whole[at : at + 8] = struct.pack("<HHI", 271, 13, 1)  # IFD, of one number
    return bytes(whole)


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: error.__name__)
def test_whatever_pillow_raises_is_one_line_with_the_files_name(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: ImageFile.ImageFile) -> None:
        raise error("utf-8", b"", 0, 1, "bad") if error is UnicodeDecodeError else error("some\nthing")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(DataError, match=r"^photo\.jpg cannot be read as an image \([^\n]+\); repair or remove it$"):
        decode(saved(GREY, "JPEG"), "photo.jpg")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 99, DDS, saved(GREY, "TGA"), saved(GREY, "PCX"), saved(GREY.convert("RGB"), "JPEG2000")]
)
def test_only_formats_that_are_named_are_opened(content: bytes) -> None:
    if content:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            is_an_image = content not in (b"\0" * 99, DDS) and Image.open(io.BytesIO(content)).size == (6, 4)
        assert is_an_image or content in (b"\0" * 99, DDS)
    with pytest.raises(DataError, match=r"it is not an image of JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM"):
        decode(content, "photo.jpg")


def test_every_named_format_opens_under_any_name() -> None:
    opened = {decode(content, "photo").format for content in every_kind().values()}
    assert {"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"} <= opened


def test_a_format_that_this_pillow_lacks_hinders_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "FORMATS", ("FUTURE", *decoding.FORMATS))
    decoding._formats.cache_clear()
    try:
        assert decode(saved(GREY, "PNG"), "photo.png").size == (6, 4)
        with pytest.raises(DataError, match="not an image of JPEG"):
            decode(DDS, "photo.dds")
    finally:
        decoding._formats.cache_clear()


# --- orientation and other metadata ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exif.jpg", "xmp.jpg", "rgb.png", "xmp.png", "lossy.webp", "exif.tif", "rgb.avif"])
def test_the_orientation_of_exif_or_xmp_turns_pixels_and_no_metadata(name: str) -> None:
    if name not in every_kind():
        pytest.skip("this Pillow reads no AVIF")
    image = decode(every_kind()[name], name)
    assert orientation_of(image) == 6
    stored = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(convert(image, 3)), np.rot90(stored, -1))  # 6: the top of the scene is on the right
    assert orientation_of(image) == 6  # the image in hand is as it was


def test_a_turned_tiff_whose_metadata_cannot_be_written_again_is_turned_once() -> None:
    assert np.array_equal(np.asarray(upright(decode(tagged_tiff(), "a.tif"))), np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0MM\0*",
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\x05\0\0\0\1\0\0\0\0",  # a fraction that lies nowhere
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\1\x0b\0" * 9,
        b"Exif\0\0XX" + b"\xff" * 30,
        b"http://ns.adobe.com/xap/1.0/\0" + b"\xff\xfe" * 20,
    ],
)
def test_broken_metadata_on_good_pixels_leave_them_as_stored(block: bytes, tmp_path: Path) -> None:
    plain = saved(GREY, "JPEG", quality=95)
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    assert np.array_equal(np.asarray(convert(decode(content, "a.jpg"), 1)), np.asarray(convert(decode(plain, "b.jpg"), 1)))
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    for kind, held in ((b"eXIf", block[6:]), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + block)):
        assert np.array_equal(np.asarray(convert(decode(png(6, 4, 8, 0, rows, (kind, held)), "a.png"), 1)), PIXELS)


def test_an_orientation_that_is_no_number_from_1_to_8_means_upright() -> None:
    for value in (0, 9, 300):
        assert orientation_of(decode(saved(GREY, "JPEG", exif=exif(value)), "a.jpg")) == 1
    text = XMP.replace('"6"', '"9"')
    assert orientation_of(decode(saved(GREY, "JPEG", xmp=text.encode()), "a.jpg")) == 1


# --- what is cut -------------------------------------------------------------------------------------------------


def test_the_first_frame_of_a_cut_animation_is_taken() -> None:
    image = decode(cut_animation(), "a.gif")
    with pytest.raises((IndexError, struct.error)):
        image.is_animated  # type: ignore[attr-defined]  # noqa: B018
    image = decode(cut_animation(), "a.gif")
    assert np.asarray(convert(image, 1)).tolist() == np.full((24, 24), 30).tolist()
    assert has_frames(image)


@pytest.mark.parametrize("name", ["rgb.png", "exif.jpg", "frames.gif", "lossless.webp", "rgb.bmp", "deep.tif", "rgb.ppm"])
def test_a_cut_image_is_refused(name: str) -> None:
    content = every_kind()[name]
    at = len(content) // 2 if name != "frames.gif" else 700
    with pytest.raises(DataError, match="cannot be read as an image"):
        decode(content[:at], name)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "is no file"), (tmp_path / "b.png", "does not exist")):
        with pytest.raises(DataError, match=f"{path} {said}; expected an image file"):
            open_image(path)


def test_what_cannot_be_resized_is_refused_before_it_takes_the_memory() -> None:
    strip = Image.new("L", (1, 60000))
    with pytest.raises(DataError, match="1 × 60000 pixels is too long"):
        Preprocessing(224, 1, (0.5,), (0.5,)).pixels(strip)
    assert Preprocessing(8, 1, (0.5,), (0.5,)).pixels(Image.new("L", (4, 400))).shape == (8, 8, 1)


# --- remarks -----------------------------------------------------------------------------------------------------


def test_remarks_of_pillow_reach_nobody_in_any_thread_and_those_of_others_still_do() -> None:
    block = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\1\2\0\xff\xff\0\0\x08\0\0\0"  # a text longer than the file: Pillow warns
    plain = saved(GREY, "JPEG")
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(content))
    assert remarks
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:  # warnings are errors here
        found = list(threads.map(lambda number: convert(decode(content, str(number)), 1).size, range(200)))
    assert found == [(6, 4)] * 200
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="ours"), decoding.without_remarks():
        warnings.warn("ours", UserWarning, stacklevel=1)


def test_pillow_logs_nothing_for_people_either(capfd: pytest.CaptureFixture[str]) -> None:
    """TIFF with more samples than can be decoded, which Pillow would say on standard error."""
    whole = bytearray(saved(GREY.convert("RGB"), "TIFF"))
    at = whole.index(struct.pack("<HHI", 277, 3, 1))
    whole[at + 8] = 9
    with pytest.raises(DataError):
        decode(bytes(whole), "a.tif")
    assert capfd.readouterr().err == ""


# --- in a data set -----------------------------------------------------------------------------------------------


def test_files_that_pillow_chokes_on_are_skipped_or_stop_the_training_in_one_line(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=8)
    rows = b"".join(b"\0" + bytes(6) for _ in range(4))
    bomb = png(6, 4, 8, 0, rows, (b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(1 << 21))))
    (tmp_path / "a" / "bomb.png").write_bytes(bomb)
    (tmp_path / "b" / "dds.jpg").write_bytes(DDS)
    (tmp_path / "b" / "cut.gif").write_bytes(cut_animation())
    (tmp_path / "b" / "tag.tif").write_bytes(tagged_tiff())
    config = DataConfig(source=str(tmp_path), image_size=8, unreadable="skip")
    parts = check_readable(load_parts(config))
    assert sorted(name for names in parts.unreadable.values() for name in names) == ["a/bomb.png", "b/dds.jpg"]
    with pytest.raises(DataError, match=r"(bomb\.png|dds\.jpg) cannot be read as an image"):
        check_readable(load_parts(config.model_copy(update={"unreadable": "stop"})))


def test_the_module_that_boards_run_imports_the_standard_library_alone() -> None:
    import subprocess

    program = "import sys, autoformer.data.decoding, autoformer.data.value_range; print(*({'PIL', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


class Failing:
    """A data set object whose reader lets Pillow's errors through for one image."""

    targets = (0, 1) * 12

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 3:
            raise struct.error("unpack requires a buffer")
        return GREY, self.targets[index]


def test_data_set_objects_that_let_pillows_errors_through_are_one_line_too(tmp_path: Path) -> None:
    made = Failing()
    with pytest.raises(DataError, match=r"^image 3 of Failing cannot be read \(error: unpack requires a buffer\), or leave out "):
        check_readable(split_dataset(made, config=DataConfig(image_size=8)))
    assert split_dataset(made, config=DataConfig(image_size=8, unreadable="skip")).train

    def stream() -> Iterator[tuple[Image.Image, int]]:
        yield GREY, 0
        raise KeyError("orientation")

    with pytest.raises(DataError, match=r"^image 1 of generator cannot be read \(KeyError: 'orientation'\)$"):
        split_dataset(stream())
    (tmp_path / "late.jpg").write_bytes(every_kind()["grey.jpg"][:300])
    with Image.open(tmp_path / "late.jpg") as late, pytest.raises(DataError, match="image 0 of list cannot be read"):
        DatasetImages([(late, 0)], [0]).open(0)  # opened, and only read now
