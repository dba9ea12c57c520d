"""The shapes of stored weights tell classes, input channels and image size, or what to give instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from autoformer.errors import CheckpointError
from autoformer.export.predictor import open_predictor
from autoformer.pretrained.weight_shapes import sizes_of

FILE = Path("weights.pth")


def shapes(name: str, **arguments: Any) -> dict[str, torch.Tensor]:
    """The weights of a network as a training leaves them, without values."""
    with torch.device("meta"):
        return dict(timm.create_model(name, **{"num_classes": 4, **arguments}).state_dict())


def told(name: str, **arguments: Any) -> dict[str, Any]:
    return sizes_of(name, shapes(name, **arguments), FILE, {})


SEVERAL_HEADS = ["deit_tiny_distilled_patch16_224", "levit_128s", "repvit_m0_9", "efficientformer_l1", "swiftformer_xs"]
SEVERAL_HEADS += ["efficientformerv2_s0", "pit_ti_distilled_224", "crossvit_tiny_240"]


@pytest.mark.parametrize("name", [SEVERAL_HEADS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in SEVERAL_HEADS[1:])])
def test_networks_of_two_classifiers_and_stems_tell_their_classes(name: str) -> None:
    assert told(name) == {"num_classes": 4, "in_chans": 3}


SIZES = {"eva02_tiny_patch14_224": 112, "vit_tiny_r_s16_p8_224": 128}
MORE_SIZES = {
    "vit_tiny_patch16_224": 96, "deit_tiny_distilled_patch16_224": 96, "levit_128s": 128, "beit_base_patch16_224": 112,
    "vit_small_patch14_reg4_dinov2": 98, "cait_xxs24_224": 96, "crossvit_tiny_240": 480, "mvitv2_tiny": 128,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size"), [*SIZES.items(), *(pytest.param(*entry, marks=pytest.mark.slow) for entry in MORE_SIZES.items())]
)
def test_the_image_size_shows_in_what_is_learned_for_positions(name: str, size: int) -> None:
    assert told(name, img_size=size) == {"num_classes": 4, "in_chans": 3, "img_size": size}


@pytest.mark.slow
def test_weights_that_fit_several_image_sizes_say_what_to_give() -> None:
    with pytest.raises(CheckpointError, match=r"of images of 100, .*112.* and 128 px; .*give a folder whose config.json"):
        told("swin_tiny_patch4_window7_224", img_size=112)


def test_other_shapes_say_what_does_not_fit_and_what_to_give() -> None:
    for name, arguments in (("vit_tiny_patch16_224", {"img_size": (96, 64)}), ("test_vit", {"embed_dim": 96})):
        with pytest.raises(CheckpointError, match=r"misshapen .*other arguments than timm's .* give a folder whose config.json"):
            told(name, **arguments)


def test_an_image_size_that_is_given_is_not_searched_for() -> None:
    weights = shapes("test_vit", img_size=96)
    assert sizes_of("test_vit", weights, FILE, {"img_size": 96})["img_size"] == 96
    with pytest.raises(CheckpointError, match="misshapen pos_embed"):
        sizes_of("test_vit", weights, FILE, {"img_size": 64})


def test_weights_without_a_classifier_give_a_network_without_one() -> None:
    assert told("test_vit", num_classes=0, in_chans=1) == {"num_classes": 0, "in_chans": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), [("levit_128s", {}), ("vit_tiny_r_s16_p8_224", {"img_size": 128})])
def test_such_a_file_gives_the_logits_of_timm(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4, **arguments).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    side = arguments.get("img_size", 224)
    images = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    with open_predictor(f"timm:{name}@{tmp_path / 'weights.pth'}") as predictor, torch.no_grad():
        assert predictor.preprocessing is not None
        assert predictor.preprocessing.image_size == side
        np.testing.assert_allclose(predictor(images), model(torch.from_numpy(images)).numpy(), atol=1e-5)
