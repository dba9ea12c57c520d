"""Every command through the program, on one short run: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
from sklearn.datasets import load_digits

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.errors import OutputExistsError
from autoformer.evaluate import EvaluationSet
from autoformer.files import read_json, sole_worker, write_json
from autoformer.profiling.reports.delivered import ship_reasons
from autoformer.profiling.tables.limit import LatencyAnswer
from autoformer.search.record import SearchRecord
from autoformer.tensors import read_tensors, tensors_digest
from tests.support.commands import command
from tests.support.folders_of_runs import digest_of
from tests.support.short_runs import QUICKSTART, shortened

COMMANDS = (
    "run", "train", "search", "extract", "finetune", "export", "evaluate", "predict", "profile", "report", "describe", "doctor",
)  # fmt: skip


# --- the run -----------------------------------------------------------------------------------------------------


def test_a_run_leaves_every_part_of_the_chain_and_three_reports(finished_run: Path) -> None:
    for name in (
        "supernet/model.safetensors", "search/search.json", "search/study.db", "subnet/model.safetensors",
        "finetuned/model.safetensors", "export/model.fp32.onnx", "export/model.int8.onnx", "latency.json", "test.json",
        "report.html", "report.md", "report.json",
    ):  # fmt: skip
        assert (finished_run / name).exists(), name


def test_a_finished_run_answers_at_once_and_changes_nothing(finished_run: Path, latency_table: Path) -> None:
    before = digest_of(finished_run)
    answer = command("run", QUICKSTART, "--out", finished_run, "--json", *shortened(latency_table))
    assert answer.code == 0
    assert answer.json["format"] == "autoformer/report/3"
    assert "this run is finished: nothing was done again" in answer.err
    assert digest_of(finished_run) == before


def test_a_run_of_another_limit_is_refused_before_any_image_is_read(
    finished_run: Path, latency_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*_: object) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr("autoformer.cli.chain.chain.load_parts", unread)
    answer = command("run", QUICKSTART, "--out", finished_run, *shortened(latency_table), "--set", "budget.max_params=70%")
    assert answer.code == 2
    assert "holds another run" in answer.error
    assert f"serves other limits as well: autoformer search --supernet {finished_run}/supernet --latency-table " in answer.error


def test_the_files_of_a_finished_run_are_timed_anew_when_that_is_asked_for(
    finished_run: Path, latency_table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    before = read_json(out / "latency.json")
    for one in before["measurements"]:
        one["verdict"] = {"level": "INVALID", "reasons": ["other programs ran"]}
    write_json(before, out / "latency.json")
    answer = command("run", QUICKSTART, "--out", out, *shortened(latency_table), "--measure-again")
    assert answer.code == 0, answer.err
    after = read_json(out / "latency.json")
    assert after["measurements"] != before["measurements"]
    assert "measured again: model.fp32.onnx (onnxruntime-cpu) " in answer.err
    assert "times as long as then on this machine; the new ones stand" in answer.err
    others = ("export/model.int8.onnx", "test.json", "search/search.json")
    assert [(out / path).read_bytes() for path in others] == [(finished_run / path).read_bytes() for path in others]


def test_a_run_ends_with_its_files_which_of_them_to_ship_and_what_to_type_next(finished_run: Path) -> None:
    report = json.loads((finished_run / "report.json").read_text())
    told = command("describe", finished_run)
    lines = told.out.splitlines()
    assert told.code == 0, told.err
    assert len(lines) < 60
    for one in report["ship"]["files"]:
        assert any(one["precision"] in line and one["verdict"].split()[0] in line for line in lines)
    ship = report["ship"]["file"]
    said = "Ship none of these files yet: " if ship is None else f"ship this one: {finished_run / ship}"
    place = next(index for index, line in enumerate(lines) if line.startswith(said))
    assert [f"  {why}" for why in ship_reasons(report)] == lines[place + 1 : lines.index("next:")]
    (bundle,) = [line for line in lines[lines.index("next:") :] if "autoformer bundle" in line]
    assert bundle.startswith(f"  autoformer bundle {finished_run} --out {finished_run}-bundle")
    assert command("report", "build", finished_run).out == told.out
    assert command("describe", finished_run, "--json").json["ship"] == report["ship"]


def test_a_run_of_another_recipe_is_refused_and_nothing_is_lost(finished_run: Path, latency_table: Path) -> None:
    before = digest_of(finished_run)
    answer = command("run", QUICKSTART, "--out", finished_run, *shortened(latency_table), "--set", "train.epochs=9")
    assert "holds another run" in answer.error
    assert digest_of(finished_run) == before


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError), sole_worker(tmp_path), sole_worker(tmp_path):
        pytest.fail("both got in")


def test_the_reported_test_accuracy_is_that_of_the_onnx_file_run_by_hand(finished_run: Path) -> None:
    report = json.loads((finished_run / "report.json").read_text())
    data, parts = load_digits(), load_parts(DataConfig())
    indices = list(parts.test.sealed.indices)
    pixels = np.round(data.images[indices] * 255 / 16) / 255
    mean, std = parts.preprocessing.mean[0], parts.preprocessing.std[0]
    session = onnxruntime.InferenceSession(str(finished_run / "export" / "model.fp32.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: ((pixels - mean) / std)[:, None].astype(np.float32)})
    right = int((np.asarray(logits).argmax(1) == data.target[indices]).sum())
    assert abs(report["test"]["onnx fp32"]["correct"] - right) <= 1  # 8-bit rounding may tip one image


def test_the_test_part_is_read_once_for_each_artefact(finished_run: Path) -> None:
    readings = json.loads((finished_run / "test_ledger.json").read_text())["readings"]
    assert sorted(reading["reader"] for reading in readings) == sorted({reading["reader"] for reading in readings})
    assert {"inherited", "finetuned", "onnx fp32"} <= {reading["reader"] for reading in readings}


def test_the_resolved_recipe_is_stored(finished_run: Path) -> None:
    recipe = json.loads((finished_run / "run.json").read_text())["recipe"]
    assert recipe["train"]["epochs"] == 4
    assert recipe["train"]["learning_rate"] == yaml.safe_load(QUICKSTART.read_text())["train"]["learning_rate"]


# --- the steps as commands of their own --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, finished_run: Path, latency_table: Path) -> Path:
    """The same chain as `finished_run`, command by command."""
    base = tmp_path_factory.mktemp("steps")
    for words in (
        ("train", QUICKSTART, "--out", base / "super", *shortened(latency_table)),
        (
            "search", "--supernet", base / "super", "--out", base / "search", "--max-params", "80%", "--max-flops", "80%",
            "--max-latency", "90%", "--latency-table", latency_table, *(word for setting in (
                "population=6", "generations=2", "parents=3", "mutated=3", "crossed=3", "choose=best",
            ) for word in ("--set", setting)),
        ),
        ("extract", "--supernet", base / "super", "--search", base / "search", "--out", base / "subnet"),
        ("finetune", base / "subnet", "--recipe", QUICKSTART, "--set", "epochs=2", "--out", base / "finetuned"),
        ("export", base / "finetuned", "--out", base / "export", "--precision", "fp32"),
    ):  # fmt: skip
        answer = command(*words)
        assert answer.code == 0, answer.err
    return base


@pytest.mark.slow
def test_the_commands_one_by_one_give_the_weights_of_the_run(steps: Path, finished_run: Path) -> None:
    for here, there in (("super", "supernet"), ("subnet", "subnet"), ("finetuned", "finetuned")):
        mine, theirs = (read_tensors(folder / "model.safetensors") for folder in (steps / here, finished_run / there))
        assert tensors_digest(mine) == tensors_digest(theirs), here


def test_a_search_by_hand_with_the_recipe_of_a_run_chooses_as_the_run_did(finished_run: Path, tmp_path: Path) -> None:
    """Limits, table, candidates, choice, and what is asked about latency: all are the recipe's."""
    answer = command(
        "search", "--supernet", finished_run / "supernet", "--recipe", finished_run / "recipe.yaml", "--out", tmp_path / "search",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    mine, theirs = (SearchRecord.load(folder) for folder in (tmp_path / "search", finished_run / "search"))
    assert (mine.budget, mine.seed, mine.config) == (theirs.budget, theirs.seed, theirs.config)
    assert [c.architecture for c in mine.result.candidates] == [c.architecture for c in theirs.result.candidates]
    assert mine.result.chosen.architecture == theirs.result.chosen.architecture
    asked, was_asked = (LatencyAnswer.load(folder) for folder in (tmp_path / "search", finished_run / "search"))
    assert (asked.architecture, asked.limit_ms) == (was_asked.architecture, was_asked.limit_ms)
    assert [asked.basis[key] for key in ("asked", "table")] == [was_asked.basis[key] for key in ("asked", "table")]
    assert "of the latency limit" in answer.out
    assert "random networks spread by" in answer.out


@pytest.mark.slow
def test_search_prints_its_choice_with_the_cost_and_the_qualification(steps: Path) -> None:
    found = json.loads((steps / "search" / "search.json").read_text())
    assert found["latency_qualification"]["backend"] == "onnxruntime-cpu"
    assert found["result"]["searched"] == 12  # and the baselines


@pytest.mark.parametrize("artefact", ["finetuned", "export/model.fp32.onnx", "export"])
def test_evaluate_gives_one_accuracy_whatever_form_the_network_has(finished_run: Path, artefact: str) -> None:
    answer = command("evaluate", finished_run / artefact, "--json", "--quiet")
    assert answer.code == 0, answer.err
    reference = command("evaluate", finished_run / "finetuned", "--json", "--quiet").json
    assert answer.json["images"] == reference["images"]
    assert abs(answer.json["correct"] - reference["correct"]) <= 1


def test_reading_the_test_part_by_hand_is_counted(finished_run: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.json"
    answer = command("evaluate", finished_run / "finetuned", "--part", "test", "--ledger", ledger, "--json")
    assert answer.json["images"] == 539
    assert len(json.loads(ledger.read_text())["readings"]) == 1


def test_predict_names_the_class_with_its_probability(finished_run: Path, tmp_path: Path) -> None:
    parts = load_parts(DataConfig())
    image, _ = parts.train[0]
    image.save(tmp_path / "digit.png")
    answer = command("predict", finished_run / "export", tmp_path / "digit.png", "--top", "10", "--json")
    (found,) = answer.json
    shares = [entry["probability"] for entry in found["classes"]]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    logits = EvaluationSet.of(parts.train, parts.preprocessing).images(1)
    assert logits.shape == (1, 1, 8, 8)
    assert command("predict", finished_run / "finetuned", tmp_path / "digit.png").code == 0


def test_profile_run_measures_what_is_there_and_says_what_is_not(finished_run: Path, tmp_path: Path) -> None:
    answer = command(
        "profile", "run", finished_run / "export", finished_run / "finetuned", "--seconds", "0.1", "--quiet", "--json",
        "--out", tmp_path / "latency.json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert {m["backend"] for m in answer.json["measurements"]} >= {"onnxruntime-cpu", "torch-cpu"}
    assert all(m["stats"]["p50_ms"] > 0 for m in answer.json["measurements"])
    assert answer.json["not_measured"]
    assert (tmp_path / "latency.json").exists()


@pytest.mark.slow
def test_profile_table_writes_a_table_the_search_takes(steps: Path, tmp_path: Path) -> None:
    table = tmp_path / "here.json"
    answer = command(
        "profile", "table", "--supernet", steps / "super", "--backend", "torch-cpu", "--networks", "4", "--out", table, "--quiet"
    )
    assert answer.code == 0, answer.err
    found = command(
        "search", "--supernet", steps / "super", "--out", tmp_path / "s", "--max-latency", "1000ms", "--latency-table", table,
        "--set", "population=2", "--set", "generations=1", "--no-measure", "--json", "--quiet",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert found.json["latency_qualification"]["backend"] == "torch-cpu"


def test_report_build_writes_the_reports_again(finished_run: Path) -> None:
    html = finished_run / "report.html"
    html.unlink()
    answer = command("report", "build", finished_run)
    assert answer.code == 0, answer.err
    assert html.stat().st_size > 100_000


# --- help --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    answer = command(name, "--help")
    assert answer.code == 0
    if name in ("profile", "report"):
        sub = {"profile": "run", "report": "build"}[name]
        answer = command(name, sub, "--help")
    assert name == "doctor" or "xample" in answer.out


def test_help_imports_nothing_heavy() -> None:
    """Import time is what makes help slow; a list of modules is exact where a clock is not."""
    heavy = [
        "torch", "timm", "optuna", "sklearn", "numpy", "onnxruntime", "onnx", "plotly", "pydantic", "yaml", "scipy", "rich",
        "fvcore",
    ]  # fmt: skip
    code = (
        "import sys; sys.argv = ['autoformer', '--help']\n"
        "import autoformer.cli.app as a\n"
        "try: a.main()\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_mistake_is_said_before_torch_is_imported(tmp_path: Path) -> None:
    """Which takes seconds. In one process, since nothing is forgotten there: none of them imports it."""
    mistakes = [
        ("run", "quickstrat"), ("run", "quickstart", "--set", "train.epoch=3"), ("run", "quickstart", "--workers", "many"),
        ("run", "--data", tmp_path / "none"), ("run", "--data", tmp_path, "--set", "train.epoch=3"),
        ("train", "quickstrat", "--out", tmp_path / "s"), ("train", "quickstart", "--out", tmp_path / "s", "--set", "seed=x"),
        ("data", "check", tmp_path / "none"), ("export", tmp_path / "none"),
        ("bundle", tmp_path / "none", "--out", tmp_path / "b"), ("predict", tmp_path / "none", tmp_path),
        ("evaluate", tmp_path / "none"), ("compare", tmp_path / "none"), ("check", tmp_path / "none"),
        ("finetune", tmp_path / "none", "--out", tmp_path / "f"), ("audit", tmp_path / "none"),
        ("search", "--supernet", tmp_path / "none", "--out", tmp_path / "s"),
        ("race", "--supernet", tmp_path / "none", "--search", tmp_path / "none", "--out", tmp_path / "r"),
        ("extract", "--supernet", tmp_path / "none", "--search", tmp_path / "none", "--out", tmp_path / "x"),
    ]  # fmt: skip
    code = (
        "import sys, autoformer.cli.app as a\n"
        f"for words in {[list(map(str, words)) for words in mistakes]}:\n"
        "    sys.argv = ['autoformer', *words]\n"
        "    try: a.main()\n"
        "    except SystemExit as stop: print(*words, stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ends = [line.split()[-2:] for line in done.stdout.splitlines() if line.endswith(("True", "False"))]
    assert len(ends) == len(mistakes), done.stdout
    assert all(int(code) > 0 and imported == "False" for code, imported in ends), done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.serial
def test_help_answers_in_well_under_half_a_second() -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "autoformer.cli", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.4


def test_a_run_says_how_large_its_search_is_and_why(finished_run: Path, latency_table: Path) -> None:
    """A finished run is only read, but what it was about is said as before. 54 of 269 search images are held out."""
    answer = command("run", QUICKSTART, "--out", finished_run, *shortened(latency_table))
    assert answer.code == 0, answer.err
    assert "search: 6 × 2 = 12 candidates (as set) beside the baselines, decided by 215 images, on which equally" in answer.err
    assert "of the FLOPs limit used, " in answer.out
