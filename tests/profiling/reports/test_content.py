"""What a report says: limits, intervals, pairs, and which runs it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from autoformer.cost import ExactCosts
from autoformer.errors import CheckpointError
from autoformer.export.manifest import Manifest
from autoformer.files import read_json, write_json
from autoformer.metric import Metric, decimals, percent
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.reports.run_page import build_report, headline, summary_lines
from autoformer.profiling.reports.wording import duration, file_size, latency_text
from tests.support.pages import Page
from tests.support.run_folder import SPACE, TEST_IMAGES, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("content") / "run")


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return build_report(run)


def latency_limit(report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(limit for limit in report["budget"] if limit["limit"] == "max_latency_ms")
    return found


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("half_width", "places"), [(0.119, 2), (0.367, 1), (0.0354, 3), (0.96, 1), (4.1, 0), (12.0, 0)])
def test_digits_follow_the_rule_of_the_particle_data_group(half_width: float, places: int) -> None:
    assert decimals(half_width) == places  # 0.827 ± 0.119 is 0.83 ± 0.12 there, 0.827 ± 0.367 is 0.8 ± 0.4


def test_a_share_shows_no_more_digits_than_its_interval_supports() -> None:
    assert percent(0.98333, 0.9687, 0.9912) == "98.3 % [96.9, 99.1]"
    assert percent(0.63, 0.59, 0.67) == "63 % [59, 67]"
    assert percent(0.98333, 0.98233, 0.98433) == "98.33 % [98.23, 98.43]"


def test_a_latency_without_an_interval_says_so() -> None:
    known = {"p50_ms": 1.23456, "p50_low_ms": 1.21, "p50_high_ms": 1.26}
    assert latency_text(known) == "1.23 ms [1.21, 1.26]"
    assert latency_text({**known, "p50_low_ms": None}) == "1.2 ms [too few runs for an interval]"


def test_times_and_sizes_are_written_as_people_say_them() -> None:
    assert [duration(s) for s in (0.04, 9.96, 59.6, 260, 11_100)] == ["0.0 s", "10 s", "1 min 0 s", "4 min 20 s", "3 h 5 min"]
    assert [file_size(n) for n in (812, 640_400, 23_100_000, 123_456_789)] == ["812 B", "640 kB", "23.1 MB", "123.5 MB"]


# --- accuracy ----------------------------------------------------------------------------------------------------


def test_accuracies_and_their_intervals_are_those_of_scipy(report: dict[str, Any]) -> None:
    right = {"inherited": 500, "finetuned": 530, "onnx fp32": 531, "onnx int8": 528}  # of tests/support/run_folder.py
    assert set(report["test"]) == set(right)
    for name, score in report["test"].items():
        interval = binomtest(right[name], TEST_IMAGES).proportion_ci(method="wilson")
        assert (score["correct"], score["images"]) == (right[name], TEST_IMAGES)
        assert score["value"] == pytest.approx(right[name] / TEST_IMAGES)
        assert (score["low"], score["high"]) == pytest.approx((interval.low, interval.high), abs=1e-6)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_a_run_of_another_metric_has_it_in_every_score_and_in_its_words(tmp_path: Path, metric: Metric) -> None:
    """Test predictions of tests/support/run_folder.py: inherited has the first 40 images of 540, 4 of each class, wrong."""
    folder = make_run(tmp_path / "run", metric=metric)
    report = build_report(folder)
    scores = [*report["test"].values(), report["chosen"]["search_score"], report["search"]["best_score"]]
    scores += [candidate["score"] for candidate in report["search"]["evaluated"]]
    scores += [score for epochs in report["training"].values() for epoch in epochs for score in epoch["scores"].values()]
    assert {report["metric"], *(score["metric"] for score in scores)} == {metric}
    assert not any("correct" in score for score in scores)
    assert report["test"]["inherited"]["value"] == pytest.approx(500 / 540)  # every class: 50 of 54 right, named 54 times
    words = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}[metric]
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"## {words[0].upper()}{words[1:]} on the test part" in text
    assert "McNemar" not in text
    assert f"{words} on 540 test images" in "\n".join(summary_lines(report))
    assert f"{words} on the search part, %" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["search/search.json", "supernet/supernet.json", "finetuned/subnet.json"])
def test_scores_of_another_metric_than_the_runs_are_refused(tmp_path: Path, name: str) -> None:
    folder = make_run(tmp_path / "run")
    other = make_run(tmp_path / "other", metric="macro_f1")
    shutil.copy(other / name, folder / name)
    with pytest.raises(CheckpointError, match=f"{Path(name).name} is damaged .*metric is top1"):
        build_report(folder)


def test_int8_is_compared_with_fp32_image_by_image(report: dict[str, Any]) -> None:
    paired = report["int8_disagreement"]
    interval = binomtest(3, TEST_IMAGES).proportion_ci(method="wilson")
    assert (paired["different"], paired["images"]) == (3, TEST_IMAGES)
    assert (paired["only_fp32_right"], paired["only_int8_right"]) == (3, 0)
    assert (paired["low"], paired["high"]) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_what_is_delivered_is_compared_with_the_parent_image_by_image(tmp_path: Path) -> None:
    """536 images right against 530: 6 of 540 less, -1.11 points; and what share of the largest network is left."""
    folder = make_run(tmp_path / "run")
    record = read_json(folder / "test.json")
    labels = record["labels"]
    wrong = [(label + 1) % 10 for label in labels[:4]]
    write_json({**record, "guesses": {**record["guesses"], "parent": [*wrong, *labels[4:]]}}, folder / "test.json")
    report = build_report(folder)
    found, largest = report["parent_difference"], ExactCosts(SPACE)(SPACE.largest)
    assert found["value"] == pytest.approx(-6 / 540)
    assert found["low"] < found["value"] < found["high"] < 0
    assert found["params"] == report["chosen"]["params"] / largest.params
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "differs from the parent that the supernet was cut out of by -1.1 [" in text
    assert "parent, finetuned on these images" in text


def test_a_run_without_a_parent_says_nothing_of_one(report: dict[str, Any]) -> None:
    assert "parent_difference" not in report
    assert "parent, finetuned" not in report["files"]


def test_a_rejected_int8_file_is_reported_as_missing_with_its_reason(tmp_path: Path) -> None:
    report = build_report(make_run(tmp_path / "run", int8_wrong=None))
    reason = "9 of 100 images get another class"
    assert report["int8"] == {"status": "rejected", "reason": reason, "advice": ""}
    assert report["int8_disagreement"] is None
    assert "onnx int8" not in report["test"]
    assert {"what": "ONNX int8", "reason": f"rejected: {reason}"} in report["not_measured"]


def test_candidates_tied_with_the_best_are_counted(report: dict[str, Any]) -> None:
    # The best has 251 of 270 right; the next differs by 3 images (p = 0.25), the one after by 6 (p = 2/64 < 0.05).
    assert (report["candidates"], report["tied"]) == (12, 2)
    assert report["search"]["best_score"]["correct"] == 251
    assert sum(candidate["tied"] for candidate in report["search"]["evaluated"]) == 2


# --- which file to ship ------------------------------------------------------------------------------------------


def test_the_report_says_which_file_to_ship_and_why(report: dict[str, Any]) -> None:
    """int8 takes half of fp32's 0.81 ms and loses 3 of 540 images more, p = 0.25; the limit is 1 ms."""
    ship = report["ship"]
    assert (ship["file"], ship["name"]) == ("export/model.int8.onnx", "ONNX int8")
    assert ship["sentence"] == (
        "Ship export/model.int8.onnx: accuracy 97.8 % [96.2, 98.7], 0.405 ms [0.405, 0.405], 40 % of the latency limit used."
    )
    assert ship["why"].startswith(
        "The int8 file is the fastest of the 2 files that could be shipped; it keeps every limit, and its score is not"
    )
    assert {one["name"]: one["verdict"] for one in ship["files"]} == {"ONNX fp32": "slower", "ONNX int8": "ship this"}
    assert ship["files"][0]["limits"]["max_latency_ms"]["share"] == pytest.approx(0.81, abs=0.001)
    assert ship["files"][0]["images_per_s"] == pytest.approx(1000 / 0.81, rel=0.002)


def test_the_page_opens_with_the_answer_its_numbers_and_the_table_of_files(run: Path, report: dict[str, Any]) -> None:
    text = (run / "report.md").read_text().replace("\\", "")
    first, rest = text.split("## The choice")[0], report["ship"]
    assert first.splitlines()[2] == f"**{rest['sentence']}**"
    assert "| latency | 0.405 ms | limit 1 ms, 40 % used; 95 % interval" in first
    assert "| export/model.int8.onnx | int8 | 15 B | 97.8 % [96.2, 98.7] | 0.405 | 2469 |" in first
    assert "* ONNX fp32: slower than ONNX int8 on this CPU: 0.81 against 0.405 ms." in first
    page = Page((run / "report.html").read_text())
    answer = next(index for index, (tag, attrs) in enumerate(page.elements) if attrs.get("class") == "answer")
    assert answer < next(index for index, (tag, _) in enumerate(page.elements) if tag == "table")
    assert report["ship"]["sentence"] in page.text


def test_a_file_whose_loss_is_no_chance_is_not_shipped(tmp_path: Path) -> None:
    """Of 9 images that only one of the two has right all are fp32's: p = 2/512."""
    ship = build_report(make_run(tmp_path / "run", int8_wrong=9))["ship"]
    assert ship["file"] == "export/model.fp32.onnx"
    assert ship["files"][1]["verdict"] == "less accurate"


def test_a_rejected_file_stands_in_the_table_with_its_reason(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", int8_wrong=None)
    ship = build_report(folder)["ship"]
    assert ship["file"] == "export/model.fp32.onnx"
    assert (ship["files"][1]["file"], ship["files"][1]["verdict"]) == (None, "rejected")
    assert "* ONNX int8: 9 of 100 images get another class." in (folder / "report.md").read_text()


def test_no_file_is_shipped_while_the_limit_is_open_or_broken(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    search = read_json(folder / "search" / "search.json")
    search["latency_qualification"]["device"] = "Board"
    (folder / "search" / "search.json").write_text(json.dumps(search))
    ship = build_report(folder)["ship"]
    assert (ship["file"], ship["likely"]) == (None, "ONNX int8")
    assert ship["sentence"].startswith(
        "Ship none of these files yet: ONNX fp32: the limit means p50, batch 1, fp32, onnxruntime-cpu, Board"
    )
    assert ship["sentence"].endswith("If these times stand, it is export/model.int8.onnx.")
    slow = build_report(make_run(tmp_path / "slow", samples_ms=(3.0, 3.02) * 500))["ship"]
    assert (slow["file"], slow["likely"]) == (None, None)
    assert "300 % of the latency limit" in slow["sentence"]


def test_what_this_machine_cannot_have_is_grey_and_what_is_open_is_not(run: Path, report: dict[str, Any]) -> None:
    verdicts = dict(headline(report, next(iter(report["latency"]))).verdicts)
    assert verdicts["TensorRT: not installed"] == "plain"
    assert verdicts["latency ≤ 1 ms: 40 % used, within budget"] == "good"
    assert ["TensorRT fp32", "not installed", "TensorRT is not installed"] in Page((run / "report.html").read_text()).rows


# --- limits ------------------------------------------------------------------------------------------------------


def test_a_counted_limit_is_within_budget_exactly(report: dict[str, Any], run: Path) -> None:
    limit = report["budget"][0]
    assert (limit["limit"], limit["stated"], limit["value"], limit["met"]) == ("max_params", "80%", 200_000, "within budget")
    assert limit["found"] == report["chosen"]["params"] == Manifest.load(run / "export").params


def test_the_report_says_how_much_of_each_limit_the_choice_uses(report: dict[str, Any], run: Path, tmp_path: Path) -> None:
    """The fp32 file takes 0.81 of 1.0 ms; the median is over 0.80 to 0.82 ms."""
    params, latency = report["budget"]
    assert params["share"] == Manifest.load(run / "export").params / 200_000
    assert latency["share"] == latency["found"]  # of 1.0 ms
    assert latency["share"] == pytest.approx(0.81, abs=0.001)
    said = f"{100 * params['share']:.0f} % of the parameter limit used, within budget"
    assert said in "\n".join(summary_lines(report))
    assert "81 % of the latency limit used, within budget" in "\n".join(summary_lines(report))
    page = (run / "report.md").read_text()
    assert "| used |" in page
    assert "| 81 % |" in page


def test_where_no_latency_was_measured_the_use_of_its_limit_is_the_predicted_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", limit_ms=1.0)
    table = read_json(folder / "latency_table.json")
    assert table["qualification"]["batch"] == 1
    profile = read_json(folder / "latency.json")
    for measurement in profile["measurements"]:
        measurement["batch"] = 2  # another meaning than that of the limit
    (folder / "latency.json").write_text(json.dumps(profile))
    limit = latency_limit(build_report(folder))
    assert limit["found"] is None
    assert limit["share"] == limit["predicted"] / 1.0
    assert f"{100 * limit['share']:.0f} % (predicted)" in (folder / "report.md").read_text()


def test_a_lower_limit_is_not_used(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    budget = read_json(folder / "budget.json")
    budget["limits"] = budget["searched_with"] = {"min_flops": 10}
    (folder / "budget.json").write_text(json.dumps(budget))
    report = build_report(folder)
    assert [limit["share"] for limit in report["budget"]] == [None]
    assert "limit used" not in "\n".join(summary_lines(report))


def test_a_counted_limit_that_is_broken_is_over_budget(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    budget = read_json(folder / "budget.json")
    budget["limits"] = {"max_params": 10, "min_flops": 1e12}
    budget["searched_with"] = budget["limits"]
    (folder / "budget.json").write_text(json.dumps(budget))
    assert [limit["met"] for limit in build_report(folder)["budget"]] == ["over budget", "over budget"]


def test_a_latency_is_within_budget_when_the_whole_interval_is_inside(report: dict[str, Any]) -> None:
    limit = latency_limit(report)
    assert limit["met"] == "within budget"
    assert limit["low"] <= limit["found"] <= limit["high"] < limit["value"] == 1.0
    assert limit["qualification"] == "p50, batch 1, fp32, onnxruntime-cpu, Test CPU, 2 cores, 1 thread"


def test_a_latency_limit_inside_the_interval_is_inconclusive(tmp_path: Path) -> None:
    limit = latency_limit(build_report(make_run(tmp_path / "run", limit_ms=0.81, samples_ms=(0.80, 0.82) * 500)))
    assert limit["low"] <= 0.81 <= limit["high"]
    assert limit["met"] == "inconclusive"


def test_a_latency_limit_below_the_interval_is_over_budget(tmp_path: Path) -> None:
    assert latency_limit(build_report(make_run(tmp_path / "run", samples_ms=(1.20, 1.22) * 500)))["met"] == "over budget"


def test_an_unstable_measurement_is_inconclusive(tmp_path: Path) -> None:
    limit = latency_limit(build_report(make_run(tmp_path / "run", verdict=Verdict("UNSTABLE", ("it drifted",)))))
    assert limit["met"] == "inconclusive"
    assert "it drifted" in limit["reason"]


def test_too_few_runs_are_inconclusive(tmp_path: Path) -> None:
    limit = latency_limit(build_report(make_run(tmp_path / "run", samples_ms=(0.5, 0.5, 0.5))))
    assert (limit["met"], limit["low"]) == ("inconclusive", None)


def test_a_measurement_of_another_device_is_inconclusive(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    search = read_json(folder / "search" / "search.json")
    search["latency_qualification"]["device"] = "Board"
    (folder / "search" / "search.json").write_text(json.dumps(search))
    report = build_report(folder)
    limit = latency_limit(report)
    assert (limit["met"], limit["found"]) == ("inconclusive", None)
    assert "Board" in limit["reason"]
    assert report["latency_table"]["prediction"]["error"] is None
    assert any("not measured" in line for line in summary_lines(report))


def test_a_prediction_is_compared_with_the_measurement(report: dict[str, Any]) -> None:
    prediction = report["latency_table"]["prediction"]
    assert prediction["measured_ms"] == pytest.approx(0.81, abs=0.001)
    assert prediction["error"] == pytest.approx(report["chosen"]["predicted_latency_ms"] / prediction["measured_ms"] - 1)


# --- the rest ----------------------------------------------------------------------------------------------------


def test_the_json_holds_what_programs_need(report: dict[str, Any], run: Path) -> None:
    assert report["format"] == "autoformer/report/3"
    assert report == read_json(run / "report.json")
    assert report["seed"] == 3
    assert report["skipped"] == [{"what": "TensorRT fp32", "status": "skipped", "reason": "TensorRT is not installed"}]
    assert report["steps"]["train"] == 75.0
    assert sorted(report["test_readings"]["by_split"].values()) == [4]
    for file in report["files"].values():
        assert (run / file["path"]).exists() or file["path"] in ("subnet",)


def test_what_was_skipped_is_listed_once(report: dict[str, Any]) -> None:
    about = [item for item in report["not_measured"] if "TensorRT is not installed" in item["reason"]]
    assert len(about) == 1


def test_building_again_gives_the_same_files(run: Path, report: dict[str, Any]) -> None:
    names = ("report.html", "report.md", "report.json", "recipe.yaml")
    before = [(run / name).read_bytes() for name in names]
    build_report(run)
    assert [(run / name).read_bytes() for name in names] == before


def test_a_missing_tensorrt_is_told_in_the_terminal_where_there_is_a_gpu_to_build_for(report: dict[str, Any]) -> None:
    assert report["device"]["gpus"] == []
    assert not any("TensorRT" in line for line in summary_lines(report))
    with_gpu = {**report, "device": {**report["device"], "gpus": [{"name": "NVIDIA L4"}]}}
    (line,) = [line for line in summary_lines(with_gpu) if "TensorRT" in line]
    assert line == "TensorRT fp32: TensorRT is not installed"


def test_the_summary_is_short_and_says_what_matters(report: dict[str, Any]) -> None:
    lines = summary_lines(report)
    text = "\n".join(lines)
    assert len(lines) <= 15
    for needed in (
        "within budget",
        "98.3 % [96.9, 99.1]",
        "3 of 540",
        "2 of 12",
    ):
        assert needed in text


def test_a_report_of_an_earlier_version_is_summed_up_in_the_present_words(report: dict[str, Any]) -> None:
    earlier = {"within budget": "met", "over budget": "not met", "inconclusive": "not shown"}
    old = {**report, "budget": [{**limit, "met": earlier[limit["met"]]} for limit in report["budget"]]}
    assert summary_lines(old) == summary_lines(report)


def test_a_report_from_before_shares_of_limits_were_written_is_summed_up_without_them(report: dict[str, Any]) -> None:
    limits = [{name: value for name, value in limit.items() if name != "share"} for limit in report["budget"]]
    lines = summary_lines({**report, "budget": limits})
    assert len(lines) == len(summary_lines(report))
    assert "limit used" not in "\n".join(lines)


def test_the_summary_stays_short_with_many_measurements(report: dict[str, Any]) -> None:
    one = next(iter(report["latency"].values()))
    skipped = [{"what": f"engine {index}", "status": "skipped", "reason": "absent"} for index in range(30)]
    many = {**report, "latency": {f"file {index}": one for index in range(30)}, "skipped": skipped}
    assert len(summary_lines(many)) <= 15


def test_a_summary_of_something_else_is_refused() -> None:
    with pytest.raises(CheckpointError, match="expected 'autoformer/report/3'"):
        summary_lines({"format": "other"})


# --- bad input ---------------------------------------------------------------------------------------------------

NEEDED = (
    "run.json", "budget.json", "supernet/supernet.json", "search/search.json", "finetuned/subnet.json", "export/manifest.json",
    "export/model.fp32.onnx", "latency.json", "test.json", "test_ledger.json", "steps.json",
)  # fmt: skip


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_file_is_named_and_nothing_is_written(run: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report.*")))
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=Path(name).name) as caught:
        build_report(folder)
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("report.*"))


@pytest.mark.parametrize("name", [name for name in NEEDED if name.endswith(".json")] + ["latency_table.json"])
@pytest.mark.parametrize("content", ['{"format": ', "{}", "[]", '{"format": "other/1"}'])
def test_a_damaged_file_is_named(run: Path, tmp_path: Path, name: str, content: str) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report.*")))
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=Path(name).name):
        build_report(folder)


def test_parts_of_two_runs_are_refused(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    path = folder / "export" / "manifest.json"
    manifest = read_json(path)
    manifest["architecture"] = SPACE.largest.to_dict()
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="not of one run"):
        build_report(folder)


def test_an_exported_file_that_changed_is_refused(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (folder / "export" / "model.int8.onnx").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"model\.int8\.onnx"):
        build_report(folder)


@pytest.mark.parametrize(("key", "value"), [("split", "0" * 64), ("labels", [1, 2, 3]), ("guesses", {"inherited": [0] * 540})])
def test_predictions_that_do_not_fit_the_test_part_are_refused(run: Path, tmp_path: Path, key: str, value: object) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    record = read_json(folder / "test.json")
    (folder / "test.json").write_text(json.dumps({**record, key: value}))
    with pytest.raises(CheckpointError, match=r"test\.json is damaged"):
        build_report(folder)
