"""The order of heads and channels, and pretrained weights on other images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import erf
from torch import Tensor

from autoformer.data.preprocessing import Normalisation
from autoformer.errors import ArchitectureError
from autoformer.networks.positions import resample_positions
from autoformer.networks.subnet import Subnet
from autoformer.pretrained.adapt import Wanted, adapt_subnet, adapt_supernet
from autoformer.pretrained.importance import assumed_moments, order_by_importance
from autoformer.pretrained.start import subnet_from_timm, supernet_from_timm
from tests.support.timm_networks import SPACE, assert_close, blocks, largest_logits, pixels, random_vit, trained_like


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


def test_adapting_to_the_same_data_changes_nothing() -> None:
    supernet = trained_like(SPACE)
    adapted = adapt_supernet(supernet, Wanted(num_classes=5, image_size=16, in_chans=3))
    assert adapted is not supernet
    assert adapted.space == SPACE
    for name, weight in supernet.state_dict().items():
        assert torch.equal(adapted.state_dict()[name], weight), name


def test_other_classes_start_from_a_classifier_of_zeros_and_the_same_body() -> None:
    supernet = trained_like(SPACE)
    adapted = adapt_supernet(supernet, Wanted(num_classes=9))
    assert adapted.space.num_classes == 9
    assert torch.equal(largest_logits(adapted, pixels(adapted, size=16).double()), torch.zeros(3, 9).double())
    assert torch.equal(blocks(adapted)[0].fc1.weight, blocks(supernet)[0].fc1.weight)
    subnet = Subnet.from_supernet(supernet, SPACE.smallest)
    other = adapt_subnet(subnet, Wanted(num_classes=9))
    assert (other.num_classes, subnet.num_classes) == (9, 5)
    assert not any(weight.any() for weight in other.head.parameters())


def test_the_largest_network_learns_from_a_classifier_of_zeros() -> None:
    adapted = adapt_supernet(trained_like(SPACE), Wanted(num_classes=2))
    images = pixels(adapted, size=16).double()
    F.cross_entropy(adapted(images, SPACE.largest), torch.tensor([0, 1, 0])).backward()
    gradient = adapted.head.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("size", [8, 24])
def test_a_supernet_and_its_subnet_adapt_alike(size: int) -> None:
    supernet = trained_like(SPACE)
    adapted = adapt_supernet(supernet, Wanted(image_size=size, in_chans=1))
    images = pixels(adapted, size=size).double()
    for architecture in (SPACE.smallest, SPACE.largest):
        subnet = adapt_subnet(Subnet.from_supernet(supernet, architecture), Wanted(image_size=size, in_chans=1))
        with torch.no_grad():
            assert_close(adapted(images, architecture), subnet(images), 1e-11)
        assert subnet.space.image_size == size


def test_larger_images_start_rows_that_were_never_trained_from_their_neighbours() -> None:
    supernet = trained_like(SPACE)  # a grid of 4: distances up to 3 were seen, of the 6 that the tables hold
    adapted = adapt_supernet(supernet, Wanted(image_size=24))
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
    assert adapt_supernet(supernet, Wanted(image_size=32)).space.image_sizes == (16, 24, 32)
    assert adapt_supernet(supernet, Wanted(image_size=20)).space.image_sizes == (12, 16, 20)  # 2.5, 3.75, 5 patches
    assert adapt_supernet(supernet, Wanted(image_size=4)).space.image_sizes == (4,)


def test_a_size_that_the_patch_does_not_divide_is_refused() -> None:
    supernet = trained_like(SPACE)
    for adapt in (
        lambda: adapt_supernet(supernet, Wanted(image_size=18)),
        lambda: adapt_subnet(Subnet.from_supernet(supernet, SPACE.largest), Wanted(image_size=18)),
    ):
        with pytest.raises(ArchitectureError, match=r"18 px are not a multiple of the pretrained patch of 4 px.*16"):
            adapt()


def test_a_colour_network_sees_a_grey_image_as_it_saw_its_colours() -> None:
    supernet = trained_like(SPACE)
    grey = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    expected = largest_logits(supernet, grey.expand(-1, 3, -1, -1))
    assert_close(largest_logits(adapt_supernet(supernet, Wanted(in_chans=1)), grey), expected, 1e-5)  # timm sums in float32
    back = adapt_supernet(adapt_supernet(supernet, Wanted(in_chans=1)), Wanted(in_chans=6))
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
    adapted = adapt_supernet(supernet, Wanted(in_chans=channels, normalisation=given), trained)
    assert_close(largest_logits(adapted, normalised(image, given)), expected, 1e-5 if channels == 1 else 1e-11)


def test_what_timm_says_of_its_normalisation_is_made_up_for() -> None:
    model = random_vit("vit_tiny_patch16_224")  # trained with mean and std 0.5
    image = torch.rand(2, 3, 32, 32)
    given = Normalisation((0.2, 0.3, 0.4), (0.1, 0.2, 0.3))
    with torch.no_grad():
        expected = model((image - 0.5) / 0.5)
    x = (image - torch.tensor(given.mean).view(-1, 1, 1)) / torch.tensor(given.std).view(-1, 1, 1)
    assert_close(largest_logits(supernet_from_timm(model, Wanted(normalisation=given)), x), expected, 2e-5)
    with torch.no_grad():
        assert_close(subnet_from_timm(model, Wanted(normalisation=given))(x), expected, 2e-5)
