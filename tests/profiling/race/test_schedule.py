"""Schedules of races: what they cost, counted by walking through them, and that as many start as can."""

from __future__ import annotations

import itertools
from functools import cache

import pytest

from autoformer.profiling.race.schedule import Rung, Schedule

ENTRANTS, EPOCHS = (1, 2, 3, 4, 5, 7, 8, 16), (1, 2, 3, 4, 6, 10, 20, 40)
RATES, COSTS = ((1.0,), (1.0, 4.0), (1.0, 2.0, 4.0)), (0.3, 1.0, 1.5, 3.0)
ASKED = list(itertools.product(ENTRANTS, EPOCHS, RATES, COSTS))


def walked(schedule: Schedule) -> int:
    """Epochs beyond one finetune, counted one by one: two finish, and all but one training of the winner's rate is extra."""
    trained: dict[tuple[int, float], int] = {}
    alive = list(range(schedule.entrants))
    for index, rung in enumerate(schedule.rungs):
        alive = alive[: rung.entrants]
        for one in alive:
            for rate in schedule.rates if index == 0 else schedule.rates[:1]:
                trained[one, rate] = rung.epochs
    for one in alive[:2]:
        trained[one, schedule.rates[0]] = schedule.epochs
    return sum(trained.values()) - schedule.epochs


@cache
def cheapest(count: int, epochs: int, rates: int) -> int | None:
    """The fewest extra epochs with which so many can start, over every first rung and growth; None: the finetune is too short."""
    found = []
    for first, growth in itertools.product(range(1, epochs + 1), (2, 3, 4)):
        alive, end, total, before = count, first, count * first * (rates - 1), 0
        while True:
            total += alive * (end - before)
            before = end
            if alive <= 2:
                break
            alive, end = (alive + 1) // 2, end * growth
        if before <= epochs:
            found.append(total + 2 * (epochs - before) - epochs)
    return min(found, default=None)


def test_four_entrants_by_hand() -> None:
    """4 with 2 rates to epoch 4: 32; 2 of them on to 16: 24; both on to 20: 8; less the winner's own 20: 44."""
    assert Schedule((Rung(4, 4), Rung(2, 16)), 20, (1.0, 4.0)).most_extra_epochs == 44


def test_the_longest_first_rung_of_four_entrants_by_hand() -> None:
    """To E epochs, then 3·E: 4·2·E + 2·2·E + 2·(20 − 3·E) − 20 = 20 + 6·E. Of 30 epochs E is 1; with 4·E in place of 3·E as well.

    With one rate 4·E + 2·3·E + 2·(20 − 4·E) − 20 = 20 + 2·E, so E is 5, the last rung then at 20.
    """
    assert Schedule.of(4, 20, (1.0, 4.0), 1.5) == Schedule((Rung(4, 1), Rung(2, 4)), 20, (1.0, 4.0))
    assert Schedule.of(4, 20, (1.0,), 1.5) == Schedule((Rung(4, 5), Rung(2, 20)), 20, (1.0,))


def test_a_longer_first_rung_comes_before_a_longer_last_one() -> None:
    """With room for 32 extra epochs E may be 6; 4·E would pass the end, so the last rung is at 3·E, below the 20 of E = 5."""
    assert Schedule.of(4, 20, (1.0,), 1.6) == Schedule((Rung(4, 6), Rung(2, 18)), 20, (1.0,))


@pytest.mark.parametrize("entrants", ENTRANTS)
def test_extra_epochs_are_those_that_a_walk_through_the_schedule_counts_and_stay_within_the_cost(entrants: int) -> None:
    for asked in ASKED:
        if asked[0] == entrants:
            schedule = Schedule.of(*asked)
            assert schedule.most_extra_epochs == walked(schedule), asked
            assert schedule.most_extra_epochs <= asked[3] * asked[1], asked


def test_rungs_rise_in_epochs_and_entrants_halve_until_two_are_left() -> None:
    for asked in ASKED:
        rungs = Schedule.of(*asked).rungs
        for one, following in itertools.pairwise(rungs):
            assert following.epochs > one.epochs, asked
            assert following.entrants == (one.entrants + 1) // 2, asked
        assert not rungs or (rungs[-1].entrants == 2 and rungs[0].epochs >= 1 and rungs[-1].epochs <= asked[1]), asked


def test_as_many_start_as_the_cost_allows_and_learning_rates_go_only_where_not_even_two_could_start_with_all() -> None:
    for entrants, epochs, rates, cost in ASKED:
        schedule = Schedule.of(entrants, epochs, rates, cost)

        def fits(count: int, tried: int, epochs: int = epochs, cost: float = cost) -> bool:
            least = cheapest(count, epochs, tried)
            return least is not None and least <= cost * epochs

        most = {tried: max((n for n in range(2, entrants + 1) if fits(n, tried)), default=1) for tried in (len(rates), 1)}
        wanted = len(rates) if most[len(rates)] > 1 or most[1] == 1 else 1
        assert schedule.entrants == most[wanted], (entrants, epochs, rates, cost)
        if schedule.rungs:
            assert schedule.rates == rates[:wanted]


def test_fewer_than_can_start_all_start() -> None:
    """So those that are left when some turn out too slow need no plan of their own."""
    for entrants, epochs, rates, cost in ASKED:
        most = Schedule.of(entrants, epochs, rates, cost).entrants
        assert all(Schedule.of(count, epochs, rates, cost).entrants == count for count in range(1, most + 1))


@pytest.mark.parametrize("asked", [(8, 1, (1.0, 4.0), 0.5), (8, 3, (1.0, 4.0), 0.1), (1, 100, (1.0, 4.0), 3.0)])
def test_without_room_or_rivals_there_is_no_rung_and_the_first_rate_is_taken(
    asked: tuple[int, int, tuple[float, ...], float],
) -> None:
    schedule = Schedule.of(*asked)
    assert (schedule.rungs, schedule.rates, schedule.entrants, schedule.most_extra_epochs) == ((), (1.0,), 1, 0)


@pytest.mark.parametrize(("epochs", "warmup"), [(60, 2.0), (60, 4.5), (140, 10.0), (24, 1.0)])
def test_nothing_is_decided_before_the_warm_up_is_over(epochs: int, warmup: float) -> None:
    found = Schedule.of(8, epochs, (1.0, 4.0), 1.5, warmup)
    assert found.rungs[0].epochs >= warmup
    assert found.most_extra_epochs <= 1.5 * epochs
