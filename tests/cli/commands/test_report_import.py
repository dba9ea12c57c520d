"""What came back from a device: rows in a Markdown table, and a section in the report of the run it is of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, DataError
from autoformer.export.engines.builder import EngineConfig
from autoformer.export.manifest import FILE_NAME, Artefact, Manifest
from autoformer.profiling.kits.board_results import BEGIN, END, BoardResult, RanOn, add_rows
from autoformer.profiling.kits.kit import Kit
from autoformer.profiling.kits.measuring import head_of, measure_setting
from autoformer.profiling.kits.result import KitResult
from autoformer.profiling.kits.rows import Rows, Setting
from tests.support.board_files import result
from tests.support.commands import command
from tests.support.kits import FACTS, ScriptedRuntime, small_kit
from tests.support.run_folder import DEVICE, make_run


def test_each_runtime_that_ran_gets_a_row_with_version_device_and_day(tmp_path: Path) -> None:
    cpu, gpu = BoardResult.load(result(tmp_path / "r.json")).ran_on()
    assert cpu == RanOn("ONNX Runtime 1.31.1", "Test CPU, 2 cores", "bench of animals: onnx fp32, batch 1", "2026-11-22")
    assert gpu.runtime == "trtexec of TensorRT 10.3.0"
    assert gpu.what == "bench of animals: tensorrt fp16, batch 1"


def test_engines_that_were_built_ahead_of_time_are_a_row_of_the_file_that_is_given(tmp_path: Path) -> None:
    made = {"tensorrt-rtx": "1.7.1", "config": EngineConfig(format="tensorrt-rtx", gpus=("8.9",)).to_dict(), "date": "2026-11-29"}
    built = Artefact("tensorrt-rtx", "fp16", "built", "elsewhere", "m.plan", "0", 2_000_000, made=made)
    file = Artefact("onnx", "fp16", "exported", "equal", "m.onnx", "0", 1)
    shape = Preprocessing(image_size=8, in_chans=1, mean=(0.5,), std=(0.5,))
    Manifest((file, built), ("a", "b"), shape, params=12).save(tmp_path)
    laptop = (tmp_path / FILE_NAME).rename(tmp_path / "laptop.json")
    Manifest((file,), ("a", "b"), shape, params=34).save(tmp_path)  # of another network, under the usual name
    (row,) = command("report", "import", laptop, "--json").json
    assert row["what"] == "engines of a network of 12 parameters, not run: fp16 2 MB"
    assert row["device"] == "none yet: built ahead of time for sm89"
    said = command("report", "import", laptop, "--run", tmp_path).error
    assert "laptop.json is of engines that ran nowhere yet" in said
    assert "lists no engine built ahead of time" in command("report", "import", tmp_path / FILE_NAME).error
    with pytest.raises(CheckpointError, match="artefact onnx fp16 is 'built', which engines alone can be"):
        replace(file, status="built")


def test_rows_stand_in_the_table_once_and_keep_what_was_there() -> None:
    row = RanOn("TensorRT 10.3.0", "Orin", "bench", "2026-11-22")
    text = f"# Title\n\n{BEGIN}\n{END}\n\nafter\n"
    once = add_rows(text, [row])
    assert once.count("| TensorRT 10.3.0 | Orin | bench | 2026-11-22 |") == 1
    assert add_rows(once, [row]) == once
    twice = add_rows(once, [RanOn("TensorRT 11.0.0", "H200", "bench", "2026-11-23")])
    lines = [line for line in twice.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| TensorRT 10.3.0", "| TensorRT 11.0.0"]
    assert twice.startswith("# Title\n")
    assert twice.endswith("\nafter\n")


def test_results_and_rows_in_the_words_of_earlier_versions_are_recognised(tmp_path: Path) -> None:
    files = {"onnx fp32": {"status": "as promised"}, "onnx int8": {"status": "differs"}, "onnx fp16": {"status": "not run"}}
    loaded = BoardResult.load(result(tmp_path / "r.json", command="verify", answer={"artefacts": files}))
    assert [found["status"] for found in loaded.artefacts.values()] == ["matches", "does not match", "not run"]
    (row,) = loaded.ran_on()
    assert row.what.endswith("onnx fp32 matches; onnx int8 does not match")
    empty, earlier = (
        f"{BEGIN}\n{END}",
        replace(row, what=row.what.replace("matches", "as promised").replace("does not match", "differs")),
    )
    assert add_rows(add_rows(empty, [earlier]), [row]) == add_rows(empty, [row])


def test_a_file_without_a_place_for_the_table_says_which_lines_it_needs() -> None:
    with pytest.raises(DataError, match="put these two lines where it shall stand"):
        add_rows("# no marks\n", [])


def test_text_from_a_device_cannot_break_the_table_or_bring_markup() -> None:
    row = RanOn("a | b\x1b[31m\u202e", "<script>alert(1)</script>", "[link](http://x)\n# head", "2026-11-22")
    table = add_rows(f"{BEGIN}\n{END}", [row]).splitlines()
    assert len(table) == 5  # marks, head, rule and one row
    assert "<script>" not in table[3]
    assert table[3].isprintable()
    assert "[link]" not in table[3]
    assert table[3].replace("\\|", "").count("|") == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "autoformer/profile/1"}, "expected 'autoformer/board/1'"),
        ({"device": {}}, "is damaged"),
        ({"created": "yesterday"}, "is damaged (BoardResult: "),
        ({"versions": 3}, "is damaged"),
        ({"created": "9999-99-99"}, "is damaged (BoardResult: "),
        ({"command": "rm"}, "command is 'rm', expected one of verify, bench"),
        ({"device": {**DEVICE.to_dict(), "cpu": None}}, "cpu is None, expected a text"),
        ({"answer": {"artefacts": {"onnx fp32": 3}}}, "artefacts.onnx fp32 is 3, expected a JSON object"),
        (
            {"answer": {"artefacts": {"onnx fp32": {"status": "as promised"}}, "budget": [1]}},
            "budget is [1], expected a JSON object",
        ),
    ],
)
def test_a_foreign_or_damaged_result_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    answer = command("report", "import", result(tmp_path / "r.json", **change))
    assert said in answer.error


def test_figures_that_are_not_those_of_the_samples_are_refused(tmp_path: Path) -> None:
    path = result(tmp_path / "r.json")
    edited = json.loads(path.read_text())
    edited["answer"]["measurements"]["tensorrt fp16"]["stats"]["p50_ms"] = 0.5
    path.write_text(json.dumps(edited))
    with pytest.raises(CheckpointError, match="the figures of 'tensorrt fp16' are not those of its samples"):
        BoardResult.load(path)


def test_an_import_shows_in_the_runs_report_and_belongs_to_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    other = command("report", "import", result(tmp_path / "r.json"), "--run", run)
    assert "holds other files than" in other.error
    model = Manifest.load(run / "export").find("onnx", "fp32")
    assert model is not None
    path = result(tmp_path / "r.json", model=model.sha256)
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    for _ in range(2):
        assert command("report", "import", path, "--run", run, "--into", page).code == 0
    assert len(list((run / "boards").iterdir())) == 1
    (board,) = json.loads((run / "report.json").read_text())["boards"]
    assert board["latency"]["tensorrt fp16"]["p50_ms"] == 2.0
    shown = (run / "report.md").read_text()
    assert "On other devices" in shown
    assert "trtexec of TensorRT 10.3.0" in shown
    assert "not measured" in shown
    assert page.read_text().count("trtexec of TensorRT 10.3.0") == 1


def test_a_kits_result_is_a_row_and_belongs_to_no_run(tmp_path: Path) -> None:
    small_kit(tmp_path / "kit", count=4, batches=(1,))
    kit, runtime = Kit.load(tmp_path / "kit"), ScriptedRuntime(lambda architecture, build, visit: 1.0 + architecture.depth)
    rows = Rows.open(tmp_path / "rows.jsonl", head_of("digest", runtime, FACTS))
    setting = Setting("fp32", 1)
    stopped = {setting: measure_setting(kit, runtime, setting, rows)}
    path = tmp_path / "result.json"
    KitResult.of(tmp_path / "kit", kit, rows, FACTS, stopped, {}).save(path)
    answer = command("report", "import", path, "--json")
    assert answer.code == 0, answer.err
    (row,) = answer.json
    assert (row["runtime"], row["device"]) == ("TensorRT 10.3.0", "Orin")
    assert row["what"] == "a kit of 4 networks of space micro: fp32, batch 1"
    assert "belongs to no run" in command("report", "import", path, "--run", tmp_path).error
