"""Spaces that ask for patch sizes, a stem, kernels and a place of halving: other images, other choices, timm's networks."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.data.preprocessing import Normalisation
from autoformer.errors import ArchitectureError, CheckpointError
from autoformer.networks.folders import save_supernet
from autoformer.networks.positions import resample_positions
from autoformer.networks.stem import ConvStem
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.adapt import Wanted, adapt_subnet, adapt_supernet
from autoformer.pretrained.importance import assumed_moments, order_by_importance
from autoformer.pretrained.official import _official_shapes, import_official
from autoformer.pretrained.refit import finer_positions
from autoformer.pretrained.start import _within, start_from, supernet_from_timm
from autoformer.space import SearchSpace
from tests.support.asking_spaces import ASKING, CONVOLUTIONS, PATCHES, WITHOUT_TOKEN
from tests.support.timm_networks import SMALL, assert_close, blocks, largest_logits, random_vit, trained_like


def some_of(space: SearchSpace, count: int = 4) -> list[Architecture]:
    rng = random.Random(0)
    return [space.smallest, space.middle, space.largest, *(space.sample(rng) for _ in range(count))]


def images_of(space: SearchSpace, architecture: Architecture, channels: int | None = None) -> Tensor:
    side = space.image_size_of(architecture)
    pixels = torch.rand(2, channels or space.in_chans, side, side, generator=torch.Generator().manual_seed(1))
    return pixels.double()


def as_network_sees(pixels: Tensor, how: Normalisation) -> Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in how)
    return (pixels - mean) / std


# --- order -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASKING)
def test_an_order_of_hidden_channels_takes_their_kernels_along(name: str) -> None:
    supernet = trained_like(replace(ASKING[name], image_sizes=(32,)))
    images = images_of(supernet.space, supernet.space.largest)
    before, kernels = largest_logits(supernet, images), blocks(supernet)[0].kernels.clone()
    order_by_importance(supernet, assumed_moments(supernet))
    assert_close(largest_logits(supernet, images), before, 1e-11)
    assert not torch.equal(blocks(supernet)[0].kernels, kernels)


def test_a_hidden_channel_weighs_what_its_kernel_makes_of_it() -> None:
    supernet = trained_like(PATCHES)
    block = blocks(supernet)[0]
    with torch.no_grad():
        block.kernels.copy_(torch.zeros_like(block.kernels))
        block.kernels[:, :, 2, 2] = 1
        plain = assumed_moments(supernet).hidden[0]
        block.kernels[3] *= 2  # twice the channel before its GELU
        changed = assumed_moments(supernet).hidden[0]
        block.fc1.weight[5] *= 2
        block.fc1.bias[5] *= 2
        expected = assumed_moments(supernet).hidden[0][5] / plain[5]
    block.kernels.data[5] *= 2
    block.fc1.weight.data[5] /= 2
    block.fc1.bias.data[5] /= 2
    assert float(assumed_moments(supernet).hidden[0][5] / plain[5]) == pytest.approx(float(expected))
    assert torch.equal(torch.cat([changed[:3], changed[4:]]), torch.cat([plain[:3], plain[4:]]))
    assert changed[3] > plain[3]


# --- other images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASKING)
def test_adapting_to_the_same_images_changes_nothing(name: str) -> None:
    supernet = trained_like(ASKING[name])
    same = Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    adapted = adapt_supernet(supernet, Wanted(image_size=32, in_chans=3, normalisation=same), same)
    assert adapted.space == supernet.space
    assert adapted.state_dict().keys() == supernet.state_dict().keys()
    for weight_name, weight in supernet.state_dict().items():
        assert torch.equal(adapted.state_dict()[weight_name], weight), weight_name


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_supernet_and_its_subnets_adapt_alike(name: str, channels: int) -> None:
    space = replace(ASKING[name], image_sizes=(32,), patch_sizes=(), pool_after=(0, 2))
    supernet, wanted = trained_like(space), Wanted(image_size=48, in_chans=channels)
    adapted = adapt_supernet(supernet, wanted)
    for architecture in some_of(space):
        subnet = adapt_subnet(Subnet.from_supernet(supernet, architecture), wanted)
        images = images_of(adapted.space, architecture)
        with torch.no_grad():
            assert_close(adapted(images, architecture), subnet(images), 1e-6)  # timm sums channels in float32


def test_image_sizes_become_multiples_of_all_patches_and_keep_grids_that_can_be_halved() -> None:
    supernet = trained_like(replace(PATCHES, image_sizes=(32, 48), patch_size=8, patch_sizes=(4, 8)))
    adapted = adapt_supernet(supernet, Wanted(image_size=64))
    assert adapted.space.image_sizes == (48, 64)  # 42.7 to whole steps of 16: twice the largest patch
    assert adapted.pos_embed.shape[1] == 16**2 + 1  # 64 px in patches of 4
    with pytest.raises(
        ArchitectureError, match=r"56 px are not a multiple of 16 px.*halved.*4 and 8 px.*image_size to 64"
    ) as raised:
        adapt_supernet(supernet, Wanted(image_size=56))
    assert "\n" not in str(raised.value)
    whole = trained_like(replace(supernet.space, pool_after=(0,)))
    assert adapt_supernet(whole, Wanted(image_size=56)).space.image_sizes == (40, 56)  # 37.3 to steps of 8
    subnet = Subnet.from_supernet(trained_like(replace(PATCHES, image_sizes=(32,), patch_sizes=(), pool_after=(2,))), halved())
    with pytest.raises(ArchitectureError, match=r"36 px are not a multiple of 8 px.*patch of 4 px"):
        adapt_subnet(subnet, Wanted(image_size=36))


def halved() -> Architecture:
    return Architecture(embed_dim=16, num_heads=(1,) * 3, mlp_ratio=(1.0,) * 3, mlp_kernel=(0,) * 3, pool_after=2)


def test_positions_without_a_class_token_are_resampled_whole() -> None:
    supernet = trained_like(replace(WITHOUT_TOKEN, image_sizes=(32,), patch_sizes=()))
    adapted = adapt_supernet(supernet, Wanted(image_size=48))
    expected = resample_positions(supernet.pos_embed, (8, 8), (12, 12), 0).detach()
    assert torch.equal(adapted.pos_embed.detach(), expected)


@pytest.mark.parametrize("name", ["convolutions", "without token"])
def test_a_convolutional_stem_sees_a_grey_image_as_it_saw_its_colours(name: str) -> None:
    supernet = trained_like(ASKING[name])
    grey_net = adapt_supernet(supernet, Wanted(in_chans=1))
    back = adapt_supernet(grey_net, Wanted(in_chans=4))
    for architecture in some_of(supernet.space):
        grey = images_of(supernet.space, architecture, 1)
        subnet = adapt_subnet(Subnet.from_supernet(supernet, architecture), Wanted(in_chans=1))
        with torch.no_grad():
            expected = supernet(grey.expand(-1, 3, -1, -1), architecture)
            assert_close(grey_net(grey, architecture), expected, 1e-5)
            assert_close(back(grey.expand(-1, 4, -1, -1), architecture), expected, 1e-5)
            assert_close(subnet(grey), expected, 1e-5)


TRAINED = Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def test_the_convolution_of_a_subnet_makes_up_for_other_deviations_up_to_the_border() -> None:
    supernet = trained_like(CONVOLUTIONS)
    given = Normalisation(TRAINED.mean, (0.3, 0.2, 0.5))
    for architecture in some_of(supernet.space):
        subnet, pixels = Subnet.from_supernet(supernet, architecture), images_of(supernet.space, architecture)
        adapted = adapt_subnet(subnet, Wanted(normalisation=given), TRAINED)
        with torch.no_grad():
            assert_close(adapted(as_network_sees(pixels, given)), subnet(as_network_sees(pixels, TRAINED)), 1e-11)


def test_the_convolutions_of_a_supernet_make_up_for_deviations_that_are_changed_alike() -> None:
    supernet = trained_like(CONVOLUTIONS)
    given = Normalisation(TRAINED.mean, (0.3, 0.45, 0.6))  # one and a half times
    adapted = adapt_supernet(supernet, Wanted(normalisation=given), TRAINED)
    for architecture in some_of(supernet.space):
        pixels = images_of(supernet.space, architecture)
        with torch.no_grad():
            expected = supernet(as_network_sees(pixels, TRAINED), architecture)
            assert_close(adapted(as_network_sees(pixels, given), architecture), expected, 1e-9)
    with pytest.raises(ArchitectureError, match="cannot make up for another normalisation exactly"):
        adapt_supernet(supernet, Wanted(normalisation=Normalisation(TRAINED.mean, (0.3, 0.2, 0.5))), TRAINED)


def test_other_means_are_refused_in_one_line_for_a_stem_that_pads() -> None:
    supernet = trained_like(CONVOLUTIONS)
    wanted = Wanted(normalisation=Normalisation((0.4, 0.5, 0.55), TRAINED.std))
    subnet = Subnet.from_supernet(supernet, supernet.space.largest)
    assert isinstance(subnet.patch_embed, ConvStem)
    for adapt in (lambda: adapt_supernet(supernet, wanted, TRAINED), lambda: adapt_subnet(subnet, wanted, TRAINED)):
        with pytest.raises(
            ArchitectureError, match=r"mean 0\.4, 0\.5, 0\.6 .*mean 0\.4, 0\.5, 0\.55 .*normalisation=imagenet"
        ) as raised:
            adapt()
        assert "\n" not in str(raised.value)
    with pytest.raises(ArchitectureError, match="3 channels, which do not repeat evenly in 4"):
        adapt_supernet(supernet, Wanted(in_chans=4))


@pytest.mark.parametrize("patch_size", [4, 8])
def test_patches_not_below_the_stored_ones_make_up_for_another_normalisation(patch_size: int) -> None:
    supernet = trained_like(replace(PATCHES, image_sizes=(32,), patch_sizes=(4, 8), pool_after=(0,)))
    given = Normalisation((0.3, 0.4, 0.2), (0.1, 0.2, 0.3))
    adapted = adapt_supernet(supernet, Wanted(normalisation=given), TRAINED)
    architecture = replace(supernet.space.largest, patch_size=patch_size)
    pixels = images_of(supernet.space, architecture)
    with torch.no_grad():
        expected = supernet(as_network_sees(pixels, TRAINED), architecture)
        assert_close(adapted(as_network_sees(pixels, given), architecture), expected, 1e-9)


# --- other choices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [3, 5, 7])
def test_kernels_of_another_size_give_the_networks_of_both_spaces_what_they_gave(new: int) -> None:
    supernet = trained_like(replace(PATCHES, mlp_kernels=(0, 3, 5)))
    space = replace(supernet.space, mlp_kernels=(0, 3, new))
    changed = refitted(supernet, space)
    both = replace(space, mlp_kernels=tuple(set(supernet.space.mlp_kernels) & set(space.mlp_kernels)))
    for architecture in some_of(both):
        images = images_of(space, architecture)
        with torch.no_grad():
            assert_close(changed(images, architecture), supernet(images, architecture), 1e-12)
    assert changed.state_dict()["blocks.0.kernels"].shape[-1] == new
    none = refitted(supernet, replace(supernet.space, mlp_kernels=(0,)))
    assert not any("kernels" in name for name in none.state_dict())


def refitted(supernet: Supernet, space: SearchSpace) -> Supernet:
    """What starting from a folder of `supernet` makes for `space`, in double precision."""
    return _within(supernet, space, "a folder")


def test_a_stem_with_fewer_choices_keeps_the_convolutions_of_those_that_stay() -> None:
    supernet = trained_like(CONVOLUTIONS)
    space = replace(CONVOLUTIONS, patch_size=4, patch_sizes=(), stem_depths=(0,), image_sizes=(32,))
    fewer = refitted(supernet, space)
    assert fewer.state_dict().keys() < supernet.state_dict().keys()
    architecture = space.largest
    own = replace(architecture, patch_size=4, stem_depth=0, image_size=32)
    images = images_of(space, architecture)
    with torch.no_grad():  # positions were stored for patches of 2 px, and are now for those of 4
        assert_close(fewer(images, architecture), supernet(images, own), 1e-5)
    for wanted, words in (
        ({"stem_depths": (0, 3)}, r"stem_depths up to 2 \(the space has 3\)"),
        ({"stem_dim": 16}, r"stem_dim 8 \(the space has 16\)"),
        ({"patch_sizes": (4, 8), "image_sizes": (16, 32)}, r"patches of 2, 4 px \(the space has 4, 8\)"),
        ({"class_token": False}, r"class_token True \(the space has False\)"),
    ):
        with pytest.raises(ArchitectureError, match=words):
            refitted(supernet, replace(CONVOLUTIONS, **wanted))


def test_a_folder_starts_a_space_that_asks_for_more(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plain = replace(PATCHES, patch_sizes=(), mlp_kernels=(0,), pool_after=(0,))
    supernet = trained_like(plain).float()
    save_supernet(supernet, folder, source="a test")
    started = start_from(str(folder), space=PATCHES)
    assert started.space == PATCHES
    for size in plain.image_sizes:
        before = replace(plain.largest, image_size=size)
        after = replace(before, patch_size=4, mlp_kernel=(5,) * 4, pool_after=0)
        images = images_of(plain, before).float()
        with torch.no_grad():
            expected = supernet(images, before)
            difference = (started(images, after) - expected).abs().max()
        # Positions are stored for the finest grid and give those of the largest images back.
        assert difference < (1e-5 if size == 32 else 0.2 * expected.abs().max())


def test_finer_positions_give_the_coarser_ones_back() -> None:
    generator = torch.Generator().manual_seed(0)
    for old, new, prefix in ((4, 8, 1), (7, 28, 0), (3, 5, 1)):
        positions = torch.randn(1, prefix + old**2, 6, generator=generator, dtype=torch.float64)
        finer = finer_positions(positions, old, new, prefix)
        assert finer.shape == (1, prefix + new**2, 6)
        assert_close(resample_positions(finer, (new, new), (old, old), prefix), positions, 1e-12)


# --- timm's networks ---------------------------------------------------------------------------------------------


def around(model: nn.Module) -> SearchSpace:
    """A space of the model's sizes that asks for kernels, halving and finer patches."""
    space = supernet_from_timm(model).space
    return replace(
        space, name="asking", mlp_kernels=(0, 3, 5), pool_after=(0, 1), patch_sizes=(4, 8), depths=(2, 3), image_sizes=(32,)
    )


def test_the_network_in_the_parents_patches_computes_what_the_parent_computes_whatever_its_kernels() -> None:
    model = random_vit("vit_tiny_patch16_224")
    supernet = supernet_from_timm(model, space=around(model))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(images)
        for kernels in ((5, 5, 5), (0, 3, 5), (0, 0, 0)):
            network = replace(supernet.space.largest, patch_size=8, mlp_kernel=kernels)
            assert_close(supernet(images, network), expected)
        assert_close(Subnet.from_supernet(supernet, network)(images), expected)
        finer = supernet(images, supernet.space.largest)  # patches of 4 px are others
    assert finer.shape == expected.shape
    assert (finer - expected).abs().max() > 0.01


def test_without_other_patches_the_largest_network_is_the_parent() -> None:
    model = random_vit("vit_tiny_patch16_224")
    space = replace(around(model), patch_sizes=())
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert_close(largest_logits(supernet_from_timm(model, space=space), images), model(images))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"stem": "conv"}, r"stem patch \(the space has conv\)"),
        ({"class_token": False, "pooling": "mean"}, r"class_token True \(the space has False\)"),
    ],
)
def test_a_parent_without_what_the_space_is_made_of_is_refused_in_one_line(wanted: dict[str, str], words: str) -> None:
    model = timm.create_model("vit_tiny_patch16_224", **{**SMALL, "global_pool": "avg", "fc_norm": False}).eval()
    with pytest.raises(ArchitectureError, match=words) as raised:
        supernet_from_timm(model, space=replace(around(model), **wanted))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


# --- released supernets ------------------------------------------------------------------------------------------


def test_a_released_supernet_starts_a_space_that_asks_for_more(tmp_path: Path) -> None:
    plain = SearchSpace(
        name="released", embed_dims=(16, 24), depths=(2, 3), num_heads=(1, 2, 3), mlp_ratios=(1.0, 2.0), head_dim=8,
        image_sizes=(16,), patch_size=4, num_classes=5, max_relative_position=6,
    )  # fmt: skip
    torch.manual_seed(0)
    shapes = _official_shapes(plain)
    torch.save({"model": {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}}, tmp_path / "official.pth")
    words = f"official:{tmp_path / 'official.pth'}"
    asking = replace(plain, mlp_kernels=(0, 3), pool_after=(0, 1), patch_sizes=(2, 4))
    expected, supernet = start_from(words, space=plain), start_from(words, space=asking)
    for architecture in some_of(plain):
        same = replace(architecture, patch_size=4, mlp_kernel=(3,) * architecture.depth, pool_after=0)
        images = images_of(plain, architecture).float()
        with torch.no_grad():
            assert_close(supernet(images, same), expected(images, architecture), 2e-5)
    with pytest.raises(ArchitectureError, match=r"stem patch \(the space has conv\)"):
        start_from(words, space=replace(plain, stem="conv"))


def test_no_official_file_is_imported_into_a_space_that_asks_for_more(tmp_path: Path) -> None:
    file = tmp_path / "official.pth"
    torch.save({"model": {"cls_token": torch.zeros(1, 1, 256)}}, file)
    space = replace(SearchSpace.preset("tiny"), mlp_kernels=(0, 3))
    with pytest.raises(CheckpointError, match=r"mlp_kernels is \(0, 3\) in the space, and \(0,\) for what the official code"):
        import_official(file, space)
