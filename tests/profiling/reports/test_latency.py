"""The report's part on what was measured before the choice was final."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoformer.cost import count_flops
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.reports.latency import blocks_figure, layer_table
from autoformer.profiling.reports.latency_table import loop_content, loop_table, loop_text, table_figure
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.run_page import build_report
from autoformer.profiling.tables.limit import FinalistNetwork, LatencyAnswer, LatencyRound, Timing
from autoformer.search.record import SearchRecord
from tests.support.layer_profiles import PROFILE
from tests.support.races import make_race
from tests.support.run_folder import DEVICE, QUALIFICATION, SPACE, make_run


def answered(folder: Path, limit_ms: float = 1.0) -> LatencyAnswer:
    """The chosen network as measured second, after another that turned out too slow."""
    result = SearchRecord.load(folder / "search").result
    other = next(c for c in result.candidates if c.architecture != result.chosen.architecture)

    def network(candidate: object, predicted_ms: float, measured_ms: float) -> FinalistNetwork:
        return FinalistNetwork(
            architecture=candidate.architecture, score=candidate.score, flops=count_flops(candidate.architecture, SPACE),  # type: ignore[attr-defined]
            predicted_ms=predicted_ms,
            timing=Timing(measured_ms=measured_ms, low_ms=measured_ms * 0.99, high_ms=measured_ms * 1.01, runs=100,
                          verdict=Verdict("VALID"), speed_factor=1.04),
        )  # fmt: skip

    return LatencyAnswer(
        limit_ms=limit_ms, measurement_conditions=QUALIFICATION, architecture=result.chosen.architecture,
        rounds=(
            LatencyRound(correction="none", model="m", margin=0.1, networks=(network(other, 0.9, 1.2),)),
            LatencyRound(correction="local factor", model="m", margin=0.1, networks=(network(result.chosen, 0.96, 0.8),)),
        ),
        not_measured=None, device=DEVICE, basis={}, created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def test_every_measured_network_stands_in_the_table_with_prediction_and_error(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    answer = answered(folder)
    loop = loop_content(answer)
    assert loop is not None
    first, second = loop_table(loop).rows
    assert first[0] == "1"
    assert first[2:] == ("0.9 ms", "1.2 ms [1.188, 1.212]", "-25.0 %", "over budget", "")
    assert second[2:] == ("0.96 ms", "0.8 ms [0.792, 0.808]", "+20.0 %", "within budget", "final choice")
    (text,) = loop_text(loop)
    assert "2 networks were exported and measured in 2 rounds" in text
    assert f"For the limit of 1 ms {second[1]} is within budget" in text
    assert "ran beside them and took 1.040 times as long as then" in text
    assert f"It replaces {first[1]}" in text


def test_the_report_tells_of_the_loop_and_of_why_nothing_was_measured(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    answer = answered(folder)
    answer.save(folder / "search")
    assert build_report(folder)["latency_loop"]["status"] == "within budget"
    page = (folder / "report.html").read_text()
    assert "Latency in the loop" in page
    assert "0.792, 0.808" in page

    other = make_run(tmp_path / "other")
    replace(answer, rounds=(), not_measured="the latency table is of an Orin").save(other / "search")
    assert build_report(other)["latency_loop"]["status"] == "inconclusive"
    assert "were not measured: the latency table is of an Orin." in (other / "report.html").read_text()

    plain = make_run(tmp_path / "plain")
    assert build_report(plain)["latency_loop"] is None
    assert "Latency in the loop" not in (plain / "report.html").read_text()


def test_every_network_that_was_predicted_and_measured_is_a_point(tmp_path: Path) -> None:
    """Five of the table by a fit without each, the two of the loop, and what is delivered, measured at the end as 0.81 ms."""
    folder = make_run(tmp_path / "run")
    answered(folder).save(folder / "search")
    run = Run.load(folder)
    assert run.table is not None
    drawn = {trace["name"]: trace for trace in table_figure(run).views["measured against predicted"]["data"]}
    points = {name: list(zip(trace["x"], trace["y"], strict=True)) for name, trace in drawn.items()}
    assert points["of the table (5)"] == [(one.left_out_ms, one.measured_ms) for one in run.table.networks]
    assert points["finalists of the search (2)"] == [(0.9, 1.2), (0.96, 0.8)]
    assert drawn["finalists of the search (2)"]["error_y"]["array"] == [pytest.approx(0.012), pytest.approx(0.008)]
    ((predicted, measured),) = points["delivered, measured at the end (1)"]
    assert predicted == run.search.chosen.cost.latency_ms
    assert measured == pytest.approx(0.81, abs=0.001)
    (low, high), line = drawn["as predicted"]["x"], drawn["as predicted"]["y"]
    assert [low, high] == line
    assert low < 0.8
    assert high > 1.2


def test_entrants_of_a_race_that_the_table_predicts_are_points_too(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    race = make_race(Run.load(folder).search.chosen.architecture)
    predicted = tuple(
        replace(one, entrant=replace(one.entrant, predicted_ms=0.7)) if one.entrant.name == "second" else one
        for one in race.entrants
    )
    replace(race, entrants=predicted).save(folder / "race")
    drawn = {trace["name"]: trace for trace in table_figure(Run.load(folder)).views["measured against predicted"]["data"]}
    assert (drawn["of the race (1)"]["x"], drawn["of the race (1)"]["y"]) == ([0.7], [0.6])
    assert "<b>second-network</b>" in drawn["of the race (1)"]["text"][0]


def test_layers_are_shown_as_shares_that_add_up_to_the_whole() -> None:
    """Of 10 ms under the profiler, 1.25 times the 8 ms of a run, attention has 2.0 + 1.5 + 1.0."""
    figure = blocks_figure([PROFILE])
    assert figure is not None
    (view,) = figure.views.values()
    assert sum(sum(trace["y"]) for trace in view["data"]) == pytest.approx(100)
    attention = next(trace for trace in view["data"] if trace["name"] == "attention")
    assert dict(zip(attention["x"], attention["y"], strict=True))["blocks.0"] == pytest.approx(20)
    assert "%" in view["layout"]["yaxis"]["title"]["text"]
    table = layer_table(PROFILE.to_dict())
    assert ("attention", "45.0 %", "4.5 ms") in table.rows
    assert "Under the profiler the layers take 10 ms in all, 1.25 times the 8 ms of a run without it." in table.note
