"""Normalisation folded into the patch embedding: the same function of the pixels, or a refusal."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, ExportError
from autoformer.export.networks.folding import PixelInput, fold_normalisation, network_images
from autoformer.files import read_json
from autoformer.networks.folders import load_subnet, save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
COLOUR = Preprocessing(image_size=16, in_chans=3, **IMAGENET)  # type: ignore[arg-type]


def large(network: nn.Module) -> nn.Module:
    """Weights that give logits of several units; fresh networks are near zero, where everything agrees."""
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3)
    return network.eval()


def subnet(size: int = 16, channels: int = 3) -> Subnet:
    space = SearchSpace.preset("micro", image_size=size, in_chans=channels, num_classes=10)
    made = large(Subnet.from_space(space, space.smallest))
    assert isinstance(made, Subnet)
    return made


def timms(**settings: Any) -> VisionTransformer:
    """A small one of timm's, with a normalisation of its own behind a patch embedding without bias."""
    made = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=2, num_classes=10, pre_norm=True, **settings
    )
    assert made.patch_embed.proj.bias is None
    large(made)
    return made


def photo_pieces(size: int = 16) -> NDArray[np.uint8]:
    """Squares cut from a photograph, uint8 [n, size, size, 3]."""
    photo = load_sample_image("china.jpg")
    rows, columns = photo.shape[0] // size, photo.shape[1] // size
    cut = photo[: rows * size, : columns * size].reshape(rows, size, columns, size, 3).swapaxes(1, 2)
    return np.ascontiguousarray(cut.reshape(-1, size, size, 3)[::7])


def run(network: nn.Module, images: NDArray[Any]) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return found


def distance(given: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest difference, as a share of the largest logit."""
    assert np.abs(expected).max() > 1, "logits near zero would prove nothing"
    return float(np.abs(given - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("make", [subnet, timms])
def test_the_folded_network_is_the_same_function_in_exact_arithmetic(make: Any) -> None:
    network = make().double()
    pixels = torch.from_numpy(photo_pieces()[:8]).permute(0, 3, 1, 2).double()
    mean, std = (torch.tensor(IMAGENET[name], dtype=torch.float64)[:, None, None] for name in ("mean", "std"))
    expected = run(network, ((pixels / 255 - mean) / std).numpy())
    assert distance(run(fold_normalisation(network, COLOUR), pixels.numpy()), expected) < 1e-12


@pytest.mark.parametrize("make", [subnet, timms])
def test_pixels_of_a_photograph_give_the_logits_of_the_normalised_ones(make: Any) -> None:
    network, pixels, taking = make(), photo_pieces(), replace(COLOUR, input_type="uint8")
    wrapped = PixelInput(fold_normalisation(network, taking), taking).eval()
    assert distance(run(wrapped, taking.prepare(pixels)), run(network, COLOUR.prepare(pixels))) < 1e-5


def test_digits_give_the_logits_of_the_normalised_ones() -> None:
    parts = load_parts(DataConfig(source="digits"))
    taking = replace(parts.preprocessing, input_type="uint8")
    pixels = parts.search.pixels(taking)
    network = subnet(8, 1)
    wrapped = PixelInput(fold_normalisation(network, taking), taking).eval()
    assert distance(run(wrapped, taking.prepare(pixels)), run(network, parts.preprocessing.prepare(pixels))) < 1e-5


def test_a_network_of_a_smaller_resolution_resizes_the_pixels_itself() -> None:
    floats = replace(COLOUR, image_size=21, network_size=16)
    taking, pixels, network = replace(floats, input_type="uint8"), photo_pieces(21), subnet()
    assert (taking.input_size, floats.input_size) == (21, 16)
    wrapped = PixelInput(fold_normalisation(network, taking), taking).eval()
    assert distance(run(wrapped, taking.prepare(pixels)), run(network, floats.prepare(pixels))) < 1e-5
    assert distance(run(network, network_images(taking.prepare(pixels), taking)), run(network, floats.prepare(pixels))) == 0


def test_the_network_that_was_given_stays_as_it_is() -> None:
    network = subnet()
    before = copy.deepcopy(network.state_dict())
    assert not torch.equal(
        fold_normalisation(network, COLOUR).state_dict()["patch_embed.proj.weight"], before["patch_embed.proj.weight"]
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def with_stem(stem: nn.Module) -> nn.Module:
    network: nn.Module = timms()
    network.patch_embed.proj = stem  # type: ignore[union-attr]
    return network


class Kin(nn.Conv2d):
    """Changes its weights as it runs, as weight standardisation does."""


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (lambda: with_stem(nn.Conv2d(3, 24, 4, 4, padding=2)), "pads images"),
        (lambda: with_stem(nn.Conv2d(3, 24, 4, 4, padding=(0, 1))), "pads images"),
        (lambda: timms(dynamic_img_pad=True), "pads images"),
        (lambda: with_stem(Kin(3, 24, 4, 4)), "one Conv2d"),
        (lambda: with_stem(nn.Linear(3, 24)), "one Conv2d"),
        (lambda: nn.Linear(3, 4), "one Conv2d"),
        (lambda: with_stem(nn.Conv2d(1, 24, 4, 4)), "takes 1 channels"),
        (lambda: with_stem(nn.Conv2d(3, 24, 4, 4, groups=3)), "in 3 groups"),
    ],
    ids=["padding", "padding of a side", "dynamic padding", "kin of Conv2d", "no Conv2d", "no patch embedding", "grey", "groups"],
)
def test_what_cannot_be_folded_exactly_is_refused_in_a_line(network: Any, why: str) -> None:
    with pytest.raises(ExportError, match=why) as caught:
        fold_normalisation(network(), COLOUR)
    assert "float32 input" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_grow_out_of_range_are_refused() -> None:
    with pytest.raises(ExportError, match="infinite"):
        fold_normalisation(subnet(), replace(COLOUR, std=(1e-45, 1.0, 1.0)))


# --- what a preprocessing says -----------------------------------------------------------------------------------


def test_pixels_are_prepared_as_they_are_with_channels_first() -> None:
    pixels = photo_pieces()
    given = replace(COLOUR, input_type="uint8").prepare(pixels)
    assert (str(given.dtype), given.shape, given.flags.c_contiguous) == ("uint8", (len(pixels), 3, 16, 16), True)
    assert (given[5, 2, 3, 4], given[1, 0, 15, 0]) == (pixels[5, 3, 4, 2], pixels[1, 15, 0, 0])


def test_the_input_type_is_recorded_and_float32_goes_unsaid() -> None:
    taking = replace(COLOUR, input_type="uint8")
    assert Preprocessing.from_dict(taking.to_dict()) == taking
    assert "input_type" not in COLOUR.to_dict(), "records, and the digests of runs, would be others than before"
    assert Preprocessing.from_dict(COLOUR.to_dict()).input_type == "float32"
    with pytest.raises(CheckpointError, match="input_type must be one of float32, uint8, got 'float16'"):
        Preprocessing.from_dict({**COLOUR.to_dict(), "input_type": "float16"})
    with pytest.raises(CheckpointError, match=r"preprocessing.input_type is \['uint8'\], expected a text"):
        Preprocessing.from_dict({**COLOUR.to_dict(), "input_type": ["uint8"]})


def test_a_folder_of_a_torch_network_takes_no_pixels(tmp_path: Path) -> None:
    taking, classes = replace(COLOUR, input_type="uint8"), [str(number) for number in range(10)]
    with pytest.raises(CheckpointError, match="the preprocessing gives uint8 images, a torch network takes float32"):
        save_subnet(subnet(), tmp_path / "one", preprocessing=taking, classes=classes, record={})
    save_subnet(subnet(), tmp_path / "two", preprocessing=COLOUR, classes=classes, record={})
    config = tmp_path / "two" / "config.json"
    values = read_json(config)
    config.write_text(json.dumps({**values, "preprocessing": {**values["preprocessing"], "input_type": "uint8"}}))
    with pytest.raises(CheckpointError, match="gives uint8 images"):
        load_subnet(tmp_path / "two")
