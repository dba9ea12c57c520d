"""What parts of blocks are worth, and a first generation that lacks what is worth least."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import Budget, ExactCosts, count_flops
from autoformer.drawing.budgeted import Candidates
from autoformer.search.baselines import baselines, is_homogeneous
from autoformer.search.benefit import BlockBenefits
from autoformer.search.config import SearchConfig
from autoformer.search.methods import Proposals
from autoformer.space import SearchSpace

SPACE = SearchSpace(
    name="lacking", embed_dims=(16,), depths=(4,), num_heads=(0, 1, 2), mlp_ratios=(0, 1, 2), head_dim=8, image_sizes=(8,),
    patch_size=4, num_classes=2, relative_position=False,
)  # fmt: skip
LABELS = np.zeros(100, np.int64)
LOST = {"num_heads": (40, 1, 0, 20), "mlp_ratio": (5, 10, 30, 0)}  # images that go wrong without a block's attention, MLP


def evaluate(architecture: Architecture, images: slice) -> NDArray[np.int64]:
    """90 images right, less what the parts that are not there are worth."""
    lost = sum(
        worth
        for choice, worths in LOST.items()
        for value, worth in zip(getattr(architecture, choice), worths, strict=True)
        if not value
    )
    return (np.arange(100) >= 90 - lost).astype(np.int64)[images]


def benefits() -> BlockBenefits:
    return BlockBenefits.measured(SPACE, evaluate, LABELS, "top1")


def test_a_part_is_worth_what_the_largest_network_loses_without_it() -> None:
    found = benefits()
    assert np.allclose(found.attention, [0.4, 0.01, 0.0, 0.2])
    assert np.allclose(found.mlp, [0.05, 0.1, 0.3, 0.0])


def test_a_part_that_no_network_may_lack_is_not_measured() -> None:
    space = SearchSpace.from_dict({**SPACE.to_dict(), "num_heads": [1, 2]})
    asked: list[Architecture] = []

    def watched(architecture: Architecture, images: slice) -> NDArray[np.int64]:
        asked.append(architecture)
        return evaluate(architecture, images)

    assert BlockBenefits.measured(space, watched, LABELS, "top1").attention == ()
    assert len(asked) == 5  # the whole network, and one without each MLP


def test_leaning_keeps_how_many_there_are_and_what_they_cost() -> None:
    rng, found = random.Random(1), benefits()
    for _ in range(200):
        drawn = SPACE.sample(rng)
        leant = found.leaning(drawn, rng)
        SPACE.check(leant)
        assert Counter(leant.num_heads) == Counter(drawn.num_heads)
        assert [value for value in leant.mlp_ratio if value] == [value for value in drawn.mlp_ratio if value]
        assert count_flops(leant, SPACE) == count_flops(drawn, SPACE)


def test_blocks_lack_by_the_exponential_of_their_benefit() -> None:
    """One absent attention of four: block 2 (worth 0.0) against block 4 (0.2), by hand with the scale of 0.1525 + 0.001."""
    rng, found = random.Random(2), benefits()
    one = Architecture(embed_dim=16, num_heads=(0, 1, 1, 1), mlp_ratio=(1, 1, 1, 1))
    count = Counter(found.leaning(one, rng).num_heads.index(0) for _ in range(20_000))
    weights = np.exp(-np.asarray([0.4, 0.01, 0.0, 0.2]) / 0.1535)
    assert np.allclose([count[block] / 20_000 for block in range(4)], weights / weights.sum(), atol=0.012)


def test_the_first_generation_leans_and_stays_inside_the_budget() -> None:
    budget = Budget(max_flops=0.6 * count_flops(SPACE.largest, SPACE))
    candidates = Candidates(SPACE, ExactCosts(SPACE), budget)
    config = SearchConfig(population=100, generations=1)
    lacking: dict[str, list[int]] = {}
    for name, given in (("alike", None), ("leaning", benefits())):
        proposed = Proposals(candidates, config, 0, given).generation(0, [])
        assert len(set(proposed)) == 100
        assert all(budget.allows(ExactCosts(SPACE)(one)) for one in proposed)
        lacking[name] = [sum(not one.num_heads[block] for one in proposed) for block in range(4)]
    assert max(lacking["alike"]) < 2 * min(lacking["alike"])
    assert lacking["leaning"][2] > 3 * lacking["leaning"][0]


def test_homogeneous_networks_lack_nothing() -> None:
    found = baselines(Candidates(SPACE, ExactCosts(SPACE), Budget()), 4, 0)
    assert all(all(one.num_heads) and all(one.mlp_ratio) for one in found if is_homogeneous(one))
    assert SPACE.narrowest.num_heads == (1,) * 4
    assert SPACE.smallest.num_heads == (0,) * 4
