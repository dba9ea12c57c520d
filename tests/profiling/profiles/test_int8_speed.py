"""int8 that is slower than fp32 on a device is rejected there, in the manifest, the report and the model card; the file stays."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from autoformer.errors import CheckpointError
from autoformer.escaping import markdown
from autoformer.export.bundle import model_card
from autoformer.export.expected import ExpectedResults
from autoformer.export.manifest import Manifest
from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.profiles.int8_speed import int8_speed, note_int8_speed
from autoformer.profiling.profiles.latency import Profile
from autoformer.profiling.reports.run_page import build_report
from tests.support.run_folder import make_run, measurement

# Of 101 runs, 1.00 to 2.00 ms in steps of a hundredth, the median is 1.50; that 40 or fewer of 101 fair coins fall one way has a
# chance of 2.3 %, 41 or fewer 3.7 %, so the 95 % interval reaches from the 41st to the 61st run.
LOW, MEDIAN, HIGH = 1.40, 1.50, 1.60
VALID, UNSTABLE = Verdict("VALID"), Verdict("UNSTABLE", ("drift",))


def timed(precision: str, shift_ms: float = 0.0, verdict: Verdict = VALID) -> Measurement:
    return measurement(precision, precision, tuple(1 + shift_ms + index / 100 for index in range(101)), verdict)


def verdict_of(*measurements: Measurement) -> str:
    (found,) = int8_speed(measurements).values()
    return found["verdict"]


def test_the_interval_is_the_one_worked_out_by_hand() -> None:
    stats = timed("fp32").stats
    assert (stats.p50_low_ms, stats.p50_ms, stats.p50_high_ms) == pytest.approx((LOW, MEDIAN, HIGH))


@pytest.mark.parametrize(
    ("shift_ms", "verdict"),
    [
        (0.25, "slower"),  # 1.65 lies above 1.03 × 1.60 = 1.648
        (0.24, "inconclusive"), (0.15, "inconclusive"), (0.0, "inconclusive"), (-0.15, "inconclusive"), (-0.24, "inconclusive"),
        (-0.25, "faster"),  # 1.03 × 1.35 = 1.3905 lies below 1.40
    ],
)  # fmt: skip
def test_only_intervals_that_lie_apart_by_more_than_sessions_do_say_which_is_faster(shift_ms: float, verdict: str) -> None:
    assert verdict_of(timed("fp32"), timed("int8", shift_ms)) == verdict


def test_a_measurement_that_is_not_valid_shows_nothing() -> None:
    assert verdict_of(timed("fp32", verdict=UNSTABLE), timed("int8", 5.0)) == "inconclusive"
    assert verdict_of(timed("fp32"), timed("int8", 5.0, UNSTABLE)) == "inconclusive"


def test_backends_batches_and_threads_are_never_mixed() -> None:
    int8 = timed("int8", 5.0)
    assert int8_speed([replace(timed("fp32"), batch=8), int8]) == {}
    assert int8_speed([replace(timed("fp32"), backend="onnxruntime-cuda"), int8]) == {}
    assert int8_speed([replace(timed("fp32"), backend="tensorrt"), replace(int8, backend="tensorrt")]) == {}
    (device,) = int8_speed([timed("fp32"), int8])
    assert device.endswith(", 1 thread, onnxruntime-cpu")


def test_a_slower_file_stays_and_is_called_rejected_on_this_device_everywhere(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = Manifest.load(run / "export")
    noted = note_int8_speed(run / "export", [timed("fp32"), timed("int8", 0.25)])
    assert noted == Manifest.load(run / "export")
    int8, fp32 = noted.find("onnx", "int8"), noted.find("onnx", "fp32")
    assert int8 is not None
    assert (int8.status, fp32) == ("exported", before.find("onnx", "fp32"))
    assert noted.verified_file(run / "export", int8).is_file()
    words = "slower than fp32: median 1.75 ms [1.65, 1.85] against 1.5 ms [1.4, 1.6] of fp32"
    assert int8.advice.startswith("rejected on ")
    assert int8.advice.endswith(words)
    assert build_report(run)["int8"]["advice"] == int8.advice
    for page in ("report.md", "report.html"):
        shown = re.sub(r"\\(.)", r"\1", (run / page).read_text())  # without the backslashes of Markdown
        assert words in shown, page
    assert markdown(int8.advice) in model_card(noted, ExpectedResults(labels=(0,)))


def test_verdicts_of_several_devices_stand_side_by_side(tmp_path: Path) -> None:
    export = make_run(tmp_path / "run") / "export"
    note_int8_speed(export, [timed("fp32"), timed("int8", 0.25)])
    cuda = [replace(timed(precision, shift), backend="onnxruntime-cuda") for precision, shift in (("fp32", 0.0), ("int8", -0.4))]
    int8 = note_int8_speed(export, cuda).find("onnx", "int8")
    assert int8 is not None
    assert [found["verdict"] for found in int8.speed.values()] == ["slower", "faster"]
    assert "faster" not in int8.advice


def test_a_faster_file_is_not_advised_against(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")  # whose int8 file takes half the time
    note_int8_speed(run / "export", Profile.load(run / "latency.json").measurements)
    assert build_report(run)["int8"]["advice"] == ""
    assert "rejected on" not in (run / "report.md").read_text()


@pytest.mark.parametrize("speed", [[], {"cpu": 3}, {"cpu": {"verdict": "slower"}}, {"cpu": {"verdict": 1, "reason": "x"}}])
def test_a_speed_that_is_no_verdict_is_refused(tmp_path: Path, speed: object) -> None:
    export = make_run(tmp_path / "run") / "export"
    values = Manifest.load(export).to_dict()
    values["artefacts"][0]["speed"] = speed
    with pytest.raises(CheckpointError):
        Manifest.from_dict(values)


def test_a_verdict_with_the_label_of_earlier_versions_is_read(tmp_path: Path) -> None:
    export = make_run(tmp_path / "run") / "export"
    values = Manifest.load(export).to_dict()
    values["artefacts"][1]["speed"] = {"Old CPU": {"verdict": "not shown", "reason": "the intervals overlap"}}
    Manifest.from_dict(values).save(export)
    noted = note_int8_speed(export, [timed("fp32"), timed("int8", 0.15)]).find("onnx", "int8")
    assert noted is not None
    assert [found["verdict"] for found in noted.speed.values()] == ["not shown", "inconclusive"]
    assert noted.advice == ""
