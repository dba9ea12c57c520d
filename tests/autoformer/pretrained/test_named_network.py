"""Networks by their words: whoever made them, they give the logits of their maker and the preparation he says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from autoformer.errors import CheckpointError, DataError
from autoformer.export.predictor import open_predictor
from autoformer.pretrained.named_network import open_network, timm_preprocessing
from autoformer.profiling.profiles.artefact_costs import costs_of

CLASSES = ["bee", "cow", "emu", "fox", "owl"]
DESCRIBED: dict[str, Any] = {
    "input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "interpolation": "bicubic", "crop_pct": 0.9,
    "crop_mode": "center",
}  # fmt: skip


def network_of_timm(name: str = "test_vit", **arguments: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **({"img_size": 32} if "vit" in name else {}), **arguments).eval()


def written(model: Any, folder: Path, **config: Any) -> Path:
    """The folder that timm writes."""
    data = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "crop_pct": 0.9, "interpolation": "bilinear"}
    timm.models.save_for_hf(
        model, str(folder), model_config={"label_names": CLASSES, **config}, safe_serialization=True, data_config=data
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(network_of_timm(), tmp_path_factory.mktemp("timm") / "folder")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_name_with_a_file_gives_the_logits_of_timm(tmp_path: Path, suffix: str) -> None:
    model, path = network_of_timm(), tmp_path / f"vit.{suffix}"
    save_file(model.state_dict(), path) if suffix == "safetensors" else torch.save(model.state_dict(), path)
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    with open_predictor(f"timm:test_vit@{path}") as predictor, torch.no_grad():
        np.testing.assert_allclose(predictor(images), model(torch.from_numpy(images)).numpy(), rtol=0, atol=1e-6)
    assert predictor.preprocessing == timm_preprocessing({**model.pretrained_cfg, "input_size": (3, 32, 32)}, "")
    assert predictor.classes is None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_vit", {"global_pool": "avg", "depth": 2}),
        ("test_resnet", {}),
        pytest.param("test_vit3", {}, marks=pytest.mark.slow),
    ],
)
def test_a_folder_of_timm_gives_the_logits_of_its_maker(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    model = network_of_timm(name, **arguments)
    named = open_network(str(written(model, tmp_path / "folder")))
    assert named.name == f"timm:{name}"
    assert named.classes == tuple(CLASSES)
    prepared = named.preprocessing
    assert (prepared.mean, prepared.std) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert (prepared.crop_pct, prepared.interpolation) == (0.9, "bilinear")
    images = torch.randn(2, 3, prepared.input_size, prepared.input_size)
    with torch.no_grad():
        torch.testing.assert_close(named.network(images), model(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(47, 61), (80, 33), (32, 32)])
def test_images_are_prepared_as_timm_prepares_them(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=DESCRIBED))(image)
    ours = timm_preprocessing(DESCRIBED, "it")(image)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop_mode": "squash"}, "crop_mode 'squash'"),
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'"),
        ({"input_size": (3, 32, 48)}, "only square ones"),
        ({"input_size": (1, 32, 32)}, "takes 1 channels, and timm knows the mean and standard deviation of 3"),
        ({"std": (0.0, 1.0, 1.0)}, "std must be positive"),
    ],
)
def test_a_preparation_that_cannot_be_repeated_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        timm_preprocessing({**DESCRIBED, **changes}, "it")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "no_such_net"}, "names the architecture 'no_such_net', which is neither ours nor timm's"),
        ({"architecture": "hf_hub:timm/test_vit"}, "neither ours nor timm's"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "'checkpoint_path', which is not an argument of a network"),
        ({"model_args": {"pretrained_cfg": {"url": "http://x"}}}, "'pretrained_cfg', which is not an argument of a network"),
        ({"model_args": {"embed_dim": 1 << 40}}, "embed_dim is 1099511627776, at most 16384"),
        ({"model_args": {"depth": 9999}}, "depth is 9999"),
        ({"model_args": {"embed_dim": 65}}, "timm cannot make test_vit with these model_args"),
        ({"model_args": {"shape": "round"}}, "timm cannot make test_vit with these model_args"),
        ({"model_args": ["depth"]}, "model_args is a list"),
        ({"model_args": {"depth": 3}}, "model.safetensors"),
    ],
)
def test_a_folder_that_was_edited_is_refused_in_one_line(
    folder: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=said) as raised:
        open_network(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_what_holds_no_network_says_what_is_expected(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no weights; expected model.safetensors or pytorch_model.bin"):
        open_network(str(tmp_path))
    with pytest.raises(CheckpointError, match="does not exist; expected the folder of a network"):
        open_network(str(tmp_path / "nowhere"))
    headless = timm.create_model("test_vit", num_classes=0, img_size=32)
    save_file(headless.state_dict(), tmp_path / "headless.safetensors")
    with pytest.raises(CheckpointError, match="has no classifier"):
        open_network(f"timm:test_vit@{tmp_path / 'headless.safetensors'}")


def test_images_of_other_classes_are_refused(folder: Path) -> None:
    named = open_network(str(folder))
    named.check_classes(CLASSES, "it")
    with pytest.raises(DataError, match=r"it knows the classes '[^\[]*' and 2 more, the images .*: autoformer finetune"):
        named.check_classes([*CLASSES[:4], "yak"], "it")
    nameless = replace(named, classes=None)
    nameless.check_classes(["a", "b", "c", "d", "e"], "it")
    with pytest.raises(DataError, match=r"gives logits of 5 classes, the images have 2; .*: autoformer finetune"):
        nameless.check_classes(["a", "b"], "it")


def test_costs_are_those_of_the_network(folder: Path) -> None:
    costs = costs_of(str(folder))
    assert costs.params == sum(weight.numel() for weight in network_of_timm().parameters())
    assert costs.bytes == (folder / "model.safetensors").stat().st_size
    # 4 patches of 16 px and a class token, width 64, 6 blocks with an MLP of 3: products, attention, norms as fvcore has them.
    tokens, width, depth, hidden = 5, 64, 6, 192
    products = tokens * (4 * width * width + 2 * width * hidden) + 2 * tokens**2 * width
    assert costs.flops == 4 * 3 * 16**2 * width + depth * products + (2 * depth + 1) * 5 * tokens * width + 5 * width
