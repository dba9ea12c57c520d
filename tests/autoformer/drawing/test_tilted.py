"""Draws from spaces whose blocks differ in cost, against the whole of a small space, enumerated."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, Cost, ExactCosts, LinearCost, Outline, OutlineLatency, count_flops, count_params
from autoformer.drawing.budgeted import Candidates
from autoformer.drawing.tilted import Outlines, TiltedRegion
from autoformer.errors import BudgetError
from autoformer.space import SearchSpace

SPACE = SearchSpace(
    name="few thousand", embed_dims=(16, 24), depths=(2, 3), num_heads=(1, 2), mlp_ratios=(1.0, 4.0), head_dim=8,
    image_sizes=(16,), patch_size=4, patch_sizes=(2, 4), num_classes=5, max_relative_position=3, stem="conv", stem_dim=4,
    stem_depths=(0, 1), mlp_kernels=(0, 3), pool_after=(0, 1), class_token=False,
)  # fmt: skip
PROBABILITY = {
    Architecture(
        embed_dim=width, num_heads=heads, mlp_ratio=ratios, patch_size=patch, stem_depth=stem, mlp_kernel=kernels, pool_after=pool
    ): 1 / (2 * 2 * 2 * 2 * 2 * 8**depth)
    for width in SPACE.embed_dims
    for depth in SPACE.depths
    for patch in SPACE.patch_sizes
    for stem in SPACE.stem_depths
    for pool in SPACE.pool_after
    for heads in itertools.product(SPACE.num_heads, repeat=depth)
    for ratios in itertools.product(SPACE.mlp_ratios, repeat=depth)
    for kernels in itertools.product(SPACE.mlp_kernels, repeat=depth)
}  # of every network of the space, every choice drawn uniformly
FLOPS = {network: count_flops(network, SPACE) for network in PROBABILITY}
PARAMS = {network: count_params(network, SPACE) for network in PROBABILITY}


class Priced:
    """1 ms, 0.2 ms a block, 0.1 a head on the whole grid and 0.04 on the halved, 1 µs a channel and 2 more with a kernel."""

    measurement_conditions = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="none", device="a formula")

    def outline_latency(self, outline: Outline) -> LinearCost:
        blocks = {
            (halved, kernel): (0.2, 0.04 if halved else 0.1, 0.003 if kernel else 0.001)
            for halved in (False, True)
            for kernel in SPACE.mlp_kernels
        }
        return LinearCost(1.0, blocks)

    def latency_of(self, architecture: Architecture, flops: int) -> float:
        whole = architecture.pool_after or architecture.depth
        total = 1.0
        for index, (heads, hidden, kernel) in enumerate(
            zip(architecture.num_heads, architecture.hidden_dims, architecture.kernels, strict=True)
        ):
            total += 0.2 + heads * (0.1 if index < whole else 0.04) + hidden * (0.003 if kernel else 0.001)
        return total

    def __call__(self, architecture: Architecture) -> Cost:
        latency_ms = self.latency_of(architecture, 0)
        return Cost(params=PARAMS[architecture], flops=FLOPS[architecture], latency_ms=latency_ms)


def inside(budget: Budget) -> dict[Architecture, float]:
    """The probability of every network that keeps the budget."""
    latency = Priced()
    kept = [n for n in PROBABILITY if budget.allows(latency(n))]
    return {network: PROBABILITY[network] for network in kept}


def at(share: float, of: dict[Architecture, int]) -> int:
    """The count that this share of the networks stays below."""
    return sorted(of.values())[int(share * len(of))]


BUDGETS = {
    "no limit": Budget(),
    "half of the FLOPs": Budget(max_flops=at(0.5, FLOPS)),
    "few FLOPs": Budget(max_flops=at(0.03, FLOPS)),
    "a band of FLOPs": Budget(min_flops=at(0.7, FLOPS), max_flops=at(0.75, FLOPS)),
    "many params and few FLOPs": Budget(min_params=at(0.8, PARAMS), max_flops=at(0.3, FLOPS)),
    "latency": Budget(max_latency_ms=2.2),
    "latency and params": Budget(max_latency_ms=2.4, max_params=at(0.3, PARAMS)),
}


def test_the_enumerated_space_is_whole() -> None:
    assert len(PROBABILITY) == SPACE.size
    assert sum(PROBABILITY.values()) == pytest.approx(1)
    assert all(SPACE.contains(network) for network in PROBABILITY)
    assert isinstance(Priced(), OutlineLatency)


@pytest.mark.parametrize("name", BUDGETS)
def test_draws_are_distributed_as_uniform_choices_inside_the_budget(name: str) -> None:
    """In 40 groups of networks by FLOPs, and in each choice of the whole network."""
    members, rng = inside(BUDGETS[name]), random.Random(0)
    assert len(members) > 40
    candidates = Candidates(SPACE, Priced(), BUDGETS[name])
    assert isinstance(candidates.region, TiltedRegion)
    drawn = [candidates.draw(rng) for _ in range(4000)]
    assert all(cost == Priced()(network) for network, cost in drawn)
    assert {network for network, _ in drawn} <= set(members)
    counted = Counter(network for network, _ in drawn)
    groups: list[tuple[float, int]] = []
    ordered = sorted(members, key=lambda one: (FLOPS[one], PARAMS[one], str(one)))
    for which in np.array_split(np.arange(len(ordered)), 40):
        group = [ordered[index] for index in which]
        groups.append((sum(members[network] for network in group), sum(counted[network] for network in group)))
    whole = sum(members.values())
    assert chisquare([seen for _, seen in groups], [4000 * share / whole for share, _ in groups]).pvalue > 1e-3
    for choice in ("embed_dim", "depth", "patch_size", "stem_depth", "pool_after"):
        expected: Counter[int] = Counter()
        seen: Counter[int] = Counter()
        for network, share in members.items():
            expected[getattr(network, choice)] += 4000 * share / whole  # type: ignore[assignment]
            seen[getattr(network, choice)] += counted[network]
        if len(expected) > 1:
            assert chisquare([seen[value] for value in expected], list(expected.values())).pvalue > 1e-3, choice


@pytest.mark.parametrize("name", BUDGETS)
def test_the_share_of_a_region_is_estimated_without_bias(name: str) -> None:
    region = Candidates(SPACE, Priced(), BUDGETS[name]).region
    assert region.share == pytest.approx(sum(inside(BUDGETS[name]).values()), rel=0.2)


@pytest.mark.parametrize("name", BUDGETS)
def test_the_most_expensive_network_has_nearly_the_most_flops_inside(name: str) -> None:
    members = inside(BUDGETS[name])
    found = Candidates(SPACE, Priced(), BUDGETS[name]).most_expensive(random.Random(1))
    assert found in members
    assert FLOPS[found] >= 0.99 * max(FLOPS[network] for network in members)


@pytest.mark.parametrize("name", BUDGETS)
def test_mutations_and_crossovers_end_inside_the_budget(name: str) -> None:
    members, rng = inside(BUDGETS[name]), random.Random(2)
    candidates, some = Candidates(SPACE, Priced(), BUDGETS[name]), list(members)
    for _ in range(30):
        assert candidates.draw(rng, lambda rng: SPACE.mutate(rng.choice(some), rng))[0] in members
        assert candidates.draw(rng, lambda rng: SPACE.crossover(rng.choice(some), SPACE.sample(rng), rng))[0] in members
        same = rng.choice(some)
        assert candidates.draw(rng, lambda rng: same)[0] == same  # noqa: B023


def test_a_thousandth_of_a_large_space_is_drawn_from_with_few_rejections() -> None:
    space = SearchSpace(
        name="large", embed_dims=(64, 96, 128), depths=(6, 8, 10), num_heads=(2, 3, 4), mlp_ratios=(1, 2, 3, 4), head_dim=32,
        image_sizes=(32,), patch_size=4, num_classes=10, max_relative_position=7, mlp_kernels=(0, 3, 5), pool_after=(0, 2, 4),
    )  # fmt: skip
    rng = random.Random(3)
    sample = [count_flops(space.sample(rng), space) for _ in range(4000)]
    region = Candidates(space, ExactCosts(space), Budget(max_flops=sorted(sample)[4])).region
    assert isinstance(region, TiltedRegion)
    assert 0.0002 < region.share < 0.004
    accepted = region._proposed(4096, rng)[2].mean()
    assert accepted > 0.02


def test_limits_that_no_network_keeps_together_are_refused_with_the_nearest_network() -> None:
    budget = Budget(min_params=at(0.999, PARAMS), max_flops=at(0.01, FLOPS))
    assert not inside(budget)
    with pytest.raises(BudgetError, match=r"no network found .* widen the limits"):
        Candidates(SPACE, ExactCosts(SPACE), budget)


def test_a_draw_from_a_region_without_networks_ends() -> None:
    region = TiltedRegion(Outlines(SPACE), Budget(min_params=at(0.999, PARAMS), max_flops=at(0.01, FLOPS)))
    assert region.share == 0
    with pytest.raises(BudgetError, match=r"none of 65536 networks .* widen the limits"):
        region.draw(random.Random(0))


def test_a_limit_on_params_is_feasible_in_the_patch_size_that_has_the_fewest() -> None:
    fewest = min(PARAMS, key=PARAMS.__getitem__)
    candidates = Candidates(SPACE, ExactCosts(SPACE), Budget(max_params=PARAMS[fewest]))
    assert PARAMS[candidates.draw(random.Random(0))[0]] == PARAMS[fewest]
    with pytest.raises(BudgetError, match=f"its cheapest network has {PARAMS[fewest] / 1e3:.4g}k"):
        Candidates(SPACE, ExactCosts(SPACE), Budget(max_params=PARAMS[fewest] - 1))
