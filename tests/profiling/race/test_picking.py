"""Which networks of a search race, on results made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from autoformer.architecture import Architecture
from autoformer.cost import ExactCosts
from autoformer.metric import score
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.picking import distance, picked
from autoformer.search.candidate import Candidate
from autoformer.search.result import SearchResult, conclude
from autoformer.space import SearchSpace
from tests.support.scripted_races import LABELS, right_on

SPACE = SearchSpace(
    name="by hand", embed_dims=(16, 24, 32), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1.0, 2.0, 4.0), head_dim=8,
    image_sizes=(8, 16), patch_size=4, num_classes=10,
)  # fmt: skip


def network(width: int, heads: Sequence[int], ratios: Sequence[float], size: int = 8) -> Architecture:
    return Architecture(embed_dim=width, num_heads=tuple(heads), mlp_ratio=tuple(ratios), image_size=size)


PLAIN, PLAIN_DEEP = network(16, [1], [1.0]), network(32, [2, 2], [4.0, 4.0])
MIXED, NEAR, FAR = network(16, [1, 2], [1.0, 1.0]), network(16, [1, 2], [1.0, 2.0]), network(32, [2, 1], [4.0, 2.0], 16)
WORSE, WORST = network(24, [1, 2], [2.0, 1.0]), network(24, [2, 1], [2.0, 1.0])


def result_of(
    *shares: tuple[Architecture, float], choose: str = "best", most_expensive: Architecture | None = None
) -> SearchResult:
    """A search that scored these networks so."""
    assert choose in ("best", "cheapest")
    every = []
    for number, (architecture, share) in enumerate(shares):
        found = right_on(share)
        cost = ExactCosts(SPACE)(architecture)
        every.append(
            Candidate(
                number=number, generation=0, architecture=architecture, cost=cost, predictions=found, score=score(found, LABELS)
            )
        )
    return conclude(every, LABELS, choose, most_expensive=most_expensive)  # type: ignore[arg-type]


def kinds_of(result: SearchResult, without: Sequence[Architecture] = (), **settings: int) -> list[tuple[str, Architecture]]:
    found = picked(result, SPACE, RaceConfig.model_validate(settings), without)
    return [(kind, candidate.architecture) for kind, candidate in found]


# --- the distance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "parts"),
    [
        (MIXED, MIXED, (0, 0, 0, 0, 0)),
        (MIXED, NEAR, (0, 0, 0, 0, 0.5 / 2)),  # one of two blocks, one of two steps of the MLP ratio
        (PLAIN, network(24, [1], [1.0]), (0.5, 0, 0, 0, 0)),
        (PLAIN, MIXED, (0, 1, 0, 0.5, 0.5)),  # the second block exists in one alone
        (network(16, [1], [1.0]), network(32, [2, 2], [4.0, 1.0], 16), (1, 1, 1, 1, 1)),
    ],
)
def test_a_distance_is_the_mean_of_five_shares_of_steps(
    first: Architecture, second: Architecture, parts: tuple[float, ...]
) -> None:
    assert distance(first, second, SPACE) == pytest.approx(sum(parts) / 5)
    assert distance(second, first, SPACE) == pytest.approx(sum(parts) / 5)


def test_a_space_with_one_choice_has_no_step_in_it() -> None:
    narrow = SearchSpace(
        name="one width", embed_dims=(16,), depths=(1,), num_heads=(1, 2), mlp_ratios=(1.0,), head_dim=8, image_sizes=(8,),
        patch_size=4, num_classes=10,
    )  # fmt: skip
    assert distance(network(16, [1], [1.0]), network(16, [2], [1.0]), narrow) == pytest.approx(1 / 5)


# --- the choice ------------------------------------------------------------------------------------------------------------


def test_the_choice_of_the_search_is_first_even_where_another_scored_higher() -> None:
    result = result_of((FAR, 0.81), (MIXED, 0.80), (WORSE, 0.4), choose="cheapest")
    assert result.chosen.architecture == MIXED
    assert kinds_of(result, finalists=1, homogeneous=0) == [("finalist", MIXED)]


def test_of_those_that_are_tied_the_one_that_differs_most_is_next_and_then_the_next_by_score() -> None:
    result = result_of((MIXED, 0.80), (NEAR, 0.7975), (FAR, 0.795), (WORST, 0.2), (WORSE, 0.4))
    assert {one.architecture for one in result.tied} == {MIXED, NEAR, FAR}
    assert [network for _, network in kinds_of(result, finalists=2, homogeneous=0)] == [MIXED, FAR]
    assert [network for _, network in kinds_of(result, finalists=9, homogeneous=0)] == [MIXED, FAR, NEAR, WORSE, WORST]


def test_the_most_expensive_and_homogeneous_networks_take_part_and_none_twice() -> None:
    result = result_of((MIXED, 0.8), (PLAIN, 0.3), (PLAIN_DEEP, 0.5), (FAR, 0.4), most_expensive=FAR)
    assert kinds_of(result, finalists=1, homogeneous=2) == [
        ("finalist", MIXED), ("most expensive", FAR), ("homogeneous", PLAIN_DEEP), ("homogeneous", PLAIN)
    ]  # fmt: skip
    assert kinds_of(result, finalists=1, homogeneous=1)[2:] == [("homogeneous", PLAIN_DEEP)]
    everything = [network for _, network in kinds_of(result, finalists=4, homogeneous=4)]
    assert sorted(one.slug for one in everything) == sorted(one.slug for one in (MIXED, PLAIN, PLAIN_DEEP, FAR))


def test_a_homogeneous_network_that_is_the_most_expensive_stands_there_once() -> None:
    result = result_of((MIXED, 0.8), (PLAIN_DEEP, 0.5), (PLAIN, 0.3), most_expensive=PLAIN_DEEP)
    assert kinds_of(result, finalists=1, homogeneous=2) == [
        ("finalist", MIXED), ("most expensive", PLAIN_DEEP), ("homogeneous", PLAIN)
    ]  # fmt: skip


def test_what_was_measured_as_too_slow_is_left_out_and_the_best_of_the_others_is_first() -> None:
    result = result_of((MIXED, 0.9), (FAR, 0.5), (PLAIN, 0.45), most_expensive=FAR)
    assert kinds_of(result, [MIXED, FAR], finalists=2, homogeneous=2) == [("finalist", PLAIN)]
    assert kinds_of(result, [FAR], finalists=1, homogeneous=0) == [("finalist", MIXED)]


def test_no_network_is_left_when_all_were_too_slow() -> None:
    assert kinds_of(result_of((MIXED, 0.9), (PLAIN, 0.5), most_expensive=PLAIN), [MIXED, PLAIN]) == []


def test_networks_known_from_fewer_images_are_not_picked() -> None:
    result = result_of((MIXED, 0.5), (NEAR, 0.9))
    first = result.candidates[0]
    few = LABELS[:40]
    early = Candidate(
        number=2, generation=0, architecture=FAR, cost=first.cost, predictions=few, score=score(few, few)
    )  # right on all of them
    searched = conclude([*result.candidates, early], LABELS, "best")
    assert FAR not in [network for _, network in kinds_of(searched, finalists=5, homogeneous=5)]
