"""Networks of timm to train further: fitted to images and classes as timm fits them, and to no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from autoformer.data.loading import split_dataset
from autoformer.data.parts import DataConfig, DataParts
from autoformer.data.preprocessing import Normalisation
from autoformer.errors import CheckpointError
from autoformer.pretrained.classifier import classifier_from, usual_size, without_classifier

COLOURS = ("red", "green", "blue")


def parts_of(size: int, mode: str = "RGB") -> DataParts:
    """Images of one colour each."""
    images = [(Image.new("RGB", (size, size), colour).convert(mode), label) for label, colour in enumerate(COLOURS)] * 12
    return split_dataset(images, classes=COLOURS, config=DataConfig(image_size=size))


def weights_of(name: str, path: Path, **arguments: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    torch.save(model.state_dict(), path)
    return model


@pytest.mark.parametrize(("size", "mode"), [(32, "RGB"), (48, "RGB"), (32, "L")])
def test_weights_of_a_file_are_fitted_to_size_and_channels_as_timm_fits_them(tmp_path: Path, size: int, mode: str) -> None:
    weights_of("test_vit", tmp_path / "vit.pth", img_size=32, num_classes=7)
    made, _, new_head = classifier_from(f"timm:test_vit@{tmp_path / 'vit.pth'}", parts_of(size, mode))
    channels = len(mode) // 2 * 2 + 1
    overlay = {"file": str(tmp_path / "vit.pth"), "num_classes": 7}
    theirs = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay=overlay, img_size=size, in_chans=channels, num_classes=3
    ).eval()
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours: Any = made.network
        torch.testing.assert_close(ours.forward_features(images), theirs.forward_features(images), rtol=0, atol=1e-6)
        assert new_head
        assert not ours(images).any(), "a new head is one of zeros"


def test_a_network_with_two_classifiers_gets_zeros_in_both() -> None:
    made, _, new_head = classifier_from("timm:levit_128s@scratch", parts_of(64))
    assert new_head
    assert made.arguments == {"num_classes": 3, "in_chans": 3, "img_size": 64}
    layers: Any = without_classifier(made).network.get_classifier()  # type: ignore[operator]
    assert len(layers) == 2
    assert not any(layer.linear.weight.any() for layer in layers)


def test_images_are_normalised_as_the_weights_know_them_and_otherwise_as_measured(tmp_path: Path) -> None:
    model = weights_of("test_resnet", tmp_path / "resnet.pth", num_classes=7)
    parts = parts_of(32)
    words = f"timm:test_resnet@{tmp_path / 'resnet.pth'}"
    known, _, _ = classifier_from(words, parts)
    told = model.pretrained_cfg
    assert known.preprocessing(parts).normalisation == Normalisation(told["mean"], told["std"])
    fresh, _, _ = classifier_from("timm:test_resnet@scratch", parts)
    assert fresh.preprocessing(parts) == parts.preprocessing
    grey = parts_of(32, "L")
    assert classifier_from(words, grey)[0].preprocessing(grey) == grey.preprocessing, "three numbers do not fit one channel"
    assert usual_size(words) == told["input_size"][-1]
    assert usual_size("timm:test_resnet@scratch") is None


def test_fresh_weights_are_a_function_of_the_seed() -> None:
    parts = parts_of(32)
    first, again, other = (
        classifier_from("timm:test_convnext@scratch", parts, seed)[0].network.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_stochastic_depth_is_applied_where_the_network_has_it() -> None:
    parts = parts_of(64)
    made, _, _ = classifier_from("timm:test_resnet@scratch", parts)
    rates = [module.drop_prob for module in made.with_drop_path(0.2).modules() if isinstance(module, timm.layers.DropPath)]
    assert max(rates) == pytest.approx(0.2)
    without = replace(made, name="ghostnet_050")
    assert not without.has_drop_path
    assert without.with_drop_path(0.2) is made.network


@pytest.mark.parametrize(
    ("words", "size", "told"),
    [
        ("timm:resnot18@scratch", 32, "did you mean"),
        ("timm:test_vit@scratch", 30, "30 px"),
        ("timm:test_vit@missing.pth", 32, "does not exist"),
    ],
)
def test_what_cannot_be_trained_on_these_images_is_refused_in_one_line(words: str, size: int, told: str) -> None:
    with pytest.raises(CheckpointError, match=told) as raised:
        classifier_from(words, parts_of(size))
    assert len(str(raised.value).splitlines()) == 1
