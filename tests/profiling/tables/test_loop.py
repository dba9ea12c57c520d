"""Measuring after a search: a table that is right or wrong by a known amount, and a measurer that knows the truth."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoformer.architecture import Architecture
from autoformer.cost import Budget, ExactCosts, MeasuredCosts, count_flops
from autoformer.errors import CheckpointError, MeasurementError
from autoformer.files import read_json
from autoformer.metric import score
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, device_name, threads_of
from autoformer.profiling.measuring.verdict import INCONCLUSIVE, OVER_BUDGET, UNSTABLE, VALID, WITHIN_BUDGET, Verdict
from autoformer.profiling.tables.correction import CorrectedTable
from autoformer.profiling.tables.limit import FinalistNetwork, LatencyAnswer, Timing, finally_chosen
from autoformer.profiling.tables.loop import Choose, elsewhere, measure_networks, order_of_choice
from autoformer.profiling.tables.measuring import TableConfig, measure_table
from autoformer.profiling.tables.table import LatencyTable
from autoformer.search.answer import StoredSearch
from autoformer.search.record import SearchRecord
from autoformer.search.result import conclude
from tests.support.latency_loops import (
    HERE,
    LABELS,
    LIMIT_MS,
    SPACE,
    Measurer,
    answered,
    candidate,
    stored,
    table_of,
    timing,
    truth,
)
from tests.support.measurements import FACTS
from tests.support.small_spaces import designed
from tests.support.tables import WIDE


def with_errors(errors: Sequence[float]) -> LatencyTable:
    """A table whose networks were measured this far from the truth: it has a margin."""
    networks = designed(SPACE, len(errors))
    return LatencyTable.fit(SPACE, HERE, [(n, truth(n) * (1 + e)) for n, e in zip(networks, errors, strict=True)], device=FACTS)


# --- the three values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "level", "status"),
    [
        (0.90, 1.00, VALID, WITHIN_BUDGET),  # the upper bound is at the limit
        (0.90, 1.01, VALID, INCONCLUSIVE),  # the interval holds the limit
        (1.00, 1.10, VALID, INCONCLUSIVE),  # the lower bound is at the limit, not above
        (1.01, 1.10, VALID, OVER_BUDGET),
        (0.50, 0.60, UNSTABLE, INCONCLUSIVE),
        (1.50, 1.60, "INVALID", INCONCLUSIVE),
        (None, None, VALID, INCONCLUSIVE),
    ],
)
def test_a_limit_is_kept_broken_or_inconclusive(low: float | None, high: float | None, level: str, status: str) -> None:
    verdict = Verdict(level, ("drift",) if level != VALID else ())
    taken = Timing(measured_ms=low or 1.0, low_ms=low, high_ms=high, runs=9, verdict=verdict)
    assert taken.status(1.0) == status
    assert {WITHIN_BUDGET: "lies inside", OVER_BUDGET: "lies above"}.get(status, "") in taken.why(1.0)
    if level != VALID:
        assert f"{level}: drift" in taken.why(1.0)


# --- the loop ----------------------------------------------------------------------------------------------------


def test_a_right_table_is_done_after_one_round(tmp_path: Path) -> None:
    table, measurer = table_of(truth), Measurer()
    answer = answered(tmp_path, table, measurer)
    assert (answer.status, len(answer.rounds), len(measurer.asked[0])) == (WITHIN_BUDGET, 1, 5)
    assert answer.chosen is not None
    assert answer.chosen is answer.rounds[0].chosen
    assert answer.chosen.error == pytest.approx(0, abs=1e-6)
    inside = [c for c in StoredSearch(tmp_path).result.candidates if truth(c.architecture) * 1.002 <= LIMIT_MS]
    assert answer.chosen.score.value == max(c.score.value for c in inside)
    assert "latency within budget" in str(answer)


def test_a_table_that_is_too_fast_is_corrected_and_another_network_taken(tmp_path: Path) -> None:
    measurer = Measurer(lambda network: 1.08 * truth(network))
    answer = answered(tmp_path, table_of(truth), measurer)
    first = answer.rounds[0]
    assert first.chosen.timing.status(LIMIT_MS) == OVER_BUDGET
    assert first.correction == "none"
    assert first.chosen.error == pytest.approx(1 / 1.08 - 1, abs=1e-6)
    assert answer.status == WITHIN_BUDGET
    assert answer.chosen is not None
    assert answer.rounds[-1].correction == "local factor"  # one factor is the truth; a refit of old and new is a compromise
    assert answer.chosen.error == pytest.approx(0, abs=1e-6)
    inside = [c for c in StoredSearch(tmp_path).result.candidates if 1.08 * truth(c.architecture) * 1.002 <= LIMIT_MS]
    assert answer.chosen.score.value == max(c.score.value for c in inside)
    assert "chosen instead of" in str(answer)


@pytest.mark.parametrize(
    ("factor", "said"), [(1.9, "all 5 took about 1.9 times what the table says"), (1.08, ""), (0.5, "0.5 times")]
)
def test_networks_that_are_all_far_off_alike_are_said_to_be_the_machine(tmp_path: Path, factor: float, said: str) -> None:
    answer = answered(tmp_path, table_of(truth), Measurer(lambda network: factor * truth(network)))
    assert said in answer.off_alike
    assert bool(answer.off_alike) == bool(said)


def test_a_table_that_is_too_slow_leaves_room_that_is_used(tmp_path: Path) -> None:
    answer = answered(tmp_path, table_of(truth), Measurer(lambda network: 0.9 * truth(network)))
    first, last = answer.rounds[0].chosen, answer.chosen
    assert last is not None
    assert answer.status == WITHIN_BUDGET
    assert last.score.value > first.score.value
    assert last.timing.measured_ms > first.timing.measured_ms


def test_what_the_margin_alone_keeps_out_is_measured_too_and_may_be_taken(tmp_path: Path) -> None:
    table = with_errors([0.03, -0.03, 0.02, -0.02, 0.03, -0.03, 0.02, -0.02])
    assert table.margin > 0.02
    answer = answered(tmp_path, table, Measurer())
    tightened = LIMIT_MS / (1 + table.margin)
    beyond = [n for n in answer.rounds[0].networks if tightened < n.predicted_ms <= LIMIT_MS]
    assert beyond
    assert answer.status == WITHIN_BUDGET


def test_a_wrong_slope_takes_a_refit(tmp_path: Path) -> None:
    """A table with a step in it, as another runtime's kernels might make: one factor cannot follow, new networks can."""
    networks = designed(SPACE, 8)
    table = table_of(truth)
    mostly = {n: timing(0.02 + 75 * count_flops(n, SPACE) / 1e9) for n in networks[2:7]}
    model = CorrectedTable.by(table, mostly)
    assert model.correction in ("refit", "local factor")
    left_out = np.mean([abs(model.predict(n) / t.measured_ms - 1) for n, t in mostly.items()])
    assert left_out < np.mean([abs(table.predict(n) / t.measured_ms - 1) for n, t in mostly.items()])
    everything = CorrectedTable.by(table, {n: timing(0.02 + 75 * count_flops(n, SPACE) / 1e9) for n in networks})
    assert everything.correction == "refit"
    assert everything.table.coefficients["constant_ms"] == pytest.approx(0.02, rel=1e-3)
    assert everything.table.coefficients["ms_per_gflop"] == pytest.approx(75, rel=1e-3)


@pytest.mark.parametrize("choose", ["best", "cheapest"])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_table_and_the_machine_do_the_loop_ends_with_a_measured_choice(
    tmp_path: Path, seed: int, choose: Choose
) -> None:
    rng = random.Random(seed)
    slope, constant = rng.uniform(45, 75), rng.uniform(0.02, 0.15)
    measurer = Measurer(lambda network: constant + slope * count_flops(network, SPACE) / 1e9, noise=0.03, seed=seed)
    answer = answered(tmp_path, table_of(truth), measurer, choose)
    asked = [network for wanted in measurer.asked for network in wanted]
    assert 1 <= len(answer.rounds) == len(measurer.asked) <= 3
    assert len(asked) == len(set(asked))  # nothing twice
    assert answer.architecture in asked
    if any(n.timing.status(LIMIT_MS) == WITHIN_BUDGET for taken in answer.rounds for n in taken.networks):
        assert answer.status == WITHIN_BUDGET
    assert LatencyAnswer.load(tmp_path) == answer


def test_rounds_are_counted(tmp_path: Path) -> None:
    measurer = Measurer(lambda network: 1.2 * truth(network))
    answer = answered(tmp_path, table_of(truth), measurer, rounds=1, finalists=1)
    assert [len(wanted) for wanted in measurer.asked] == [1]
    assert answer.status == OVER_BUDGET
    assert answer.architecture == measurer.asked[0][0]


def test_a_limit_that_no_stored_network_keeps_is_not_met(tmp_path: Path) -> None:
    answer = answered(tmp_path, table_of(truth), Measurer(lambda network: 5 * truth(network)))
    assert answer.status == OVER_BUDGET
    assert answer.architecture == answer.rounds[-1].chosen.architecture


def test_an_unsteady_machine_shows_nothing_and_corrects_nothing(tmp_path: Path) -> None:
    verdict = Verdict(UNSTABLE, ("drift of the median from first to last third 9 %, limit 5 %",))
    answer = answered(tmp_path, table_of(truth), Measurer(lambda network: 0.97 * truth(network), verdict=verdict))
    assert answer.status == INCONCLUSIVE
    assert "drift of the median" in answer.reason
    assert {taken.correction for taken in answer.rounds} == {"none"}


def test_a_measurement_that_fails_is_not_shown_with_its_reason(tmp_path: Path) -> None:
    def broken(wanted: Sequence[Architecture]) -> Mapping[Architecture, Timing]:
        raise MeasurementError("this onnxruntime has no provider")

    answer = answered(tmp_path, table_of(truth), broken)  # type: ignore[arg-type]
    assert (answer.status, answer.rounds) == (INCONCLUSIVE, ())
    assert "this onnxruntime has no provider" in answer.reason


# --- corrections by hand -----------------------------------------------------------------------------------------


def test_two_networks_with_one_error_give_that_factor_and_no_margin() -> None:
    table, networks = table_of(truth), designed(SPACE, 8)[3:5]
    model = CorrectedTable.by(table, {n: timing(1.1 * truth(n)) for n in networks})
    assert model.correction == "local factor"
    assert model.factor == pytest.approx(1.1)
    assert model.margin == pytest.approx(0, abs=1e-6)
    assert model.predict(networks[0]) == pytest.approx(1.1 * truth(networks[0]))


def test_one_network_can_only_shift_the_table() -> None:
    table, network = with_errors([0.01, -0.01] * 4), designed(SPACE, 8)[3]
    model = CorrectedTable.by(table, {network: timing(0.7)})
    assert (model.correction, model.margin) == ("local factor", table.margin)
    assert model.predict(network) == pytest.approx(0.7)


def test_errors_that_contradict_each_other_leave_the_table_as_it_is() -> None:
    """Networks and the same ones with their blocks in reverse, alike to every formula, 6 % above and 6 % below."""
    table = table_of(truth)
    networks = [one for one in designed(SPACE, 12) if one != reverse(one)][:3]
    times = {n: timing(1.06 * truth(n)) for n in networks} | {reverse(n): timing(0.94 * truth(n)) for n in networks}
    model = CorrectedTable.by(table, times)
    assert (model.correction, model.factor) == ("none", 1.0)
    assert model.margin == pytest.approx(0.06, abs=1e-6)


def reverse(network: Architecture) -> Architecture:
    return replace(network, num_heads=network.num_heads[::-1], mlp_ratio=network.mlp_ratio[::-1])


def test_predictions_inside_the_intervals_need_no_correction() -> None:
    table, networks = table_of(truth), designed(SPACE, 8)[3:6]
    model = CorrectedTable.by(table, {n: timing(1.001 * truth(n), width=0.004) for n in networks})
    assert (model.correction, model.margin) == ("none", table.margin)


def test_direct_measurement_is_a_cost_model() -> None:
    costs = MeasuredCosts(SPACE, {SPACE.middle: 0.7}, lambda _: None, HERE)
    assert costs.measurement_conditions == HERE
    assert costs(SPACE.middle) == replace(ExactCosts(SPACE)(SPACE.middle), latency_ms=0.7)
    assert costs(SPACE.smallest).latency_ms is None
    assert MeasuredCosts(SPACE, {}, truth, HERE)(SPACE.largest).latency_ms == truth(SPACE.largest)


def test_the_order_of_choice_is_the_cheapest_of_the_tied_and_then_the_rest_by_score() -> None:
    table, networks = table_of(truth), designed(SPACE, 4)
    every = [candidate(i, n, share, table) for i, (n, share) in enumerate(zip(networks, (0.3, 0.78, 0.8, 0.79), strict=True))]
    result = conclude(every, LABELS, "cheapest")
    assert [c.number for c in result.tied] == [1, 2, 3]
    assert order_of_choice(result, "cheapest") == [networks[1], networks[2], networks[3], networks[0]]
    assert order_of_choice(conclude(every, LABELS, "best"), "best") == [networks[2], networks[3], networks[1], networks[0]]


# --- where it is measured ----------------------------------------------------------------------------------------


def test_a_table_of_another_device_is_not_answered_here(tmp_path: Path) -> None:
    table, measurer = table_of(truth), Measurer()
    other = replace(FACTS, cpu="Another CPU")
    answer = answered(tmp_path, table, measurer, facts=other)
    assert (answer.status, answer.rounds, measurer.asked) == (INCONCLUSIVE, (), [])
    assert HERE.device in answer.reason
    assert "Another CPU" in answer.reason
    assert "search --from FOLDER" in answer.reason
    assert LatencyAnswer.load(tmp_path) == answer
    assert answered(tmp_path, table, measurer).status == WITHIN_BUDGET  # asked again, where the table was made
    assert len(measurer.asked) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backend": "trtexec"}, "does not measure fp32 on trtexec"),
        ({"precision": "int8"}, "does not measure int8"),
        ({"statistic": "mean"}, "mean has no interval"),
        ({"device": "Test CPU, 4 cores, 2 threads"}, "the latency table is of Test CPU, 4 cores, 2 threads"),
    ],
)
def test_what_cannot_be_measured_here_is_said(change: dict[str, Any], words: str) -> None:
    assert elsewhere(HERE, FACTS) is None
    assert words in (elsewhere(replace(HERE, **change), FACTS) or "")


def test_the_threads_of_measurement_conditions_are_read_back() -> None:
    assert threads_of(HERE) == 1
    assert threads_of(replace(HERE, device=device_name(FACTS, "torch-cpu", 16))) == 16
    assert threads_of(replace(HERE, device="NVIDIA H200")) is None


# --- the file ----------------------------------------------------------------------------------------------------


def test_a_finished_answer_is_read_and_another_question_asked_anew(tmp_path: Path) -> None:
    table, measurer = table_of(truth), Measurer()
    answer = answered(tmp_path, table, measurer)
    assert answered(tmp_path, table, measurer) == answer
    assert len(measurer.asked) == 1
    assert answered(tmp_path, table, measurer, stated=Budget(max_latency_ms=0.21)).limit_ms == 0.21
    assert len(measurer.asked) == 2
    answered(tmp_path, table, measurer, stated=Budget(max_latency_ms=0.21), config=MeasureConfig(min_s=9))
    assert len(measurer.asked) == 3


def test_an_answer_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """With the labels of then, and without a machine speed factor and sessions."""
    answer = answered(tmp_path, table_of(truth), Measurer(lambda network: 1.02 * truth(network)))
    labels = {WITHIN_BUDGET: "met", OVER_BUDGET: "not met", INCONCLUSIVE: "not shown"}
    values = answer.to_dict()
    entries = [entry for taken in values["rounds"] for entry in taken["networks"]]
    assert {entry["status"] for entry in entries} >= {WITHIN_BUDGET, OVER_BUDGET}
    for entry in (values, *entries):
        entry["status"] = labels[entry["status"]]
    for entry in entries:
        for name in ("pace", "pace_error", "instances_ms"):
            del entry[name]
    (tmp_path / "latency_answer.json").write_text(json.dumps(values))
    assert LatencyAnswer.load(tmp_path) == answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(format="autoformer/latency-answer/9"), "has format"),
        (lambda values: values.update(status="not met"), "status 'not met', its numbers say 'within budget'"),
        (lambda values: values.update(status="fine"), "status 'fine'; expected within budget, over budget, inconclusive"),
        (lambda values: values.pop("status"), "'status' is missing"),
        (lambda values: values.update(limit_ms=0), "a limit of 0 ms"),
        (lambda values: values.update(limit_ms=0.15), "its numbers say 'over budget'"),
        (lambda values: values["rounds"][0]["networks"][0].update(status="over budget"), "its numbers say 'within budget'"),
        (lambda values: values.pop("device"), "lacks 'device'"),
        (lambda values: values.update(not_measured=3), "not_measured is 3, expected a text"),
        (lambda values: values.update(architecture=SPACE.smallest.to_dict()), "was not measured"),
        (lambda values: values["rounds"][0].update(correction="magic"), "expected one of none, local factor, refit"),
        (lambda values: values["rounds"][0].update(networks=[]), "0 networks"),
        (lambda values: values["rounds"][0]["networks"][0].update(measured_ms=-1), "times of"),
        (lambda values: values["rounds"][0]["networks"][0].update(measured_ms=9.0), "outside its own interval"),
        (lambda values: values["rounds"][0]["networks"][0].update(low_ms=None), "times of"),
        (lambda values: values["rounds"][0]["networks"][0].update(runs="many"), "runs is 'many', expected a whole number"),
    ],
)
def test_an_answer_that_was_edited_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    answered(tmp_path, table_of(truth), Measurer())
    values = read_json(tmp_path / "latency_answer.json")
    change(values)
    (tmp_path / "latency_answer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message) as raised:
        LatencyAnswer.load(tmp_path)
    assert "latency_answer.json" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_comes_after_a_search_takes_the_network_that_was_chosen_last(tmp_path: Path) -> None:
    result = stored(tmp_path, table_of(truth)).result
    assert finally_chosen(result, tmp_path) is result
    answer = answered(tmp_path, table_of(truth), Measurer(lambda network: 1.08 * truth(network)))
    found = finally_chosen(SearchRecord.load(tmp_path).result, tmp_path)
    assert found.chosen.architecture == answer.architecture != result.chosen.architecture
    assert found.best.number == result.best.number
    few = conclude([c for c in result.candidates if c.architecture != answer.architecture][:3], LABELS, "best")
    with pytest.raises(CheckpointError, match="the search beside it did not evaluate"):
        finally_chosen(few, tmp_path)


def test_an_error_is_prediction_against_measurement() -> None:
    predicted = score(LABELS, LABELS)
    network = FinalistNetwork(architecture=SPACE.middle, score=predicted, flops=1, predicted_ms=0.9, timing=timing(1.0))
    assert network.error == pytest.approx(-0.1)


# --- real measurement --------------------------------------------------------------------------------------------

QUICK = MeasureConfig(warmup_s=0, warmup_max_s=0.05, warmup_window=2, rounds=2, lead_in_runs=0, min_runs=20, min_s=0, max_s=2)


@pytest.mark.serial
@pytest.mark.slow
def test_networks_are_measured_as_the_table_says() -> None:
    table = measure_table(WIDE, TableConfig(backend="torch-cpu", networks=4, threads=1, config=QUICK))
    assert elsewhere(table.measurement_conditions, DeviceFacts.collect()) is None
    found = measure_networks(table, [WIDE.smallest, WIDE.largest], QUICK)
    assert found[WIDE.smallest].measured_ms < found[WIDE.largest].measured_ms
    for taken in found.values():
        assert taken.low_ms is not None
        assert taken.high_ms is not None
        assert taken.low_ms <= taken.measured_ms <= taken.high_ms
        assert taken.runs >= 20
    elsewhere_made = replace(
        table, measurement_conditions=replace(table.measurement_conditions, device="Another CPU, 1 core, 1 thread")
    )
    with pytest.raises(MeasurementError, match="the table means"):
        measure_networks(elsewhere_made, [WIDE.smallest], QUICK)
