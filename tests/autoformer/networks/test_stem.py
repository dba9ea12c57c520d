"""Stems: resampled patches against torch's own resizing and timm's, normalised convolutions against their definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor, nn

from autoformer.errors import ArchitectureError
from autoformer.networks import stem
from autoformer.networks.stem import ConvStem, NormalisedConv, SuperConvStem, resampled_patch, super_stem
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet, kernels_of
from autoformer.training.config import SupernetConfig
from autoformer.training.runs import fresh_supernet
from tests.support.grids_and_stems import asking, network_asked_for
from tests.support.supernets import images_for, largest_difference, randomised

SIZES = [(4, 2), (2, 4), (16, 8), (8, 16), (16, 12), (12, 16), (7, 16), (16, 32)]


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(("stored", "size"), SIZES)
def test_a_resampled_patch_is_that_of_timm(stored: int, size: int) -> None:
    weight = drawn(5, 3, stored, stored, dtype=torch.float32)
    expected = resample_patch_embed(weight, [size, size], interpolation="bilinear", antialias=True)
    assert largest_difference(resampled_patch(weight, size), expected) < 1e-5


@pytest.mark.parametrize(("stored", "size"), SIZES)
def test_a_resampled_patch_is_the_least_weight_with_the_products_of_resized_patches(stored: int, size: int) -> None:
    """Enlarged patches have the products that they had; of reduced ones no weight has all, and this comes nearest."""
    weight, patches = drawn(2, 1, stored, stored), torch.eye(stored**2, dtype=torch.float64).view(-1, 1, stored, stored)
    resized = F.interpolate(patches, size=(size, size), mode="bilinear", antialias=True).flatten(1)  # [P², p²]
    wanted = weight.flatten(1).T  # the product of each patch of one pixel with the weight
    expected = torch.linalg.lstsq(resized, wanted, driver="gelsd").solution.T.view(2, 1, size, size)
    found = resampled_patch(weight, size)
    assert largest_difference(found, expected) < 1e-10
    if size > stored:
        assert largest_difference(resized @ found.flatten(1).T, wanted) < 1e-10


def test_the_stored_patch_stays_as_it_is() -> None:
    weight = drawn(2, 3, 4, 4)
    assert resampled_patch(weight, 4) is weight


def test_half_precision_is_resampled_in_float32() -> None:
    weight = drawn(8, 3, 8, 8).bfloat16()
    found = resampled_patch(weight, 16)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, resampled_patch(weight.float(), 16).bfloat16())


def test_mixed_precision_resamples_in_float32_as_a_network_that_is_cut_out_does() -> None:
    weight = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = resampled_patch(weight, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resampled_patch(weight, 4), plain)


def test_what_is_kept_of_resampling_belongs_to_no_mode() -> None:
    weight = drawn(2, 3, 4, 4)
    stem._resampling.cache_clear()
    with torch.inference_mode():
        first = resampled_patch(weight, 8)
    with torch.device("meta"):
        second = resampled_patch(weight, 2)
    trained = weight.clone().requires_grad_()
    (resampled_patch(trained, 8).sum() + resampled_patch(trained, 2).sum()).backward()
    assert trained.grad is not None
    assert trained.grad.abs().min() > 0
    assert torch.equal(first.clone(), resampled_patch(weight, 8))
    assert second.device.type == "cpu"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, from inside its compiler
def test_resampling_is_compiled_and_exported_as_a_constant() -> None:
    class Resampled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return resampled_patch(weight, 2)

    weight = drawn(2, 3, 4, 4)
    stem._resampling.cache_clear()
    expected = resampled_patch(weight, 2)
    stem._resampling.cache_clear()
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(Resampled(), backend="eager", fullgraph=True)(weight), expected)
    stem._resampling.cache_clear()
    torch.testing.assert_close(torch.export.export(Resampled(), (weight,)).module()(weight), expected)
    torch.testing.assert_close(resampled_patch(weight, 2), expected)


def test_a_resized_image_meets_the_same_products_in_larger_patches() -> None:
    supernet = randomised(asking("patch", patch_size=2)).double()
    images = drawn(2, 3, 16, 16)
    own = supernet.patch_embed(images, 24, 2, 0)
    larger = F.interpolate(images.view(2, 3, 8, 2, 8, 2).transpose(3, 4).reshape(-1, 1, 2, 2), scale_factor=2, mode="bilinear")
    larger = larger.view(2, 3, 8, 8, 4, 4).transpose(3, 4).reshape(2, 3, 32, 32)  # every patch for itself
    torch.testing.assert_close(supernet.patch_embed(larger, 24, 4, 0), own)


# --- convolutions ------------------------------------------------------------------------------------------------


def by_definition(convolution: NormalisedConv) -> Tensor:
    """Mean 0, variance 2 / (1 - 1/π) / n over n inputs: a ReLU keeps the variance 1 of what is given (Brock et al., 2021)."""
    rows = []
    for weight, gain in zip(convolution.weight, convolution.gain, strict=True):
        centred = weight - weight.mean()
        unit = centred / (centred.square().mean() * weight.numel() + 1e-6).sqrt()
        rows.append(unit * gain * math.sqrt(2 / (1 - 1 / math.pi)))
    return torch.stack(rows)


def test_weights_are_normalised_as_defined() -> None:
    torch.manual_seed(0)
    convolution = NormalisedConv(6, 4, 2).double()
    nn.init.uniform_(convolution.gain, 0.5, 2)
    torch.testing.assert_close(convolution.folded(), by_definition(convolution))
    x = drawn(2, 6, 8, 8)
    expected = F.relu(F.conv2d(x, by_definition(convolution), convolution.bias, stride=2, padding=1))
    torch.testing.assert_close(convolution(x), expected)


def test_a_fresh_convolution_keeps_the_variance_through_its_relu() -> None:
    torch.manual_seed(0)
    x = NormalisedConv(32, 256, 1)(drawn(8, 32, 16, 16, dtype=torch.float32)).detach()[..., 1:-1, 1:-1]
    assert float(x.var()) == pytest.approx(1, rel=0.05)


def test_gradients_of_normalised_weights_are_numerically_right() -> None:
    torch.manual_seed(0)
    convolution = NormalisedConv(2, 3, 1).double()

    class Folded(nn.Module):
        def __init__(self, inner: NormalisedConv) -> None:
            super().__init__()
            self.inner = inner

        def forward(self) -> Tensor:
            return self.inner.folded()

    def folded(weight: Tensor, gain: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(Folded(convolution), {"inner.weight": weight, "inner.gain": gain}, ())
        return found

    assert torch.autograd.gradcheck(folded, (convolution.weight, convolution.gain))


@pytest.mark.parametrize(("patch_size", "depth"), [(2, 0), (4, 2), (2, 1)])
def test_a_conv_stem_is_its_convolutions_one_after_another(patch_size: int, depth: int) -> None:
    supernet = randomised(asking("conv")).double()
    own, images = supernet.patch_embed, drawn(2, 3, 16, 16)
    assert isinstance(own, SuperConvStem)
    halvings, further = list(own.halvings), list(own.further[str(patch_size)].children())
    x = images
    for index, convolution in enumerate([*halvings[: patch_size // 2], *further[:depth]]):  # 2 px: one halving, 4 px: two
        assert isinstance(convolution, NormalisedConv)
        stride = 2 if index < patch_size // 2 else 1
        x = F.relu(F.conv2d(x, by_definition(convolution), convolution.bias, stride=stride, padding=1))
    assert own.proj.bias is not None
    expected = torch.einsum("ec,bcij->beij", own.proj.weight[:24, :, 0, 0], x) + own.proj.bias[:24, None, None]
    torch.testing.assert_close(own(images, 24, patch_size, depth), expected)


def test_every_kind_of_stem_names_its_slices_as_its_network_does() -> None:
    for kind in ("patch", "conv"):
        space = asking(kind)
        architecture = network_asked_for("conv" if kind == "conv" else "patch")
        depth = architecture.stem_depth or 0
        names = [name for name, _ in super_stem(space).slices(24, 4, depth)]
        assert names == [name for name, _ in Subnet.from_space(space, architecture).patch_embed.named_parameters()]


# --- refusals ----------------------------------------------------------------------------------------------------


def conv_subnet(**changes: Any) -> Subnet:
    space = asking("conv", **changes)
    return Subnet.from_space(space, network_asked_for("conv")).eval()


def test_images_that_are_no_whole_patches_are_refused() -> None:
    subnet = conv_subnet()
    before = subnet.geometry
    with pytest.raises(ArchitectureError, match="images of 18×18 px are no whole patches of 4 px"):
        subnet.set_input_size(18)
    with pytest.raises(ArchitectureError, match="keeps its patches of 4 px"):
        subnet.set_input_size(patch_size=2)
    with pytest.raises(ArchitectureError, match="cannot be halved"):
        subnet.set_input_size(20)
    assert (subnet.geometry, subnet.patch_embed.img_size) == (before, (16, 16))
    assert subnet(images_for(asking("conv"), subnet.architecture)).shape == (2, 5)
    with pytest.raises(ArchitectureError, match=r"images of 24×24 px for a network that takes \(16, 16\) px"):
        subnet(torch.zeros(1, 3, 24, 24))
    assert isinstance(subnet.patch_embed, ConvStem)


def test_a_fresh_supernet_of_another_spread_keeps_the_kernels_that_change_nothing() -> None:
    space = asking("conv")
    made = fresh_supernet(space, SupernetConfig(init_std=0.1), 0)
    plain = Supernet(space)
    assert len(kernels_of(made)) == 5
    for name in kernels_of(made):
        assert torch.equal(made.get_parameter(name), plain.get_parameter(name))
    assert made.head.weight.std() > 3 * plain.head.weight.std()
