"""Values beyond 8 bit: 10 and 12 bit in files of 16, signed and floating point, in every one-band mode that Pillow has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from autoformer.data.check import check_data
from autoformer.data.decoding import open_image
from autoformer.data.loading import check_readable, load_parts, parts_of_record, without_recorded
from autoformer.data.parts import DataConfig, DataParts, describe_parts
from autoformer.data.preprocessing import Preprocessing, convert
from autoformer.data.value_range import Values, measured_range
from autoformer.errors import CheckpointError, DataError
from autoformer.training.augment import AugmentConfig, TrainingImages

SIDE, EACH = 24, 12
OLD = Preprocessing(SIDE, 1, (0.5,), (0.25,))


def grey(values: NDArray[Any], mode: str | None = None) -> Image.Image:
    """An image of these numbers, big-endian where the mode says so."""
    if mode == "I;16B":
        return Image.frombytes(mode, values.shape[::-1], values.astype(">u2").tobytes())
    return Image.fromarray(values)


def stored(
    root: Path, top: float, dtype: str = "uint16", bottom: float = 0, ending: str = "tif", mode: str | None = None
) -> Path:
    """Two classes of images of random numbers from `bottom` to `top`, both of which occur in each."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for index in range(EACH):
            values = rng.uniform(bottom, top, (SIDE, SIDE))
            values[0, :2] = bottom, top
            grey(values.astype(dtype), mode).save(root / name / f"{index}.{ending}")
    return root


def parts_of(root: Path, **changes: Any) -> DataParts:
    return load_parts(DataConfig(source=str(root), **changes))


KINDS = [
    ("10 bit", 1023, "uint16", 0, "png", None),
    ("12 bit", 4095, "uint16", 0, "png", None),
    ("14 bit in TIFF", 16383, "uint16", 0, "tif", None),
    ("16 bit", 65535, "uint16", 0, "png", None),
    ("12 bit big-endian", 4095, "uint16", 0, "tif", "I;16B"),
    ("signed, as tomographs store", 3071, "int32", -1024, "tif", None),
    ("floats from 0 to 1", 1.0, "float32", 0, "tif", None),
    ("small negative floats", 1e-3, "float32", -1e-3, "tif", None),
    ("floats in PFM", 7.5, "float32", 2.5, "ppm", None),
]


@pytest.mark.parametrize(("kind", "top", "dtype", "bottom", "ending", "mode"), KINDS, ids=[kind[0] for kind in KINDS])
def test_values_of_any_depth_become_256_levels_of_one_channel(
    kind: str, top: float, dtype: str, bottom: float, ending: str, mode: str | None, tmp_path: Path
) -> None:
    parts = parts_of(stored(tmp_path, top, dtype, bottom, ending, mode))
    assert (parts.preprocessing.in_chans, parts.preprocessing.image_size) == (1, SIDE)
    np.testing.assert_allclose(parts.preprocessing.value_range or (), (bottom, top), rtol=1e-6)
    pixels = parts.train.pixels(parts.preprocessing)
    assert (len(np.unique(pixels)), pixels.min(), pixels.max()) == (256, 0, 255)
    assert parts.preprocessing.mean[0] == pytest.approx(0.5, abs=0.01)  # uniform from 0 to 1
    assert parts.preprocessing.std[0] == pytest.approx(1 / 12**0.5, abs=0.01)
    lines = list(describe_parts(parts))
    assert f"values {bottom:g}…{top:g} of files beyond 8 bit become 0…255" in lines[-1]


def test_the_mapping_is_linear_rounded_and_clipped() -> None:
    values = np.array([[-5, 0, 100, 150, 151, 200, 300, 65535]] * 8, np.int32)
    found = np.asarray(convert(grey(values), 1, (100.0, 200.0)))[0]
    assert found.tolist() == [0, 0, 0, 128, 130, 255, 255, 255]  # 127.5 to even, 130.05
    big = grey(values.clip(0).astype(np.uint16), "I;16B")
    assert np.asarray(convert(big, 3, (100.0, 200.0)))[0, :, 1].tolist() == found.tolist()
    assert np.asarray(convert(grey(values.astype(np.float32)), 1, (100.0, 200.0)))[0].tolist() == found.tolist()


def test_training_reads_the_same_numbers_with_and_without_random_crops(tmp_path: Path) -> None:
    parts = parts_of(stored(tmp_path, 4095))
    plain = parts.train.pixels(parts.preprocessing)[0]
    for crop in ("center", "random_resized"):
        config = AugmentConfig(
            crop=crop, crop_scale=(1.0, 1.0), rotate_degrees=0, translate=0, scale=(1.0, 1.0)
        )  # fmt: skip
        pixels, _ = TrainingImages(parts.train, parts.preprocessing, config)[0, 3]
        assert pixels.max() > 200  # a 16th of that when 12 bits are taken for 16
        assert crop != "center" or np.array_equal(pixels[0], plain[..., 0])


# --- which range -------------------------------------------------------------------------------------------------


def some(*images: NDArray[Any]) -> tuple[float, ...]:
    """The range of these; () where there is none."""
    return measured_range([Values.of(grey(image)) for image in images]) or ()


def test_defective_pixels_do_not_stretch_the_range() -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(200, 4096, (40, 40), dtype=np.uint16) for _ in range(20)]
    for image in images:
        image[3, 7], image[5, 5] = 65535, 0  # one hot and one dead pixel in every image
    low, high = some(*images)
    assert low == 0  # close enough to be kept
    assert 4050 <= high <= 4095


def test_the_largest_value_is_kept_where_it_costs_less_than_half_of_the_levels() -> None:
    flat = np.linspace(1000, 2000, 1600).reshape(40, 40).astype(np.uint16)
    bright, brighter = flat.copy(), flat.copy()
    bright[0, 0], brighter[0, 0] = 2400, 2600  # the middle is 1000 wide, half of it 500
    assert some(bright) == (1000, 2400)
    assert some(brighter) == pytest.approx((1000, 1998), abs=2)


def test_infinite_ranges_and_single_values() -> None:
    assert not some()
    assert not some(np.full((9, 9), 7, np.uint16))
    mostly = np.zeros((40, 40), np.uint16)
    mostly[0, 0] = 4000  # nearly everything has one value, so there is no middle to compare with
    assert some(mostly) == (0, 4000)
    largest = float(np.finfo(np.float32).max)
    ends = np.array([[-largest, largest]] * 4, np.float32)
    assert np.asarray(convert(grey(ends), 1, (-largest, largest)))[0].tolist() == [0, 255]
    assert some(ends) == (-largest, largest)


def test_the_range_is_that_of_train_alone_and_data_check_names_images_beyond_it(tmp_path: Path) -> None:
    for part, top in (("train", 1023), ("val", 1023), ("test", 65535)):
        stored(tmp_path / part, top)
    parts = parts_of(tmp_path)
    assert parts.preprocessing.value_range == (0.0, 1023.0)
    found = {finding.kind: finding for finding in check_data(DataConfig(source=str(tmp_path)), near=False).findings}
    assert found["clipped"].count == 2 * EACH
    assert all(name.startswith("test: ") for name in found["clipped"].examples)
    assert found["deep"].count == 6 * EACH
    assert "0…1023" in found["deep"].consequence


# --- what earlier versions wrote ---------------------------------------------------------------------------------


def test_without_a_range_deep_values_mean_what_they_meant() -> None:
    values = np.array([[0, 255, 256, 4095, 65535]] * 5, np.uint16)
    assert np.asarray(convert(grey(values), 1))[0].tolist() == [0, 0, 1, 15, 255]
    floats = np.array([[-1, 0.5, 1.9, 254, 300]] * 5, np.float32)
    assert np.asarray(convert(grey(floats), 1))[0].tolist() == [0, 0, 1, 254, 255]


def test_the_json_of_a_preprocessing_without_a_range_is_that_of_earlier_versions() -> None:
    assert set(OLD.to_dict()) == {"image_size", "in_chans", "mean", "std", "interpolation", "crop_pct", "network_size"}
    wide = replace(OLD, value_range=(-1024.0, 3071.0))
    assert Preprocessing.from_dict(json.loads(json.dumps(wide.to_dict()))) == wide
    impossible: list[Any] = [[1, 1], [2, 1], [0], [0, "x"], [0, 1, 2], [0, 1e400], [-1e308, 1e308], "ab", {}]
    for bad in impossible:
        with pytest.raises(CheckpointError, match="value_range"):
            Preprocessing.from_dict({**OLD.to_dict(), "value_range": bad})


def test_images_of_8_bit_are_read_as_ever(tmp_path: Path) -> None:
    parts = parts_of(stored(tmp_path, 255, "uint8", ending="png"))
    assert parts.preprocessing.value_range is None
    assert "value_range" not in parts.record["preprocessing"]
    image = parts.train[0][0]
    assert np.array_equal(replace(OLD, value_range=(0.0, 10.0)).pixels(image)[..., 0], np.asarray(image))


def test_a_record_from_before_ranges_were_measured_keeps_its_preprocessing(tmp_path: Path) -> None:
    """It had three channels for floats and big-endian numbers, too."""
    parts = parts_of(stored(tmp_path / "a", 4095, mode="I;16B"))
    record = json.loads(json.dumps(parts.record))
    assert parts_of_record(record).preprocessing == parts.preprocessing
    old = Preprocessing(SIDE, 3, (0.03,) * 3, (0.01,) * 3)
    record["preprocessing"] = old.to_dict()
    assert parts_of_record(record).preprocessing == old
    assert without_recorded(parts, record).preprocessing == old  # as an unfinished training goes on
    assert without_recorded(parts, {"unreadable": {}}).preprocessing == parts.preprocessing
    elsewhere = stored(tmp_path / "b", 4095)
    assert parts_of_record(record, str(elsewhere)).preprocessing == old
    with pytest.raises(CheckpointError):
        parts_of_record({**record, "preprocessing": {"image_size": "x"}})


# --- grey, and what is no number ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I", "I;16", "I;16B", "F"])
def test_every_one_band_mode_is_one_channel(mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(8):
            values = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint16)
            image = grey(values, mode) if mode == "I;16B" else Image.fromarray(values.astype(np.uint8)).convert(mode)
            image.save(tmp_path / name / f"{index}.tif")
            assert open_image(tmp_path / name / f"{index}.tif").mode == mode
    assert parts_of(tmp_path).preprocessing.in_chans == 1


def test_images_that_hold_no_numbers_stop_training_or_are_skipped_and_are_a_finding(tmp_path: Path) -> None:
    root = stored(tmp_path, 1.0, "float32")
    for name, value in (("nan", np.nan), ("inf", -np.inf)):
        values = np.full((SIDE, SIDE), 0.5, np.float32)
        values[2, 3] = value
        grey(values).save(root / "a" / f"{name}.tif")
    with pytest.raises(DataError, match=r"a/(nan|inf)\.tif: 1 of 576 values are infinite or not a number"):
        check_readable(parts_of(root))
    parts = check_readable(parts_of(root, unreadable="skip"))
    assert sorted(name for names in parts.unreadable.values() for name in names) == ["a/inf.tif", "a/nan.tif"]
    np.testing.assert_allclose(parts.preprocessing.value_range or (), (0, 1), rtol=1e-6)
    found = {finding.kind: finding for finding in check_data(DataConfig(source=str(root)), near=False).findings}
    assert (found["not finite"].count, found["not finite"].refuses) == (2, True)
    assert "unreadable" not in found


def test_images_of_one_value_are_a_finding(tmp_path: Path) -> None:
    root = stored(tmp_path, 4095, ending="png")
    grey(np.full((SIDE, SIDE), 1234, np.uint16)).save(root / "a" / "deep.png")
    Image.new("RGB", (SIDE, SIDE), (9, 80, 200)).save(root / "b" / "colour.png")
    Image.new("L", (SIDE, SIDE), 0).save(root / "b" / "black.png")
    found = {finding.kind: finding for finding in check_data(DataConfig(source=str(root)), near=False).findings}
    assert sorted(name.partition("/")[2] for name in found["constant"].examples) == ["black.png", "colour.png", "deep.png"]
    assert not found["constant"].refuses


def test_colour_of_16_bit_that_uses_the_lower_bits_alone_is_a_finding(tmp_path: Path) -> None:
    from tests.support.image_files import png

    root = stored(tmp_path, 255, "uint8", ending="png")
    low = np.random.default_rng(3).integers(0, 4096, (SIDE, SIDE * 3)).astype(">u2")
    for name, values in (("dark", low), ("bright", low * 16)):
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        (root / "a" / f"{name}.png").write_bytes(png(SIDE, SIDE, 16, 2, rows))
    found = {finding.kind: finding for finding in check_data(DataConfig(source=str(root)), near=False).findings}
    assert [name.partition("/")[2] for name in found["dark"].examples] == ["dark.png"]
    assert found["deep"].count == 2


def test_large_images_are_mapped_in_pieces_to_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(40 * 7, dtype=np.uint16).reshape(40, 7) * 16
    whole = np.asarray(convert(grey(values), 1, (0.0, 4095.0)))
    for at_once in (1, 7, 50):
        monkeypatch.setattr("autoformer.data.value_range.AT_ONCE", at_once)
        assert np.array_equal(np.asarray(convert(grey(values), 1, (0.0, 4095.0))), whole)
