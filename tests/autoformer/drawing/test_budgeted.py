"""Draws inside a budget against the whole of a small space, enumerated."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest
from scipy.stats import chisquare

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, Cost, ExactCosts, LinearLatency, count_flops, count_params
from autoformer.drawing.budgeted import Candidates
from autoformer.drawing.region import Region, Shapes
from autoformer.errors import BudgetError
from autoformer.space import PRESETS, SearchSpace

SPACE = SearchSpace(
    name="a thousand", embed_dims=(16, 24), depths=(1, 2, 3), num_heads=(1, 2), mlp_ratios=(1.0, 1.5, 4.0), head_dim=8,
    image_sizes=(8, 16), patch_size=4, num_classes=5, max_relative_position=3,
)  # fmt: skip
PROBABILITY = {
    Architecture(embed_dim=width, num_heads=heads, mlp_ratio=ratios, image_size=size): 1 / (2 * 3 * 2 * 6**depth)
    for size in SPACE.image_sizes
    for width in SPACE.embed_dims
    for depth in SPACE.depths
    for heads in itertools.product(SPACE.num_heads, repeat=depth)
    for ratios in itertools.product(SPACE.mlp_ratios, repeat=depth)
}  # of every network of the space, in the paper's sampling
FLOPS = {network: count_flops(network, SPACE) for network in PROBABILITY}
PARAMS = {network: count_params(network, SPACE) for network in PROBABILITY}


class Latencies:
    """Milliseconds by any rule."""

    measurement_conditions = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="none", device="a formula")

    def __init__(self, space: SearchSpace, of: Callable[[Architecture], float]) -> None:
        self.space, self.of = space, of

    def __call__(self, architecture: Architecture) -> Cost:
        flops = count_flops(architecture, self.space)
        return Cost(params=count_params(architecture, self.space), flops=flops, latency_ms=self.of(architecture))


def budgets() -> list[Budget]:
    """From nearly everything to a handful of networks, one- and two-sided."""
    rng, flops, params = random.Random(0), sorted(FLOPS.values()), sorted(PARAMS.values())
    found = [
        Budget(),
        Budget(max_flops=flops[0]),
        Budget(min_flops=flops[-1]),
        Budget(min_params=params[-1], min_flops=flops[-1]),
    ]
    for _ in range(40):
        (a, b), (c, d) = sorted(rng.sample(flops, 2)), sorted(rng.sample(params, 2))
        found += [Budget(max_flops=a), Budget(min_flops=a, max_flops=b), Budget(min_params=c, max_params=d)]
        if any(a <= FLOPS[network] <= b and c <= PARAMS[network] <= d for network in PROBABILITY):
            found.append(Budget(min_flops=a, max_flops=b, min_params=c, max_params=d))
    return found


def inside(budget: Budget) -> dict[Architecture, float]:
    """The probability of every network that keeps the budget."""
    kept = [n for n in PROBABILITY if budget.allows(Cost(params=PARAMS[n], flops=FLOPS[n]))]
    return {network: PROBABILITY[network] for network in kept}


def test_the_enumerated_space_is_whole() -> None:
    assert len(PROBABILITY) == SPACE.size
    assert sum(PROBABILITY.values()) == pytest.approx(1)


def test_the_share_of_the_space_inside_a_budget_is_exact() -> None:
    for budget in budgets():
        assert Candidates(SPACE, ExactCosts(SPACE), budget).region.share == pytest.approx(sum(inside(budget).values()), rel=1e-12)


def test_every_network_inside_a_budget_is_drawn_and_none_outside_with_its_exact_costs() -> None:
    rng = random.Random(1)
    for budget in budgets()[::9]:
        members = inside(budget)
        candidates = Candidates(SPACE, ExactCosts(SPACE), budget)
        least = min(members.values()) / sum(members.values())
        seen = set()
        for _ in range(int(12 / least)):  # misses one of at most 1032 with a probability of 1032·e^-12 = 0.6 %
            architecture, cost = candidates.draw(rng)
            assert (cost.params, cost.flops) == (PARAMS[architecture], FLOPS[architecture])
            seen.add(architecture)
        assert seen == set(members)


@pytest.mark.parametrize("which", [0, 7, 10, 21])
def test_draws_are_distributed_as_the_papers_sampling_inside_the_budget(which: int) -> None:
    budget, rng = budgets()[which], random.Random(2)
    members = inside(budget)
    assert len(members) > 1
    candidates = Candidates(SPACE, ExactCosts(SPACE), budget)
    assert _probability(Counter(candidates.draw(rng)[0] for _ in range(15_000)), members) > 1e-3


def test_a_latency_limit_that_grows_with_flops_keeps_the_distribution() -> None:
    limit, rng = sorted(FLOPS.values())[40], random.Random(3)
    costs = Latencies(SPACE, lambda network: 1 + FLOPS[network] / 1e6)
    candidates = Candidates(SPACE, costs, Budget(max_latency_ms=1 + limit / 1e6))
    drawn = Counter(candidates.draw(rng)[0] for _ in range(15_000))
    assert _probability(drawn, inside(Budget(max_flops=limit))) > 1e-3


class Linear(Latencies):
    """1 ms, 0.3 ms a block, 0.05 ms a head and 2 µs a hidden channel, and able to say so."""

    def __init__(self) -> None:
        super().__init__(SPACE, lambda network: self.latency_of(network, 0))

    def latency_terms(self, embed_dim: int, depth: int, image_size: int) -> tuple[float, float, float]:
        return 1 + 0.3 * depth, 0.05, 0.002

    def latency_of(self, architecture: Architecture, flops: int) -> float:
        return 1 + 0.3 * architecture.depth + 0.05 * sum(architecture.num_heads) + 0.002 * sum(architecture.hidden_dims)


@pytest.mark.parametrize("limit", [1.9, 2.3, 2.6])
def test_a_linear_latency_is_drawn_from_exactly(limit: float) -> None:
    costs, rng = Linear(), random.Random(7)
    assert isinstance(costs, LinearLatency)
    members = {n: PROBABILITY[n] for n in PROBABILITY if costs.of(n) <= limit}
    assert 1 < len(members) < len(PROBABILITY)
    candidates = Candidates(SPACE, costs, Budget(max_latency_ms=limit))
    assert candidates.region.share == pytest.approx(sum(members.values()), rel=1e-12)
    drawn = [candidates.draw(rng) for _ in range(15_000)]
    assert all(cost.latency_ms == costs.of(network) for network, cost in drawn)
    least = min(members.values()) / sum(members.values())
    if least * 15_000 > 5:
        assert _probability(Counter(network for network, _ in drawn), members) > 1e-3
    assert {network for network, _ in drawn} <= set(members)
    most_expensive = candidates.most_expensive(rng)
    assert FLOPS[most_expensive] == max(FLOPS[network] for network in members)


def test_a_linear_latency_goes_with_the_other_limits() -> None:
    costs, rng = Linear(), random.Random(8)
    middle = sorted(PARAMS.values())[400]
    budget = Budget(max_latency_ms=2.3, min_params=middle, max_flops=sorted(FLOPS.values())[-20])
    members = {n for n in PROBABILITY if budget.allows(costs(n))}
    assert 1 < len(members) < 600
    candidates = Candidates(SPACE, costs, budget)
    assert candidates.region.share == pytest.approx(sum(PROBABILITY[n] for n in members), rel=1e-12)
    for _ in range(300):
        assert candidates.draw(rng)[0] in members
        assert candidates.draw(rng, SPACE.sample)[0] in members  # walked into the budget


def test_only_depths_that_can_keep_a_latency_limit_are_drawn() -> None:
    rng = random.Random(9)
    candidates = Candidates(SPACE, Linear(), Budget(max_latency_ms=1.6))
    assert {candidates.draw(rng)[0].depth for _ in range(200)} == {1}


def test_every_network_is_reached_whatever_the_latency_goes_by() -> None:
    """Latency by depth alone, and by the heads of the first block, as launch-bound devices might have it."""
    rng = random.Random(4)

    def of(network: Architecture) -> float:
        return network.depth + network.num_heads[0] / 2 + FLOPS[network] / 1e9

    candidates = Candidates(SPACE, Latencies(SPACE, of), Budget(max_latency_ms=2.7))
    members = {network for network in PROBABILITY if of(network) <= 2.7}
    assert {candidates.draw(rng)[0] for _ in range(3000)} == members


def test_mutations_and_crossovers_end_inside_the_budget() -> None:
    rng = random.Random(5)
    for budget in budgets()[::3]:
        members = list(inside(budget))
        candidates = Candidates(SPACE, ExactCosts(SPACE), budget)
        for propose in (lambda rng: SPACE.mutate(rng.choice(members), rng), SPACE.sample):  # noqa: B023
            for _ in range(20):
                architecture, cost = candidates.draw(rng, propose)
                assert (cost.params, cost.flops) == (PARAMS[architecture], FLOPS[architecture])
                assert architecture in members


def test_a_proposal_inside_the_budget_stays_as_it_is() -> None:
    candidates = Candidates(SPACE, ExactCosts(SPACE), Budget(max_flops=sorted(FLOPS.values())[200]))
    for network in list(inside(candidates.budget))[::7]:
        assert candidates.draw(random.Random(0), lambda rng: network)[0] == network  # noqa: B023


def test_the_most_expensive_network_inside_a_budget_has_the_most_flops_of_all() -> None:
    for budget in budgets():
        members = inside(budget)
        found = Candidates(SPACE, ExactCosts(SPACE), budget).most_expensive(random.Random(0))
        assert (FLOPS[found], PARAMS[found]) == max((FLOPS[network], PARAMS[network]) for network in members)


@pytest.mark.parametrize("limit", [1.02, 1.05, 1.2, 1.4])
def test_the_most_expensive_network_under_a_latency_limit_has_the_most_flops_that_keep_it(limit: float) -> None:
    def of(network: Architecture) -> float:
        return 1 + FLOPS[network] / 1e6

    found = Candidates(SPACE, Latencies(SPACE, of), Budget(max_latency_ms=limit)).most_expensive(random.Random(0))
    assert FLOPS[found] == max(FLOPS[network] for network in PROBABILITY if of(network) <= limit)


def test_a_window_between_two_networks_is_refused_at_once_with_the_nearest_one() -> None:
    params = sorted(set(PARAMS.values()))
    gap = next(low for low, high in itertools.pairwise(params) if high - low > 10)
    with pytest.raises(BudgetError, match=r"the nearest of \d+ breaks (min|max)_params .* widen the limits"):
        Candidates(SPACE, ExactCosts(SPACE), Budget(min_params=gap + 2, max_params=gap + 4))


@pytest.mark.parametrize("name", ["tiny", "small", "base", "edge"])
def test_a_budget_of_one_in_a_thousand_is_drawn_from_without_rejections(name: str) -> None:
    """The limit is found by bisection of the closed form; that its share is a thousandth is checked by plain sampling."""
    space, rng = PRESETS[name], random.Random(6)
    shapes = Shapes(space)
    low, high = count_flops(space.smallest, space), count_flops(space.largest, space)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if Region(shapes, Budget(max_flops=middle)).share > 1e-3 else (middle, high)
    assert sum(count_flops(space.sample(rng), space) <= high for _ in range(4000)) <= 14  # 4 expected, 14 is 5 sigma
    candidates = Candidates(space, ExactCosts(space), Budget(max_flops=high))
    for _ in range(50):
        architecture, cost = candidates.draw(rng)
        assert space.contains(architecture)
        assert cost == ExactCosts(space)(architecture)
        assert cost.flops <= high


def _probability(drawn: Counter[Architecture], members: dict[Architecture, float]) -> float:
    """That counts as uneven come from these probabilities."""
    assert set(drawn) <= set(members)
    count, whole = sum(drawn.values()), sum(members.values())
    expected = [count * share / whole for share in members.values()]
    assert min(expected) > 5
    return float(chisquare([drawn[network] for network in members], expected).pvalue)


def test_a_lower_limit_on_latency_leaves_what_nearly_uses_the_upper_one_up() -> None:
    costs, rng = Linear(), random.Random(9)
    budget = Budget(max_latency_ms=2.4, min_latency_ms=2.35)
    members = {n: PROBABILITY[n] for n in PROBABILITY if 2.35 <= costs.of(n) <= 2.4}
    assert 1 < len(members) < 200
    candidates = Candidates(SPACE, costs, budget)
    assert candidates.region.share == pytest.approx(sum(members.values()), rel=1e-9)
    assert {candidates.draw(rng)[0] for _ in range(5_000)} <= set(members)
    mutated = {candidates.draw(rng, lambda rng: SPACE.mutate(SPACE.sample(rng), rng))[0] for _ in range(300)}
    assert mutated <= set(members)
    with pytest.raises(BudgetError, match="min_latency_ms=3 ms is above max_latency_ms=2 ms"):
        Budget(max_latency_ms=2, min_latency_ms=3)
