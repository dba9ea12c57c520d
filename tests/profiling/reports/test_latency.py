"""The report's part on what was measured before the choice was final."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autoformer.cost import count_flops
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.reports.latency_table import loop_content, loop_table, loop_text
from autoformer.profiling.reports.run_page import build_report
from autoformer.profiling.tables.limit import FinalistNetwork, LatencyAnswer, LatencyRound, Timing
from autoformer.search.record import SearchRecord
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
