"""Which networks a latency table measures: all choices, where a search draws, and those that tell most of the others."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from autoformer.architecture import Architecture
from autoformer.cost import count_flops, count_params
from autoformer.errors import MeasurementError
from autoformer.profiling.tables.design import choices_of, designed_architectures, extended_design
from autoformer.space import SearchSpace

EDGE = SearchSpace.preset("edge")


@pytest.mark.parametrize("name", ["micro", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tiny", "small", "base"))])
def test_eight_networks_stand_where_the_spaces_networks_are_and_show_every_choice(name: str) -> None:
    space = SearchSpace.preset(name)
    chosen = designed_architectures(space, 8)
    assert len(set(chosen)) == 8
    assert all(space.contains(architecture) for architecture in chosen)
    flops = [count_flops(architecture, space) for architecture in chosen]
    assert flops == sorted(flops)
    assert (chosen[0], chosen[-1]) == (space.smallest, space.largest)
    rng = random.Random(12345)
    drawn = [count_flops(space.sample(rng), space) for _ in range(2000)]
    inside = [sum(low < count <= high for count in drawn) / len(drawn) for low, high in pairwise(flops)]
    assert max(inside) < 0.6  # seven gaps: none holds most of what a search draws
    assert {architecture.embed_dim for architecture in chosen} == set(space.embed_dims)
    assert {architecture.depth for architecture in chosen} == set(space.depths)
    assert {heads for architecture in chosen for heads in architecture.num_heads} == set(space.num_heads)
    assert {ratio for architecture in chosen for ratio in architecture.mlp_ratio} == set(space.mlp_ratios)
    assert designed_architectures(space, 8) == chosen  # nothing but the seed decides


def test_twelve_networks_show_every_choice_of_the_edge_space() -> None:
    every: set[tuple[str, float]] = {("width", width) for width in EDGE.embed_dims} | {("depth", depth) for depth in EDGE.depths}
    every |= {("heads", heads) for heads in EDGE.num_heads} | {("ratio", ratio) for ratio in EDGE.mlp_ratios}
    every |= {("size", size) for size in EDGE.image_sizes}
    assert set().union(*map(choices_of, designed_architectures(EDGE, 12))) == every


def unsureness(measured: Sequence[Architecture], asked: Sequence[Architecture]) -> float:
    """The mean variance with which a regression (terms: constant, blocks, weights, FLOPs, attention) plus a smooth function of
    width, depth and tokens predicts the logarithms of the latencies of `asked`, from `measured`, all in one piece.
    """

    def terms(network: Architecture) -> list[float]:
        flops, tokens = count_flops(network, EDGE) / 1e9, (EDGE.image_size_of(network) / 16) ** 2 + 1
        own = [0.6, network.depth / 15, count_params(network, EDGE) / 1e7, flops, tokens**2 * sum(network.num_heads) / 1e6]
        return [term / sum(own) for term in own]

    def place(network: Architecture) -> list[float]:
        return [math.log(network.embed_dim), math.log(network.depth), 2 * math.log(EDGE.image_size_of(network))]

    def likeness(some: Sequence[Architecture], others: Sequence[Architecture]) -> Any:
        first, second = (np.array([terms(network) for network in networks]) for networks in (some, others))
        here, there = (np.array([place(network) for network in networks]) for networks in (some, others))
        apart = ((here[:, None] - there[None]) ** 2).sum(axis=-1)
        return first @ second.T + 0.06**2 * np.exp(-apart / (2 * 0.7**2))

    known, both = likeness(measured, measured) + 0.01**2 * np.eye(len(measured)), likeness(asked, measured)
    before = np.array([likeness([network], [network])[0, 0] for network in asked])
    return float((before - np.einsum("ni,in->n", both, np.linalg.solve(known, both.T))).mean())


@pytest.mark.slow
def test_the_networks_tell_more_of_those_that_a_search_draws_than_as_many_drawn_ones() -> None:
    rng = random.Random(77)
    asked = [EDGE.sample(rng) for _ in range(300)]
    by_chance = min(unsureness([EDGE.sample(rng) for _ in range(18)], asked) for _ in range(40))
    assert unsureness(designed_architectures(EDGE, 18), asked) < by_chance


@pytest.mark.slow
def test_an_extension_keeps_what_was_measured_and_goes_on_with_the_design() -> None:
    chosen = designed_architectures(EDGE, 12)
    wider = extended_design(EDGE, chosen, 6)
    assert set(chosen) < set(wider)
    assert wider == designed_architectures(EDGE, 18)
    assert [count_flops(network, EDGE) for network in wider] == sorted(count_flops(network, EDGE) for network in wider)
    assert extended_design(EDGE, chosen, 6, seed=1) != wider


def test_an_extension_ends_with_the_space() -> None:
    few = SearchSpace(name="few", embed_dims=(32, 64), depths=(1, 2, 3), num_heads=(2,), mlp_ratios=(2.0,), head_dim=16)
    chosen = designed_architectures(few, 4)
    assert set(extended_design(few, chosen, 6)) == {few.uniform(e, d, 2, 2.0) for e in (32, 64) for d in (1, 2, 3)}


def test_a_space_smaller_than_the_table_is_refused_and_an_equal_one_used_up() -> None:
    space = replace(SearchSpace.preset("micro"), embed_dims=(48, 80), depths=(2,), num_heads=(2,), mlp_ratios=(1.0, 2.0))
    assert space.size == 8
    assert len(set(designed_architectures(space, 8))) == 8
    with pytest.raises(MeasurementError, match="has 8 architectures, asked for 9"):
        designed_architectures(space, 9)
    with pytest.raises(MeasurementError, match="at least 4 networks, asked for 3"):
        designed_architectures(space, 3)
