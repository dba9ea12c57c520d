"""Parents of every kind: timm's logits from the largest network, the same from folders, and counts of what is there.

timm's models have random weights here, norms, biases and scales included; expected values are timm's own logits, or fvcore's
counts.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from autoformer.architecture import ANATOMY, Architecture, SubnetGeometry
from autoformer.cli.commands.describe import facts_of_network, readable
from autoformer.cost import count_supernet_params
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import ArchitectureError
from autoformer.networks.folders import load_subnet, save_subnet
from autoformer.networks.relative_position import Tables, attend, geometry, halved, rotate
from autoformer.networks.rotary import turned
from autoformer.networks.subnet import Subnet
from autoformer.pretrained.adapt import Wanted
from autoformer.pretrained.start import subnet_from_timm, supernet_from_timm
from autoformer.pretrained.vit_features import missing_features
from autoformer.profiling.insides.fvcore_counts import count_by_operator
from autoformer.space import SearchSpace
from tests.support.parents import PARENTS, in_double
from tests.support.timm_networks import SMALL, SPACE, assert_close, largest_logits, pixels, random_vit

IMAGES = Preprocessing(32, 3, (0.5,) * 3, (0.5,) * 3)
KINDS = pytest.mark.parametrize("kind", PARENTS)


def parent(kind: str) -> Any:
    name, options = PARENTS[kind]
    return random_vit(name, **options)


def narrower(space: SearchSpace) -> Architecture:
    """Two blocks of another width, heads and MLPs that differ."""
    return Architecture(embed_dim=space.embed_dims[0], num_heads=(3, 2), mlp_ratio=space.mlp_ratios[1:3])


@KINDS
def test_the_largest_network_and_the_single_one_give_the_logits_of_timm(kind: str) -> None:
    model = parent(kind)
    images = pixels(model)
    with torch.no_grad():
        expected, expected64 = model(images), in_double(model)(images.double())
        assert expected.std() > 0.1  # the weights matter
        assert_close(largest_logits(supernet_from_timm(model), images), expected)
        assert_close(subnet_from_timm(model)(images), expected)
        model.double()
        assert_close(largest_logits(supernet_from_timm(model), images.double()), expected64, 1e-9)
        assert_close(subnet_from_timm(model)(images.double()), expected64, 1e-9)


@KINDS
def test_narrower_networks_are_cut_with_their_own_logits(kind: str) -> None:
    supernet = supernet_from_timm(parent(kind).double(), relative_position=True)
    images = pixels(supernet).double()
    with torch.no_grad():
        for name, weight in supernet.named_parameters():
            if weight.shape == (30, 16):  # relative tables, which are zeros
                weight.copy_(torch.randn(30, 16, generator=torch.Generator().manual_seed(len(name))))
        for architecture in (supernet.space.smallest, narrower(supernet.space), supernet.space.largest):
            subnet = Subnet.from_supernet(supernet, architecture)
            expected = supernet(images, architecture)
            assert expected.std() > 0.01
            assert_close(subnet(images), expected, 1e-9)


@KINDS
@pytest.mark.parametrize("relative_position", [False, True])
def test_counts_are_those_of_fvcore(kind: str, relative_position: bool) -> None:
    supernet = supernet_from_timm(parent(kind), relative_position=relative_position)
    assert count_supernet_params(supernet.space) == sum(weight.numel() for weight in supernet.parameters())
    for architecture in (narrower(supernet.space), supernet.space.largest):
        subnet = Subnet.from_supernet(supernet, architecture)
        assert subnet.cost.params == sum(weight.numel() for weight in subnet.parameters())
        assert subnet.cost.flops == count_by_operator(subnet, (3, 32, 32)).flops


@KINDS
def test_folders_bring_the_same_network_back_and_timm_opens_them(kind: str, tmp_path: Path) -> None:
    supernet = supernet_from_timm(parent(kind))
    assert SearchSpace.from_dict(json.loads(json.dumps(supernet.space.to_dict()))) == supernet.space
    subnet, images = Subnet.from_supernet(supernet, narrower(supernet.space)), pixels(supernet)
    save_subnet(subnet, tmp_path / "network", preprocessing=IMAGES, classes="abcdefg", record={})
    facts = facts_of_network(tmp_path / "network")
    assert (facts["params"], facts["flops"]) == (subnet.cost.params, subnet.cost.flops)
    unusual = facts["anatomy"].items() if "anatomy" in facts else ()
    assert readable("anatomy", dict(unusual)) == ", ".join(f"{name} {value}" for name, value in unusual)
    assert {name: getattr(supernet.space, name) for name, _ in unusual} == dict(unusual)
    loaded, _, _ = load_subnet(tmp_path / "network")
    opened = timm.create_model(f"local-dir:{tmp_path / 'network'}", pretrained=True).eval()
    with torch.no_grad():
        for network in (loaded, opened):
            assert torch.equal(network(images), subnet(images))
        features = opened.forward_features(images)
        assert torch.equal(opened.forward_head(features), subnet(images))
        assert opened.head(opened.forward_head(features, pre_logits=True)).equal(subnet(images))
    assert loaded.head_hidden_size == loaded.head.in_features


@KINDS
def test_other_images_and_classes_are_fitted(kind: str) -> None:
    model = parent(kind)
    supernet = supernet_from_timm(model, Wanted(num_classes=3, image_size=48, in_chans=1))
    with torch.no_grad():
        supernet.head.weight.normal_()
        images = torch.randn(2, 1, 48, 48)
        subnet = Subnet.from_supernet(supernet, supernet.space.largest)
        assert_close(subnet(images), supernet(images, supernet.space.largest))
        single = subnet_from_timm(model, Wanted(num_classes=3, image_size=48, in_chans=1))
        single.head.load_state_dict({"weight": torch.ones(3, single.head_hidden_size), "bias": torch.zeros(3)})
        twin = subnet_from_timm(model, Wanted(image_size=48, in_chans=1))
        pooled = twin.forward_head(twin.forward_features(images), pre_logits=True)
        assert_close(single(images)[:, 0], pooled.sum(1), 1e-4)


def test_dynamic_image_sizes_are_those_of_a_network_made_for_them() -> None:
    model = random_vit("vit_small_patch14_reg4_dinov2", dynamic_img_size=True)
    images = pixels(model, size=48)
    with torch.no_grad():
        assert_close(subnet_from_timm(model, Wanted(image_size=48))(images), model(images))


@pytest.mark.parametrize("kind", ["registers without a class token, norm after pooling", "norm before the blocks (CLIP)"])
def test_features_and_their_reductions_are_those_of_timm(kind: str) -> None:
    model = parent(kind)
    subnet, images = subnet_from_timm(model), pixels(model)
    with torch.no_grad():
        for norm in (False, True):
            for found, expected in zip(
                subnet.forward_intermediates(images, 2, return_prefix_tokens=True, norm=norm, intermediates_only=True),
                model.forward_intermediates(images, 2, return_prefix_tokens=True, norm=norm, intermediates_only=True),
                strict=True,
            ):
                assert_close(found[0], expected[0])
                assert_close(found[1], expected[1])


def test_a_network_pruned_to_its_features_has_no_norm_after_pooling() -> None:
    subnet = subnet_from_timm(parent("norm after pooling"))
    subnet.prune_intermediate_layers(1)
    assert isinstance(subnet.fc_norm, nn.Identity)
    with pytest.raises(ArchitectureError, match="pruned for its features"):
        _ = subnet.model_args


@pytest.mark.parametrize(
    "name",
    ["vit_small_patch16_dinov3", "eva02_small_patch14_224", "vit_pe_spatial_tiny_patch16_512", "vit_small_patch16_rope_224"],
)
def test_rotary_positions_of_another_image_size_are_those_of_timm(name: str) -> None:
    model = random_vit(name)
    subnet = subnet_from_timm(model, Wanted(image_size=64))
    model.set_input_size((64, 64))
    with torch.no_grad():
        assert_close(subnet(pixels(model, size=64)), model(pixels(model, size=64)))


def test_patches_of_a_halved_grid_are_turned_as_in_the_middle_of_four() -> None:
    """Of 2 x 4 patches in 1 x 2, whose middles stand at row 0.5 and columns 0.5 and 2.5."""
    space = replace(SPACE, rope="index", head_dim=4, rope_offset=1.0)  # one frequency, 1
    x = torch.zeros(1, dtype=torch.float64)
    whole = geometry(2, 4, 3, x.device, x.dtype)
    rotation = turned(halved(whole, 3, x), space, 4, x, step=2).rotation
    assert rotation is not None
    angles = torch.tensor([[0.0, 0.0], [1.5, 1.5], [1.5, 3.5]], dtype=torch.float64)  # the class token, two patches
    torch.testing.assert_close(rotation[0], angles.cos().repeat(1, 2))
    torch.testing.assert_close(rotation[1], torch.cat([-angles.sin(), angles.sin()], 1))


@pytest.mark.parametrize("form", ["bias", "fused", "tiled"])
@pytest.mark.parametrize("relative", [False, True])
def test_logits_of_rotary_positions_depend_on_the_distance_alone(form: Any, relative: bool) -> None:
    """Patches that all hold the same are alike to every patch that sees the same distances: rows of an unbounded pattern."""
    space = replace(SPACE, rope="index", head_dim=8)
    x = torch.zeros(1, dtype=torch.float64)
    where = turned(geometry(1, 5, 4, x.device, x.dtype, prefix=0), space, 8, x)
    assert where.rotation is not None
    draw = torch.Generator().manual_seed(0)
    same = torch.randn(1, 1, 2, 1, 8, generator=draw, dtype=torch.float64).expand(1, 5, 2, 1, 8)
    query, key = rotate(same, where.rotation).unbind(2)
    logits = (query[0, :, 0] @ key[0, :, 0].t()).detach()
    for offset in range(-4, 5):
        diagonal = logits.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert logits[0].std() > 0.1
    tables = Tables(*torch.randn(4, 10, 8, generator=draw, dtype=torch.float64)) if relative else None
    qkv = torch.randn(2, 5, 3, 2, 8, generator=draw, dtype=torch.float64)
    turned_first = torch.cat([rotate(qkv[:, :, :2], where.rotation), qkv[:, :, 2:]], 2)
    expected = attend(turned_first, tables, where._replace(rotation=None), 0.3, "bias")
    torch.testing.assert_close(attend(qkv, tables, where, 0.3, form), expected)


def test_a_rotary_network_compiles_whole() -> None:
    subnet = subnet_from_timm(random_vit("vit_small_patch16_dinov3", depth=1))
    with torch.no_grad():
        assert_close(torch.compile(subnet, backend="eager", fullgraph=True)(pixels(subnet)), subnet(pixels(subnet)))


def test_a_usual_network_names_nothing_of_its_anatomy() -> None:
    space, architecture = SPACE, SPACE.largest
    assert not ANATOMY.keys() & space.to_dict().keys()
    assert not ANATOMY.keys() & space.geometry_of(architecture).arguments(architecture).keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reg_tokens": -1}, "reg_tokens must be a whole number from 0 to"),
        ({"reg_tokens": True}, "reg_tokens must be a whole number from 0 to"),
        ({"pre_norm": 1}, "pre_norm must be true or false"),
        ({"act_layer": "relu"}, "act_layer is 'relu', expected one of gelu, gelu_tanh, quick_gelu"),
        ({"act_layer": []}, "act_layer is"),
        ({"distilled": True}, "set class_token=true and reg_tokens=1"),
        ({"fc_norm": True, "final_norm": False}, "set final_norm=true"),
        ({"rope": "diagonal"}, "rope is 'diagonal', expected 'index', 'centre' or ''"),
        ({"rope": "index", "rope_temperature": 0}, "rope_temperature must be a number from 1"),
        ({"rope": "index", "rope_offset": "far"}, "rope_offset must be a number of patches"),
        ({"rope": "index", "rope_reference": 1.5}, "rope_reference must be a whole number of patches"),
        ({"rope": "index", "head_dim": 6}, "head_dim must be a multiple of 4, got 6"),
    ],
)
def test_an_impossible_anatomy_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    for make in (lambda: SubnetGeometry(**changes), lambda: replace(SPACE, **changes)):
        with pytest.raises(ArchitectureError, match=message) as raised:
            make()
        assert "\n" not in str(raised.value)


def test_a_usual_space_takes_the_anatomy_of_its_parent() -> None:
    model = parent("norm before the blocks (CLIP)")
    own = supernet_from_timm(model).space
    usual = replace(own, name="mine", **ANATOMY)
    assert supernet_from_timm(model, space=usual).space == replace(own, name="mine")
    with pytest.raises(ArchitectureError, match=r"reg_tokens 0 \(the space has 2\)"):
        supernet_from_timm(model, space=replace(own, reg_tokens=2))


@KINDS
def test_names_are_told_from_shapes_alone(kind: str) -> None:
    name, options = PARENTS[kind]
    with torch.device("meta"):
        assert not list(missing_features(timm.create_model(name, **{**SMALL, **options})))
