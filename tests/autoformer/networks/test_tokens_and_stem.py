"""Networks of spaces that ask for patch sizes, stems, kernels and halving: extraction, forms, gradients and counts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoformer.architecture import Architecture
from autoformer.cost import count_flops, count_params, count_supernet_params
from autoformer.networks.relative_position import Form, Tables
from autoformer.networks.stem import NormalisedConv
from autoformer.networks.subnet import Attention, Subnet
from autoformer.networks.supernet import Supernet
from autoformer.profiling.insides.fvcore_counts import count_by_operator
from autoformer.space import SearchSpace
from tests.support.grids_and_stems import KINDS, asking, network_asked_for
from tests.support.supernets import images_for, largest_difference, randomised

FORMS: tuple[Form, ...] = ("bias", "fused", "tiled")


def real_params(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def drawn(space: SearchSpace, count: int, seed: int) -> Iterator[Architecture]:
    """Members of every origin: drawn, varied and crossed."""
    rng = random.Random(seed)
    for index in range(count):
        first = space.sample(rng)
        yield (first, space.mutate(first, rng), space.crossover(first, space.sample(rng), rng))[index % 3]


def check_extraction(supernet: Supernet, architecture: Architecture) -> None:
    """Logits and the gradients of images, in every form, in float64."""
    subnet = Subnet.from_supernet(supernet, architecture)
    images = images_for(supernet.space, architecture).double().requires_grad_()
    expected: list[Tensor] = []
    for form in FORMS:
        supernet.form = form
        for module in subnet.modules():
            if isinstance(module, Attention):
                module.form = form
        for logits in (supernet(images, architecture), subnet(images)):
            (gradient,) = torch.autograd.grad(logits.square().sum(), images)
            expected = expected or [logits.detach(), gradient]
            assert largest_difference(logits.detach(), expected[0]) < 1e-11
            assert largest_difference(gradient, expected[1]) < 1e-11
    supernet.form = "auto"


def check_counts(space: SearchSpace, architecture: Architecture) -> None:
    subnet = Subnet.from_space(space, architecture)
    side = space.image_size_of(architecture)
    counted = count_by_operator(subnet, (space.in_chans, side, side))
    assert counted.params == count_params(architecture, space) == real_params(subnet) == subnet.cost.params
    assert counted.flops == count_flops(architecture, space) == subnet.cost.flops


@pytest.mark.parametrize("kind", KINDS)
def test_extracted_networks_give_the_supernets_logits_and_are_counted_exactly(kind: str) -> None:
    supernet = randomised(asking(kind)).double()
    for architecture in drawn(supernet.space, 2, len(kind)):
        check_extraction(supernet, architecture)
        check_counts(supernet.space, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thirty_extracted_networks_give_the_supernets_logits_and_are_counted_exactly(kind: str) -> None:
    supernet = randomised(asking(kind), 1).double()
    for architecture in drawn(supernet.space, 30, 1):
        check_extraction(supernet, architecture)
        check_counts(supernet.space, architecture)


@pytest.mark.parametrize("kind", KINDS)
def test_the_supernets_memory_is_counted(kind: str) -> None:
    space = asking(kind)
    assert count_supernet_params(space) == real_params(Supernet(space))


# --- gradients ---------------------------------------------------------------------------------------------------


def gradients_of(supernet: Supernet, architecture: Architecture, form: Form) -> dict[str, Tensor]:
    supernet.form = form
    supernet.zero_grad()
    supernet(images_for(supernet.space, architecture).double(), architecture).square().sum().backward()
    return {name: weight.grad.clone() for name, weight in supernet.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_gradients_in_training(kind: str) -> None:
    supernet = randomised(asking(kind)).double().train()
    for architecture in drawn(supernet.space, 2, 5):
        expected = gradients_of(supernet, architecture, "bias")
        for form in FORMS[1:]:
            found = gradients_of(supernet, architecture, form)
            assert found.keys() == expected.keys()
            for name, gradient in found.items():
                assert largest_difference(gradient, expected[name]) < 1e-10, name


def box(weight: Tensor, *bounds: slice) -> Tensor:
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    mask[bounds] = True
    return mask


ALL = slice(None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("class_token", [True, False], ids=["class token", "patches alone"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_gradients_reach_exactly_the_weights_a_network_uses(stem: str, class_token: bool, form: Form) -> None:
    """Width 24 of 32, heads 2 of 3, a grid of 4 × 4 halved to 2 × 2 before the third of five blocks."""
    space = asking(stem, class_token=class_token, num_heads=(1, 2, 3), scale_by_width=False)
    supernet = randomised(space).double().train()
    architecture = network_asked_for("conv" if stem == "conv" else "patch")
    space.check(architecture)
    with torch.no_grad():  # a channel of the stem that no image wakes has no gradient
        for module in supernet.patch_embed.modules():
            if isinstance(module, NormalisedConv):
                module.gain.fill_(1)
                module.bias.fill_(1)
    gradients = gradients_of(supernet, architecture, form)
    used, queries = slice(0, 24), slice(0, 16)
    hidden, reached = (36, 48, 24), slice(1, 4)  # of kernels: the 3 wide one is the centre; on a 2 × 2 grid no more is met
    farthest = ({0, 1, 2, 3}, {0, 1, 2, 3}, {0, 2})  # of the grid that a block sees, in patches of the whole grid
    expected: dict[str, Tensor | None] = {}
    for name, weight in supernet.named_parameters():
        if name.startswith("blocks"):
            _, number, part = name.split(".", 2)
            index = int(number)
            if index > 2:
                expected[name] = None
                continue
            mlp, kernel = slice(0, hidden[index]), architecture.kernels[index]
            if part.removeprefix("attn.") in Tables._fields:
                rows = [class_token, *(abs(distance) in farthest[index] for distance in range(-6, 7))]
                expected[name] = torch.tensor(rows)[:, None].expand(weight.shape)
                continue
            if part == "kernels":
                expected[name] = box(weight, mlp, ALL, reached, reached) if kernel else None
                continue
            bounds = {
                "attn.qkv.weight": (ALL, queries, used), "attn.qkv.bias": (ALL, queries), "attn.proj.weight": (used, queries),
                "fc1.weight": (mlp, used), "fc1.bias": (mlp,), "fc2.weight": (used, mlp),
            }  # fmt: skip
            mask = box(weight, *bounds.get(part, (used,)))
            if part == "attn.qkv.bias":
                mask[1] = False  # softmax ignores what is added to all logits: the key bias has no gradient
            expected[name] = mask
        elif name.startswith("head."):
            expected[name] = box(weight, ALL, used) if weight.ndim == 2 else box(weight)
        elif name in ("cls_token", "pos_embed"):
            expected[name] = box(weight, ALL, ALL, used)
        elif name.startswith(("patch_embed.halvings", "patch_embed.further.4.0")):
            expected[name] = box(weight)  # both halvings, and the first of the further ones of patches of 4 px
        elif name.startswith("patch_embed.further"):
            expected[name] = None
        else:
            expected[name] = box(weight, used)
    assert expected.keys() == dict(supernet.named_parameters()).keys()
    for name, reached_weights in expected.items():
        if reached_weights is None:
            assert name not in gradients, name
            continue
        reference = gradients[name][0] if name.endswith("qkv.bias") else gradients[name]
        touched = gradients[name].abs() > 1e-9 * reference.abs().max()
        assert torch.equal(touched, reached_weights), name


def test_another_patch_size_trains_the_stored_weight_and_its_own_convolutions() -> None:
    architecture = network_asked_for("patch", patch_size=2, image_size=16)
    patch = randomised(asking("patch")).double().train()
    gradient = gradients_of(patch, architecture, "bias")["patch_embed.proj.weight"]
    assert gradient.shape[-1] == 4
    assert gradient[:24].abs().min() > 0
    assert not gradient[24:].any()
    conv = randomised(asking("conv")).double().train()
    trained = gradients_of(conv, network_asked_for("conv", patch_size=2), "bias")
    parts = {name.removeprefix("patch_embed.").rpartition(".")[0] for name in trained if name.startswith("patch_embed")}
    assert parts == {"halvings.0", "further.2.0", "proj"}


def test_checkpointing_changes_no_gradient() -> None:
    supernet = randomised(asking("conv"), drop_path_rate=0.2).double().train()
    architecture = network_asked_for("conv")
    found = []
    for enable in (False, True):
        supernet.set_grad_checkpointing(enable)
        torch.manual_seed(3)
        found.append(gradients_of(supernet, architecture, "auto"))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-12, atol=1e-12)


# --- what a fresh supernet computes ------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_fresh_kernels_change_nothing(stem: str) -> None:
    supernet = randomised(asking(stem)).double().requires_grad_(False)
    fresh = Supernet(supernet.space).double().requires_grad_(False)
    for block, other in zip(supernet.blocks, fresh.blocks, strict=True):
        block.kernels = other.kernels
    architecture = network_asked_for("conv" if stem == "conv" else "patch")
    images = images_for(supernet.space, architecture).double()
    expected = supernet(images, replace(architecture, mlp_kernel=(0, 0, 0)))
    for kernels in ((3, 3, 3), (5, 5, 5), (5, 0, 3)):
        assert largest_difference(supernet(images, replace(architecture, mlp_kernel=kernels)), expected) < 1e-12
    supernet.get_parameter("blocks.0.kernels")[:, :, 0, 0] = 1
    assert largest_difference(supernet(images, replace(architecture, mlp_kernel=(5, 0, 0))), expected) > 1e-3
    assert largest_difference(supernet(images, replace(architecture, mlp_kernel=(3, 5, 5))), expected) < 1e-12


def test_a_network_without_any_attention_or_mlp_is_counted_and_cut_out() -> None:
    supernet = randomised(asking("patch, cut")).double()
    whole = network_asked_for("patch", head_dim=3)
    for changes in ({"num_heads": (0,) * 3}, {"mlp_ratio": (0.0,) * 3}, {"num_heads": (0,) * 3, "mlp_ratio": (0.0,) * 3}):
        heads = {"num_heads": (1, 1, 3), "mlp_ratio": (1.0, 2.0, 1.0)}
        architecture = replace(whole, **{**heads, **changes})  # type: ignore[arg-type]
        check_extraction(supernet, architecture)
        check_counts(supernet.space, architecture)
