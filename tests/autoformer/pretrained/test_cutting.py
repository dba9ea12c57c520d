"""Weights turned and ordered by activations: the largest network stays, and narrow ones keep what matters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.errors import ArchitectureError
from autoformer.networks.subnet import Subnet
from autoformer.networks.super_layers import SuperBlock
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.activations import measured_activations
from autoformer.pretrained.adapt import Wanted
from autoformer.pretrained.cutting import cut_by_images
from autoformer.pretrained.start import AS_IT_IS, supernet_from_timm
from autoformer.space import SearchSpace
from tests.support.supernets import largest_difference, randomised
from tests.support.timm_networks import assert_close, largest_logits, random_vit

SPACE = SearchSpace(
    name="cut", embed_dims=(24,), depths=(3,), num_heads=(0, 1, 2, 3), mlp_ratios=(0, 0.5, 1, 2), head_dim=8, head_dims=(4, 6, 8),
    image_sizes=(16,), patch_size=4, num_classes=5, relative_position=False, mean_shift=True,
)  # fmt: skip
LARGEST = SPACE.largest


def images() -> Tensor:
    return torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def made(space: SearchSpace = SPACE) -> Supernet:
    supernet = randomised(space).double()
    for buffer in supernet.buffers():
        buffer.zero_()
    return supernet


def blocks(supernet: Supernet) -> list[SuperBlock]:
    return [block for block in supernet.blocks if isinstance(block, SuperBlock)]


@pytest.mark.parametrize("relative_position", [False, True], ids=["plain", "relative position"])
def test_the_largest_network_computes_what_it_did(relative_position: bool) -> None:
    space = replace(SPACE, relative_position=relative_position)
    supernet = made(space)
    expected = supernet(images(), space.largest).detach()
    before = {name: weight.clone() for name, weight in supernet.state_dict().items()}
    cut_by_images(supernet, [images()[:15], images()[15:]])
    assert largest_difference(supernet(images(), space.largest).detach(), expected) < 1e-9
    assert any((weight - before[name]).abs().max() > 0.1 for name, weight in supernet.named_parameters())


def test_a_query_and_key_that_no_image_wakes_do_not_break_it() -> None:
    supernet = made()
    with torch.no_grad():
        blocks(supernet)[1].attn.qkv.weight[:2, 8:16] = 0
        blocks(supernet)[1].attn.qkv.bias[:2, 8:16] = 0
        blocks(supernet)[2].attn.qkv.weight[2, :8] = 0  # and values that are the same everywhere
    expected = supernet(images(), LARGEST).detach()
    cut_by_images(supernet, [images()])
    assert largest_difference(supernet(images(), LARGEST).detach(), expected) < 1e-9


def test_half_a_head_is_enough_where_half_of_its_directions_do_something() -> None:
    """Values and keys of rank 4 in a random basis of 8 channels: the four that are left carry it all."""
    supernet, generator = made(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for block in blocks(supernet):
            for part in (1, 2):  # key, value
                for head in range(3):
                    channels = slice(8 * head, 8 * head + 8)
                    low = torch.randn(8, 4, generator=generator, dtype=torch.float64)
                    narrow = torch.randn(4, 24, generator=generator, dtype=torch.float64)
                    block.attn.qkv.weight[part, channels] = 0.1 * low @ narrow
    expected = supernet(images(), LARGEST).detach()
    narrow_heads = replace(LARGEST, head_dim=4)
    assert largest_difference(supernet(images(), narrow_heads).detach(), expected) > 0.1
    cut_by_images(supernet, [images()])
    assert largest_difference(supernet(images(), narrow_heads).detach(), expected) < 1e-5  # the floor of the variances


def test_hidden_channels_that_never_change_are_cut_without_loss() -> None:
    supernet = made()
    with torch.no_grad():
        for block in blocks(supernet):
            block.fc1.weight[0::2] = 0  # the bias stays: a constant that is not zero
    expected = supernet(images(), LARGEST).detach()
    halved = replace(LARGEST, mlp_ratio=(1.0,) * 3)
    cut_by_images(supernet, [images()])
    assert largest_difference(supernet(images(), halved).detach(), expected) < 1e-9


def with_means(supernet: Supernet, architecture: Architecture) -> Tensor:
    """The logits of the largest network, every channel that `architecture` lacks held at its mean by a hook."""
    network = Subnet.from_supernet(supernet, LARGEST)
    for index, block in enumerate(network.blocks):
        own = blocks(supernet)[index]
        of_heads, of_hidden = own.attn.get_buffer("mean"), own.get_buffer("mean")
        heads, hidden = architecture.num_heads[index], architecture.hidden_dims[index]
        kept = torch.zeros(3, 8, dtype=torch.bool)
        kept[:heads, : architecture.head_dim] = True

        def of_projection(module: object, given: tuple[Tensor], mean: Tensor = of_heads, kept: Tensor = kept) -> Tensor:
            return torch.where(kept.flatten(), given[0], mean)

        def of_second_layer(module: object, given: tuple[Tensor], mean: Tensor = of_hidden, hidden: int = hidden) -> Tensor:
            return torch.cat([given[0][..., :hidden], mean[hidden:].expand(*given[0].shape[:-1], -1)], -1)

        inside: Any = block
        inside.attn.proj.register_forward_pre_hook(of_projection)
        inside.mlp.fc2.register_forward_pre_hook(of_second_layer)
    logits: Tensor = network(images())
    return logits.detach()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_heads": (2, 0, 1)}, {"mlp_ratio": (0, 0.5, 1)}, {"num_heads": (0, 0, 3), "mlp_ratio": (0, 0, 2)},
        {"num_heads": (3, 0, 0), "mlp_ratio": (1, 0, 0)},
    ],
    ids=["heads", "MLPs", "first blocks absent", "last blocks absent"],
)  # fmt: skip
def test_what_a_network_lacks_stays_behind_as_its_mean(changes: dict[str, tuple[float, ...]]) -> None:
    """The supernet and the network that is cut out, against the largest network with hooks (keys and queries whole)."""
    supernet = made()
    cut_by_images(supernet, [images()])
    architecture = replace(LARGEST, **changes)  # type: ignore[arg-type]
    expected = with_means(supernet, architecture)
    assert largest_difference(supernet(images(), architecture).detach(), expected) < 1e-11
    assert largest_difference(Subnet.from_supernet(supernet, architecture)(images()).detach(), expected) < 1e-11


def test_heads_and_hidden_channels_stand_in_the_order_of_what_they_add() -> None:
    """By hand: a value whose head is multiplied adds that much more, and so does a column of the second layer."""
    supernet = made()
    with torch.no_grad():
        block = blocks(supernet)[1]
        block.attn.proj.weight[:, 16:] *= 30
        block.fc2.weight[:, 11] *= 1000
        column = block.fc2.weight[:, 11].clone()
    cut_by_images(supernet, [images()])
    sizes = block.attn.proj.weight.unflatten(1, (3, 8)).square().sum((0, 2))
    assert int(sizes.argmax()) == 0
    assert torch.equal(block.fc2.weight[:, 0], column)


def test_measuring_needs_images_and_whole_blocks() -> None:
    supernet = made()
    with pytest.raises(ArchitectureError, match="measured on images, got none"):
        measured_activations(Subnet.from_supernet(supernet, LARGEST), [])
    lacking = Subnet.from_supernet(supernet, replace(LARGEST, num_heads=(1, 0, 1)))
    with pytest.raises(ArchitectureError, match="every block has attention and an MLP"):
        measured_activations(lacking, [images()])


# --- timm's networks ---------------------------------------------------------------------------------------------


def photos(count: int = 24, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def cut_by(model: nn.Module, batches: list[Tensor], wanted: Wanted = AS_IT_IS, **more: Any) -> Supernet:
    supernet = supernet_from_timm(model, wanted, to_cut=True, **more)
    cut_by_images(supernet, batches)
    return supernet


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit3_small_patch16_224"])
def test_a_network_of_timm_that_is_cut_by_data_computes_what_it_did(name: str) -> None:
    model = random_vit(name)
    supernet = cut_by(model, [photos()[:10], photos()[10:]])
    with torch.no_grad():
        assert_close(largest_logits(supernet, photos(3)), model(photos(3)), 2e-4)
    space = supernet.space
    assert space.mean_shift
    assert (space.embed_dims, space.depths) == ((model.embed_dim,), (len(model.blocks),))
    assert space.num_heads[0] == space.mlp_ratios[0] == 0
    assert all(channels % 8 == 0 for channels in space.head_dims)


def test_the_images_are_of_the_size_and_channels_that_are_wanted() -> None:
    model = random_vit("deit_tiny_patch16_224")
    wanted = Wanted(image_size=48, in_chans=1, num_classes=4)
    supernet = cut_by(model, [photos(4, 48)[:, :1]], wanted)
    assert supernet.space.image_sizes == (48,)
    assert supernet(photos(2, 48)[:, :1], supernet.space.smallest).shape == (2, 4)


def test_a_space_of_ones_own_decides_about_means_and_widths_of_heads() -> None:
    model = random_vit("deit_tiny_patch16_224")
    space = replace(supernet_from_timm(model, to_cut=True).space, name="own", num_heads=(1, 3), head_dims=())
    assert cut_by(model, [photos()], space=space).space == space
    plain = replace(space, mean_shift=False)
    assert not list(cut_by(model, [photos()], space=plain).buffers())


def test_a_space_with_kernels_is_cut_by_data_as_well() -> None:
    """Kernels that change nothing are one of a block's channels like the other: no order is wrong for them."""
    model = random_vit("deit_tiny_patch16_224")
    space = replace(supernet_from_timm(model, to_cut=True).space, name="own", mlp_kernels=(0, 3), embed_dims=(24, 48))
    with torch.no_grad():
        assert_close(largest_logits(cut_by(model, [photos()], space=space), photos(3)), model(photos(3)), 2e-4)


def test_relative_positions_keep_heads_whole() -> None:
    supernet = cut_by(random_vit("deit_tiny_patch16_224"), [photos()], relative_position=True)
    assert supernet.space.relative_position
    assert supernet.space.head_dims == ()
