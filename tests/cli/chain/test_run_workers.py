"""`autoformer run --workers`: other processes join the search step, and nothing else of the run changes."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from autoformer.cli.chain import chain, helpers
from autoformer.cli.chain.chain import step_helpers
from autoformer.cli.chain.recipe import Recipe, load_recipe, parse_recipe
from autoformer.evaluate import ResidentImages
from tests.support.commands import command
from tests.support.short_runs import QUICKSTART, shortened


def before_its_search(run: Path, folder: Path) -> Path:
    """A copy of a finished run as it was when its supernet was trained."""
    for name in ("identity.json", "run.json", "budget.json", "latency_table.json", "steps.json"):
        folder.mkdir(exist_ok=True)
        shutil.copy(run / name, folder / name)
    shutil.copytree(run / "supernet", folder / "supernet", ignore=shutil.ignore_patterns("evaluations.db*"))
    return folder


@pytest.mark.slow
def test_two_processes_share_the_search_of_a_run_and_find_what_one_finds(
    finished_run: Path, latency_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions = ResidentImages.predictions

    def slowly(*arguments: Any) -> Any:  # in this process, so that the other one gets its turn
        time.sleep(1.0)
        return predictions(*arguments)

    monkeypatch.setattr(ResidentImages, "predictions", slowly)
    out = before_its_search(finished_run, tmp_path / "run")
    threads = torch.get_num_threads()
    answer = command("run", QUICKSTART, "--out", out, "--quiet", "--json", "--workers", "2", *shortened(latency_table))
    assert answer.code == 0, answer.err
    assert "ended early" not in answer.err
    assert torch.get_num_threads() == threads
    with sqlite3.connect(out / "search" / "study.db") as database:
        rows = database.execute("SELECT worker, number, images FROM autoformer_claims").fetchall()
    assert len({worker for worker, _, _ in rows}) == 2
    assert len({(number, images) for _, number, images in rows}) == len(rows)
    record, alone = (json.loads((folder / "search" / "search.json").read_text()) for folder in (out, finished_run))
    assert record == alone
    assert answer.json["chosen"] == json.loads((finished_run / "report.json").read_text())["chosen"]


class Started(Exception):
    pass


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of the processes that would have been started."""
    import subprocess

    found: list[list[str]] = []

    def note(words: list[str], **_: object) -> None:
        recipe = Path(words[words.index("--recipe") + 1])
        found.append([*words, recipe.read_text()])
        raise Started

    monkeypatch.setattr(subprocess, "Popen", note)
    return found


def joined(recipe: Recipe, out: Path, workers: str = "2") -> None:
    with step_helpers("search", recipe, out, workers):
        pass


def test_the_others_are_told_the_budget_the_table_and_the_recipe_of_the_run(tmp_path: Path, calls: list[list[str]]) -> None:
    (tmp_path / "latency_table.json").touch()
    recipe = load_recipe(QUICKSTART, ["search.population=7", "train.min_learning_rate=1e-7", "threads=2"])
    with pytest.raises(Started):
        joined(recipe, tmp_path)
    *words, written = calls[0]
    place = words.index("search")
    assert words[place : place + 5] == ["search", "--supernet", str(tmp_path / "supernet"), "--out", str(tmp_path / "search")]
    for option, value in {"--max-params": "80%", "--max-flops": "80%", "--max-latency": "90%"}.items():
        assert words[words.index(option) + 1] == value
    assert words[words.index("--latency-table") + 1] == str(tmp_path / "latency_table.json")
    assert words[-4:] == ["--no-measure", "--workers", "1", "--quiet"]  # they measure nothing and start no further ones
    assert parse_recipe(yaml.safe_load(written)) == recipe.model_copy(update={"threads": None})


def test_one_process_and_a_finished_search_start_no_others(tmp_path: Path, calls: list[list[str]]) -> None:
    joined(load_recipe(QUICKSTART), tmp_path, "1")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "search.json").touch()
    joined(load_recipe(QUICKSTART), tmp_path, "2")
    assert calls == []


def failing(tmp_path: Path) -> tuple[str, ...]:
    """Words of a command that ends with an error."""
    return ("search", "--supernet", str(tmp_path / "nothing"), "--out", str(tmp_path / "out"))


def test_a_process_that_fails_is_named_when_the_work_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with helpers.helpers("2", command=failing(tmp_path)):
        pass
    told = " ".join(capsys.readouterr().err.split())
    assert "worker 2 ended early" in told
    assert "nothing" in told


def test_work_that_is_interrupted_tells_nothing_of_the_other_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), helpers.helpers("2", command=failing(tmp_path)):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "expected"),
    [
        ("auto", 1, 2, "2"), ("auto", 1, 64, "4"), ("auto", 2, 5, "2"), ("auto", 4, 2, "1"), ("auto", None, 8, "auto"),
        ("1", 1, 8, "1"), ("3", 1, 1, "3"),
    ],
)  # fmt: skip
def test_the_race_of_networks_that_need_few_threads_takes_the_other_cores(
    workers: str, threads: int | None, cores: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "usable_cores", lambda: cores)
    monkeypatch.setattr(helpers, "MOST_PROCESSES", 4)
    assert helpers.shared_by(workers, threads) == expected


def test_one_process_per_gpu_goes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert helpers.shared_by("auto", 1) == "auto"


def test_processes_on_all_cores_prepare_their_images_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_recipe(QUICKSTART).finetune
    assert config.workers == 1
    monkeypatch.setattr(chain, "usable_cores", lambda: 2)
    assert chain.beside_others(config, 1) == config
    assert chain.beside_others(config, 2) == config.model_copy(update={"workers": 0})
    monkeypatch.setattr(chain, "usable_cores", lambda: 8)
    assert chain.beside_others(config, 2) == config


def test_an_impossible_number_of_workers_is_refused_before_the_run_begins(tmp_path: Path) -> None:
    answer = command("run", QUICKSTART, "--out", tmp_path / "r", "--workers", "none")
    assert "--workers takes a number from 1 or auto" in answer.error
    assert not (tmp_path / "r").exists()
