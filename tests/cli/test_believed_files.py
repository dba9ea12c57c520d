"""What a file claims about a measurement is held against its samples; what cannot be read is one line that says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoformer.errors import CheckpointError, MeasurementError
from autoformer.files import read_json
from autoformer.profiling.insides.layers import LayerProfile
from autoformer.profiling.kits.board_results import BEGIN, END, BoardResult
from autoformer.profiling.kits.rows import Rows
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.profiles.latency import Profile
from autoformer.profiling.profiles.regression import compare_profiles
from autoformer.profiling.tables.measuring import PassFile
from autoformer.profiling.tables.table import LatencyTable
from tests.support.batch_sweeps import profile
from tests.support.board_files import result
from tests.support.commands import command
from tests.support.tables import fitted

HUGE = 10**400  # a number that JSON holds and no clock does
DRIFTING = tuple(10.0 + index / 10 for index in range(20))  # 10 to 11.9 ms: 12 % from the first to the last third


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    values = read_json(path)
    change(values)
    path.write_text(json.dumps(values))
    return path


def test_a_verdict_better_than_its_samples_is_not_believed(tmp_path: Path) -> None:
    profile(1, 10.0, samples=DRIFTING).save(tmp_path / "p.json")
    taken = Profile.load(tmp_path / "p.json").measurements[0]
    assert taken.verdict.level == "UNSTABLE"
    claimed = {"level": "VALID", "reasons": []}
    edited(tmp_path / "p.json", lambda values: values["measurements"][0].update(verdict=claimed))
    assert Profile.load(tmp_path / "p.json").measurements[0].verdict == taken.verdict
    worse = {"level": "INVALID", "reasons": ["the sensor of this device said so"]}
    edited(tmp_path / "p.json", lambda values: values["measurements"][0].update(verdict=worse))
    assert Profile.load(tmp_path / "p.json").measurements[0].verdict == Verdict("INVALID", tuple(worse["reasons"]))


def test_figures_beside_the_wall_time_are_those_of_their_samples_too(tmp_path: Path) -> None:
    profile(1, 10.0).save(tmp_path / "p.json")
    edited(tmp_path / "p.json", lambda values: values["measurements"][0]["cpu_stats"].update(p50_ms=1.0))
    with pytest.raises(CheckpointError, match="the figures of 'a' are not those of its samples"):
        Profile.load(tmp_path / "p.json")


@pytest.mark.parametrize("which", ["A", "B"])
def test_nothing_is_shown_beside_a_reference_network_that_is_not_valid(which: str) -> None:
    whole, slow = profile(1, 10.0), profile(1, 20.0)
    assert compare_profiles([whole], [slow]).ratios[0].verdict == "slower"
    unsteady = replace(whole.reference, verdict=Verdict("UNSTABLE", ("drift",)))
    pair = [replace(one, reference=unsteady) if which == name else one for name, one in (("A", whole), ("B", slow))]
    found = compare_profiles([pair[0]], [pair[1]]).ratios[0]
    assert (found.verdict, found.reason) == ("inconclusive", f"the reference network of {which} is UNSTABLE: drift")
    assert compare_profiles([pair[0]], [pair[1]], other_device=True).ratios[0].verdict == "slower"  # it is not divided by then


def test_numbers_too_large_for_a_clock_are_one_line(tmp_path: Path) -> None:
    profile(1, 10.0).save(tmp_path / "p.json")
    edited(tmp_path / "p.json", lambda values: values["measurements"][0]["samples_ms"].append(HUGE))
    with pytest.raises(CheckpointError, match=r"p\.json is damaged"):
        Profile.load(tmp_path / "p.json")
    board = result(tmp_path / "b.json")
    edited(board, lambda values: values["answer"]["measurements"]["onnx fp32"]["samples_ms"].append(HUGE))
    assert "b.json is damaged" in command("report", "import", board).error
    fitted(lambda index, flops: 0.2 + 50 * flops / 1e9).save(tmp_path / "t.json")
    edited(tmp_path / "t.json", lambda values: values["coefficients"].update(constant_ms=HUGE))
    with pytest.raises(CheckpointError, match=r"t\.json is damaged"):
        LatencyTable.load(tmp_path / "t.json")
    for count in (HUGE, float("inf")):
        listed = [{"count": count}, {"name": "a", "timeMs": HUGE, "averageMs": 1}]
        (tmp_path / "l.json").write_text(json.dumps(listed))
        with pytest.raises(CheckpointError, match=r"l\.json holds no times of layers"):
            LayerProfile.load(tmp_path / "l.json")


def test_a_pass_with_a_measurement_that_is_none_names_its_line(tmp_path: Path) -> None:
    file = PassFile(tmp_path / "passes.jsonl", "asked")
    file.append({"a": profile(1, 10.0).measurements[0]})
    line = read_json(file.path)
    changes: list[dict[str, Any]] = [{"samples_ms": []}, {"samples_ms": [HUGE]}, {"verdict": {"level": "FINE", "reasons": []}}]
    for change in changes:
        file.path.write_text(json.dumps({**line, "taken": {"a": {**line["taken"]["a"], **change}}}) + "\n")
        with pytest.raises(CheckpointError, match=r"line 1 of .*passes\.jsonl is damaged"):
            file.read()


@pytest.mark.parametrize(
    "row",
    [
        {"row": "visit"},
        {"row": "visit", "network": "a", "build": 0, "batch": 1, "precision": "fp32", "round": 0, "samples_us": []},
        {"row": "visit", "network": "a", "build": 0, "batch": 1, "precision": "fp32", "round": 0, "samples_us": [-1.0]},
        {"row": "visit", "network": "a", "build": 0, "batch": 1, "precision": "fp32", "round": 0, "samples_us": ["fast"]},
        {"row": "nap", "network": "a", "build": 0, "batch": 1, "precision": "fp32"},
        [],
    ],
)
def test_a_line_of_a_board_that_is_no_visit_says_which_to_move_away(row: object, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Rows.open(path, {"kit": "digest"})
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(CheckpointError, match=r"line 2 of .*rows\.jsonl is damaged \(.*\); move the file away"):
        Rows.open(path, {"kit": "digest"})


def test_what_is_missing_or_foreign_is_named_by_what_would_fit(tmp_path: Path) -> None:
    profile(1, 10.0).save(tmp_path / "p.json")
    (tmp_path / "other.json").write_text('{"format": "autoformer/other/1"}')
    missing, other = tmp_path / "none.json", tmp_path / "other.json"
    for words, said in (
        (("profile", "compare", missing, tmp_path / "p.json"), "does not exist; expected a file of `profile run --out`"),
        (("profile", "compare", tmp_path / "p.json", other), "expected 'autoformer/profile/1' or 'autoformer/batches/1'"),
        (("profile", "table", "--from", missing, "--out", tmp_path / "t.json"), "expected what a kit's board.pyz measure writes"),
        (("report", "import", missing), "expected what board.pyz verify, bench or measure wrote"),
        (("report", "import", other), "expected 'autoformer/board/1'"),
        (("inspect", tmp_path / "none.plan"), "none.plan does not exist; expected a .plan file"),
        (("profile", "compare", missing / "beneath", tmp_path / "p.json"), "does not exist"),
    ):
        assert said in command(*words).error


def test_a_table_of_what_ran_is_not_written_when_the_run_is_refused(tmp_path: Path) -> None:
    page, board = tmp_path / "page.md", result(tmp_path / "b.json")
    page.write_text(f"{BEGIN}\n{END}\n")
    assert "is not a finished run" in command("report", "import", board, "--into", page, "--run", tmp_path).error
    assert page.read_text() == f"{BEGIN}\n{END}\n"
    page.write_bytes(b"\xff\xfe")
    for place in (page, tmp_path, tmp_path / "none.md"):
        assert "is not a Markdown file in UTF-8" in command("report", "import", board, "--into", place).error


def test_an_out_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = command("profile", "run", tmp_path / "none.onnx", "--out", tmp_path / "file" / "below" / "p.json")
    assert f"{tmp_path / 'file'}: Not a directory" in answer.error
    with pytest.raises(MeasurementError, match="p99 needs 662 runs, only 20 were made; measure longer"):
        profile(1, 10.0).measurements[0].stats.value("p99")


@pytest.mark.parametrize(
    ("name", "entry", "follows"),
    [
        ("max_latency_ms", {"median_ms": 2.0, "low_ms": 1.9, "high_ms": 2.1, "verdict": "VALID", "limit": 2.2}, "within budget"),
        ("max_latency_ms", {"median_ms": 2.0, "low_ms": 1.9, "high_ms": 2.1, "verdict": "VALID", "limit": 1.5}, "over budget"),
        ("max_latency_ms", {"median_ms": 2.0, "low_ms": 1.9, "high_ms": 2.1, "verdict": "VALID", "limit": 2.0}, "inconclusive"),
        (
            "max_latency_ms",
            {"median_ms": 2.0, "low_ms": 1.9, "high_ms": 2.1, "verdict": "UNSTABLE: drift", "limit": 9},
            "inconclusive",
        ),
        ("max_latency_ms", {"limit": 9, "reason": "no runtime here measures it"}, "inconclusive"),
        ("max_params", {"limit": 10, "value": 11}, "over budget"),
        ("min_flops", {"limit": 10, "value": 11}, "within budget"),
    ],
)
def test_the_status_of_a_limit_follows_from_the_numbers_beside_it(
    name: str, entry: dict[str, Any], follows: str, tmp_path: Path
) -> None:
    present = ("within budget", "over budget", "inconclusive")
    earlier = dict(zip(("met", "not met", "not shown"), present, strict=True))
    for label in (*present, *earlier):
        status = earlier.get(label, label)
        answer = {"artefacts": {"onnx fp32": {"status": "as promised"}}, "budget": {name: {**entry, "status": label}}}
        path = result(tmp_path / "b.json", command="verify", answer=answer)
        if status == follows:
            assert BoardResult.load(path).budget[name]["status"] == follows
        elif "reason" not in entry or status == "within budget":
            with pytest.raises(CheckpointError, match=f"{name} is '{status}', the numbers beside it say '{follows}'"):
                BoardResult.load(path)
