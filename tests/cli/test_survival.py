"""A run that is killed, again and again, ends where an undisturbed one does."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoformer.tensors import read_tensors, tensors_digest
from tests.support.forked import Forked, come, program
from tests.support.short_runs import QUICKSTART, shortened


def start(out: Path, latency_table: Path) -> Forked:
    return program("run", QUICKSTART, "--out", out, "--quiet", *shortened(latency_table))


def weights_of(folder: Path) -> str:
    return tensors_digest(read_tensors(folder / "model.safetensors"))


@pytest.mark.slow
def test_a_run_killed_in_every_step_ends_with_the_architecture_and_weights_of_an_undisturbed_one(
    finished_run: Path, latency_table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def evaluations() -> int:
        study = out / "search" / "study.db"
        return study.stat().st_size if study.exists() else 0

    moments: dict[str, Callable[[], bool]] = {
        "in the first epoch": lambda: (out / "supernet" / "identity.json").exists(),
        "between checkpoints": lambda: (out / "supernet" / "checkpoints" / "step-000000045.safetensors").exists(),
        "as the supernet is finished": lambda: (out / "supernet" / "supernet.json").exists(),
        "within the search": lambda: (out / "search" / "study.db-journal").exists() and evaluations() > 50_000,
        "as the search ends": lambda: (out / "search" / "search.json").exists(),
        "while finetuning": lambda: (out / "finetuned" / "checkpoints" / "step-000000030.safetensors").exists(),
        "as the export begins": lambda: any(out.glob(".export.*")),
        "while the test part is read": lambda: (out / "test.json").exists(),
        "as the report is written": lambda: (out / "report.html").exists(),
    }
    killed = [name for name, moment in moments.items() if start(out, latency_table).killed_when(moment)]
    code, errors = start(out, latency_table).finish()
    assert code == 0, errors
    assert len(killed) >= 7, f"only killed {killed}"

    for part in ("supernet", "subnet", "finetuned"):
        assert weights_of(out / part) == weights_of(finished_run / part), part
    mine, theirs = (json.loads((folder / "search" / "search.json").read_text()) for folder in (out, finished_run))
    assert mine == theirs
    reports = [json.loads((folder / "report.json").read_text()) for folder in (out, finished_run)]
    assert reports[0]["chosen"] == reports[1]["chosen"]
    assert reports[0]["test"] == reports[1]["test"]
    assert not list(out.rglob("*.partial")), "remains of interrupted writing are left"


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_one_line_that_says_how_to_go_on(latency_table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["run", str(QUICKSTART), "--out", str(out), "--quiet", *shortened(latency_table)]
    process = subprocess.Popen([sys.executable, "-m", "autoformer.cli", *words], stderr=subprocess.PIPE, text=True)
    while not (out / "supernet" / "checkpoints" / "step-000000030.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(errors.strip().splitlines()) == 1
    assert "run the same command again" in errors


@pytest.mark.slow
def test_a_training_killed_at_random_points_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    """Sandwich with distillation, moving average and mixing, a checkpoint at nearly every step, three kills."""
    settings = (
        "train.epochs=3", "train.save_minutes=0.0005", "train.ema_decay=0.95", "train.mixup=0.8", "train.drop_path_rate=0.1",
        "train.subnets.strategy=sandwich", "train.subnets.distill=true", "train.evaluate_every=2", "train.augment.erase=0.3",
    )  # fmt: skip

    def start(out: Path) -> Forked:
        options = [word for setting in settings for word in ("--set", setting)]
        return program("train", QUICKSTART, "--out", out, "--quiet", *options)

    out, rng, kills, newest = tmp_path / "killed", random.Random(0), 0, 0
    for _ in range(40):
        process = start(out)
        after = newest + rng.randint(1, 20)  # steps; the moment within a step is the scheduler's

        def reached(after: int = after) -> bool:
            names = [path.stem for path in (out / "checkpoints").glob("step-*.safetensors")] if out.exists() else []
            return any(int(name.removeprefix("step-")) >= after for name in names)

        while process.poll() is None and not (kills < 3 and come(reached)):
            time.sleep(0.001)
        if process.poll() is not None:
            assert process.poll() == 0
            break
        time.sleep(rng.random() * 0.05)
        process.kill()
        kills += 1
        newest = max(int(path.stem.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*.safetensors"))
    assert kills >= 2
    code, errors = start(tmp_path / "whole").finish()
    assert code == 0, errors
    assert weights_of(out) == weights_of(tmp_path / "whole")
