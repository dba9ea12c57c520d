"""`describe` of whatever a person has at hand: in words, never as Python writes it, with the command that is for it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import onnx
import pytest

from autoformer.files import write_json
from tests.support.commands import command
from tests.support.small_images import draw_images

OLD = Path(__file__).parents[2] / "data" / "written_by_0_1"
RUN = OLD / "run"


def words_of(thing: object) -> str:
    answer = command("describe", thing)
    assert answer.code == 0, answer.err
    return " ".join(answer.out.split())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


@pytest.mark.parametrize(
    "part", ["search", "export", "supernet", "finetuned", "subnet", ".", "latency_table.json", "recipe.yaml"]
)
def test_nothing_of_a_run_is_described_as_python_writes_it(part: str) -> None:
    told = words_of(RUN / part)
    assert not any(raw in told for raw in ("{'", "['", "None", "True", "False"))


def test_a_search_is_described_by_its_limits_and_what_it_chose() -> None:
    told = words_of(RUN / "search")
    assert "searched_with parameters at most 7.9k, FLOPs at most 140.4k, latency at most 0.116 ms" in told
    assert "chosen width 12, depth 2, heads 1,2, MLP ratios 1,1" in told


def test_an_export_is_described_by_a_table_of_its_files() -> None:
    lines = [line.split("│")[:2] for line in command("describe", RUN / "export").out.splitlines() if "│" in line]
    table = {name.strip(): status.strip() for name, status in lines}
    assert (table["onnx int8"], table["tensorrt fp32"]) == ("exported", "skipped")


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        ("quickstart", "autoformer run quickstart"),
        (RUN / "recipe.yaml", "kind recipe"),
        (RUN / "latency_table.json", "8.7 % on average"),
        (RUN / "latency.json", "autoformer report build"),
        (RUN / "export" / "model.fp32.onnx", "autoformer check"),
        (RUN / "search" / "search.json", "kind search"),
        (RUN / "report.json", "delivers e12-d2-bdb9f064"),
        (RUN / "finetuned" / "architecture.json", "slug e12-d2-bdb9f064"),
        (OLD / "bundle", "python3 board.pyz verify"),
        (OLD / "sweep.json", "latencies by batch"),
        (OLD / "kit_result.json", "autoformer profile table --from"),
        ("timm:resnet18", "params 11.69M (11,689,512)"),
    ],
)
def test_everything_that_a_command_writes_or_takes_is_described_as_what_it_is(thing: object, expected: str) -> None:
    assert expected in words_of(thing)


def test_an_onnx_file_is_described_by_its_sizes_its_input_and_its_classes(tmp_path: Path) -> None:
    told = words_of(RUN / "export" / "model.int8.onnx")
    for part in ("params 3.422k (3,422)", "flops 55.79k (55,788 multiply-adds)", "input [batch, 1, 8, 8] float32", "opset 20"):
        assert part in told, told
    assert "classes 10 precision int8" in told
    bare = tmp_path / "bare.onnx"  # without a manifest beside it, or a word about itself
    model = onnx.load(RUN / "export" / "model.fp32.onnx")
    del model.metadata_props[:]
    onnx.save(model, bare)
    facts = command("describe", bare, "--json").json
    stored = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    assert (facts["params"], facts["flops"], facts["precision"], facts["classes"]) == (stored, None, "fp32", 10)
    assert "flops not counted" in words_of(bare)
    bare.write_bytes(b"no graph")
    assert "bare.onnx" in command("describe", bare).error


def test_the_record_of_a_race_is_described_as_its_folder(finished_race: Path) -> None:
    assert command("describe", finished_race / "race.json").out == command("describe", finished_race).out


def test_a_folder_of_images_is_pointed_to_the_command_that_looks_at_them(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", ("cat", "dog"), each=2)
    told = words_of(tmp_path / "photos")
    assert "class folders 2" in told
    assert f"autoformer data check {tmp_path / 'photos'}" in told


def test_a_file_of_weights_for_a_network_of_timm_must_be_there(tmp_path: Path) -> None:
    assert "does not exist" in command("describe", f"timm:resnet18@{tmp_path / 'no.pth'}").error
    assert "did you mean resnet18" in command("describe", "timm:resnat18").error


def test_what_is_nothing_gets_one_line_with_what_there_is(tmp_path: Path) -> None:
    error = command("describe", "photoss").error
    assert all(words in error for words in ("nothing is called 'photoss'", "AutoFormer-T", "micro", "quickstart", "timm:NAME"))
    assert "limits, searched_with, stated" in command("describe", RUN / "budget.json").error
    assert "describe does not know" in command("describe", RUN / "search" / "study.db").error


@pytest.mark.parametrize(
    ("thing", "what"), [("quickstart", "recipe"), ("timm:resnet18", "network"), (RUN / "latency.json", "file")]
)
def test_options_of_a_space_have_no_effect_on_other_things(thing: object, what: str) -> None:
    error = command("describe", thing, "--image-size", "32").error
    assert "--image-size has no effect on" in error
    assert what in error


# --- unfinished and damaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("describe",), ("report", "build"), ("bundle",)])
@pytest.mark.parametrize("last", ["identity.json", "run.json"])
def test_an_unfinished_run_is_called_so_and_the_same_command_goes_on(
    run: Path, tmp_path: Path, words: tuple[str, ...], last: str
) -> None:
    kept = {"identity.json", last}
    for path in run.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    out = ("--out", tmp_path / "out") if words == ("bundle",) else ()
    error = command(*words, run, *out).error
    assert f"{run} holds an unfinished run; give the same `autoformer run` again" in error


def test_an_unfinished_step_of_a_run_goes_on_with_the_run(run: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(OLD / "interrupted" / "supernet", tmp_path / "alone"))
    assert "unfinished training of a supernet; give the same `autoformer train` again" in command("describe", alone).error
    shutil.rmtree(run / "supernet")
    shutil.copytree(alone, run / "supernet")
    assert "give the same `autoformer run` again" in command("describe", run / "supernet").error
    for words in (("report", "build"), ("evaluate",)):
        assert "unfinished finetune" in command(*words, OLD / "interrupted" / "finetuned").error


def test_a_run_that_lacks_its_report_alone_is_pointed_to_the_command_that_writes_it(run: Path) -> None:
    (run / "report.json").unlink()
    assert f"autoformer report build {run}" in command("describe", run).error
    assert command("report", "build", run).code == 0
    assert command("describe", run).code == 0


def test_a_damaged_report_of_a_run_is_written_again_by_the_command_that_the_error_names(run: Path) -> None:
    report = run / "report.json"
    whole = json.loads(report.read_text())
    write_json(whole, report)
    sealed = report.read_text()
    for damaged in ("{", "[]", sealed.replace('"seed": 0', '"seed": 7'), '{"format": "autoformer/report/1"}'):
        report.write_text(damaged)
        assert f"autoformer report build {run}" in command("describe", run).error, damaged[:30]
    assert command("report", "build", run).code == 0


def test_pictures_without_classes_are_for_predicting(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    assert command("describe", tmp_path, "--json").json["next"] == f"autoformer predict RUN {tmp_path}"


def test_a_folder_of_evaluate_is_what_its_file_is(tmp_path: Path) -> None:
    write_json({"format": "autoformer/evaluation/1"}, tmp_path / "evaluation.json")
    assert "what `autoformer evaluate` found" in words_of(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("report", "build", "nowhere"), "nowhere does not exist; expected the folder of a run"),
        (("report", "build", RUN, RUN, "-o", "a.html"), "a report is three files in a folder, got --out a.html; give --out a"),
        (("bundle", "nowhere", "-o", "b"), "nowhere does not exist; expected a run, an export folder, or a network"),
        (("export", RUN, "-o", "e"), f"is a run; its network lies in {RUN / 'finetuned'}: give that folder"),
        (("data", "check", "x", "-o", "y.json"), "no option -o here; write --json > FILE"),
    ],
)
def test_what_cannot_be_done_with_a_thing_names_what_can(
    words: tuple[object, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = command(*words)
    assert (answer.code == 0, said in answer.error) == (False, True), answer.error
