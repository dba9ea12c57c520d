"""A subnet with a convolutional stem, kernels and a halved grid as an ordinary timm model: its interface and its folders."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor

from autoformer.architecture import Architecture
from autoformer.errors import ArchitectureError, CheckpointError
from autoformer.files import read_json
from autoformer.networks.folders import extract, load_subnet, load_supernet, save_subnet, save_supernet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.profiling.insides.fvcore_counts import count_by_operator
from tests.support.grids_and_stems import Stem, asking, network_asked_for
from tests.support.subnets import CLASSES, PREPROCESSING, images, make_subnet
from tests.support.supernets import images_for, largest_difference, randomised

STEMS: tuple[Stem, ...] = ("patch", "conv")
# Of the configs that the last version without these choices wrote.
WRITTEN_BEFORE = {
    "plain": "b3996de5e1b21d1662d71ac77fc193e79409f7777416188dbb6c8d404f5cb815",
    "token": "02f5388c0c4e3479041c6c556c7cd404815bbb77cb17d0e39851859f11cda11f",
}


def made(stem: Stem = "conv", *, seed: int = 0, pool_after: int = 2, **changes: Any) -> Subnet:
    """Images of 16 px in patches of 4 px, three blocks, every weight random; the grid of 4 × 4 is halved before the last."""
    space = asking(stem, **changes)
    subnet = Subnet.from_space(space, network_asked_for(stem, pool_after=pool_after))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in subnet.parameters():
            weight.normal_(0, 0.3, generator=generator)
    return subnet.eval().requires_grad_(False)


def saved(subnet: Subnet, folder: Path) -> Path:
    half = (0.5,) * subnet.in_chans
    preprocessing = replace(PREPROCESSING, in_chans=subnet.in_chans, mean=half, std=half)
    save_subnet(subnet, folder, preprocessing=preprocessing, classes=CLASSES, record={})
    return folder


# --- folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"class_token": False}, {"in_chans": 1}], ids=lambda changes: ", ".join(changes))
@pytest.mark.parametrize("stem", STEMS)
def test_a_network_survives_its_folder_and_timms_reading_of_it(stem: Stem, changes: dict[str, Any], tmp_path: Path) -> None:
    subnet = made(stem, **changes)
    folder = saved(subnet, tmp_path / "out")
    x = images(channels=subnet.in_chans)
    loaded, *_ = load_subnet(folder)
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    networks: list[Any] = [loaded, by_timm]
    for other in networks:
        assert (other.architecture, other.space, other.cost) == (subnet.architecture, subnet.space, subnet.cost)
        assert torch.equal(other(x), subnet(x))
    assert Architecture.from_dict(read_json(folder / "architecture.json")) == subnet.architecture
    arguments = subnet.model_args
    assert timm.create_model("autoformer_subnet", **arguments).model_args == arguments


@pytest.mark.parametrize("usual", [{"stem": "patch"}, {"stem_dim": 32}, {"class_token": True}], ids=str)
def test_timm_takes_what_a_config_leaves_out_as_well(usual: dict[str, Any]) -> None:
    sizes: dict[str, Any] = {"num_heads": (3, 3), "mlp_ratio": (2.0, 2.0), "img_size": 32, "patch_size": 8}
    left_out = timm.create_model("autoformer_subnet", **sizes)
    assert timm.create_model("autoformer_subnet", **sizes, **usual).model_args == left_out.model_args


@pytest.mark.parametrize("stem", STEMS)
def test_timm_changes_classes_channels_and_image_size_of_a_folder(stem: Stem, tmp_path: Path) -> None:
    original = made(stem)
    folder = saved(original, tmp_path / "out")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7, in_chans=1, img_size=24).eval()
    assert model(images(2, 24, 1)).shape == (2, 7)
    name = "patch_embed.convs.0" if stem == "conv" else "patch_embed.proj"
    first, own = model.get_parameter(f"{name}.weight"), original.get_parameter(f"{name}.weight")
    torch.testing.assert_close(first, own.sum(1, keepdim=True))  # timm's rule for grey images
    original.set_input_size(24)
    torch.testing.assert_close(model.pos_embed, original.pos_embed)
    assert torch.equal(model.blocks[2].mlp.conv.weight, original.get_parameter("blocks.2.mlp.conv.weight"))


@pytest.mark.parametrize(("name", "changes"), [("plain", {}), ("token", {"pooling": "token", "absolute_position": False})])
def test_a_network_without_these_choices_is_described_as_ever(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    save_subnet(make_subnet(**changes), tmp_path / "out", preprocessing=PREPROCESSING, classes=CLASSES, record={})
    assert hashlib.sha256((tmp_path / "out" / "config.json").read_bytes()).hexdigest() == WRITTEN_BEFORE[name]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stem", "pool", "stem is 'pool', expected 'patch' or 'conv'"),
        ("pool_after", 3, "pool_after"),
        ("mlp_kernel", [3, 2, 5], "mlp_kernel"),
        ("mlp_kernel", [3, 0], "mlp_kernel"),
        ("stem_depth", -1, "stem_depth"),
        ("patch_size", 3, "patch"),
        ("class_token", "no", "class_token must be true or false"),
        ("mlp_kernel", [5, 0, 5], "misshapen|expected"),
        ("stem_depth", 2, "missing"),
    ],
)
def test_a_folder_that_was_edited_is_refused(key: str, value: object, message: str, tmp_path: Path) -> None:
    path = saved(made(), tmp_path / "out") / "config.json"
    config = read_json(path)
    config["model_args"][key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_subnet(path.parent)
    assert "\n" not in str(caught.value)


def test_a_network_is_extracted_from_the_folder_of_its_supernet(tmp_path: Path) -> None:
    supernet = randomised(asking("conv"))
    save_supernet(supernet, tmp_path / "super", source="a test")
    loaded = load_supernet(tmp_path / "super")
    assert loaded.space == supernet.space
    architecture = network_asked_for("conv", patch_size=2, image_size=24)
    subnet = extract(tmp_path / "super", architecture, tmp_path / "sub")
    again, preprocessing, _ = load_subnet(tmp_path / "sub")
    assert preprocessing.input_size == 24
    x = images_for(supernet.space, architecture)
    with torch.no_grad():
        assert torch.equal(again(x), subnet.eval()(x))
        assert largest_difference(again(x), supernet(x, architecture)) < 1e-5


# --- timm's interface --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"class_token": False}], ids=["class token", "patches alone"])
@pytest.mark.parametrize("stem", STEMS)
def test_intermediate_features_are_those_of_the_blocks(stem: Stem, changes: dict[str, Any]) -> None:
    subnet = made(stem, **changes)
    prefix = subnet.num_prefix_tokens
    outputs: list[Tensor] = []
    handles = [block.register_forward_hook(lambda *arguments: outputs.append(arguments[-1])) for block in subnet.blocks]
    final = subnet.forward_features(images())
    for handle in handles:
        handle.remove()
    assert final.shape == (2, 4 + prefix, 24)
    last, found = subnet.forward_intermediates(images(), return_prefix_tokens=True)
    assert torch.equal(last, final)
    for (grid, tokens), output, side in zip(found, outputs, (4, 4, 2), strict=True):
        assert grid.shape == (2, 24, side, side)
        assert torch.equal(grid.flatten(2).transpose(1, 2), output[:, prefix:])
        assert torch.equal(tokens, output[:, :prefix])
    assert [info["reduction"] for info in subnet.feature_info] == [4, 4, 8]
    pooled = subnet.forward_head(final, pre_logits=True)
    torch.testing.assert_close(pooled, final[:, prefix:].mean(1))
    assert torch.equal(subnet.forward_head(final), subnet(images()))


@pytest.mark.parametrize(("pool_after", "depth_left"), [(2, 2), (1, 2), (2, 3), (0, 2)])
def test_a_pruned_network_gives_the_same_features_and_counts_what_is_left(pool_after: int, depth_left: int) -> None:
    subnet = made(pool_after=pool_after)
    last = depth_left - 1
    expected = subnet.forward_intermediates(images(), [last], intermediates_only=True)
    subnet.prune_intermediate_layers([last], prune_head=False)
    found = subnet.forward_intermediates(images(), [last], intermediates_only=True)
    assert torch.equal(found[0], expected[0])
    assert found[0].shape[-1] * subnet.feature_info[last]["reduction"] == 16
    assert subnet.architecture.depth == depth_left
    assert subnet.architecture.mlp_kernel == (3, 0, 5)[:depth_left]
    counted = count_by_operator(subnet, (3, 16, 16))
    assert (subnet.cost.params, subnet.cost.flops) == (counted.params, counted.flops)


def test_timm_takes_feature_maps_of_a_folder(tmp_path: Path) -> None:
    subnet = made()
    folder = saved(subnet, tmp_path / "out")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=(0, 2)).eval()
    assert model.feature_info.reduction() == [4, 8]
    for found, wanted in zip(
        model(images()), subnet.forward_intermediates(images(), [0, 2], intermediates_only=True), strict=True
    ):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("changes", [{}, {"class_token": False}], ids=["class token", "patches alone"])
@pytest.mark.parametrize("stem", STEMS)
def test_another_image_size_keeps_everything_but_positions(stem: Stem, changes: dict[str, Any]) -> None:
    subnet = made(stem, **changes)
    before = {name: weight.clone() for name, weight in subnet.state_dict().items()}
    subnet.set_input_size((24, 32))
    assert subnet(torch.zeros(1, 3, 24, 32)).shape == (1, 5)
    assert [info["reduction"] for info in subnet.feature_info] == [4, 4, 8]
    subnet.set_input_size(24)
    assert (subnet.architecture.image_size, subnet.geometry.img_size) == (24, (24, 24))
    counted = count_by_operator(subnet, (3, 24, 24))
    assert (subnet.cost.params, subnet.cost.flops) == (counted.params, counted.flops)
    after = subnet.state_dict()
    changed = {name for name in before if before[name].shape != after[name].shape or not torch.equal(before[name], after[name])}
    tables = {name for name in before if name.endswith(("rows", "columns"))}
    assert "pos_embed" in changed
    assert changed <= {"pos_embed"} | tables


def test_another_patch_size_is_told_everywhere() -> None:
    subnet = made("patch")
    subnet.set_input_size(patch_size=2)
    assert (subnet.architecture.patch_size, subnet.geometry.patch_size) == (2, 2)
    assert [info["reduction"] for info in subnet.feature_info] == [2, 2, 4]
    counted = count_by_operator(subnet, (3, 16, 16))
    assert (subnet.cost.params, subnet.cost.flops) == (counted.params, counted.flops)


def test_a_size_that_cannot_be_halved_changes_nothing() -> None:
    subnet = made("patch")
    expected, before = subnet(images()), subnet.geometry
    for sizes in ({"img_size": 20}, {"img_size": (16, 20)}, {"patch_size": 16}):
        with pytest.raises(ArchitectureError, match="cannot be halved"):
            subnet.set_input_size(**sizes)
    assert subnet.geometry == before
    assert torch.equal(subnet(images()), expected)


@pytest.mark.parametrize(("classes", "pool"), [(0, "avg"), (0, ""), (7, ""), (9, "avg")])
@pytest.mark.parametrize("changes", [{}, {"class_token": False}], ids=["class token", "patches alone"])
def test_the_classifier_can_be_replaced_and_is_counted(classes: int, pool: str, changes: dict[str, Any]) -> None:
    subnet = made(**changes)
    subnet.reset_classifier(classes, pool)
    counted = count_by_operator(subnet, (3, 16, 16))
    assert (subnet.cost.params, subnet.cost.flops) == (counted.params, counted.flops)
    tokens = (4 + subnet.num_prefix_tokens,) if pool == "" else ()
    assert subnet(images()).shape == (2, *tokens, classes or 24)


def test_a_pooled_class_token_that_is_none_is_refused() -> None:
    subnet = made(class_token=False)
    with pytest.raises(ArchitectureError, match="without a class token"):
        subnet.reset_classifier(5, "token")
    assert subnet(images()).shape == (2, 5)


def test_copies_and_pickles_give_the_same_logits() -> None:
    subnet = made()
    expected = subnet(images())
    assert torch.equal(copy.deepcopy(subnet)(images()), expected)
    assert torch.equal(pickle.loads(pickle.dumps(subnet))(images()), expected)
    supernet = randomised(asking("conv"))
    architecture = network_asked_for("conv")
    wanted = supernet(images(), architecture)
    assert torch.equal(copy.deepcopy(supernet)(images(), architecture), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(supernet))(images(), architecture), wanted)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor")  # torch's own
def test_compiled_networks_and_blocks_give_the_same_logits() -> None:
    subnet = made()
    expected = subnet(images())
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(subnet, backend="eager")(images()), expected, rtol=1e-4, atol=1e-4)
    subnet.compile_blocks(backend="eager")
    torch.testing.assert_close(subnet(images()), expected, rtol=1e-4, atol=1e-4)
    for stem in STEMS:
        supernet = randomised(asking(stem)).requires_grad_(False)
        architecture = network_asked_for(stem, patch_size=2)
        x = images_for(supernet.space, architecture)
        expected = supernet(x, architecture)
        torch.compiler.reset()
        whole = torch.compile(copy.deepcopy(supernet), backend="eager")
        torch.testing.assert_close(whole(x, architecture), expected, rtol=1e-4, atol=1e-4)
        supernet.compile_blocks(backend="eager")
        torch.testing.assert_close(supernet(x, architecture), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_blocks_compile_once_per_shape_grid_and_kernel() -> None:
    space = asking("patch", image_sizes=(16,), patch_sizes=(4,), embed_dims=(16,), num_heads=(1,), mlp_ratios=(1,))
    supernet = randomised(space).requires_grad_(False)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    supernet.compile_blocks(backend=backend)
    whole = Architecture(embed_dim=16, num_heads=(1,) * 4, mlp_ratio=(1,) * 4, mlp_kernel=(0, 3, 5, 0), pool_after=0)
    for pool_after in (0, 1, 2):
        architecture = replace(whole, pool_after=pool_after)
        supernet(images_for(space, architecture), architecture)
    assert len(graphs) == 6  # three kernels on each of two grids


@pytest.mark.parametrize("stem", STEMS)
def test_low_precision_stays_close(stem: Stem) -> None:
    subnet, supernet = made(stem), randomised(asking(stem)).requires_grad_(False)
    architecture = network_asked_for(stem, patch_size=2)
    x = images()
    pairs = []
    with torch.autocast("cpu", torch.bfloat16):
        pairs += [(subnet(x), subnet), (supernet(x, architecture), supernet)]
    for found, network in pairs:
        expected = network(x) if isinstance(network, Subnet) else network(x, architecture)
        assert found.dtype == torch.bfloat16
        assert largest_difference(found.float(), expected) < 0.1
    half = copy.deepcopy(subnet).bfloat16()(x.bfloat16())
    assert largest_difference(half.float(), subnet(x)) < 0.1
    half = copy.deepcopy(supernet).bfloat16()(x.bfloat16(), architecture)
    assert largest_difference(half.float(), supernet(x, architecture)) < 0.1


def test_kernels_are_not_decayed_and_stems_learn_slowest() -> None:
    for network in (made().requires_grad_(True), Supernet(asking("conv"))):
        optimiser = create_optimizer_v2(network, "adamw", lr=1.0, weight_decay=0.1)
        decayed = {id(weight) for group in optimiser.param_groups if group["weight_decay"] for weight in group["params"]}
        kept = {name for name, weight in network.named_parameters() if id(weight) not in decayed and weight.ndim > 1}
        kernels = {name for name in kept if name.endswith(("kernels", "mlp.conv.weight"))}
        assert kept - kernels == {"cls_token", "pos_embed"} | {name for name in kept if name.endswith("qkv.bias")}
        assert len(kernels) == (2 if isinstance(network, Subnet) else 5)
    network = made().requires_grad_(True)
    optimiser = create_optimizer_v2(network, "adamw", lr=1.0, layer_decay=0.5)
    rates = {id(weight): group["lr_scale"] for group in optimiser.param_groups for weight in group["params"]}
    names = (
        "patch_embed.convs.0.weight",
        "patch_embed.proj.weight",
        "blocks.0.mlp.conv.weight",
        "blocks.2.mlp.conv.weight",
        "head.bias",
    )
    assert [rates[id(network.get_parameter(name))] for name in names] == [0.0625, 0.0625, 0.125, 0.5, 1.0]


def test_checkpointing_changes_memory_and_not_the_gradients() -> None:
    subnet = made().requires_grad_(True).train()

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(subnet(images()).square().sum(), list(subnet.parameters())))

    expected = gradients()
    subnet.set_grad_checkpointing()
    for found, wanted in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
