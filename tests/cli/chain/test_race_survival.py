"""A race that is killed in each rung, again and again, or shared by processes, ends as an undisturbed one, bit for bit."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from autoformer.cli.chain import legs
from autoformer.profiling.race.record import RaceRecord
from autoformer.profiling.race.schedule import Rung, Schedule
from autoformer.training.runs import finetune
from tests.support.commands import command
from tests.support.forked import program
from tests.support.race_folders import RIVAL, Pretended, Untimed

SETTINGS = (
    "finalists=2", "homogeneous=1", "cost=2", "finetune.epochs=6", "finetune.batch_size=32", "finetune.learning_rate=0.002",
    "finetune.warmup_epochs=1", "finetune.save_minutes=0.0005", "finetune.ema_decay=0.9", "finetune.drop_path_rate=0.1",
    "finetune.augment.erase=0.3",
)  # fmt: skip
STEPS = 8  # in an epoch
LEGS = "entrants/*/x*/after-*.json"
SCHEDULE = Schedule((Rung(4, 1), Rung(2, 4)), 6, (1.0, 4.0))


def words_of(searched: Path, out: Path) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    where = ["--supernet", str(searched / "super"), "--search", str(searched / "search"), "--out", str(out)]
    return ["race", *where, "--rival", RIVAL, "--quiet", *settings]


@pytest.fixture(scope="module")
def undisturbed(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A race in this process alone. All networks are said to be as fast as each other."""
    out = tmp_path_factory.mktemp("undisturbed") / "race"
    with pytest.MonkeyPatch.context() as patch:
        Pretended().install(patch)
        answer = command(*words_of(searched, out))
    assert answer.code == 0, answer.err
    record = RaceRecord.load(out)
    assert record.schedule == SCHEDULE
    log = out / "entrants" / "test-resnet" / f"x{record['test-resnet'].rate:g}" / "network" / "log.jsonl"
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["epoch"], last["step"]) == (6, 6 * STEPS)
    assert max(part.epochs for part in record["test-resnet"].trained) == 6  # fresh, so it came to every rung and to the end
    return out


def measured(undisturbed: Path, out: Path) -> Path:
    """A race whose entrants have been measured, as the undisturbed one found them."""
    out.mkdir()
    for name in ("identity.json", "entrants.json"):
        shutil.copy(undisturbed / name, out / name)
    return out


@pytest.mark.slow
def test_a_race_killed_in_each_rung_and_in_the_finish_delivers_the_same_bits(
    searched: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = measured(undisturbed, tmp_path / "race")

    def finished(epochs: int, count: int) -> Callable[[], bool]:
        return lambda: len(list(out.glob(f"entrants/*/x*/after-{epochs}.json"))) >= count

    def training(epochs: int) -> Callable[[], bool]:
        """In the middle of a leg that follows this epoch: its checkpoint lies beyond the epoch's end."""

        def come() -> bool:
            names = [path.stem for path in out.glob("entrants/*/x*/network/checkpoints/step-*.safetensors")]
            return any(int(name.removeprefix("step-")) > STEPS * epochs + 2 for name in names)

        return come

    moments = {
        "in the first leg": training(0),
        "as the first leg ends": finished(1, 1),
        "in the middle of the first rung": finished(1, 5),
        "as the first rung ends": finished(1, 8),
        "in a leg of the second rung": training(1),
        "as the first of the second rung is there": finished(4, 1),
        "as the second rung ends": finished(4, 2),
        "in the finish": training(4),
        "as the first has finished": finished(6, 1),
        "as the record is written": lambda: (out / "race.json").exists(),
    }
    killed = [name for name, moment in moments.items() if program(*words_of(searched, out)).killed_when(moment)]
    assert len(killed) >= 8, f"only killed {killed}"
    assert program(*words_of(searched, out)).finish()[0] == 0
    assert Untimed.of(out, out / "winner") == Untimed.of(undisturbed, undisturbed / "winner")
    assert not list(out.rglob("*.partial")), "remains of interrupted writing are left"
    assert not list(out.rglob("checkpoints"))


@pytest.mark.slow
def test_two_processes_share_a_race_and_deliver_the_same_bits(
    searched: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, trained = measured(undisturbed, tmp_path / "race"), list[Path]()

    def slowly(network: Any, parts: Any, config: Any, folder: Path, **options: Any) -> nn.Module:
        trained.append(folder)
        waited = time.monotonic() + 60
        while not any(out.glob(LEGS)) and time.monotonic() < waited:  # until the other one has done its first
            time.sleep(0.05)
        return finetune(network, parts, config, folder, **options)

    monkeypatch.setattr(legs, "finetune", slowly)
    answer = command(*words_of(searched, out), "--workers", "2")
    assert answer.code == 0, answer.err
    assert "ended early" not in answer.err
    assert 0 < len(trained) < len(list(out.glob(LEGS)))
    assert Untimed.of(out, out / "winner") == Untimed.of(undisturbed, undisturbed / "winner")
