"""Starting from pretrained weights: timm's logits, an order that changes nothing, and weights that fit other images.

timm's models have random weights here, norms and biases included; expected values are timm's own logits or hand calculation.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy.special import erf
from torch import Tensor, nn

from autoformer.adapt import Normalisation, adapt_subnet, adapt_supernet
from autoformer.architecture import Architecture
from autoformer.errors import ArchitectureError, AutoformerError, CheckpointError
from autoformer.importance import assumed_moments, order_by_importance
from autoformer.pretrained import space_around, start_from, subnet_from_timm, supernet_from_timm
from autoformer.relative_position import Tables
from autoformer.space import SearchSpace
from autoformer.subnet import TIMM_NAME, Subnet
from autoformer.supernet import SuperBlock, Supernet, resample_positions
from autoformer.supernet_folder import save_supernet
from autoformer.timm_models import timm_network

# TMP

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 7}
PLAIN: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "deit_tiny_patch16_224": {"in_chans": 1},
    "deit_small_patch16_224": {"num_heads": 6, "mlp_ratio": 2.7},
    "vit_base_patch16_224": {"global_pool": "avg", "fc_norm": False},
    "vit_small_patch16_384": {"embed_dim": 96, "num_heads": 4, "depth": 2, "pos_embed": "none"},
    "flexivit_small": {},  # positions without the class token
}


def random_vit(name: str, seed: int = 0, **options: Any) -> Any:
    """timm's model `name`, small, every weight random, norms and biases included."""
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False, **{**SMALL, **options}).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    return model


def pixels(model: Any, count: int = 3, size: int = 32, seed: int = 1) -> Tensor:
    channels = model.patch_embed.proj.in_channels
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def largest_logits(supernet: Supernet, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = supernet(images, supernet.space.largest)
    return logits


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=atol)


# --- timm's networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_the_largest_network_gives_the_logits_of_timm(name: str) -> None:
    model = random_vit(name, **PLAIN[name])
    images = pixels(model)
    with torch.no_grad():
        expected = model(images)
        expected64 = copy.deepcopy(model).double()(images.double())
    assert expected.std() > 0.1  # the weights matter
    supernet = supernet_from_timm(model)
    assert_close(largest_logits(supernet, images), expected)
    assert_close(largest_logits(supernet_from_timm(model.double()), images.double()), expected64, 1e-11)


@pytest.mark.parametrize("name", PLAIN)
def test_a_subnet_from_timm_gives_its_logits(name: str) -> None:
    model = random_vit(name, **PLAIN[name])
    images = pixels(model)
    subnet = subnet_from_timm(model)
    with torch.no_grad():
        assert_close(subnet(images), model(images))
        assert_close(subnet_from_timm(model.double())(images.double()), model(images.double()), 1e-11)
    assert not subnet.relative_position
    assert sum(weight.numel() for weight in subnet.parameters()) - sum(w.numel() for w in model.parameters()) == (
        48 if model.no_embed_class else 0  # the class token's position, which stays zero until trained
    )


def test_networks_of_the_supernet_extract_with_their_own_logits() -> None:
    supernet = supernet_from_timm(random_vit("deit_tiny_patch16_224")).double()
    images = pixels(supernet).double()
    for architecture in (supernet.space.smallest, supernet.space.middle, supernet.space.largest):
        subnet = Subnet.from_supernet(supernet, architecture)
        with torch.no_grad():
            assert_close(subnet(images), supernet(images, architecture), 1e-11)


def test_relative_tables_are_there_and_zero() -> None:
    supernet = supernet_from_timm(random_vit("deit_tiny_patch16_224"))
    tables = [getattr(block.attn, name) for block in supernet.blocks for name in Tables._fields]
    assert [tuple(table.shape) for table in tables] == [(30, 16)] * 12
    assert not any(table.any() for table in tables)


def test_the_choices_follow_the_stated_rule() -> None:
    deit = subnet_from_timm(timm.create_model("deit_small_patch16_224", pretrained=False))  # 384 wide, 12 blocks, 6 heads
    space = space_around(deit.space, "around")
    assert space.embed_dims == (256, 288, 352, 384)  # 240, 288, 336 to multiples of 32
    assert space.depths == (8, 9, 10, 11, 12)
    assert space.num_heads == (3, 4, 5, 6)
    assert space.mlp_ratios == (2.0, 2.5, 3.0, 3.5, 4.0)
    assert (space.norm_eps, space.pooling, space.head_dim) == (1e-6, "token", 64)


REFUSED = [
    ("deit_tiny_distilled_patch16_224", {}, "distillation token"),
    ("deit3_small_patch16_224", {}, "layer scale"),
    ("vit_tiny_patch16_224", {"init_values": 0.1}, "layer scale"),
    ("vit_tiny_patch16_224", {"qk_norm": True}, "qk_norm"),
    ("vit_tiny_patch16_224", {"reg_tokens": 4}, "register tokens"),
    ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, "no class token"),
    ("vit_tiny_patch16_224", {"global_pool": "avg"}, "fc_norm"),
    ("vit_tiny_patch16_224", {"global_pool": "map"}, "pooling 'map'"),
    ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True}, "over the class token"),
    ("vit_tiny_patch16_224", {"qkv_bias": False}, "qkv_bias"),
    ("vit_tiny_patch16_224", {"proj_bias": False}, "proj_bias"),
    ("vit_tiny_patch16_224", {"pre_norm": True}, "pre_norm"),
    ("vit_tiny_patch16_224", {"final_norm": False}, "no final norm"),
    ("vit_tiny_patch16_224", {"scale_attn_norm": True}, "scale_attn_norm"),
    ("vit_tiny_patch16_224", {"scale_mlp_norm": True}, "scale_mlp_norm"),
    ("vit_tiny_patch16_224", {"act_layer": "relu"}, "activation ReLU"),
    ("vit_tiny_patch16_224", {"act_layer": "gelu_tanh"}, "GELUTanh"),
    ("vit_tiny_patch16_224", {"mlp_layer": timm.layers.SwiGLU}, "SwiGLU"),
    ("vit_tiny_patch16_224", {"norm_layer": timm.layers.RmsNorm}, "RmsNorm"),
    ("vit_tiny_patch16_224", {"attn_layer": "diff"}, "DiffAttention"),
    ("vit_tiny_patch16_224", {"img_size": (32, 16)}, "not square"),
    ("vit_tiny_patch16_224", {"embed_norm_layer": nn.LayerNorm}, "patch embedding"),
    ("vit_relpos_small_patch16_224", {}, "VisionTransformerRelPos"),
]


@pytest.mark.parametrize(("name", "options", "feature"), REFUSED)
def test_what_a_subnet_does_not_compute_is_refused_by_name(name: str, options: dict[str, Any], feature: str) -> None:
    model = timm.create_model(name, pretrained=False, **{**SMALL, **options})
    for make in (supernet_from_timm, subnet_from_timm):
        with pytest.raises(CheckpointError, match=feature) as raised:
            make(model)
        assert "\n" not in str(raised.value)


def test_options_that_change_nothing_in_evaluation_are_accepted() -> None:
    for options in ({"dynamic_img_size": True}, {"drop_rate": 0.1, "pos_drop_rate": 0.1}, {"norm_layer": nn.LayerNorm}):
        model = random_vit("vit_tiny_patch16_224", **options)
        with torch.no_grad():
            assert_close(largest_logits(supernet_from_timm(model), pixels(model)), model(pixels(model)))


# --- names, downloads and files ----------------------------------------------------------------------------------


@pytest.fixture
def small_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's models, small, and without a network to fetch weights from."""
    create = timm.create_model

    def small(name: str, *, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise OSError("cannot reach the hub\nand much more")
        return create(name, **(options if name == TIMM_NAME else {**SMALL, **options}))

    monkeypatch.setattr(timm, "create_model", small)


def stored(model: Any, path: Path, form: str) -> Path:
    state = model.state_dict()
    if form == "safetensors":
        save_file(state, path)
    elif form == "training state":
        empty = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        torch.save({"state_dict_ema": {f"module.{n}": t for n, t in state.items()}, "state_dict": empty, "epoch": 3}, path)
    else:
        torch.save({"model": state} if form == "under model" else state, path)
    return path


@pytest.mark.parametrize(
    ("form", "suffix"),
    [("safetensors", "safetensors"), ("plain", "pth"), ("under model", "bin"), ("training state", "pth.tar")],
)
def test_local_weights_give_the_logits_of_the_model_they_came_from(
    small_timm: None, tmp_path: Path, form: str, suffix: str
) -> None:
    model = random_vit("deit_tiny_patch16_224", num_classes=4, img_size=48)
    file = stored(model, tmp_path / f"weights.{suffix}", form)
    supernet = start_from(f"timm:deit_tiny_patch16_224@{file}")
    assert (supernet.space.num_classes, supernet.space.image_size) == (4, 48)
    with torch.no_grad():
        assert_close(largest_logits(supernet, pixels(model, size=48)), model(pixels(model, size=48)))


def test_weights_without_a_classifier_start_with_one_of_zeros(small_timm: None, tmp_path: Path) -> None:
    model = random_vit("deit_tiny_patch16_224", num_classes=0)
    file = stored(model, tmp_path / "weights.safetensors", "safetensors")
    supernet = start_from(f"timm:deit_tiny_patch16_224@{file}", num_classes=6)
    assert supernet.head.weight.shape == (6, 48)
    assert not supernet.head.weight.any()
    assert subnet_from_timm(model, num_classes=5)(pixels(model)).shape == (3, 5)


def test_a_teacher_may_be_any_network_of_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=4, in_chans=1).eval()
    torch.save(model.state_dict(), tmp_path / "resnet.pth")
    words = f"timm:resnet10t@{tmp_path / 'resnet.pth'}"
    network = timm_network(words, num_classes=4).eval()
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert_close(network(images), model(images))
    assert network.pretrained_cfg["input_size"][0] == 1
    with pytest.raises(CheckpointError, match="knows 4 classes, expected 5"):
        timm_network(words, num_classes=5)


def test_the_image_size_of_a_local_file_is_in_the_networks_description(small_timm: None, tmp_path: Path) -> None:
    model = random_vit("deit_tiny_distilled_patch16_224", img_size=48)
    torch.save(model.state_dict(), tmp_path / "deit.pth")
    network = timm_network(f"timm:deit_tiny_distilled_patch16_224@{tmp_path / 'deit.pth'}")
    assert network.pretrained_cfg["input_size"] == (3, 48, 48)


def test_a_failed_download_is_one_line_that_asks_for_a_file(small_timm: None) -> None:
    with pytest.raises(CheckpointError, match="cannot reach the hub") as raised:
        start_from("timm:deit_tiny_patch16_224")
    assert "timm:deit_tiny_patch16_224@FILE" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_model_that_cannot_be_used_is_refused_before_it_is_downloaded(small_timm: None) -> None:
    with pytest.raises(CheckpointError, match="layer scale"):
        start_from("timm:deit3_small_patch16_224")


class Foreign:
    pass


def test_files_that_do_not_fit_are_refused_in_one_line(small_timm: None, tmp_path: Path) -> None:
    model = random_vit("deit_tiny_patch16_224")
    state = model.state_dict()
    cases: dict[str, tuple[Any, str]] = {
        "distilled.pth": ({**state, "dist_token": state["cls_token"]}, "unexpected dist_token"),
        "lacks.pth": ({n: t for n, t in state.items() if n != "norm.bias"}, "missing norm.bias"),
        "wide.pth": ({**state, "cls_token": torch.zeros(1, 1, 64)}, "cls_token is"),
        "oblong.pth": ({**state, "pos_embed": torch.zeros(1, 16, 48)}, "no square grid"),
        "numbers.pth": ({"epoch": 3}, "no weights"),
        "object.pth": ({"model": state, "why": Foreign()}, "nothing in it was run"),
    }
    for file, (content, _) in cases.items():
        torch.save(content, tmp_path / file)
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Foreign()))
    (tmp_path / "text.safetensors").write_text("no tensors")
    expected = {file: words for file, (_, words) in cases.items()}
    expected |= {"text.pth": "text.pth", "pickle.pth": "pickle.pth", "text.safetensors": "safetensors", "none.pth": "exist"}
    for file, words in expected.items():
        with pytest.raises(CheckpointError, match=words) as raised:
            start_from(f"timm:deit_tiny_patch16_224@{tmp_path / file}")
        assert "\n" not in str(raised.value), file


def test_unknown_names_say_what_was_expected(tmp_path: Path) -> None:
    for words, message in (
        ("timm:deit_tny_patch16_224", "did you mean deit_tiny_patch16_224"),
        (str(tmp_path / "nowhere"), "timm:NAME"),
        (str(tmp_path), "no supernet"),
        (f"official:{tmp_path / 'none.pth'}", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=message):
            start_from(words)


# --- order -------------------------------------------------------------------------------------------------------


def blocks(supernet: Supernet) -> list[SuperBlock]:
    return [block for block in supernet.blocks if isinstance(block, SuperBlock)]


def test_ordering_leaves_the_largest_network_as_it_was() -> None:
    supernet = supernet_from_timm(random_vit("deit_small_patch16_224", num_heads=6)).double()
    with torch.no_grad():
        for weight in supernet.parameters():  # tables too: they belong to no head and must stay
            weight.copy_(torch.randn_like(weight) * 0.2)
    images = pixels(supernet).double()
    before, stem = largest_logits(supernet, images), supernet.patch_embed.proj.weight.clone()
    order_by_importance(supernet, assumed_moments(supernet))
    assert_close(largest_logits(supernet, images), before, 1e-11)
    assert not torch.equal(supernet.patch_embed.proj.weight, stem)


def test_strong_heads_hidden_and_residual_channels_come_first() -> None:
    supernet = supernet_from_timm(random_vit("deit_tiny_patch16_224"))
    block = blocks(supernet)[1]
    with torch.no_grad():
        block.attn.qkv.weight[2, 32:] *= 10  # the values of the last head
        block.fc2.weight[:, -1] *= 100
        block.fc1.bias[-1] = 3.0
        for reader in (*(b.attn.qkv.weight for b in blocks(supernet)), *(b.fc1.weight for b in blocks(supernet))):
            reader[..., 40] *= 10
    head, hidden = block.attn.qkv.weight[0, 32:].clone(), block.fc1.bias[-1].clone()
    token = supernet.cls_token[..., 40].clone()
    order_by_importance(supernet, assumed_moments(supernet))
    assert torch.equal(supernet.cls_token[..., 0], token)
    assert torch.equal(block.fc1.bias[0], hidden)
    np.testing.assert_allclose(block.attn.qkv.weight[0, :16].detach().sum(), head.sum().detach(), rtol=1e-4)


def test_assumed_moments_of_hidden_channels_are_those_of_a_gaussian_through_the_gelu() -> None:
    supernet = supernet_from_timm(random_vit("deit_tiny_patch16_224"))
    block = blocks(supernet)[0]
    moments = assumed_moments(supernet)
    weight, scale = block.fc1.weight.detach().double().numpy(), block.norm2.weight.detach().double().numpy()
    shift, bias = block.norm2.bias.detach().double().numpy(), block.fc1.bias.detach().double().numpy()
    inputs = moments.mlp_inputs[0].double().numpy()
    grid = np.linspace(-12, 12, 20001)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    for unit in (0, 5, 100):
        mean, deviation = weight[unit] @ shift + bias[unit], math.sqrt(weight[unit] ** 2 @ (scale**2 * inputs))
        x = mean + deviation * grid
        expected = np.trapezoid((x * (1 + erf(x / math.sqrt(2))) / 2) ** 2 * density, grid)
        assert float(moments.hidden[0][unit]) == pytest.approx(expected, rel=1e-4)


# --- other images ------------------------------------------------------------------------------------------------


def trained_like(space: SearchSpace) -> Supernet:
    """A supernet of `space` with random weights everywhere, in evaluation mode."""
    torch.manual_seed(3)
    supernet = Supernet(space).double().eval()
    with torch.no_grad():
        for weight in supernet.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return supernet


SPACE = SearchSpace(
    name="toy", embed_dims=(16, 24), depths=(2, 3), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8, image_sizes=(16,),
    patch_size=4, num_classes=5, max_relative_position=6,
)  # fmt: skip


def test_adapting_to_the_same_data_changes_nothing() -> None:
    supernet = trained_like(SPACE)
    adapted = adapt_supernet(supernet, num_classes=5, image_size=16, in_chans=3)
    assert adapted is not supernet
    assert adapted.space == SPACE
    for name, weight in supernet.state_dict().items():
        assert torch.equal(adapted.state_dict()[name], weight), name


def test_other_classes_start_from_a_classifier_of_zeros_and_the_same_body() -> None:
    supernet = trained_like(SPACE)
    adapted = adapt_supernet(supernet, num_classes=9)
    assert adapted.space.num_classes == 9
    assert torch.equal(largest_logits(adapted, pixels(adapted, size=16).double()), torch.zeros(3, 9).double())
    assert torch.equal(blocks(adapted)[0].fc1.weight, blocks(supernet)[0].fc1.weight)
    subnet = Subnet.from_supernet(supernet, SPACE.smallest)
    other = adapt_subnet(subnet, num_classes=9)
    assert (other.num_classes, subnet.num_classes) == (9, 5)
    assert not any(weight.any() for weight in other.head.parameters())


def test_the_largest_network_learns_from_a_classifier_of_zeros() -> None:
    adapted = adapt_supernet(trained_like(SPACE), num_classes=2)
    images = pixels(adapted, size=16).double()
    F.cross_entropy(adapted(images, SPACE.largest), torch.tensor([0, 1, 0])).backward()
    gradient = adapted.head.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("size", [8, 24])
def test_a_supernet_and_its_subnet_adapt_alike(size: int) -> None:
    supernet = trained_like(SPACE)
    adapted = adapt_supernet(supernet, image_size=size, in_chans=1)
    images = pixels(adapted, size=size).double()
    for architecture in (SPACE.smallest, SPACE.largest):
        subnet = adapt_subnet(Subnet.from_supernet(supernet, architecture), image_size=size, in_chans=1)
        with torch.no_grad():
            assert_close(adapted(images, architecture), subnet(images), 1e-11)
        assert subnet.space.image_size == size


def test_larger_images_start_rows_that_were_never_trained_from_their_neighbours() -> None:
    supernet = trained_like(SPACE)  # a grid of 4: distances up to 3 were seen, of the 6 that the tables hold
    adapted = adapt_supernet(supernet, image_size=24)
    old, new = (dict(network.named_parameters())["blocks.1.attn.key_rows"].detach().numpy() for network in (supernet, adapted))
    zero = 7  # row 0 is the class token's, 7 distance 0
    np.testing.assert_array_equal(new[zero - 3 : zero + 4], old[zero - 3 : zero + 4])
    np.testing.assert_array_equal(new[0], old[0])
    for distance in (4, 5, 6):
        np.testing.assert_array_equal(new[zero + distance], old[zero + 3])
        np.testing.assert_array_equal(new[zero - distance], old[zero - 3])
    np.testing.assert_array_equal(adapted.pos_embed.detach(), resample_positions(supernet.pos_embed, (4, 4), (6, 6)).detach())


def test_several_image_sizes_keep_their_ratios() -> None:
    supernet = trained_like(replace(SPACE, image_sizes=(8, 12, 16)))
    assert adapt_supernet(supernet, image_size=32).space.image_sizes == (16, 24, 32)
    assert adapt_supernet(supernet, image_size=20).space.image_sizes == (12, 16, 20)  # 2.5, 3.75, 5 patches
    assert adapt_supernet(supernet, image_size=4).space.image_sizes == (4,)


def test_a_size_that_the_patch_does_not_divide_is_refused() -> None:
    supernet = trained_like(SPACE)
    for adapt in (
        lambda: adapt_supernet(supernet, image_size=18),
        lambda: adapt_subnet(Subnet.from_supernet(supernet, SPACE.largest), image_size=18),
    ):
        with pytest.raises(ArchitectureError, match=r"18 px are not a multiple of the pretrained patch of 4 px.*16"):
            adapt()


def test_a_colour_network_sees_a_grey_image_as_it_saw_its_colours() -> None:
    supernet = trained_like(SPACE)
    grey = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    expected = largest_logits(supernet, grey.expand(-1, 3, -1, -1))
    assert_close(largest_logits(adapt_supernet(supernet, in_chans=1), grey), expected, 1e-5)  # timm sums in float32
    back = adapt_supernet(adapt_supernet(supernet, in_chans=1), in_chans=6)
    assert_close(largest_logits(back, grey.expand(-1, 6, -1, -1)), expected, 1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_another_normalisation_gives_the_same_logits_for_the_same_pixels(channels: int) -> None:
    trained = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    given = Normalisation((0.3,) * channels, tuple(0.1 + 0.05 * index for index in range(channels)))
    supernet = trained_like(SPACE)
    image = torch.rand(2, channels, 16, 16, dtype=torch.float64)

    def normalised(x: Tensor, how: Normalisation) -> Tensor:
        mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in how)
        return (x - mean) / std

    expected = largest_logits(supernet, normalised(image.expand(-1, 3, -1, -1), trained))
    adapted = adapt_supernet(supernet, in_chans=channels, trained_with=trained, normalisation=given)
    assert_close(largest_logits(adapted, normalised(image, given)), expected, 1e-5 if channels == 1 else 1e-11)


def test_what_timm_says_of_its_normalisation_is_made_up_for() -> None:
    model = random_vit("vit_tiny_patch16_224")  # trained with mean and std 0.5
    image = torch.rand(2, 3, 32, 32)
    given = Normalisation((0.2, 0.3, 0.4), (0.1, 0.2, 0.3))
    with torch.no_grad():
        expected = model((image - 0.5) / 0.5)
    x = (image - torch.tensor(given.mean).view(-1, 1, 1)) / torch.tensor(given.std).view(-1, 1, 1)
    assert_close(largest_logits(supernet_from_timm(model, normalisation=given), x), expected, 2e-5)
    with torch.no_grad():
        assert_close(subnet_from_timm(model, normalisation=given)(x), expected, 2e-5)


# --- spaces and folders ------------------------------------------------------------------------------------------


def test_a_given_space_chooses_among_the_weights() -> None:
    model = random_vit("vit_tiny_patch16_224")
    fitting = replace(supernet_from_timm(model).space, name="mine", embed_dims=(24, 48), max_relative_position=5)
    supernet = supernet_from_timm(model, space=replace(fitting, num_classes=99))
    assert supernet.space == fitting  # classes are the model's
    with torch.no_grad():
        assert_close(largest_logits(supernet, pixels(model)), model(pixels(model)))
    other = replace(fitting, depths=(2, 4), pooling="mean", norm_eps=1e-5)
    with pytest.raises(ArchitectureError, match=r"pooling token .*norm_eps 1e-06 .*depth 3 \(the space has 4\)"):
        supernet_from_timm(model, space=other)


@pytest.mark.parametrize("inside_run", [False, True])
def test_a_folder_starts_with_its_weights_and_choices(tmp_path: Path, inside_run: bool) -> None:
    supernet = trained_like(SPACE).float()
    run = tmp_path / "run"
    save_supernet(supernet, run / "supernet" if inside_run else run, source="a test")
    started = start_from(str(run), num_classes=4)
    assert started.space == replace(SPACE, num_classes=4)
    assert torch.equal(blocks(started)[0].fc1.weight, blocks(supernet)[0].fc1.weight)
    assert start_from(str(run), space=replace(SPACE, name="deep", depths=(3,))).space.depths == (3,)

    # Its images were normalised as ImageNet's; those at hand are normalised with 0.5.
    image = torch.rand(2, 3, 16, 16)
    imagenet = (image - torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)
    started = start_from(str(run), normalisation=Normalisation((0.5,) * 3, (0.5,) * 3))
    assert_close(largest_logits(started, (image - 0.5) / 0.5), largest_logits(supernet, imagenet), 2e-5)


def test_classical_weights_serve_only_the_choices_they_were_made_for(tmp_path: Path) -> None:
    space = replace(SPACE, sharing="classical")
    supernet = trained_like(space).float()
    save_supernet(supernet, tmp_path / "run", source="a test")
    larger = start_from(str(tmp_path / "run"), space=replace(space, depths=(3,), image_sizes=(24,)))
    images = pixels(larger, size=24)
    subnet = adapt_subnet(Subnet.from_supernet(supernet, space.largest), image_size=24)
    with torch.no_grad():
        assert_close(largest_logits(larger, images), subnet(images))
    with pytest.raises(ArchitectureError, match="a block for each of their own choices"):
        start_from(str(tmp_path / "run"), space=replace(space, num_heads=(2,)))


def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_supernet(trained_like(SPACE).float(), run, source="a test")
    record = json.loads((run / "supernet.json").read_text())
    for data in ({}, {"preprocessing": 3}, {"preprocessing": {"mean": "x"}}, 5):
        (run / "supernet.json").write_text(json.dumps({**record, "data": data}))
        with pytest.raises(AutoformerError, match=r"supernet\.json") as raised:
            start_from(str(run))
        assert "\n" not in str(raised.value)


def test_a_released_supernet_is_known_by_its_width(tmp_path: Path) -> None:
    torch.save({"model": {"patch_embed_super.proj.weight": torch.zeros(100, 3, 16, 16)}}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"width 100, unlike the released supernets tiny, small, base"):
        start_from(str(tmp_path / "odd.pth"))
    torch.save({"patch_embed.proj.weight": torch.zeros(100, 3, 16, 16)}, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"give timm:NAME@.*vit\.pth"):
        start_from(str(tmp_path / "vit.pth"))


def test_an_official_file_starts_with_the_weights_of_the_official_code(tmp_path: Path) -> None:
    data = Path(__file__).parent / "data"
    case = next(case for case in json.loads((data / "official_small.json").read_text())["cases"] if case["id"] == "mid")
    with np.load(data / "official_small.npz") as file:
        numbers = dict(file)
    weights = {n.removeprefix("state/"): torch.from_numpy(v) for n, v in numbers.items() if n.startswith("state/")}
    torch.save({"model": {name: tensor.float() for name, tensor in weights.items()}}, tmp_path / "official.pth")
    config = case["config"]
    space = SearchSpace(
        name="of the file", embed_dims=(config["embed_dim"][0], 128), depths=(len(config["num_heads"]), 3), num_heads=(1, 2),
        mlp_ratios=(*config["mlp_ratio"], 3.0), patch_size=8, image_sizes=(64,),
    )  # fmt: skip
    supernet = start_from(f"official:{tmp_path / 'official.pth'}", space=space, image_size=32)
    architecture = Architecture(
        embed_dim=config["embed_dim"][0], num_heads=config["num_heads"], mlp_ratio=tuple(config["mlp_ratio"])
    )
    started = start_from(str(tmp_path / "official.pth"), space=replace(space, image_sizes=(32,)))
    images = torch.from_numpy(numbers["x"].astype(np.float32))
    with torch.no_grad():
        np.testing.assert_allclose(started(images, architecture).numpy(), numbers["mid/logits"], rtol=0, atol=1e-5)
    assert supernet.space.image_size == 32
    assert start_from(str(tmp_path / "official.pth"), space=space).pos_embed.shape[1] == 8 * 8 + 1
