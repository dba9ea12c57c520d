"""`run` with a race: what is delivered won it, and everything after it is about the winner."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoformer.files import read_json
from autoformer.profiling.race.record import RaceRecord
from tests.support.commands import command
from tests.support.short_runs import QUICKSTART, SHORT

RACING = (
    *SHORT,
    "finetune.epochs=6",
    "race.finalists=1",
    "race.homogeneous=1",
    "budget.max_latency=null",
    "budget.max_flops=null",
)


def words(*more: str) -> list[str]:
    settings = [setting for setting in (*RACING, "export.max_disagreement=0.5", *more) if setting != "race=null"]
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.slow
def test_a_run_delivers_the_winner_of_its_race_by_the_metric_of_its_recipe_and_tells_the_decision(tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = command("run", QUICKSTART, "--out", out, *words("metric=balanced_accuracy"), "--quiet")
    assert told.code == 0, told.err
    race, report = RaceRecord.load(out / "race"), read_json(out / "report.json")
    winner = race.delivered.entrant
    assert winner.architecture is not None
    assert race.sentence() in " ".join(told.out.split())
    assert report["race"]["winner"] == race.winner
    assert report["chosen"]["slug"] == winner.architecture.slug
    for folder in ("subnet", "finetuned"):
        assert read_json(out / folder / "architecture.json") == winner.architecture.to_dict()
    assert report["steps"]["race"] > 0
    assert "finetune" not in report["steps"]
    assert not (out / "graphs").exists()
    again = command("run", QUICKSTART, "--out", out, *words("metric=balanced_accuracy"), "--quiet")
    assert again.code == 0
    assert again.out == told.out

    assert report["metric"] == report["test"]["onnx fp32"]["metric"] == "balanced_accuracy"
    assert command("evaluate", out / "export", "--json", "--quiet").json["metric"] == "balanced_accuracy"
    assert "holds another run" in command("run", QUICKSTART, "--out", out, *words("metric=top1"), "--quiet").error


@pytest.mark.slow
def test_a_run_whose_race_a_network_of_timm_wins_delivers_that_network(tmp_path: Path) -> None:
    out, rival = tmp_path / "run", "timm:test_resnet@scratch"
    settings = words(f'race.rivals=["{rival}"]', "budget.max_params=null", "data.image_size=16", 'export.precisions=["fp32"]')
    told = command("run", QUICKSTART, "--out", out, *settings, "--quiet")
    assert told.code == 0, told.err
    report = read_json(out / "report.json")
    assert report["chosen"]["slug"] == rival
    assert not (out / "subnet").exists()
    assert set(report["test"]) >= {"finetuned", "onnx fp32"}
    assert "inherited" not in report["test"]
    scored = command("evaluate", out / "export", "--json", "--quiet")
    assert scored.code == 0, scored.err
    bundled = command("bundle", out / "export", "--out", tmp_path / "bundle", "--json", "--quiet")
    assert bundled.code == 0, bundled.err
