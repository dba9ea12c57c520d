"""What relative position costs as it is executed, against torch's own counter and the published numbers."""

from __future__ import annotations

import random
from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
from autoformer.cost import count_flops
from autoformer.facts import (
    ExecutedForm,
    count_executed_flops,
    count_layer_norm_flops,
    count_relative_position_flops,
    count_unfactorised_flops,
)
from autoformer.networks.subnet import Subnet
from autoformer.space import PRESETS, SearchSpace
from tests.support.small_spaces import shrunk

OTHERS: dict[Any, Any] = {  # products that torch's counter leaves out; it counts 2 for a multiply-add
    torch.ops.aten.addmm_: lambda own, left, right, **_: 2 * left[0] * left[1] * right[1],
    torch.ops.aten.mv: lambda matrix, vector, **_: 2 * prod(matrix),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
        2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    ),
}


def counted_by_torch(space: SearchSpace, form: ExecutedForm, seed: int) -> tuple[int, int]:
    """Multiply-adds of products in a forward of one image, and the closed form without LayerNorm."""
    architecture = space.sample(random.Random(seed))
    subnet = Subnet.from_space(space, architecture, form=form).eval()
    side = space.image_size_of(architecture)
    with FlopCounterMode(display=False, custom_mapping=OTHERS) as counter, torch.no_grad():
        subnet(torch.zeros(1, space.in_chans, side, side))
    closed = count_executed_flops(architecture, space, form) - count_layer_norm_flops(architecture, space)
    return counter.get_total_flops() // 2, closed


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
