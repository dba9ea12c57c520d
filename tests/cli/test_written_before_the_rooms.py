"""What version 0.1 wrote before its modules were moved is read as before, and what it left half done goes on to the same end.

The folder `tests/data/written_by_0_1` holds its files as they were, and `expected.json` the answers that its own code gave on
them (its README.md says how they were made). Only commands are used here, and numbers compared: words of messages may change.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from autoformer.files import read_json, unsealed
from tests.support.commands import command

TESTS = next(folder for folder in Path(__file__).resolve().parents if folder.name == "tests")
WRITTEN = TESTS / "data" / "written_by_0_1"
EXPECTED: dict[str, Any] = read_json(WRITTEN / "expected.json")
OTHER_CPU = 1e-6  # of a weight, absolute, where another CPU rounds otherwise
SAME_DEVICE = ("cpu", "cores", "gpus", "versions")  # what an interrupted table compares
LIMITS = ("--max-params", "90%", "--max-flops", "90%", "--max-latency", "95%")  # of the recipe
OF_THE_SEARCH = ("--supernet", "run/supernet", "--recipe", "recipe.yaml", "--latency-table", "run/latency_table.json")


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are a CPU's; a GPU rounds otherwise."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old files, as the folder that commands are given in."""
    place = tmp_path / "old"
    shutil.copytree(WRITTEN, place)
    monkeypatch.chdir(place)
    return place


def answer(*words: object, code: int = 0) -> Any:
    """The JSON that a command prints."""
    found = command(*words, "--json")
    assert found.code == code, f"{' '.join(map(str, words))}: {found.err}"
    return found.json


def read(path: Path | str) -> Any:
    value = json.loads(Path(path).read_text())
    return unsealed(value, path) if isinstance(value, dict) else value


def lines(path: Path | str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def same_weights(found: Path, expected: Path, sha256: str) -> None:
    """The weights of two folders agree; to the last bit on the CPU that the old ones were made on, with the same torch."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (found, expected))
    assert digest(theirs) == sha256
    assert ours.keys() == theirs.keys()
    if (cpu(), torch.__version__) == (EXPECTED["cpu"], EXPECTED["torch"]):
        assert digest(ours) == sha256
    for name, tensor in ours.items():
        off = (tensor - theirs[name]).abs()
        if name.endswith("qkv.bias"):  # softmax takes out the bias of all keys: its gradient is rounding, which Adam enlarges
            queries, _, values = off.chunk(3)
            off = torch.maximum(queries, values)
        assert off.max() <= OTHER_CPU, name


def cpu() -> str:
    """Family, model and instructions of this CPU, by which its sums are rounded."""
    try:
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    known = dict(row.replace("\t", "").split(":", 1) for row in rows if row.count(":") == 1)
    return ",".join(known.get(key, "").strip() for key in ("vendor_id", "cpu family", "model", "stepping"))


def rows_of(database: Path | str, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def trials(folder: Path | str) -> list[tuple[Any, ...]]:
    """The finished evaluations in a search's study, with when each was stored."""
    return rows_of(Path(folder) / "study.db", "select trial_id, number, datetime_complete from trials where state = 'COMPLETE'")


def choice(record: dict[str, Any]) -> Any:
    """The architecture that a search's record chooses."""
    result = record["result"]
    return result["candidates"][result["chosen"]]["architecture"]


def scored(record: dict[str, Any]) -> list[Any]:
    """What a search's record says of its candidates: architecture, right answers, images, params and FLOPs."""
    return [
        [one["architecture"], one["score"]["correct"], one["score"]["images"], one["cost"]["params"], one["cost"]["flops"]]
        for one in record["result"]["candidates"]
    ]


def latencies(record: dict[str, Any]) -> list[float]:
    return [one["cost"]["latency_ms"] for one in record["result"]["candidates"]]


def table_numbers(table: dict[str, Any]) -> list[float]:
    """The numbers of a latency table: what was measured and predicted, and the formula."""
    times = [network[kind] for network in table["networks"] for kind in ("measured_ms", "predicted_ms")]
    return [*times, *sorted(table["coefficients"].values())]


# --- finished folders and files ------------------------------------------------------------------------------------------


def test_every_old_folder_is_described_as_before(old: Path) -> None:
    for folder, numbers in EXPECTED["described"].items():
        found = answer("describe", folder)
        assert {key: found[key] for key in numbers} == numbers, folder


@pytest.mark.slow
def test_every_old_artefact_gets_as_many_images_right_as_before(old: Path) -> None:
    for artefact, right in EXPECTED["right"].items():
        found = answer("evaluate", artefact, "--quiet")
        assert (found["images"], found["split"]) == (EXPECTED["images"], EXPECTED["split"])
        off = 0.05 * found["images"] if "int8" in artefact else 1  # another CPU may round int8 otherwise
        assert abs(found["correct"] - right) <= (0 if cpu() == EXPECTED["cpu"] else off), artefact


def test_an_old_export_names_classes_with_the_same_probabilities(old: Path) -> None:
    images = sorted((old / "bundle" / "check").glob("*.png"))
    for artefact in ("run/finetuned", "run/export", "bundle", "uint8"):
        found = answer("predict", artefact, *images)
        assert [image["classes"][0]["name"] for image in found] == [name for name, _ in EXPECTED["predicted"]]
        shares = [image["classes"][0]["probability"] for image in found]
        assert shares == pytest.approx([share for _, share in EXPECTED["predicted"]], abs=1e-4), artefact


def test_a_test_reading_of_an_old_run_is_added_to_its_ledger(old: Path) -> None:
    before = read("run/test_ledger.json")["readings"]
    found = answer("evaluate", "run/finetuned", "--part", "test", "--quiet")
    assert found["correct"] == pytest.approx(EXPECTED["test"]["finetuned"], abs=1)
    after = read("run/test_ledger.json")["readings"]
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1


def test_an_old_supernet_is_audited_with_the_same_scores(old: Path) -> None:
    found = answer("audit", "run/supernet", "--networks", "4", "--quiet")
    assert [[one["params"], one["flops"]] for one in found["networks"]] == [row[:2] for row in EXPECTED["audited"]]
    right = [one["score"]["correct"] for one in found["networks"]]
    assert right == pytest.approx([row[2] for row in EXPECTED["audited"]], abs=1)
    assert found["searchable"] is True


def test_params_and_flops_of_an_old_network_are_counted_as_before(old: Path) -> None:
    found = answer("profile", "counts", "run/finetuned")
    assert (found["params"], found["flops"]) == tuple(EXPECTED["described"]["run/finetuned"][key] for key in ("params", "flops"))


def test_an_old_finished_run_is_recognised_and_left_as_it_is(old: Path) -> None:
    before = {path: path.read_bytes() for path in (old / "run").rglob("*") if path.is_file()}
    found = answer("run", "recipe.yaml", "--out", "run", "--quiet")
    assert {name: part["correct"] for name, part in found["test"].items()} == EXPECTED["test"]
    assert found["chosen"]["architecture"] == EXPECTED["described"]["run/search"]["chosen"]
    assert {path: path.read_bytes() for path in before} == before


def test_old_finished_trainings_are_recognised_by_the_commands_that_made_them(old: Path) -> None:
    before = read("run/supernet/supernet.json"), read("run/finetuned/subnet.json")
    trained = answer("train", "recipe.yaml", "--out", "run/supernet", "--quiet")
    assert trained["weights_digest"] == EXPECTED["weights"]["supernet"]
    assert trained["last_epoch"] == before[0]["history"][-1]
    tuned = answer("finetune", "run/subnet", "--recipe", "recipe.yaml", "--out", "run/finetuned", "--quiet")
    assert tuned["last_epoch"] == before[1]["history"][-1]
    assert (read("run/supernet/supernet.json"), read("run/finetuned/subnet.json")) == before


def test_an_old_finished_search_is_recognised_and_nothing_is_evaluated_again(old: Path) -> None:
    stored, before = trials("run/search"), read("run/search/search.json")
    found = answer("search", *OF_THE_SEARCH, *LIMITS, "--no-measure", "--out", "run/search", "--quiet")
    assert trials("run/search") == stored
    assert scored(found) == scored(before)
    assert latencies(found) == pytest.approx(latencies(before))
    assert [found["result"][key] for key in ("chosen", "best", "tied", "baselines")] == [
        before["result"][key] for key in ("chosen", "best", "tied", "baselines")
    ]
    assert found["latency_margin"] == pytest.approx(before["latency_margin"])


def test_a_new_search_takes_over_what_old_ones_evaluated(old: Path) -> None:
    words = ("--seed", 5, "--max-params", "90%", "--set", "generations=2", "--out", "searched", "--quiet")
    found = answer("search", "--supernet", "run/supernet", "--recipe", "recipe.yaml", *words)
    assert found["images"]["reused"] == EXPECTED["another search"]["reused"] > 0
    assert scored(found) == EXPECTED["another search"]["scored"]
    assert choice(found) == EXPECTED["another search"]["chosen"]


@pytest.mark.parametrize("limits", list(EXPECTED["from stored"]))
def test_an_old_search_answers_another_limit_from_its_evaluations(old: Path, limits: str) -> None:
    found, expected = answer("search", "--from", "run/search", *limits.split()), EXPECTED["from stored"][limits]
    assert choice(found) == expected["chosen"]
    assert found["from"]["inside"] == expected["inside"]
    assert latencies(found) == pytest.approx(expected["latencies"])


def test_networks_cut_out_of_an_old_supernet_have_its_weights(old: Path) -> None:
    answer("extract", "--supernet", "run/supernet", "--search", "run/search", "--out", "again")
    theirs, ours = load_file("run/subnet/model.safetensors"), load_file("again/model.safetensors")
    assert digest(ours) == digest(theirs)
    assert read("again/architecture.json") == read("run/subnet/architecture.json")


# --- latency: tables, answers, profiles ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "limit"), [("answers/over", "60%"), ("answers/unclear", "70%"), ("answers/instead", "95%")])
def test_an_old_measured_answer_holds_and_is_not_measured_again(old: Path, folder: str, limit: str) -> None:
    before = read(f"{folder}/latency_answer.json")
    words = ("--max-latency", limit, "--latency-table", "run/latency_table.json", "--seconds", 0.01, "--quiet")
    told = command("search", "--from", "run/search", "--out", folder, *words, "--json")
    found = told.json["latency_answer"]
    assert told.code == (found["status"] == "over budget"), told.err
    for key in ("limit_ms", "architecture", "basis", "created"):
        assert found[key] == before[key], key
    measured = [[network["measured_ms"] for network in one["networks"]] for one in found["rounds"]]
    assert measured == [[network["measured_ms"] for network in one["networks"]] for one in before["rounds"]]


def test_the_old_measured_answer_of_a_run_holds(old: Path) -> None:
    before = read("run/search/latency_answer.json")
    words = (*LIMITS, "--seconds", 0.01, "--out", "run/search", "--quiet")
    found = answer("search", *OF_THE_SEARCH, *words)["latency_answer"]
    assert (found["created"], found["architecture"]) == (before["created"], before["architecture"])


def test_what_an_old_answer_chose_after_measuring_is_what_is_cut_out(old: Path) -> None:
    searched, measured = choice(read("answers/instead/search.json")), read("answers/instead/latency_answer.json")["architecture"]
    assert searched != measured
    found = answer("extract", "--supernet", "run/supernet", "--search", "answers/instead", "--out", "cut")
    assert found["architecture"] == measured
    assert answer("describe", "answers/instead")["chosen"] == measured


def test_the_result_of_an_old_kit_gives_the_same_table(old: Path) -> None:
    found = answer("profile", "table", "--from", "kit_result.json", "--out", "table.json")
    assert table_numbers(found) == pytest.approx(table_numbers(read("kit_table.json")))
    assert table_numbers(read("table.json")) == pytest.approx(table_numbers(found))
    assert [network["architecture"] for network in found["networks"]] == [
        network["architecture"] for network in read("kit_table.json")["networks"]
    ]


def test_old_profiles_are_compared_with_the_same_ratio(old: Path) -> None:
    found = answer("profile", "compare", "profile.json", "sweep.json")
    ratios = [[one["before_ms"], one["after_ms"], one["ratio"], one["low"], one["high"]] for one in found["ratios"]]
    assert ratios == [pytest.approx(row) for row in EXPECTED["compared"]["ratios"]]
    assert found["regressions"] == EXPECTED["compared"]["regressions"]


def test_old_results_of_devices_are_taken_into_the_report_of_their_run(old: Path) -> None:
    rows = answer("report", "import", "verified.json", "timed.json", "--run", "run")
    assert len(rows) == EXPECTED["imported"]["rows"]
    assert len(read("run/report.json")["boards"]) == EXPECTED["imported"]["boards"]
    assert len(answer("report", "import", "kit_result.json")) == 1


def test_the_report_of_an_old_run_is_built_again_with_the_same_numbers(old: Path) -> None:
    before, found = read("run/report.json"), answer("report", "build", "run")
    assert (old / "run" / "report.html").stat().st_size > 100_000
    assert {name: part["correct"] for name, part in found["test"].items()} == EXPECTED["test"]
    for key in ("chosen", "candidates", "seed"):
        assert found[key] == before[key], key
    assert [(one["limit"], one["found"]) for one in found["budget"]] == [(one["limit"], one["found"]) for one in before["budget"]]
    measured = {name: one["p50_ms"] for name, one in found["latency"].items()}
    assert measured == {name: one["p50_ms"] for name, one in before["latency"].items()}


def test_old_runs_bundles_and_profiles_go_into_one_report(old: Path) -> None:
    found = answer("report", "build", "run", "bundle", "uint8", "profile.json", "sweep.json", "--out", "joint")
    assert len(found["measurements"]) == EXPECTED["joint"]["measurements"]
    assert len(found["layers"]) >= EXPECTED["joint"]["layers"]  # later versions show those of a run as well
    assert (old / "joint" / "report.html").is_file()


@pytest.mark.slow
def test_old_artefacts_of_all_kinds_stand_in_one_table_of_accuracy(old: Path) -> None:
    artefacts = ("run/finetuned", "run/export/model.fp32.onnx", "bundle")
    found = answer("compare", *artefacts, "--seconds", 0.01, "--quiet")
    rows = [[one["params"], one["flops"], one["score"]["correct"]] for one in found["rows"]]
    assert [row[:2] for row in rows] == [row[:2] for row in EXPECTED["table of accuracy"]]
    assert [row[2] for row in rows] == pytest.approx([row[2] for row in EXPECTED["table of accuracy"]], abs=10)


def test_an_old_run_is_bundled(old: Path) -> None:
    found, before = answer("bundle", "run", "--out", "packed", "--images", 4, "--quiet"), read("bundle/bundle.json")
    for key in ("budget", "costs", "architecture", "labels"):
        assert found[key] == before[key], key
    right = {name: one["correct"] for name, one in found["accuracy"].items()}
    assert right == {name: one["correct"] for name, one in before["accuracy"].items()}
    onnx = [name for name in before["files"] if name.endswith(".onnx")]
    assert [found["files"][name] for name in onnx] == [before["files"][name] for name in onnx]


# --- what was interrupted ------------------------------------------------------------------------------------------------


def goes_on(folder: Path, record: str, train: Callable[[], Any]) -> None:
    """The training in `folder` does the steps that its newest checkpoint does not have, and no others."""
    (checkpoint,) = (folder / "checkpoints").glob("step-*.safetensors")
    step, before = int(checkpoint.stem.removeprefix("step-")), lines(folder / "log.jsonl")
    train()
    kept = [line for line in before if line["step"] <= step]
    after = lines(folder / "log.jsonl")
    assert after[: len(kept)] == kept
    assert all(line["step"] > step for line in after[len(kept) :])
    epochs = [line for line in kept if line["event"] == "epoch"]
    history = read(folder / record)["history"]
    assert [one["seconds"] for one in history[: len(epochs)]] == [one["seconds"] for one in epochs]
    assert len(history) == history[-1]["epoch"] > len(epochs)


def test_an_old_killed_training_goes_on_and_ends_with_the_weights_of_an_undisturbed_one(old: Path) -> None:
    out = old / "interrupted" / "supernet"
    goes_on(out, "supernet.json", lambda: answer("train", "recipe.yaml", "--out", out, "--quiet"))
    same_weights(out, old / "run" / "supernet", EXPECTED["weights"]["supernet"])


@pytest.mark.slow
def test_an_old_killed_finetuning_goes_on_and_ends_with_the_weights_of_an_undisturbed_one(old: Path) -> None:
    out = old / "interrupted" / "finetuned"
    words = ("finetune", "run/subnet", "--recipe", "recipe.yaml", "--out", out, "--quiet")
    goes_on(out, "subnet.json", lambda: answer(*words))
    same_weights(out, old / "run" / "finetuned", EXPECTED["weights"]["finetuned"])


def test_an_old_killed_search_goes_on_and_finds_what_the_old_code_found(old: Path) -> None:
    out = old / "interrupted" / "search"
    (old / "run" / "supernet" / "evaluations.db").unlink()  # what another search evaluated later would spare the work
    stored = trials(out)
    assert 0 < len(stored) < EXPECTED["resumed search"]["evaluations"]
    with closing(sqlite3.connect(out / "study.db")) as database, database:  # it was killed on the machine that goes on
        dead = f"{platform.node()}{os.readlink('/proc/self/ns/pid') if Path('/proc/self/ns/pid').exists() else ''}|999999|0"
        database.execute("update autoformer_claims set worker = ?", (dead,))
    words = ("--seed", 3, "--max-params", "85%", "--max-latency", "95%", "--no-measure", "--out", out, "--quiet")
    found = answer("search", *OF_THE_SEARCH, *words)
    assert trials(out)[: len(stored)] == stored
    assert len(trials(out)) == EXPECTED["resumed search"]["evaluations"]
    assert scored(found) == EXPECTED["resumed search"]["scored"]
    assert latencies(found) == pytest.approx(EXPECTED["resumed search"]["latencies"])
    assert choice(found) == EXPECTED["resumed search"]["chosen"]
    assert found["images"]["reused"] == 0


def test_an_old_interrupted_table_is_fitted_from_the_measurements_it_has(old: Path) -> None:
    """It was killed between its last measurement and its fit; what it is to measure, and where, is a digest in its file."""
    passes = old / "interrupted" / "table.json.work" / "passes.jsonl"
    taken = answer("profile", "run", "run/export/model.fp32.onnx", "--backend", "onnxruntime-cpu", "--seconds", 0.01, "--quiet")
    here = {key: taken["measurements"][0]["device"][key] for key in SAME_DEVICE}  # as if it had been killed on this machine
    asked = json.dumps([*read("table_asked.json"), here], sort_keys=True, separators=(",", ":"))
    rows = [{**row, "asked": hashlib.sha256(asked.encode()).hexdigest()} for row in lines(passes)]
    half = '{"asked":"'  # a line that was being written
    passes.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + half, encoding="utf-8")
    words = ("--backend", "torch-cpu", "--networks", 4, "--batch", 512, "--out", "interrupted/table.json", "--quiet")
    found = answer("profile", "table", "--supernet", "run/supernet", *words)
    assert table_numbers(found) == pytest.approx(EXPECTED["resumed table"])
    assert not passes.parent.exists()


@pytest.mark.slow
def test_an_old_run_that_was_killed_while_finetuning_goes_on_to_the_same_end(old: Path) -> None:
    for name in ("report.json", "test.json", "test_ledger.json", "layers.json", "latency.json"):
        (old / "run" / name).unlink()
    finished = old / "finished"
    (old / "run" / "finetuned").rename(finished)
    shutil.rmtree(old / "run" / "export")
    (old / "interrupted" / "finetuned").rename(old / "run" / "finetuned")
    found = answer("run", "recipe.yaml", "--out", "run", "--quiet")
    same_weights(old / "run" / "finetuned", finished, EXPECTED["weights"]["finetuned"])
    assert found["chosen"]["architecture"] == EXPECTED["described"]["run/search"]["chosen"]
    assert {name: part["correct"] for name, part in found["test"].items()} == pytest.approx(EXPECTED["test"], abs=10)
    assert read("run/search/latency_answer.json") == read(WRITTEN / "run" / "search" / "latency_answer.json")
    assert read("run/latency_table.json") == read(WRITTEN / "run" / "latency_table.json")


@pytest.mark.slow
def test_an_old_network_is_exported_with_the_same_costs_and_predictions(old: Path) -> None:
    words = ("--precision", "fp32", "--format", "onnx", "--no-measure", "--quiet")
    found = answer("export", "run/finetuned", "--out", "again", *words)
    assert (found["params"], found["flops"]) == tuple(EXPECTED["described"]["run/export"][key] for key in ("params", "flops"))
    assert answer("evaluate", "again", "--quiet")["correct"] == pytest.approx(EXPECTED["right"]["run/export"], abs=1)
