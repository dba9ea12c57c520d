"""One function decides what a measurement says of a limit: report, answer of the search, device's result and bundle agree."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autoformer.cli.board import verify
from autoformer.export.expected import ExpectedResults
from autoformer.profiling.kits.board_results import BoardResult
from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.reports.budget import pace_line, room_lines
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.run_page import build_report
from autoformer.profiling.tables.limit import Timing
from tests.support.board_files import result
from tests.support.run_folder import make_run

LIMIT_MS = 1.0
BUSY = "other programs kept 1.2 cores busy, 1 of 2 were free for them"


@pytest.mark.parametrize(
    ("found", "predicted", "said"),
    [(2.17, 0.924, "this machine is 2.3 times as slow now"), (0.5, 1.0, "2 times as fast now"), (1.2, 1.0, ""), (1.0, None, "")],
)
def test_a_time_far_from_its_prediction_is_said_to_be_the_machines(found: float, predicted: float | None, said: str) -> None:
    line = pace_line({"found": found, "predicted": predicted})
    assert said in (line or "")
    assert (line is None) == (not said)


ABOVE, INSIDE, AROUND = (1.20, 1.22) * 500, (0.80, 0.82) * 500, (0.99, 1.01) * 500  # intervals reach from one to the other


def of_bundle(taken: Measurement, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `board.pyz verify` says of the limit on a device where this is measured."""
    monkeypatch.setattr(verify, "measured", lambda *_, **__: ({"onnx fp32": taken}, {}))
    bundle = SimpleNamespace(expected=ExpectedResults(labels=(0,), budget={"max_latency_ms": LIMIT_MS}), manifest=None)
    return verify.budget(cast(Any, bundle), argparse.Namespace())["max_latency_ms"]


@pytest.mark.parametrize(
    ("share", "image_size", "said"),
    [
        (0.28, 64, ["72 % of the latency limit is left: a pretrained start (--from), or images larger than 64 px"]),
        (0.6, 64, []),
        (0.28, 8, []),
        (None, 64, []),
    ],
)
def test_a_limit_that_is_mostly_left_comes_with_what_may_use_it(share: float | None, image_size: int, said: list[str]) -> None:
    lines = list(room_lines([{"limit": "max_params", "share": 0.1}, {"limit": "max_latency_ms", "share": share}], image_size))
    assert [line.partition(" (--set")[0] for line in lines] == said


@pytest.mark.parametrize(
    ("samples_ms", "level", "status"),
    [
        (ABOVE, "VALID", "over budget"),
        (ABOVE, "UNSTABLE", "inconclusive"),
        (ABOVE, "INVALID", "inconclusive"),
        (INSIDE, "VALID", "within budget"),
        (INSIDE, "UNSTABLE", "inconclusive"),
        (INSIDE, f"UNSTABLE: {BUSY}", "within budget"),
        (ABOVE, f"UNSTABLE: {BUSY}", "inconclusive"),
        (AROUND, "VALID", "inconclusive"),
        ((0.5, 0.5, 0.5), "VALID", "inconclusive"),  # too few for an interval
    ],
)
def test_every_place_says_the_same_of_a_measurement(
    samples_ms: tuple[float, ...], level: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, reason = level.partition(": ")
    verdict = Verdict(name, () if name == "VALID" else (reason or "drift",))
    folder = make_run(tmp_path / "run", limit_ms=LIMIT_MS, samples_ms=samples_ms, verdict=verdict)
    limit = next(one for one in build_report(folder)["budget"] if one["limit"] == "max_latency_ms")
    taken = Run.load(folder).profile.measurements[0]
    stats = taken.stats
    timing = Timing(
        measured_ms=stats.p50_ms, low_ms=stats.p50_low_ms, high_ms=stats.p50_high_ms, runs=stats.n, verdict=taken.verdict
    )
    found = of_bundle(taken, monkeypatch)
    answer = {"artefacts": {"onnx fp32": {"status": "as promised"}}, "budget": {"max_latency_ms": found}}
    imported = BoardResult.load(result(tmp_path / "b.json", command="verify", answer=answer)).budget["max_latency_ms"]
    assert {limit["met"], timing.status(LIMIT_MS), found["status"], imported["status"]} == {status}
