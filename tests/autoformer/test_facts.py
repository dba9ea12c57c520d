"""What relative position costs as it is executed, against torch's own counter and the published numbers."""

from __future__ import annotations

import random
from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES, Architecture
from autoformer.cli.facts import (
    ExecutedForm,
    count_executed_flops,
    count_layer_norm_flops,
    count_relative_position_flops,
    count_unfactorised_flops,
)
from autoformer.cost import count_flops
from autoformer.networks.subnet import Subnet
from autoformer.profiling.insides.fvcore_counts import count_by_operator
from autoformer.space import PRESETS, SearchSpace
from tests.support.asking_spaces import ASKING
from tests.support.small_spaces import shrunk

OTHERS: dict[Any, Any] = {  # products that torch's counter leaves out; it counts 2 for a multiply-add
    torch.ops.aten.addmm_: lambda own, left, right, **_: 2 * left[0] * left[1] * right[1],
    torch.ops.aten.mv: lambda matrix, vector, **_: 2 * prod(matrix),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
        2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    ),
}


def real_products(subnet: Subnet) -> int:
    """Multiply-adds of all products of one image."""
    rows, columns = subnet.patch_embed.img_size
    with FlopCounterMode(display=False, custom_mapping=OTHERS) as counter, torch.no_grad():
        subnet.eval()(torch.zeros(1, subnet.in_chans, rows, columns))
    return int(counter.get_total_flops()) // 2


def counted_by_torch(space: SearchSpace, form: ExecutedForm, seed: int) -> tuple[int, int]:
    """Multiply-adds of products in a forward of one image, and the closed form without LayerNorm."""
    architecture = space.sample(random.Random(seed))
    subnet = Subnet.from_space(space, architecture, form=form)
    closed = count_executed_flops(architecture, space, form) - count_layer_norm_flops(architecture, space)
    return real_products(subnet), closed


@pytest.mark.parametrize("form", ["bias", "fused", "tiled"])
@pytest.mark.parametrize("name", ["micro", "tiny", "edge"])
def test_the_closed_form_is_what_torch_counts_while_the_form_runs(form: ExecutedForm, name: str) -> None:
    space = shrunk(name)
    for seed in range(3):
        counted, closed = counted_by_torch(space, form, seed)
        assert counted == closed
    counted, closed = counted_by_torch(replace(space, relative_position=False), form, 0)
    assert counted == closed


# Sums that were made with torch's counter on the running official code, in multiply-adds: all products of a published network,
# and those without relative position. LayerNorm is no product.
@pytest.mark.parametrize(
    ("name", "products", "without_position"),
    [("T", 1.4819e9, 1.2832e9), ("S", 5.1614e9, 4.7739e9), ("B", 11.6912e9, 11.0454e9)],
)
def test_the_parts_of_a_published_count_add_up_to_the_products_of_the_official_code(
    name: str, products: float, without_position: float
) -> None:
    network = PUBLISHED[f"AutoFormer-{name}"], PRESETS[PUBLISHED_SPACES[f"AutoFormer-{name}"]]
    plain = count_flops(*network) - count_layer_norm_flops(*network) - count_relative_position_flops(*network)
    assert plain == pytest.approx(without_position, abs=5e4)
    assert plain + count_unfactorised_flops(*network) == pytest.approx(products, abs=5e4)


# --- spaces that ask for more ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bias", "fused", "tiled"])
@pytest.mark.parametrize("name", ASKING)
def test_every_block_is_counted_on_its_own_grid_with_the_tokens_it_has(form: ExecutedForm, name: str) -> None:
    for seed in range(6):
        counted, closed = counted_by_torch(ASKING[name], form, seed)
        assert counted == closed


@pytest.mark.parametrize("name", ASKING)
def test_fvcore_counts_the_same_in_all_and_for_layer_norm(name: str) -> None:
    space = ASKING[name]
    for architecture in (space.smallest, space.middle, space.sample(random.Random(0)), space.largest):
        subnet = Subnet.from_space(space, architecture).eval()
        counts = count_by_operator(subnet, (space.in_chans, *subnet.patch_embed.img_size))
        assert (counts.params, counts.flops) == (subnet.cost.params, count_flops(architecture, space))
        assert counts.flops_by_operator["layer_norm"] == count_layer_norm_flops(architecture, space)


@pytest.mark.parametrize("name", ASKING)
def test_relative_position_is_the_difference_to_a_network_without_it(name: str) -> None:
    space = ASKING[name]
    for seed in range(4):
        architecture = space.sample(random.Random(seed))
        counts = [
            real_products(Subnet.from_space(replace(space, relative_position=own), architecture, form="bias"))
            for own in (True, False)
        ]
        assert count_relative_position_flops(architecture, space) == counts[0] - counts[1]
        assert count_relative_position_flops(architecture, replace(space, relative_position=False)) == 0


def test_an_embedding_of_every_pair_is_multiplied_on_the_grid_that_a_block_sees() -> None:
    space = ASKING["without token"]
    architecture = Architecture(
        embed_dim=16, num_heads=(1, 2, 1), mlp_ratio=(1.0,) * 3, image_size=16, patch_size=2, stem_depth=0,
        mlp_kernel=(0, 3, 0), pool_after=2,
    )  # fmt: skip
    space.check(architecture)
    pairs = (64**2, 64**2, 16**2)  # grids of 8, 8 and 4
    by_hand = 2 * 8 * (1 * pairs[0] + 2 * pairs[1] + 1 * pairs[2])
    assert count_unfactorised_flops(architecture, space) == by_hand
    with_token = 2 * 8 * (1 * 65**2 + 2 * 65**2 + 1 * 17**2)
    assert count_unfactorised_flops(architecture, replace(space, class_token=True)) == with_token
