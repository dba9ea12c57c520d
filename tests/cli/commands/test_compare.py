"""What `compare` says of networks of timm that cannot be had, before any image is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import command


@pytest.fixture(autouse=True)
def _no_hub_and_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoformer.pretrained.timm_models.silence_of_hub", lambda: "no answer")
    monkeypatch.setattr("autoformer.pretrained.timm_models.is_stored", lambda place: False)

    def read(*_: object) -> None:
        pytest.fail("images were read")

    monkeypatch.setattr("autoformer.cli.commands.compare.images_for", read)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("timm:mobilenetv3_small_100", "or train it from nothing, autoformer finetune timm:mobilenetv3_small_100@scratch"),
        ("timm:mobilenetv3_small_100@scratch", "has learned nothing to compare; train it first, autoformer finetune timm:mob"),
        ("timm:mobilenetv3_smal_100", "timm has no model 'mobilenetv3_smal_100'; did you mean mobilenetv3_small_100"),
    ],
)
def test_a_network_of_timm_that_cannot_be_had_is_told_with_the_way_to_one(words: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    answer = command("compare", tmp_path / "net.onnx", words, "--data", tmp_path, "--quiet")
    assert answer.code != 0
    assert said in answer.error
    assert "smal_100@scratch" not in answer.error, "what timm does not know cannot be trained"
