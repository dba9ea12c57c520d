"""Counts in closed form against hand calculations, real networks and fvcore; budgets."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES, Architecture
from autoformer.cost import (
    Budget,
    Cost,
    ExactCosts,
    alignment_waste,
    check_feasible,
    count_flops,
    count_params,
    count_supernet_params,
    show,
    use_words,
)
from autoformer.errors import BudgetError
from autoformer.networks.subnet import Attention, Subnet
from autoformer.networks.supernet import Supernet
from autoformer.profiling.insides.fvcore_counts import count_by_operator
from autoformer.space import SearchSpace
from tests.support.small_spaces import NAMES, shrunk

VARIANTS: list[dict[str, Any]] = [
    {"relative_position": False},
    {"absolute_position": False},
    {"pooling": "token"},
    {"in_chans": 1},
    {"max_relative_position": 1},
]

# As the official code counts them.
PUBLISHED_PARAMS = {"AutoFormer-T": 5_867_944, "AutoFormer-S": 22_891_432, "AutoFormer-B": 53_691_688}


def real_params(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def real_flops(subnet: Subnet) -> int:
    """Multiply-adds as torch's own counter sees them, and the LayerNorms (5 an element) that it leaves out."""
    elements = 0

    def add(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], __: torch.Tensor) -> None:
        nonlocal elements
        elements += inputs[0].numel()

    for module in subnet.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.register_forward_hook(add)
    for module in subnet.modules():
        if isinstance(module, Attention):
            module.form = "bias"
    side = subnet.patch_embed.img_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        subnet(torch.zeros(1, subnet.in_chans, *side))
    return int(counter.get_total_flops()) // 2 + 5 * elements


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_their_published_params(name: str) -> None:
    space = SearchSpace.preset(PUBLISHED_SPACES[name])
    assert count_params(PUBLISHED[name], space) == PUBLISHED_PARAMS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_flops_of_published_networks_are_those_of_a_calculation_by_hand(name: str) -> None:
    architecture, space = PUBLISHED[name], SearchSpace.preset(PUBLISHED_SPACES[name])
    width, tokens, side = architecture.embed_dim, 197, 14
    by_hand = 196 * 768 * width + 1000 * width + 5 * tokens * width * (2 * architecture.depth + 1)
    for heads, ratio in zip(architecture.num_heads, architecture.mlp_ratio, strict=True):
        channels = 64 * heads
        projections = tokens * (3 * width * channels + channels * width)
        mlp = tokens * (width * int(width * ratio)) * 2
        attention = tokens * tokens * channels * 2
        relative = side * side * channels * (side + side) * 2 + tokens * channels
        by_hand += projections + mlp + attention + relative
    assert count_flops(architecture, space) == by_hand


def test_the_published_tiny_network_has_1_317_giga_flops() -> None:
    space = SearchSpace.preset("tiny")
    assert round(count_flops(PUBLISHED["AutoFormer-T"], space) / 1e9, 3) == 1.317


@pytest.mark.parametrize("name", NAMES)
def test_counts_equal_the_real_network_for_random_members(name: str) -> None:
    space, rng = shrunk(name), random.Random(name)
    for _ in range(8):
        architecture = space.sample(rng)
        subnet = Subnet.from_space(space, architecture)
        assert count_params(architecture, space) == real_params(subnet)
        assert count_flops(architecture, space) == real_flops(subnet)


@pytest.mark.parametrize("changes", VARIANTS)
def test_counts_equal_the_real_network_in_variants_of_the_space(changes: dict[str, Any]) -> None:
    space, rng = replace(shrunk("tiny"), **changes), random.Random(0)
    architecture = space.sample(rng)
    subnet = Subnet.from_space(space, architecture)
    assert count_params(architecture, space) == real_params(subnet)
    assert count_flops(architecture, space) == real_flops(subnet)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_counts_equal_the_real_network_for_two_hundred_members_and_fvcore_for_twenty(name: str) -> None:
    """Most have fewer blocks than their preset: each block is counted for itself, and fvcore's tracing is what takes the time."""
    whole, rng = shrunk(name), random.Random(name)
    short = replace(whole, depths=(1, 2, 3, 4))
    for number in range(200):
        space = short if number % 10 else whole
        architecture = space.sample(rng)
        subnet = Subnet.from_space(space, architecture)
        params, flops = count_params(architecture, space), count_flops(architecture, space)
        assert (params, flops) == (real_params(subnet), real_flops(subnet))
        if number % 10 == 1 or number == 0:
            side = space.image_size_of(architecture)
            counted = count_by_operator(subnet, (space.in_chans, side, side))
            assert (counted.params, counted.flops) == (params, flops)


def test_a_network_tells_its_own_cost() -> None:
    space = shrunk("edge")
    architecture = space.sample(random.Random(5))
    expected = Cost(params=count_params(architecture, space), flops=count_flops(architecture, space))
    assert Subnet.from_space(space, architecture).cost == expected == ExactCosts(space)(architecture)


def test_counting_takes_microseconds() -> None:
    space = SearchSpace.preset("base")
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        count_params(space.largest, space)
        count_flops(space.largest, space)
        best = min(best, time.perf_counter() - start)
    assert best < 1e-3


@pytest.mark.parametrize("sharing", ["entangled", "classical"])
@pytest.mark.parametrize("name", ["micro", "tiny", "edge"])
def test_the_supernets_memory_is_counted_for_both_kinds_of_sharing(name: str, sharing: Any) -> None:
    space = replace(shrunk(name), sharing=sharing, depths=(1, 2))
    assert count_supernet_params(space) == real_params(Supernet(space))


def test_classical_sharing_of_the_papers_tiny_space_takes_many_times_the_memory() -> None:
    space = SearchSpace.preset("tiny")
    assert count_supernet_params(space) == 11_669_224  # the official file
    assert count_supernet_params(replace(space, sharing="classical")) > 8 * 11_669_224


# --- alignment ---------------------------------------------------------------------------------------------------


def test_widths_that_are_multiples_waste_nothing() -> None:
    space = SearchSpace.preset("small")
    assert alignment_waste(PUBLISHED["AutoFormer-S"], space) == 0


def test_the_waste_of_an_odd_width_is_that_of_the_next_aligned_network() -> None:
    space = SearchSpace.preset("tiny")
    odd = Architecture(embed_dim=216, num_heads=(3,) * 12, mlp_ratio=(3.5,) * 12)  # 216 and 756
    wide = replace(space, embed_dims=(224,), mlp_ratios=(768 / 224,))
    padded = Architecture(embed_dim=224, num_heads=(3,) * 12, mlp_ratio=(768 / 224,) * 12)  # 224 and 768
    assert padded.hidden_dims[0] == 768
    expected = count_flops(padded, wide) / count_flops(odd, space) - 1
    assert alignment_waste(odd, space) == pytest.approx(expected)
    assert 0.03 < expected < 0.06
    assert alignment_waste(odd, space, multiple=4) == 0


# --- budgets -----------------------------------------------------------------------------------------------------

COST = Cost(params=1000, flops=2000, latency_ms=4.0)


def test_excess_is_relative_to_each_broken_limit() -> None:
    assert Budget(max_flops=2000, min_params=1000).excess(COST) == {}
    budget = Budget(max_params=800, min_flops=4000, max_latency_ms=2.0)
    assert budget.excess(COST) == pytest.approx({"max_params": 0.25, "min_flops": 0.5, "max_latency_ms": 1.0})
    assert not budget.allows(COST)


def test_a_lower_limit_above_the_upper_one_is_refused() -> None:
    with pytest.raises(BudgetError, match="min_flops=4k is above max_flops=2k"):
        Budget(max_flops=2000, min_flops=4000)


def test_a_latency_limit_needs_a_measured_latency() -> None:
    with pytest.raises(BudgetError, match="give a latency table"):
        Budget(max_latency_ms=3).excess(Cost(params=1, flops=1))


@pytest.mark.parametrize("limits", [{"max_params": 0}, {"max_flops": -1}, {"max_latency_ms": float("nan")}])
def test_limits_must_be_positive_numbers(limits: dict[str, float]) -> None:
    with pytest.raises(BudgetError, match="must be a positive number"):
        Budget(**limits)


def test_an_impossible_budget_names_the_tightest_limit_the_cheapest_value_and_its_network() -> None:
    space = SearchSpace.preset("tiny")
    cheapest = space.smallest
    with pytest.raises(BudgetError) as caught:
        check_feasible(Budget(max_params=5e6, max_flops=0.5e9), space, ExactCosts(space))
    message = str(caught.value)
    assert "max_flops=500M" in message  # 2.4 times over; params 1.06 times
    assert show("flops", count_flops(cheapest, space)) in message
    assert str(cheapest) in message
    check_feasible(Budget(max_params=count_params(cheapest, space)), space, ExactCosts(space))
    with pytest.raises(BudgetError, match="most expensive network has 10"):
        check_feasible(Budget(min_params=20e6), space, ExactCosts(space))


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [("params", 5_867_944, "5.868M"), ("flops", 1.317e9, "1.317G"), ("params", 12_300, "12.3k"), ("latency_ms", 2.5, "2.5 ms")],
)
def test_values_are_shown_as_people_write_them(measure: str, value: float, text: str) -> None:
    assert show(measure, value) == text


def test_the_use_of_a_budget_is_the_share_of_each_upper_limit() -> None:
    budget = Budget(max_params=200, min_params=10, max_flops=1000, max_latency_ms=4)
    counted = {"max_params": 0.25, "max_flops": 0.96}
    assert budget.use_of(Cost(params=50, flops=960, latency_ms=5)) == {**counted, "max_latency_ms": 1.25}
    assert budget.use_of(Cost(params=50, flops=960)) == counted  # no latency is known
    assert Budget(min_flops=5).use_of(Cost(params=50, flops=960)) == {}
    assert use_words("max_flops", 0.96) == "96 % of the FLOPs limit"
    assert use_words("max_latency_ms", 1.25) == "125 % of the latency limit"
