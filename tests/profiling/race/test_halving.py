"""The decisions of a race over scripted training: every learning curve is known beforehand, and so is who should win."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest

from autoformer.profiling.race.halving import Finish, Leg, Outcome, Race
from autoformer.profiling.race.schedule import Rung, Schedule
from tests.support.scripted_races import FOUR, LABELS, Curve, Script, entrant

EIGHT = Schedule((Rung(8, 2), Rung(4, 4), Rung(2, 8)), 20, (1.0,))


def steady(share: float, rate: float = 1.0) -> Curve:
    """The same share at every epoch with this factor, and a little less with others."""
    return lambda factor, epochs: share if factor == rate else share - 0.05


def by_epoch(*shares: tuple[int, float | str]) -> Curve:
    """A share, or a failure, from each of these epochs on, whatever the factor."""
    return lambda factor, epochs: [found for first, found in shares if first <= epochs][-1]


def raced(
    curves: Mapping[str, Curve], schedule: Schedule = FOUR, fresh: Sequence[str] = (), firsts: Mapping[str, int] | None = None
) -> tuple[Finish, Script]:
    """How the race ended, and what was trained."""
    script = Script(schedule, curves, firsts)
    finish = Race([entrant(name, fresh=name in fresh) for name in curves], schedule, script, LABELS).finish()
    assert finish is not None
    return finish, script


# --- who survives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", "abcd")
def test_the_best_survives_when_its_curve_leads_at_each_rung(best: str) -> None:
    curves = {name: by_epoch((1, 0.5), (12, 0.6), (20, 0.7)) for name in "abcd"}
    curves[best] = by_epoch((1, 0.6), (12, 0.75), (20, 0.9))
    finish, script = raced(curves)
    assert (finish.winner, finish.tied) == (best, False)
    assert script.trained(best) == [(1.0, 4), (4.0, 4), (1.0, 12), (1.0, 20)]


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5, 6, 7), (7, 3, 5, 1, 6, 2, 4, 0)])
def test_half_go_on_at_each_rung_in_the_order_of_their_scores(order: tuple[int, ...]) -> None:
    curves = {f"n{number}": steady(0.9 - 0.05 * place) for number, place in enumerate(order)}
    finish, script = raced(curves, EIGHT)
    reached = {name: script.trained(name)[-1][1] for name in curves}
    assert [reached[f"n{order.index(place)}"] for place in range(8)] == [20, 8, 4, 4, 2, 2, 2, 2]
    assert finish.winner == f"n{order.index(0)}"
    assert finish.runner_up == f"n{order.index(1)}"


def test_a_late_bloomer_that_is_behind_at_a_rung_is_lost_with_the_scores_as_the_reason() -> None:
    curves = {"early": steady(0.8), "middle": steady(0.7), "bloomer": by_epoch((1, 0.6), (12, 0.99)), "last": steady(0.2)}
    finish, script = raced(curves)
    assert finish.winner == "early"
    assert script.trained("bloomer") == [(1.0, 4), (4.0, 4)]
    out = finish.standings["bloomer"].out or ""
    assert out.startswith("behind after 4 epochs (60 %")


def test_a_late_bloomer_that_the_rungs_let_through_wins() -> None:
    """Second at the first rung, level with the first at the last one, ahead at the end."""
    curves = {"early": steady(0.8), "bloomer": by_epoch((1, 0.6), (12, 0.8), (20, 0.95)), "c": steady(0.5), "d": steady(0.4)}
    finish, _ = raced(curves)
    assert (finish.winner, finish.runner_up, finish.tied) == ("bloomer", "early", False)


# --- ties and the runner-up --------------------------------------------------------------------------------------------


def test_equal_entrants_are_reported_as_tied_and_both_finish() -> None:
    finish, script = raced({name: steady(0.7) for name in "abcd"})
    assert finish.tied
    assert (finish.winner, finish.runner_up) == ("a", "b")  # of equals the one that was named first
    assert script.trained("b")[-1] == (1.0, 20)
    assert finish.standings["b"].out is None


def test_of_equals_the_faster_wins() -> None:
    script = Script(FOUR, {name: steady(0.7) for name in "abc"})
    entrants = [entrant("a", latency_ms=3.0), entrant("b", latency_ms=1.0), entrant("c", latency_ms=2.0)]
    finish = Race(entrants, FOUR, script, LABELS).finish()
    assert finish is not None
    assert (finish.winner, finish.runner_up) == ("b", "c")


def test_a_runner_up_that_cannot_be_told_apart_finishes_and_may_win() -> None:
    curves = {"a": by_epoch((1, 0.72), (20, 0.7)), "b": by_epoch((1, 0.71), (20, 0.8)), "c": steady(0.4)}
    finish, script = raced(curves)
    assert (finish.winner, finish.runner_up) == ("b", "a")
    assert script.asked[-1] == [Leg("a", 1.0, 20), Leg("b", 1.0, 20)]


def test_a_runner_up_that_is_clearly_behind_is_not_trained_further() -> None:
    finish, script = raced({"a": steady(0.8), "b": steady(0.6), "c": steady(0.4)})
    assert (finish.winner, finish.runner_up, finish.tied) == ("a", "b", False)
    assert script.trained("b")[-1] == (1.0, 12)
    assert (finish.standings["b"].out or "").startswith("behind after 12 epochs (60 %")


def test_who_leads_at_the_last_rung_finishes_whoever_led_before() -> None:
    finish, script = raced({"a": by_epoch((1, 0.7), (12, 0.5)), "b": by_epoch((1, 0.65), (12, 0.8)), "c": steady(0.4)})
    assert (finish.winner, finish.runner_up) == ("b", "a")
    assert script.asked[-1] == [Leg("b", 1.0, 20)]


def test_two_are_tied_by_the_images_on_which_they_differ() -> None:
    """Both right on 70 %: McNemar's test sees no difference in number, wherever the images lie; 24 to 8 it does (p = 0.007)."""
    finish, _ = raced({"a": steady(0.7), "b": steady(0.7)}, firsts={"b": 200})
    assert finish.tied
    curves = {"a": steady(0.70), "b": by_epoch((1, 0.70), (20, 0.66))}  # right on images 0 to 279, and on 8 to 271
    finish, _ = raced(curves, firsts={"b": 8})
    assert not finish.tied
    curves["b"] = by_epoch((1, 0.70), (20, 0.6925))  # right on 3 fewer
    assert raced(curves)[0].tied


# --- learning rates ----------------------------------------------------------------------------------------------------


def test_the_better_rate_of_the_first_rung_is_kept_and_the_other_trained_no_further() -> None:
    finish, script = raced({"a": steady(0.8, rate=4.0), "b": steady(0.79, rate=1.0)})
    assert {name: standing.rate for name, standing in finish.standings.items()} == {"a": 4.0, "b": 1.0}
    assert script.trained("a") == [(1.0, 4), (4.0, 4), (4.0, 12), (4.0, 20)]
    assert finish.winner == "a"


def test_of_equal_rates_the_first_is_kept() -> None:
    finish, _ = raced({"a": lambda factor, epochs: 0.7, "b": steady(0.2)})
    assert finish.standings["a"].rate == 1.0


def test_without_a_rung_one_network_is_trained_with_the_first_rate() -> None:
    finish, script = raced({"a": steady(0.7)}, Schedule((), 20, (1.0,)))
    assert script.asked == [[Leg("a", 1.0, 20)]]
    assert (finish.winner, finish.runner_up, finish.tied) == ("a", None, False)


# --- fresh networks ----------------------------------------------------------------------------------------------------


def test_a_fresh_network_is_only_out_by_a_fresh_one_until_both_finished() -> None:
    """Far behind at both rungs, as from random weights, and best at the end."""
    curves = {"a": steady(0.8), "b": steady(0.7), "c": steady(0.6), "fresh": by_epoch((1, 0.2), (12, 0.4), (20, 0.9))}
    finish, script = raced(curves, fresh=["fresh"])
    assert (finish.winner, finish.runner_up, finish.tied) == ("fresh", "a", False)
    assert script.trained("b")[-1][1] == 4


def test_of_two_fresh_networks_the_better_one_stays() -> None:
    curves = {"a": steady(0.8), "b": steady(0.7), "slow": steady(0.2), "quick": steady(0.3)}
    finish, script = raced(curves, fresh=["slow", "quick"])
    assert script.trained("quick")[-1] == (1.0, 20)
    assert script.trained("slow")[-1][1] == 4
    assert (finish.winner, finish.runner_up) == ("a", "quick")


def test_a_fresh_network_that_is_clearly_behind_another_fresh_one_does_not_finish() -> None:
    finish, script = raced({"a": steady(0.8), "b": steady(0.6), "c": steady(0.4)}, fresh=["a", "b", "c"])
    assert (finish.winner, finish.runner_up) == ("a", "b")
    assert script.asked[-1] == [Leg("a", 1.0, 20)]


def test_what_inherits_stays_beside_fresh_networks_that_lead_and_does_not_finish_when_clearly_behind() -> None:
    """It has had its start: a lead over it after fewer epochs from nothing will not shrink."""
    curves = {"a": steady(0.3), "b": steady(0.8), "c": steady(0.7), "d": steady(0.6)}
    finish, script = raced(curves, fresh=["b", "c", "d"])
    assert script.trained("a")[-1] == (1.0, 12)
    assert script.trained("c")[-1][1] == 4
    assert (finish.winner, finish.runner_up) == ("b", "a")


# --- trainings that fail -----------------------------------------------------------------------------------------------


def failing_with(rates: Sequence[float], share: float) -> Curve:
    return lambda factor, epochs: "10 steps in a row had gradients that are not finite" if factor in rates else share


def test_an_entrant_that_diverges_with_one_rate_goes_on_with_the_other() -> None:
    finish, script = raced({"a": failing_with([1.0], 0.8), "b": steady(0.6), "c": steady(0.5)})
    assert (finish.winner, finish.standings["a"].rate, finish.standings["a"].out) == ("a", 4.0, None)
    assert script.trained("a")[2:] == [(4.0, 12), (4.0, 20)]


def test_an_entrant_that_diverges_with_every_rate_is_out_with_its_reason_and_the_next_takes_its_place() -> None:
    finish, script = raced({"a": failing_with([1.0, 4.0], 0.8), "b": steady(0.6), "c": steady(0.5), "d": steady(0.4)})
    assert finish.standings["a"].rate is None
    assert "not finite" in (finish.standings["a"].out or "")
    assert script.trained("a") == [(1.0, 4), (4.0, 4)]
    assert [script.trained(name)[-1][1] for name in "bcd"] == [20, 12, 4]
    assert (finish.winner, finish.runner_up) == ("b", "c")


def test_an_entrant_that_diverges_at_a_later_rung_is_out_and_the_race_goes_on() -> None:
    finish, _ = raced({"a": by_epoch((1, 0.8), (12, "diverged")), "b": steady(0.6), "c": steady(0.5)})
    assert (finish.winner, finish.standings["a"].out) == ("b", "diverged")


def test_when_everyone_at_a_rung_diverges_the_best_of_those_that_were_out_finishes() -> None:
    doomed = by_epoch((1, 0.8), (12, "diverged"))
    finish, script = raced({"a": doomed, "b": doomed, "c": steady(0.5), "d": steady(0.6)})
    assert (finish.winner, finish.standings["d"].out) == ("d", None)
    assert script.trained("d")[-1] == (1.0, 20)


def test_when_the_first_diverges_in_the_finish_the_next_takes_its_place() -> None:
    finish, script = raced({"a": by_epoch((1, 0.8), (20, "diverged")), "b": steady(0.6), "c": steady(0.5)})
    assert (finish.winner, finish.standings["a"].out, finish.standings["b"].out) == ("b", "diverged", None)
    assert [legs for legs in script.asked if legs[0].epochs == 20] == [[Leg("a", 1.0, 20)], [Leg("b", 1.0, 20)]]


def test_what_took_a_place_and_diverged_as_well_keeps_both_reasons() -> None:
    doomed = by_epoch((1, 0.7), (20, "diverged"))
    finish, _ = raced({"a": doomed, "b": doomed, "c": by_epoch((1, 0.6), (20, "lost")), "d": steady(0.5)})
    assert finish.winner == "d"
    assert (finish.standings["c"].out or "").startswith("behind after 4 epochs")
    assert (finish.standings["c"].out or "").endswith("; then lost")


def test_the_runner_up_is_none_of_those_whose_training_failed() -> None:
    """What diverged on its way is no alternative to the delivered network, however well it began."""
    finish, _ = raced({"a": by_epoch((1, 0.8), (12, "diverged")), "b": by_epoch((1, 0.9), (20, "diverged")), "c": steady(0.7)})
    assert (finish.winner, finish.runner_up, finish.tied) == ("c", None, False)


def test_a_tie_is_judged_at_the_last_epoch_that_both_came_to() -> None:
    """The delivered network took the place of two that failed, so it has no score at the second rung."""
    doomed = by_epoch((1, 0.9), (12, 0.9), (20, "diverged"))
    curves = {"a": doomed, "b": doomed, "c": steady(0.7), "d": steady(0.7)}
    finish, script = raced(curves)
    assert script.trained("c") == [(1.0, 4), (4.0, 4), (1.0, 20)]
    assert (finish.winner, finish.runner_up, finish.tied) == ("c", "d", True)
    curves["d"] = steady(0.4)
    assert not raced(curves)[0].tied


def test_a_race_in_which_all_fail_has_no_finish() -> None:
    script = Script(FOUR, {name: failing_with([1.0, 4.0], 0.0) for name in "abc"})
    assert Race([entrant(name) for name in "abc"], FOUR, script, LABELS).finish() is None
    late = Script(FOUR, {name: by_epoch((1, 0.5), (20, "diverged")) for name in "abc"})
    assert Race([entrant(name) for name in "abc"], FOUR, late, LABELS).finish() is None
    assert [leg for legs in late.asked for leg in legs if leg.epochs == 20] == [Leg(name, 1.0, 20) for name in "abc"]


# --- repeatability -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [list, lambda legs: legs[::-1], lambda legs: sorted(legs, key=hash)])
def test_the_order_in_which_legs_are_answered_decides_nothing(answered: object) -> None:
    assert callable(answered)
    curves = {"a": steady(0.7), "b": steady(0.7), "c": steady(0.71, rate=4.0), "d": failing_with([1.0], 0.7)}
    script = Script(FOUR, curves)

    def run(legs: Sequence[Leg]) -> dict[Leg, Outcome]:
        found = script(legs)
        return {leg: found[leg] for leg in answered(list(legs))}

    entrants = [entrant(name) for name in curves]
    finish, wanted = Race(entrants, FOUR, run, LABELS).finish(), raced(curves)[0]
    assert finish is not None
    assert (finish.winner, finish.runner_up, finish.tied) == (wanted.winner, wanted.runner_up, wanted.tied)
    assert {n: (s.rate, s.out) for n, s in finish.standings.items()} == {n: (s.rate, s.out) for n, s in wanted.standings.items()}


def test_the_order_of_starting_decides_only_between_equals() -> None:
    curves = {"a": steady(0.8), "b": steady(0.7), "c": steady(0.6), "d": by_epoch((1, 0.65), (12, 0.9))}
    found = set()
    for order in itertools.permutations(curves):
        finish, _ = raced({name: curves[name] for name in order})
        found.add((finish.winner, finish.runner_up, tuple(sorted((n, s.epochs) for n, s in finish.standings.items()))))
    assert found == {("a", "b", (("a", 20), ("b", 12), ("c", 4), ("d", 4)))}


def test_no_more_is_trained_than_the_schedule_allows_unless_a_training_fails() -> None:
    for first, second in itertools.product((0.5, 0.7), repeat=2):
        curves = {f"n{number}": steady(first if number % 2 else second) for number in range(8)}
        _, script = raced(curves, EIGHT)
        ends = [max(epochs for _, epochs in script.trained(name)) for name in curves]
        assert sum(ends) - EIGHT.epochs <= EIGHT.most_extra_epochs


def test_an_entrant_is_asked_for_a_leg_once() -> None:
    _, script = raced({name: steady(0.7) for name in "abcd"})
    asked = [leg for legs in script.asked for leg in legs]
    assert len(asked) == len(set(asked))
