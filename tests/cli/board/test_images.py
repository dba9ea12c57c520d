"""Images on a board: the same numbers as on the host from files beyond 8 bit, and one line for what cannot be used."""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from autoformer.cli.board.bundle_program import main
from autoformer.data.preprocessing import Preprocessing
from autoformer.export.bundle import write_bundle
from autoformer.export.expected import ExpectedResults
from autoformer.export.manifest import Artefact, Manifest, sha256_of
from autoformer.export.program import modules_of
from tests.support.commands import command
from tests.support.fuzzing import CLASSES, small_model
from tests.support.image_files import every_kind, png

DEEP = Preprocessing(8, 1, (0.5,), (3.0,), value_range=(-24.0, 4071.0))
ENTRY = "autoformer.cli.board.bundle_program"
VALUES = np.random.default_rng(5).integers(-24, 4072, (8, 8), dtype=np.int32)


def made(folder: Path, input_type: Literal["float32", "uint8"]) -> Path:
    """A bundle of one product with weights."""
    source, preprocessing = folder / "source", replace(DEEP, input_type=input_type)
    source.mkdir()
    file = small_model(source / "model.fp32.onnx", preprocessing)
    artefact = Artefact(
        format="onnx", precision="fp32", status="exported", reason="made here", file=file.name, sha256=sha256_of(file),
        bytes=file.stat().st_size, input_name="images", input_shape=("batch", 1, 8, 8), output_name="logits",
    )  # fmt: skip
    Manifest((artefact,), CLASSES, preprocessing, params=192).save(source)
    pixels = np.zeros((2, 8, 8, 1), np.uint8)
    expected = ExpectedResults(name="deep", labels=(0, 1))
    return write_bundle(source, folder / "bundle", expected, pixels=pixels, program=b"not run here")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("deep"), "float32")


def probabilities(bundle: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> list[float]:
    """What the program of the bundle says, by class."""
    assert main(["--bundle", str(bundle), "predict", str(image), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    return [entry["probability"] for entry in sorted(found, key=lambda entry: str(entry["name"]))]


@pytest.mark.parametrize("input_type", ["float32", "uint8"])
def test_values_beyond_8_bit_give_the_answer_of_their_8_bit_rendering_on_board_and_host(
    input_type: Literal["float32", "uint8"], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = made(tmp_path, input_type)
    stored = json.loads((bundle / "preprocessing.json").read_text())
    assert stored["value_range"] == [-24.0, 4071.0]
    assert "values -24…4071 of files beyond 8 bit become 0…255" in (bundle / "README.md").read_text()
    eight = np.array([[round(255 * (int(value) + 24) / 4095) for value in row] for row in VALUES], np.uint8)  # by hand
    Image.fromarray(VALUES).save(tmp_path / "deep.tif")
    Image.fromarray(VALUES.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(eight).save(tmp_path / "eight.png")
    Image.fromarray((VALUES.clip(0) >> 8).astype(np.uint8)).save(tmp_path / "crushed.png")  # what 16 bits would be
    expected = probabilities(bundle, tmp_path / "eight.png", capsys)
    assert max(abs(np.subtract(expected, probabilities(bundle, tmp_path / "crushed.png", capsys)))) > 0.01
    for name in ("deep.tif", "float.tif"):
        assert probabilities(bundle, tmp_path / name, capsys) == expected
        said = json.loads(command("predict", bundle, tmp_path / name, "--json").out)[0]["classes"]
        host = [entry["probability"] for entry in sorted(said, key=lambda entry: str(entry["name"]))]
        np.testing.assert_allclose(host, expected, atol=1e-6)


ROWS = b"".join(b"\0" + bytes(8) for _ in range(8))
UNUSABLE = {
    "dds.jpg": b"DDS " + struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44) + struct.pack("<2I", 32, 4) + b"XXXX" * 16,
    "empty.png": b"",
    "cut.gif": every_kind()["still.gif"][:300],
    "text.png": b"not an image",
    "bomb.png": png(60000, 60000, 8, 0, ROWS),
    "none.png": png(0, 0, 8, 0, ROWS),
}


@pytest.mark.parametrize("name", [*UNUSABLE, "missing.png", "folder", "nan.tif", "pipe.png"])
def test_what_cannot_be_used_is_one_line_with_its_name(
    name: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name in UNUSABLE:
        path.write_bytes(UNUSABLE[name])
    elif name == "folder":
        path.mkdir()
    elif name == "pipe.png":
        os.mkfifo(path)  # reading it would wait for ever
    elif name == "nan.tif":
        Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path)
    assert main(["--bundle", str(bundle), "predict", str(path)]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {path}")
    assert line.count("\n") == 1
    answer = command("predict", bundle, path)
    assert answer.code == 2
    assert str(path) in answer.error


def test_what_cannot_be_read_in_a_folder_is_passed_over_with_a_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(photos / "good.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    assert main(["--bundle", str(bundle), "predict", str(photos), "--top", "1"]) == 0
    told = capsys.readouterr()
    assert told.err.startswith(f"not asked about: {photos / 'broken.jpg'}")
    assert re.fullmatch(rf"{photos / 'good.png'}: \w+ [0-9.]+ %\n", told.out)
    (photos / "good.png").unlink()
    assert main(["--bundle", str(bundle), "predict", str(photos)]) == 2
    assert capsys.readouterr().err.endswith(f"error: {photos}: no image can be read\n")


def test_broken_exif_on_good_pixels_is_predicted_as_stored(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(VALUES.astype(np.uint8)).save(tmp_path / "good.jpg")
    good = (tmp_path / "good.jpg").read_bytes()
    block = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\x05\0\0\0\1\0\0\0\0"
    (tmp_path / "broken.jpg").write_bytes(good[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + good[2:])
    expected = probabilities(bundle, tmp_path / "good.jpg", capsys)
    assert probabilities(bundle, tmp_path / "broken.jpg", capsys) == expected


def test_the_program_holds_what_opens_images() -> None:
    found = set(modules_of(ENTRY))
    assert {"autoformer.data.decoding", "autoformer.data.value_range"} <= found
    assert "autoformer.data.images" not in found


def test_a_folder_of_pictures_is_answered_picture_by_picture(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "below").mkdir()
    for name in ("b.png", "below/a.PNG"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").touch()
    assert main(["--bundle", str(bundle), "predict", str(tmp_path), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == [str(tmp_path / "b.png"), str(tmp_path / "below" / "a.PNG")]
    (tmp_path / "empty").mkdir()
    assert main(["--bundle", str(bundle), "predict", str(tmp_path / "empty")]) == 2
    assert "holds no images; expected image files, or folders of them" in capsys.readouterr().err
