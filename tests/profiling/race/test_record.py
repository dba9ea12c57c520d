"""`race.json`: what it says, what it cost, and that it is believed only as far as its numbers go."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoformer.cost import Budget
from autoformer.errors import CheckpointError
from autoformer.files import SEAL, read_json
from autoformer.metric import paired_difference
from autoformer.profiling.race.agreement import Agreement
from autoformer.profiling.race.record import RaceRecord, Trained
from autoformer.profiling.race.schedule import Rung, Schedule
from autoformer.search.candidate import packed
from tests.support.latency_loops import HERE, SPACE, timing
from tests.support.scripted_races import FOUR, HELD_OUT, LABELS, Curve, entrant, recorded, right_on


def clear() -> RaceRecord:
    """a ahead of b, c and d; d diverges with one rate, e with both."""
    curves: dict[str, Curve] = {
        "a": lambda rate, epochs: 0.6 + epochs / 100 - (rate > 1) / 20,
        "b": lambda rate, epochs: 0.5 - (rate > 1) / 20,
        "c": lambda rate, epochs: 0.4 - (rate < 4) / 20,
        "d": lambda rate, epochs: "not finite" if rate > 1 else 0.3,
        "e": lambda rate, epochs: "not finite",
    }
    return recorded(curves, [entrant(name, fresh=name == "c") for name in curves])


def level(limits: Budget | None = None) -> RaceRecord:
    """Three alike."""
    curves: dict[str, Curve] = {name: lambda rate, epochs: 0.7 for name in "abc"}
    return recorded(curves, [entrant(name, latency_ms=2.0) for name in curves], limits=limits)


# --- what it says --------------------------------------------------------------------------------------------------------


def test_a_curve_is_of_the_better_rate_and_rises_in_epochs() -> None:
    record = clear()
    assert [(part.epochs, part.rate, part.score and part.score.value) for part in record["a"].curve()] == [
        (4, 1.0, 0.64), (12, 1.0, 0.72), (20, 1.0, 0.8)
    ]  # fmt: skip
    assert [part.epochs for part in record["c"].curve()] == [4, 12, 20]  # fresh, so it goes on
    assert record["c"].rate == 4.0
    assert record["e"].curve() == []
    assert record["e"].last is None
    assert record.delivered is record["a"]


def test_costs_by_hand() -> None:
    """a's 20 epochs with one rate are its own. Extra: a 4 with the other; c 2·4, 8 to epoch 12, 8 to 20; b, d and e 2·4 each."""
    record = clear()
    assert record.extra_epochs == 4 + 8 + (8 + 8 + 8) + 8 + 8
    assert record.cost == record.extra_epochs / 20
    assert record.own_seconds == 4 + 12 + 20  # the script takes as many seconds as a leg's last epoch, 0.5 where it fails
    assert record.extra_seconds == 4 + 2 * 4 + (4 + 4 + 12 + 20) + (4 + 0.5) + 2 * 0.5


def test_the_sentence_of_a_clear_winner() -> None:
    record = clear()
    found = paired_difference(right_on(0.4), right_on(0.8), LABELS)
    assert str(record.difference()) == str(found)
    said = record.sentence()
    assert said.startswith("the network a is delivered (found by the search): accuracy 80 % [")
    assert "on 400 images that decided, 80 % [" in said
    assert "on 100 that did not" in said
    assert said.endswith(f"It is ahead of the network c (rival out of timm) by {found} points.")


def test_the_sentence_of_a_tie_names_both() -> None:
    said = level(Budget(max_latency_ms=2.5)).sentence()
    assert "; 2 ms, 80 % of the limit, as the race measured it. It cannot be told apart from the network b" in said
    assert "+0.0 [-0.6, +0.6] points" in said


def test_the_sentence_of_a_winner_without_anyone_to_compare_with() -> None:
    alone = recorded({"a": lambda rate, epochs: 0.7}, [entrant("a")], Schedule((), 20, (1.0,)))
    assert alone.difference() is None
    assert alone.sentence().endswith("There is no other network to compare it with.")


def test_a_delivered_network_that_was_behind_when_both_had_a_score_is_not_called_ahead() -> None:
    """It went on as the best that started fresh; the leader then fails in the finish."""
    curves: dict[str, Curve] = {
        "a": lambda rate, epochs: "lost" if epochs > 12 else 0.9,
        "fresh": lambda rate, epochs: 0.3,
        "b": lambda rate, epochs: 0.6,
    }
    record = recorded(curves, [entrant(name, fresh=name == "fresh") for name in curves])
    assert (record.winner, record.runner_up) == ("fresh", "b")
    assert "ahead" not in record.sentence()
    assert "After 4 epochs it was behind the network b (found by the search), which was not trained further: -30 [-34, -25]" in (
        record.sentence()
    )


@pytest.mark.parametrize(("share", "said"), [(0.12, True), (0.15, False)])  # of ten classes, 400 images: 9.2 and 11.9 at least
def test_that_the_network_it_is_ahead_of_is_at_chance_is_said(share: float, said: bool) -> None:
    curves: dict[str, Curve] = {"a": lambda rate, epochs: 0.6, "b": lambda rate, epochs: share}
    record = recorded(curves, [entrant(name) for name in curves])
    words = "points; after 12 epochs that one was not clearly better than always naming the largest class."
    assert record.sentence().endswith(words) is said
    assert "ahead of the network b" in record.sentence()
    assert record.sentence().count("largest class") == said


def test_that_the_delivered_network_is_at_chance_itself_is_said() -> None:
    said = recorded({"a": lambda rate, epochs: 0.11}, [entrant("a")], Schedule((), 20, (1.0,))).sentence()
    assert (
        "on 400 images that decided, not clearly better than always naming the largest class; 11 % [6, 19] on 100 that did not"
        in said
    )


# --- the file ------------------------------------------------------------------------------------------------------------


def full() -> RaceRecord:
    """A record with everything that one can hold."""
    record, first = level(Budget(max_latency_ms=2.5)), SPACE.middle
    measured = replace(
        record.entrants[0].entrant,
        architecture=first,
        timing=timing(2.0),
        note="at 32 px",
        inherited=record.entrants[0].trained[0].score,
    )
    return replace(
        record,
        entrants=(replace(record.entrants[0], entrant=measured), *record.entrants[1:]),
        refused=(replace(record.refused[0], entrant=entrant("giant")),),
        agreement=Agreement(tau=0.5, low=-0.1, high=1.0, networks=3),
        measurement_conditions=HERE,
    )


@pytest.mark.parametrize("make", [clear, level, full])
def test_a_record_is_read_as_it_was_written(tmp_path: Path, make: Callable[[], RaceRecord]) -> None:
    record = make()
    assert RaceRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    record.save(tmp_path)
    assert RaceRecord.load(tmp_path) == record
    values = read_json(tmp_path / "race.json")
    assert (values["cost"], values["sentence"]) == (record.cost, record.sentence())


def first_part(values: dict[str, Any], entrant: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = values["entrants"][entrant]["trained"][0]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(format="autoformer/race/9"), "has format"),
        (lambda values: values.update(winner="nobody"), "winner 'nobody'"),
        (lambda values: values.update(runner_up="nobody"), "runner-up 'nobody'"),
        (lambda values: values.update(runner_up="a"), "runner-up 'a'"),
        (lambda values: values.update(winner="d", runner_up="a"), "'d' did not finish"),
        (lambda values: values["entrants"].append(values["entrants"][0]), "winner 'a'"),
        (lambda values: values.update(tied=True), "tied"),
        (lambda values: values.update(labels=packed(right_on(0.5))), "its predictions do not"),
        (lambda values: values.update(images=399), "bytes of predictions for 399 images"),
        (lambda values: first_part(values).update(guesses=packed(right_on(0.2))), "its predictions do not"),
        (lambda values: first_part(values).update(guesses=None), "without predictions"),
        (lambda values: first_part(values).update(score=None), "4 epochs at 1.0"),
        (lambda values: first_part(values).update(failed="as well"), "4 epochs at 1.0"),
        (lambda values: first_part(values).update(epochs=0), "0 epochs"),
        (lambda values: first_part(values).update(rate=0), "at 0"),
        (lambda values: values.pop("schedule"), "lacks 'schedule'"),
        (lambda values: values.update(extra=1), "unknown keys"),
        (lambda values: values["entrants"][0]["entrant"].update(kind="guest"), "expected one of finalist"),
        (lambda values: values.update(agreement={"tau": 2, "low": 0, "high": 2, "networks": 3}), "tau 2"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    clear().save(tmp_path)
    values = read_json(tmp_path / "race.json")
    change(values)
    (tmp_path / "race.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message) as raised:
        RaceRecord.load(tmp_path)
    assert "race.json" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_changed_digit_in_the_file_is_noticed_by_its_seal(tmp_path: Path) -> None:
    clear().save(tmp_path)
    text = (tmp_path / "race.json").read_text()
    (tmp_path / "race.json").write_text(text.replace('"measuring": 7.0', '"measuring": 8.0'))
    with pytest.raises(CheckpointError, match=SEAL):
        RaceRecord.load(tmp_path)


def test_a_folder_without_a_finished_race_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a finished race"):
        RaceRecord.load(tmp_path)


def test_a_part_has_a_score_or_a_reason() -> None:
    with pytest.raises(ValueError, match="4 epochs"):
        Trained(rate=1.0, epochs=4, seconds=1.0)


def test_the_schedule_and_the_held_out_images_are_in_the_record() -> None:
    record = clear()
    assert record.schedule == FOUR == Schedule((Rung(4, 4), Rung(2, 12)), 20, (1.0, 4.0))
    assert (record.images, record.held_out_images) == (len(LABELS), len(HELD_OUT))
    assert record["a"].held_out is not None
    assert record["a"].held_out.images == 100
    assert record["b"].held_out is None


def test_who_went_out_undecided_is_named_in_the_sentence() -> None:
    curves: dict[str, Curve] = {
        "a": lambda rate, epochs: 0.6 + epochs / 100,
        "b": lambda rate, epochs: 0.3,
        "c": lambda rate, epochs: 0.62 if epochs < 4 else 0.3,  # level with a at the first rung
        "d": lambda rate, epochs: 0.2,
    }
    record = recorded(curves, [entrant(name) for name in curves])
    undecided = [one.entrant.name for one in record.undecided()]
    for one in record.entrants:
        name = one.entrant.name
        if name not in (record.winner, record.runner_up):
            assert (one.entrant.network in record.sentence()) is (name in undecided)
