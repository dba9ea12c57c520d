"""`Subnet` as an ordinary timm model: its interface, its folders, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from autoformer.architecture import Architecture, SubnetGeometry
from autoformer.errors import ArchitectureError, CheckpointError, OutputExistsError
from autoformer.files import read_json
from autoformer.networks.folders import load_subnet, save_subnet
from autoformer.networks.relative_position import Tables
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.profiling.insides.fvcore_counts import count_by_operator
from autoformer.tensors import write_tensors
from tests.support.small_spaces import shrunk
from tests.support.subnets import CLASSES, PREPROCESSING, damaged, images, make_subnet

# --- folders -----------------------------------------------------------------------------------------------------


def test_a_saved_network_comes_back_with_its_preprocessing_and_classes(folder: Path) -> None:
    subnet, preprocessing, classes = load_subnet(folder)
    assert (preprocessing, classes) == (PREPROCESSING, CLASSES)
    assert not subnet.training
    assert torch.equal(subnet(images()), make_subnet()(images()))
    assert Architecture.from_dict(read_json(folder / "architecture.json")) == subnet.architecture
    assert read_json(folder / "subnet.json") == {"made_by": "a test"}


@pytest.mark.parametrize(
    "changes",
    [
        {"relative_position": False},
        {"absolute_position": False, "pooling": "token"},
        {"in_chans": 1, "norm_eps": 1e-6, "max_relative_position": 2},
        {"image_sizes": (8, 16)},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_every_kind_of_network_survives_its_folder(tmp_path: Path, changes: dict[str, Any]) -> None:
    space = replace(shrunk("tiny"), depths=(2,), **{"image_sizes": (16,), **changes})
    subnet = Subnet.from_space(space, space.largest).eval()
    half = (0.5,) * space.in_chans
    preprocessing = replace(PREPROCESSING, in_chans=space.in_chans, mean=half, std=half)
    save_subnet(subnet, tmp_path / "out", preprocessing=preprocessing, classes=CLASSES, record={})
    loaded, *_ = load_subnet(tmp_path / "out")
    assert loaded.architecture == subnet.architecture
    assert loaded.space == subnet.space
    x = images(channels=space.in_chans)
    assert torch.equal(loaded(x), subnet(x))


def test_timm_opens_the_folder_with_weights_and_data_settings(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert isinstance(model, Subnet)
    assert torch.equal(model(images()), make_subnet()(images()))
    data = timm.data.resolve_model_data_config(model)
    assert data["input_size"] == (3, 16, 16)
    assert (tuple(data["mean"]), tuple(data["std"])) == (PREPROCESSING.mean, PREPROCESSING.std)
    assert (data["interpolation"], data["crop_pct"]) == ("bilinear", 0.9)


def test_timm_changes_classes_channels_and_image_size_of_a_folder(folder: Path) -> None:
    original = make_subnet()
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7, in_chans=1, img_size=24).eval()
    assert model(images(2, 24, 1)).shape == (2, 7)
    assert torch.equal(model.state_dict()["blocks.1.mlp.fc1.weight"], original.state_dict()["blocks.1.mlp.fc1.weight"])
    original.set_input_size(24)
    assert original.pos_embed is not None
    torch.testing.assert_close(model.pos_embed, original.pos_embed)
    for name in Tables._fields:
        assert torch.equal(getattr(model.blocks[0].attn, name), getattr(original.blocks[0].attn, name))


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("autoformer.networks.folders.write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        save_subnet(make_subnet(), tmp_path / "out", preprocessing=PREPROCESSING, classes=CLASSES, record={})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OutputExistsError, match="already exists"):
        save_subnet(make_subnet(seed=1), folder, preprocessing=PREPROCESSING, classes=CLASSES, record={})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_class_names_must_be_as_many_as_outputs(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="2 class names for a network of 5 classes"):
        save_subnet(make_subnet(), tmp_path / "out", preprocessing=PREPROCESSING, classes=("a", "b"), record={})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_weights_are_refused_with_the_file_named(folder: Path, tmp_path: Path, share: float) -> None:
    path = damaged(folder, tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated") as caught:
        load_subnet(path.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.bias": None}, r"missing head\.bias"),
        ({"head.extra": torch.zeros(1)}, r"unexpected head\.extra"),
        ({"head.bias": torch.zeros(4)}, r"misshapen head\.bias is \[4\], expected \[5\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder: Path, tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    copied = damaged(folder, tmp_path)
    tensors = {**make_subnet().state_dict(), **change}
    write_tensors({k: v for k, v in tensors.items() if v is not None}, copied / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_subnet(copied)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected a JSON object"),
        ('{"architecture": "vit_tiny_patch16_224"}', "holds a 'vit_tiny_patch16_224'"),
        ('{"architecture": "autoformer_subnet"}', "does not describe a subnet"),
        ('{"architecture": "autoformer_subnet", "model_args": {"widths": 3}}', "does not describe a subnet"),
    ],
)
def test_a_foreign_config_is_refused(folder: Path, tmp_path: Path, text: str, message: str) -> None:
    copied = damaged(folder, tmp_path)
    (copied / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_subnet(copied)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent"):
        load_subnet(tmp_path / "absent")


# --- timm's interface --------------------------------------------------------------------------------------------


def test_the_head_of_the_features_gives_the_logits() -> None:
    subnet = make_subnet()
    features = subnet.forward_features(images())
    assert features.shape == (2, 17, subnet.num_features)
    assert torch.equal(subnet.forward_head(features), subnet(images()))
    pooled = subnet.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features[:, 1:].mean(1))
    torch.testing.assert_close(subnet.head(pooled), subnet(images()))


@pytest.mark.parametrize(("pool", "shape"), [("avg", (2, 9)), ("token", (2, 9)), ("", (2, 17, 9))])
def test_the_classifier_and_the_pooling_can_be_replaced(pool: str, shape: tuple[int, ...]) -> None:
    subnet = make_subnet()
    subnet.reset_classifier(9, pool)
    assert subnet(images()).shape == shape
    assert subnet.num_classes == 9
    assert subnet.get_classifier() is subnet.head


def test_without_classes_the_features_come_out() -> None:
    subnet = make_subnet()
    pooled = subnet.forward_head(subnet.forward_features(images()), pre_logits=True)
    subnet.reset_classifier(0)
    assert isinstance(subnet.get_classifier(), nn.Identity)
    assert torch.equal(subnet(images()), pooled)


def test_intermediate_features_are_those_of_the_blocks() -> None:
    subnet = make_subnet()
    outputs: list[Tensor] = []
    handles = [block.register_forward_hook(lambda *arguments: outputs.append(arguments[-1])) for block in subnet.blocks]
    final = subnet.forward_features(images())
    for handle in handles:
        handle.remove()
    last, found = subnet.forward_intermediates(images(), return_prefix_tokens=True)
    assert torch.equal(last, final)
    assert len(found) == 3
    for (grid, prefix), output in zip(found, outputs, strict=True):
        assert grid.shape == (2, subnet.embed_dim, 4, 4)
        assert torch.equal(grid.flatten(2).transpose(1, 2), output[:, 1:])
        assert torch.equal(prefix, output[:, :1])
    (only,) = subnet.forward_intermediates(images(), [1], norm=True, stop_early=True, output_fmt="NLC", intermediates_only=True)
    assert torch.equal(only, subnet.norm(outputs[1])[:, 1:])
    two = subnet.get_intermediate_layers(images(), 2, reshape=True, norm=True)
    torch.testing.assert_close(two[1], final[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
    assert [layer.shape for layer in subnet.get_intermediate_layers(images(), [0])] == [(2, 16, subnet.embed_dim)]


def test_learning_rates_and_decay_by_layer_are_those_of_timms_own_vision_transformer() -> None:
    def settings(model: nn.Module) -> dict[str, tuple[float, float]]:
        optimiser = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
        names = {id(weight): name for name, weight in model.named_parameters()}
        return {
            names[id(weight)]: (group["lr_scale"], group["weight_decay"])
            for group in optimiser.param_groups
            for weight in group["params"]
        }

    reference = VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=5)
    found, expected = settings(make_subnet()), settings(reference)
    tables = {name: value for name, value in found.items() if name.rpartition(".")[2] in Tables._fields}
    assert {name: value for name, value in found.items() if name not in tables} == expected
    for name, value in tables.items():
        assert value == expected[f"{name.rpartition('.')[0]}.proj.weight"]
    assert len(tables) == 3 * 4


def test_checkpointing_changes_memory_and_not_the_gradients() -> None:
    subnet = make_subnet().train()
    x = images()

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(subnet(x).square().sum(), list(subnet.parameters())))

    expected = gradients()
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    subnet.blocks[0].register_forward_pre_hook(count)
    subnet.set_grad_checkpointing()
    for found, wanted in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert calls == 2  # once forward, once again on the way back
    subnet.set_grad_checkpointing(False)
    gradients()
    assert calls == 3


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels_is_possible(channels: int) -> None:
    subnet = timm.create_model(
        "autoformer_subnet", embed_dim=24, num_heads=(1, 2), mlp_ratio=(1.0, 2.0), head_dim=8, img_size=8, patch_size=4,
        in_chans=channels, num_classes=3,
    )  # fmt: skip
    assert subnet(images(2, 8, channels)).shape == (2, 3)


def test_copies_pickles_and_compiled_networks_give_the_same_logits() -> None:
    subnet = make_subnet()
    expected = subnet(images())
    assert torch.equal(copy.deepcopy(subnet)(images()), expected)
    assert torch.equal(pickle.loads(pickle.dumps(subnet))(images()), expected)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(subnet, backend="eager")(images()), expected, rtol=1e-4, atol=1e-4)


def test_contradictory_sizes_are_refused() -> None:
    sizes: dict[str, Any] = {"embed_dim": 24, "num_heads": (1, 2), "mlp_ratio": (1.0, 2.0), "img_size": 16, "patch_size": 4}
    with pytest.raises(ArchitectureError, match="global_pool is 'map'"):
        timm.create_model("autoformer_subnet", **sizes, global_pool="map")
    with pytest.raises(ArchitectureError, match="2 entries in num_heads and 1 in mlp_ratio"):
        timm.create_model("autoformer_subnet", **{**sizes, "mlp_ratio": (1.0,)})
    with pytest.raises(ArchitectureError, match="super_depth must be from 2 to"):
        timm.create_model("autoformer_subnet", **sizes, super_depth=1)
    architecture, geometry = SubnetGeometry.of_arguments({**sizes, "searched_size": 16})
    assert Subnet(architecture, geometry).model_args == {**geometry.arguments(architecture), "trained_grid": 4}
    with pytest.raises(ArchitectureError, match="an architecture for images of 16 px in a geometry for"):
        Subnet(architecture, replace(geometry, img_size=(32, 32)))


def test_drop_path_rates_are_those_of_the_supernets_depth() -> None:
    space = replace(shrunk("tiny"), depths=(2, 5))
    supernet = Supernet(space, drop_path_rate=0.4)
    subnet = Subnet.from_supernet(supernet, space.smallest, drop_path_rate=0.4)
    assert isinstance(subnet.blocks[0].drop_path1, nn.Identity)
    assert getattr(subnet.blocks[1].drop_path2, "drop_prob", None) == pytest.approx(0.1)  # the second of five


# --- parts of a network ------------------------------------------------------------------------------------------


def test_timm_takes_feature_maps_of_a_folder(folder: Path) -> None:
    subnet = make_subnet()
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=(0, -2)).eval()
    expected = subnet.forward_intermediates(images(), [0, 1], intermediates_only=True)
    for found, wanted in zip(model(images()), expected, strict=True):
        assert torch.equal(found, wanted)
    assert model.feature_info.channels() == [subnet.embed_dim] * 2
    assert model.feature_info.reduction() == [4, 4]
    assert len(model.model.blocks) == 2  # the third is needed for neither


def test_a_pruned_network_gives_the_same_features_and_counts_what_is_left() -> None:
    subnet = make_subnet()
    expected = subnet.forward_intermediates(images(), [1], intermediates_only=True)
    assert subnet.prune_intermediate_layers([1]) == [1]
    assert torch.equal(subnet.forward_intermediates(images(), [1], intermediates_only=True)[0], expected[0])
    assert subnet.architecture.depth == 2
    assert subnet.cost.params == sum(weight.numel() for weight in subnet.parameters())
    subnet.prune_intermediate_layers([1], prune_norm=True)
    with pytest.raises(ArchitectureError, match="has no last norm"):
        _ = subnet.cost


def test_intermediate_features_come_by_name_too() -> None:
    subnet = make_subnet()
    final, found = subnet.forward_intermediates(images(), 2, return_prefix_tokens=True)
    named = subnet.forward_intermediates(images(), 2, return_prefix_tokens=True, output_dict=True)
    assert torch.equal(named["image_features"], final)
    for index, (grid, prefix) in enumerate(found):
        assert torch.equal(named["image_intermediates"][index], grid)
        assert torch.equal(named["image_intermediates_prefix"][index], prefix)
    only = subnet.forward_intermediates(images(), intermediates_only=True, output_dict=True)
    assert set(only) == {"image_intermediates"}


@pytest.mark.parametrize(("classes", "pool"), [(0, "avg"), (0, "token"), (0, ""), (7, "")])
def test_networks_without_classes_or_pooling_are_counted_as_they_are(classes: int, pool: str) -> None:
    subnet = make_subnet()
    subnet.reset_classifier(classes, pool)
    counted = count_by_operator(subnet, (3, 16, 16))
    assert (subnet.cost.params, subnet.cost.flops) == (counted.params, counted.flops)
    if pool == "":
        with pytest.raises(ArchitectureError, match="in no space"):
            _ = subnet.space


def test_a_network_without_classes_survives_its_folder(tmp_path: Path) -> None:
    subnet = make_subnet()
    subnet.reset_classifier(0)
    save_subnet(subnet, tmp_path / "net", preprocessing=PREPROCESSING, classes=(), record={})
    loaded, _, classes = load_subnet(tmp_path / "net")
    assert classes == ()
    assert torch.equal(loaded(images()), subnet(images()))


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan")])
def test_impossible_rates_of_stochastic_depth_are_refused(rate: float) -> None:
    space = shrunk("tiny")
    with pytest.raises(ArchitectureError, match="drop_path_rate must be from 0 to below 1"):
        Subnet.from_space(space, space.smallest, drop_path_rate=rate)
    with pytest.raises(ArchitectureError, match="drop_path_rate must be from 0 to below 1"):
        make_subnet().set_drop_path(rate)


def test_a_star_import_gives_the_class_and_not_only_timms_entry() -> None:
    names: dict[str, Any] = {}
    exec("from autoformer.networks.subnet import *", names)
    assert names["Subnet"] is Subnet
    assert "autoformer_subnet" in names
