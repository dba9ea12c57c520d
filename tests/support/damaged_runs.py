"""The places whose files `damage` damages: a finished run, a bundle, and trainings and a search that were stopped half-way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from autoformer.search.database import Study
from autoformer.training.state import TrainingState
from tests.support.commands import command
from tests.support.damage import Place, Use
from tests.support.short_runs import QUICKSTART, run_shortened, shortened, write_latency_table

SEARCH = tuple(
    word
    for setting in ("population=6", "generations=2", "parents=3", "mutated=3", "crossed=3", "choose=best")
    for word in ("--set", setting)
)
TRAIN = (
    "train",
    QUICKSTART,
    "--quiet",
    "--set",
    "train.epochs=6",
    "--set",
    "train.evaluate_every=2",
    "--set",
    "train.ema_decay=0.9",
)
FINETUNE = ("finetune", "@run/subnet", "--recipe", QUICKSTART, "--quiet", "--set", "epochs=6", "--set", "patience=4")


def places(folder: Path, made: tuple[Path, Path] | None = None) -> Iterator[tuple[str, Place]]:
    """Each place with its label, made in `folder`; the run is a copy of one that is there, with its table, where given."""
    whole, work = folder / "whole", folder / "work"
    if made is None:
        table = write_latency_table(folder / "table.json")
        run = run_shortened(whole / "run", table)
    else:
        run, table = Path(shutil.copytree(made[0], whole / "run")), made[1]
    digit = folder / "digit.png"
    draw_digit(digit)
    yield "finished", Place(whole, work, finished(table, digit))
    bundles = folder / "bundles"
    answer = command("bundle", run, "--out", bundles / "bundle", "--quiet")
    assert answer.code == 0, answer.err
    shutil.make_archive(str(bundles / "bundle"), "zip", bundles, "bundle")
    predicting = [Use(("predict", f"@{name}", digit, "--json")) for name in ("bundle", "bundle.zip")]
    yield "bundle", Place(bundles, work, [*predicting, Use(("board", "@bundle", "verify", "--seconds", "0.01", "--json"))])
    for label, words, needed, (kind, method, times) in (
        ("training", (*TRAIN, "--out", "@half"), (), (TrainingState, "save", 4)),
        ("finetuning", (*FINETUNE, "--out", "@half"), ("subnet",), (TrainingState, "save", 4)),
        ("searching", searching("@half"), ("supernet", "latency_table.json"), (Study, "add", 7)),
    ):
        place = folder / label
        for name in needed:
            (place / "run").mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, place / "run" / name)
        stop(words, place, kind, method, times)
        yield label, Place(place, work, [Use(words, delivers=("half",))])


def finished(table: Path, digit: Path) -> list[Use]:
    """What can be done with a finished run."""
    again = ("run", QUICKSTART, "--out", "@run", "--quiet", "--json", *shortened(table))
    return [
        Use(again),
        Use(again, delivers=("run/report.json",), removes=("run/report.json",)),
        Use(("report", "build", "@run"), delivers=("run/report.json", "run/report.html", "run/report.md")),
        Use(searching("@again"), delivers=("again/search.json",)),
        Use(("search", "--from", "@run/search", "--max-params", "70%", "--json", "--quiet")),
        Use(("extract", "--supernet", "@run/supernet", "--search", "@run/search", "--out", "@cut"), delivers=("cut",)),
        Use(("bundle", "@run", "--out", "@bundle", "--quiet"), delivers=("bundle",)),
        *(
            Use(("evaluate", f"@run/{name}", "--json", "--quiet"))
            for name in ("subnet", "finetuned", "export", "export/model.int8.onnx")
        ),
        Use(("evaluate", "@run/finetuned", "--part", "test", "--json", "--quiet"), delivers=("run/test_ledger.json",)),
        Use(("predict", "@run/export", digit, "--json")),
        *(Use(("describe", f"@{name}", "--json")) for name in ("run", "run/supernet", "run/search", "run/subnet", "run/export")),
        Use(("check", "@run/export/model.fp32.onnx", "--target", "tensorrt", "--json")),
    ]  # fmt: skip


def searching(out: str) -> tuple[object, ...]:
    """A search of the run's supernet with its latency table."""
    limits = ("--max-params", "80%", "--max-latency", "90%", "--latency-table", "@run/latency_table.json", "--no-measure")
    return ("search", "--supernet", "@run/supernet", "--out", out, *limits, "--json", "--quiet", *SEARCH)


def draw_digit(path: Path) -> None:
    pixels = (load_digits().images[7] * 255 / 16).round().astype("uint8")
    Image.fromarray(pixels).save(path)


def stop(words: tuple[object, ...], place: Path, kind: type, method: str, times: int) -> None:
    """Runs a command in `place` and stops it as by Ctrl-C after so many calls of a method."""
    real, calls = getattr(kind, method), []

    def counted(self: object, *given: Any) -> None:
        real(self, *given)
        calls.append(given)
        if len(calls) == times:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, method, counted)
        answer = command(*(str(word).replace("@", f"{place}/") for word in words))
    assert answer.code == 130, answer.err
