"""A report of several sources: what is said of each latency, what is missing, and what is not a source."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from autoformer.errors import CheckpointError, OutputExistsError
from autoformer.files import read_json
from autoformer.profiling.reports.joint_page import build_joint_report
from autoformer.profiling.reports.run_page import build_report
from tests.support.batch_sweeps import profile
from tests.support.commands import command
from tests.support.layer_profiles import PROFILE
from tests.support.run_folder import make_run


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run, a folder with a profile and one of layers, and a file of two batches by itself."""
    folder = tmp_path_factory.mktemp("sources")
    run = make_run(folder / "run")
    loose = folder / "loose"
    loose.mkdir()
    profile(1, 2.0, name="other.onnx (torch-cpu)").save(loose / "latency.json")
    (loose / "layers.json").write_text(json.dumps(PROFILE.to_dict()))
    (loose / "notes.json").write_text('{"anything": 1}')
    return [run, loose]


def test_accuracy_stands_beside_every_latency_or_the_word_that_nothing_verified_it(sources: list[Path], tmp_path: Path) -> None:
    report = build_joint_report(sources, tmp_path / "report")
    found = {one["name"]: one["score"] for one in report["measurements"]}
    assert found["other.onnx (torch-cpu)"] == "unverified"
    fp32 = found["model.fp32.onnx (onnxruntime-cpu)"]
    assert fp32["value"] == pytest.approx(531 / 540)  # as `make_run` says
    assert fp32["words"] == "top1 on 540 images of the test part"
    page = (tmp_path / "report" / "report.html").read_text()
    assert "unverified" in page
    assert "98.3 %" in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "unverified" in text
    assert read_json(tmp_path / "report" / "report.json") == json.loads(json.dumps(report))


def test_predictions_layers_machines_and_gaps_are_told(sources: list[Path], tmp_path: Path) -> None:
    report = build_joint_report(sources, tmp_path / "report")
    assert [one["source"] for one in report["predictions"]] == ["run"]
    prediction = report["predictions"][0]
    assert prediction["error"] == pytest.approx(prediction["predicted_ms"] / prediction["measured_ms"] - 1)
    assert report["layers"][0]["by_kind_ms"]["attention"] == 4.5
    assert len(report["devices"]) == 2  # that of the run and that of the scripted profile
    gaps = {one["what"] for one in report["not_measured"]}
    assert any("TensorRT" in gap for gap in gaps)
    text = (tmp_path / "report" / "report.md").read_text()
    for words in ("Where the time goes", "Predicted against measured", "cold start and memory", "1.25 times"):
        assert words in text


def test_pages_hold_no_script_or_mark_from_files(sources: list[Path], tmp_path: Path) -> None:
    hostile = tmp_path / "x.json"
    profile(1, 2.0, name="</script><img src=x>").save(hostile)
    build_joint_report([hostile, sources[0]], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<img src=x>" not in page
    assert (
        re.search(r"https?://(?!plot|www|github|d3|mapbox|carto|example)[\w.]+", page.split("<main>")[1].split("</main>")[0])
        is None
    )


def test_other_folders_and_files_are_refused(tmp_path: Path, sources: list[Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="not a run, export or bundle"):
        build_joint_report([tmp_path / "empty"], tmp_path / "report")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"a\.json is not a file of"):
        build_joint_report([tmp_path / "a.json"], tmp_path / "report")
    with pytest.raises(CheckpointError, match="absent does not exist"):
        build_joint_report([tmp_path / "absent"], tmp_path / "report")
    assert not (tmp_path / "report").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("")
    with pytest.raises(OutputExistsError):
        build_joint_report(sources, tmp_path / "full")


def test_the_command_writes_one_run_into_its_folder_and_several_elsewhere(sources: list[Path], tmp_path: Path) -> None:
    answer = command("report", "build", *sources, "--out", tmp_path / "report", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["format"] == "autoformer/joint-report/1"
    assert "give --out" in command("report", "build", *sources).error
    run = shutil.copytree(sources[0], tmp_path / "run")
    assert command("report", "build", run).code == 0
    assert (run / "report.html").is_file()


def test_a_run_that_took_its_file_apart_says_where_the_time_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert build_report(run)["layers"] is None
    assert "Where the time goes" not in (run / "report.md").read_text()
    (run / "layers.json").write_text(json.dumps(PROFILE.to_dict()))
    report = build_report(run)
    assert report["layers"]["by_block_ms"]["blocks.0"] == 5.5
    assert report["files"]["layers"] == {"path": "layers.json"}
    joint = build_joint_report([run], tmp_path / "joint")
    assert [one["source"] for one in joint["layers"]] == ["run"]
    assert "per-layer times" not in (tmp_path / "joint" / "report.md").read_text()
    assert "Where the time goes" in (run / "report.md").read_text()
    assert 'id="figure-layers"' in (run / "report.html").read_text()
    (run / "layers.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"layers\.json holds no times of layers"):
        build_report(run)
