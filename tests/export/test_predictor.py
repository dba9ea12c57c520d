"""What answers for a file or folder, and what does not count as an answer."""

from __future__ import annotations

import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoformer.cli import app
from autoformer.cli.judged_images import record_of
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, DataError
from autoformer.export.predictor import Predictor, open_predictor, unfit_input
from autoformer.files import read_json, write_json


def answering(logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Predictor:
    return Predictor(
        path=Path("some.onnx"), kind="onnxruntime", precision="fp32", preprocessing=None, classes=("a", "b"),
        run=lambda images: logits[: len(images)], max_batch=2,
    )  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_no_answer(bad: float) -> None:
    images = np.zeros((2, 1, 4, 4), np.float32)
    assert answering(np.ones((2, 2), np.float32))(images).shape == (2, 2)
    with pytest.raises(CheckpointError, match=r"some.onnx gives 1 of 2 images logits that are infinite or not a number"):
        answering(np.array([[1, 2], [bad, 2]], np.float32))(images)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (
            (8, 8, 3),
            "of 8 × 8 pixels, channels last; they are prepared channels first here, so put a Transpose with perm 0",
        ),
        ((16, 8, 1), "of 16 × 8 pixels, channels last"),
        ((3, 8, 16), "images of 8 × 16 pixels (height × width); they are prepared square here"),
        ((5, 8, 8), "images of 5 channels; they have 1 or 3 here"),
    ],
)
def test_inputs_that_no_image_is_prepared_for_are_called_what_they_are(shape: tuple[int, ...], said: str) -> None:
    assumed = Preprocessing(8, 3, (0.5,) * 3, (0.2,) * 3)
    foreign = replace(answering(np.ones((2, 2), np.float32)), image_shape=shape)
    with pytest.raises(DataError) as caught:
        foreign.preparation(assumed)
    assert str(caught.value).startswith("some.onnx takes images")
    assert said in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8), (3, None, None), (None, None, None), (None, 8, 8), (3, 3, 3), None])
def test_square_inputs_of_one_or_three_channels_and_open_ones_are_prepared(shape: tuple[int | None, ...] | None) -> None:
    assert unfit_input(shape) is None


def test_an_archived_bundle_says_which_images_it_was_made_for(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("b/bundle.json", "{}")
        archive.writestr("b/manifest.json", '{"data": {"source": "digits"}}')
    record = record_of(str(tmp_path / "b.zip"), "data")
    assert record is not None
    assert record["data"] == {"source": "digits"}


def test_sigterm_ends_a_command_like_an_error_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    left: list[str] = []

    def command(**_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            left.append("cleaned up")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(app, "app", command)
    try:
        with pytest.raises(SystemExit) as stop:
            app.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 143
    assert left == ["cleaned up"]
    assert capsys.readouterr().err.startswith("stopped by SIGTERM")


def test_timms_networks_take_values_beyond_8_bit_as_the_images_have_them() -> None:
    """Files of ours say what they were made for, whatever the images at hand; timm says nothing of 12 bit in files of 16."""
    own, images = Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3), Preprocessing(8, 1, (0.1,), (0.2,), value_range=(0.0, 4095.0))
    logits = answering(np.ones((2, 2), np.float32))
    assert replace(logits, preprocessing=own).preparation(images) == own
    named = replace(logits, preprocessing=own, path=Path("timm:vit_tiny_patch16_224"))
    assert named.preparation(images) == replace(own, value_range=(0.0, 4095.0))
    assert logits.preparation(images) == images  # a foreign file


def test_of_a_run_the_file_that_it_says_to_ship_is_opened(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[1] / "data" / "written_by_0_1" / "run", run)
    report = read_json(run / "report.json")
    for ship, precision in (
        ({"file": "export/model.int8.onnx"}, "int8"), ({"file": "export/model.fp32.onnx"}, "fp32"), ({"file": None}, "fp32"),
        (None, "fp32"), ("x", "fp32"),
    ):  # fmt: skip
        write_json({**report, "ship": ship}, run / "report.json")
        assert open_predictor(run).path.name == f"model.{precision}.onnx"
        assert open_predictor(run, precision="fp32").path.name == "model.fp32.onnx"
