"""Searches in spaces that ask for patch sizes, a stem, kernels and halving: features, homogeneous networks, mutations."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from autoformer.architecture import Architecture
from autoformer.cost import Budget, ExactCosts, count_flops
from autoformer.drawing.budgeted import Candidates
from autoformer.networks.supernet import Supernet
from autoformer.profiling.race.picking import distance
from autoformer.search.baselines import baselines, is_homogeneous, shape_of, uniform_choices
from autoformer.search.methods import features
from autoformer.training.choosing import chooser, used_weights
from autoformer.training.config import SubnetsConfig
from tests.support.grids_and_stems import asking, network_asked_for

SPACE = asking("conv", num_heads=(1, 2, 3), scale_by_width=False)
NETWORK = network_asked_for()


def test_features_are_one_per_choice_of_the_space_too() -> None:
    """Widths, depths, sizes, patches 2/4, stem depths 0/1/2, halving 0/1/2; per block heads, ratios 1/1.5/2 and kernels 0/3/5."""
    (row,) = features([NETWORK], SPACE).tolist()
    around = [0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]
    blocks = [[0, 1, 0, 0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1, 1, 0, 0], [0, 1, 0, 1, 0, 0, 0, 0, 1], [0] * 9, [0] * 9]
    assert row == [*around, *itertools.chain(*blocks)]


def test_a_distance_counts_what_the_space_asks_for() -> None:
    """Of nine parts: one of two steps each of stem and halving, the one of the patch, and half a block of three."""
    assert distance(NETWORK, NETWORK, SPACE) == 0
    other = replace(NETWORK, stem_depth=0, pool_after=1, patch_size=2, mlp_kernel=(3, 3, 5))
    steps = 1 / 2 + 1 / 2 + 1 + (1 / 2) / 3  # stem 1 → 0 of 0/1/2, halving 2 → 1 of 1/2/none, patch 4 → 2, kernel 0 → 3
    assert distance(NETWORK, other, SPACE) == pytest.approx(steps / 9)


def test_homogeneous_networks_are_of_every_stem_kernel_patch_and_place_of_halving() -> None:
    shapes = [shape_of(indices, SPACE) for indices in uniform_choices(SPACE)]
    assert len(set(shapes)) == len(shapes) == 3 * 3 * 3 * 3 * 3 * 2 * 3 * 3 * 3
    assert all(SPACE.contains(shape) and is_homogeneous(shape) for shape in shapes)
    assert not is_homogeneous(replace(shapes[0], mlp_kernel=(3, *shapes[0].kernels[1:])))
    assert shapes[0] == SPACE.smallest
    assert shapes[-1] == SPACE.largest


def test_baselines_keep_the_budget_and_use_it() -> None:
    budget = Budget(max_flops=0.4 * count_flops(SPACE.largest, SPACE))
    most_expensive, *uniform = baselines(Candidates(SPACE, ExactCosts(SPACE), budget), 5, seed=0)
    assert count_flops(most_expensive, SPACE) > 0.99 * (budget.max_flops or 0)
    assert len(uniform) == 5
    assert all(0.8 < count_flops(network, SPACE) / (budget.max_flops or 1) <= 1 for network in uniform)


def test_every_choice_of_a_mutation_is_drawn_anew_as_often_as_it_should() -> None:
    """A number drawn anew from n choices differs with a probability of 1 - 1/n."""
    rng, changed = random.Random(0), Counter[str]()
    start = SPACE.largest
    for _ in range(4000):
        made = SPACE.mutate(start, rng, shape_probability=0.3, block_probability=0.5)
        for name in ("patch_size", "stem_depth", "pool_after"):
            changed[name] += getattr(made, name) != getattr(start, name)
        changed["kernel"] += made.kernels[0] != start.kernels[0]
    expected = {"patch_size": 0.3 * 1 / 2, "stem_depth": 0.3 * 2 / 3, "pool_after": 0.3 * 2 / 3, "kernel": 0.5 * 2 / 3}
    assert {name: changed[name] / 4000 for name in expected} == pytest.approx(expected, abs=0.03)


def test_a_crossover_takes_every_choice_from_either_parent() -> None:
    rng = random.Random(1)
    first, second = SPACE.smallest, SPACE.largest
    children = [SPACE.crossover(first, second, rng) for _ in range(200)]
    for name in ("patch_size", "stem_depth", "pool_after"):
        assert {getattr(child, name) for child in children} == {getattr(first, name), getattr(second, name)}
    assert {child.kernels[0] for child in children} == {first.kernels[0], second.kernels[0]}
    assert all(child.kernels[-1] == second.kernels[-1] for child in children if child.depth > first.depth)


@pytest.mark.parametrize("strategy", ["uniform", "sandwich", "stratified"])
def test_every_strategy_trains_networks_of_the_space(strategy: str) -> None:
    choose = chooser(SubnetsConfig.model_validate({"strategy": strategy}), SPACE, seed=0)
    chosen = [network for step in range(10) for network in choose(step)]
    assert all(isinstance(network, Architecture) and SPACE.contains(network) for network in chosen)
    assert chosen == [network for step in range(10) for network in choose(step)]


@pytest.mark.parametrize("kind", ["patch", "conv", "conv, no class token"])
def test_masks_of_used_weights_are_where_the_gradients_are_with_normalised_and_resampled_weights_too(kind: str) -> None:
    torch.manual_seed(0)
    space = asking(kind)
    supernet = Supernet(space).double()
    for architecture in (space.smallest, space.middle):
        used = used_weights(supernet, [architecture])
        size = space.image_size_of(architecture)
        supernet.zero_grad()
        images = torch.randn(4, space.in_chans, size, size, dtype=torch.float64)
        supernet(images, architecture).pow(2).sum().backward()
        for name, weight in supernet.named_parameters():
            if name.rpartition(".")[2].endswith(("rows", "columns")) or "pos_embed" in name or "qkv.bias" in name:
                continue  # used as a whole; the key's bias has no gradient
            assert (weight in used) == (weight.grad is not None and bool((weight.grad != 0).any())), name
            if weight in used and weight.grad is not None:
                assert torch.equal(used[weight], weight.grad != 0), name
