"""Several processes on one study: nothing is evaluated twice, and what a dead one had begun is done by the others."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autoformer.cost import Budget, ExactCosts
from autoformer.drawing.budgeted import Candidates
from autoformer.search.database import TOKEN, Claim, Claims, Study, this_machine
from autoformer.search.loop import search
from tests.support.commands import command
from tests.support.forked import Forked, forked
from tests.support.search_worker import CONFIG, LABELS, SPACE, pretend, work
from tests.support.searches import supernet, words

__all__ = ["supernet"]  # a fixture


# --- claims ------------------------------------------------------------------------------------------------------


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def claims(tmp_path: Path, worker: str | None = None, clock: Callable[[], float] = time.monotonic, beat_s: float = 5.0) -> Claims:
    return Claims(f"sqlite:///{tmp_path / 'study.db'}", "s", worker=worker, clock=clock, beat_s=beat_s)


def held(of: Claims, number: int, images: int = 10) -> Claim:
    with of.claim(number, images) as found:
        return found


def test_an_evaluation_belongs_to_one_worker_and_stays_its_own_when_it_is_done(tmp_path: Path) -> None:
    first, second = claims(tmp_path, "elsewhere|1|a"), claims(tmp_path, "elsewhere|2|b")
    with first.claim(0, 10) as found:
        assert found is Claim.FRESH
        assert held(second, 0) is Claim.FOREIGN
        assert held(second, 1) is Claim.FRESH
        assert held(second, 0, images=20) is Claim.FRESH
    assert held(second, 0) is Claim.FOREIGN
    assert held(Claims(f"sqlite:///{tmp_path / 'study.db'}", "another study", worker="w"), 0) is Claim.FRESH


def test_a_claim_is_given_back_when_the_evaluation_fails(tmp_path: Path) -> None:
    first, second = claims(tmp_path, "elsewhere|1|a"), claims(tmp_path, "elsewhere|2|b")
    with pytest.raises(RuntimeError), first.claim(0, 10):
        raise RuntimeError("no memory")
    assert held(second, 0) is Claim.FRESH


def test_a_worker_elsewhere_is_gone_when_its_beat_stands_still(tmp_path: Path) -> None:
    clock = Clock()
    other, mine = claims(tmp_path, "elsewhere|1|a"), claims(tmp_path, "here|2|b", clock)
    assert held(other, 0) is Claim.FRESH  # and dies
    for now_s, expected in ((0.0, Claim.FOREIGN), (59.0, Claim.FOREIGN), (60.0, Claim.TAKEN_OVER)):
        clock.now_s = now_s
        assert held(mine, 0) is expected
    assert held(other, 0) is Claim.FOREIGN


def wait_for_a_beat(file: Path) -> None:
    """However busy the machine is; a minute without one is too long."""
    with closing(sqlite3.connect(file)) as database:

        def beats() -> int:
            return int(database.execute("SELECT beat FROM autoformer_claims").fetchone()[0])

        before, end = beats(), time.monotonic() + 60
        while beats() == before:
            assert time.monotonic() < end, "no beat"
            time.sleep(0.005)


def test_a_worker_that_beats_is_not_gone_however_long_it_takes(tmp_path: Path) -> None:
    clock = Clock()
    other, mine = claims(tmp_path, "elsewhere|1|a", beat_s=0.01), claims(tmp_path, "here|2|b", clock)
    with other.claim(0, 10):
        for _ in range(5):
            assert held(mine, 0) is Claim.FOREIGN
            clock.now_s += 100
            wait_for_a_beat(tmp_path / "study.db")


def test_a_process_of_this_machine_that_ended_is_gone_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    while Path(f"/proc/{process.pid}/stat").exists() and " Z " not in Path(f"/proc/{process.pid}/stat").read_text():
        time.sleep(0.01)
    assert held(claims(tmp_path, f"{this_machine()}|{process.pid}|x"), 0) is Claim.FRESH
    assert held(claims(tmp_path), 0) is Claim.TAKEN_OVER  # nobody has waited for it yet
    process.wait()
    assert held(claims(tmp_path, f"{this_machine()}|{process.pid}|x"), 1) is Claim.FRESH
    assert held(claims(tmp_path), 1) is Claim.TAKEN_OVER


def test_an_earlier_process_with_our_number_is_gone_and_a_running_one_is_not(tmp_path: Path) -> None:
    assert held(claims(tmp_path, f"{this_machine()}|{os.getpid()}|another"), 0) is Claim.FRESH
    assert held(claims(tmp_path, f"{this_machine()}|{os.getppid()}|x"), 1) is Claim.FRESH
    mine = claims(tmp_path)
    assert mine.worker.endswith(TOKEN)
    assert held(mine, 0) is Claim.TAKEN_OVER
    assert held(mine, 1) is Claim.FOREIGN


# --- searches ----------------------------------------------------------------------------------------------------


def undisturbed() -> dict[str, Any]:
    found = search(Candidates(SPACE, ExactCosts(SPACE), Budget()), pretend, LABELS, CONFIG, Study(None, "s")).to_dict()
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def start(folder: Path, seconds: float) -> Forked:
    return forked(work, f"sqlite:///{folder / 'study.db'}", folder, seconds)


def go(folder: Path, workers: list[Forked]) -> None:
    """Lets them begin together, when all have loaded."""
    while not all((folder / f"{worker.pid}.ready").exists() for worker in workers):
        assert all(worker.poll() is None for worker in workers), workers[0].finish()
        time.sleep(0.01)
    (folder / "go").touch()


def evaluated(folder: Path) -> dict[str, list[str]]:
    return {path.stem: path.read_text().split() for path in folder.glob("*.log")}


def made_study(folder: Path) -> None:
    folder.mkdir()
    Study(f"sqlite:///{folder / 'study.db'}", "shared")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_two_workers_evaluate_nothing_twice_find_what_one_finds_and_take_less_time(tmp_path: Path) -> None:
    """Evaluations of 0.15 s that sleep, so that the machine's cores do not decide."""
    seconds = {}
    for count in (1, 2):
        folder = tmp_path / str(count)
        made_study(folder)
        workers = [start(folder, 0.15) for _ in range(count)]
        go(folder, workers)
        answers = [worker.finish(120) for worker in workers]
        assert all(code == 0 for code, _ in answers), answers
        found = [json.loads(worker.out.read_text()) for worker in workers]
        logs = evaluated(folder)
        assert len(logs) == count
        assert all(times == 1 for times in Counter(digest for log in logs.values() for digest in log).values())
        assert all(entry["result"] == undisturbed() for entry in found)
        seconds[count] = max(entry["seconds"] for entry in found)
    assert seconds[2] < 0.8 * seconds[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_killed_worker_loses_one_evaluation_and_the_other_does_it(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    made_study(folder)
    workers = [start(folder, 0.1) for _ in range(2)]
    go(folder, workers)
    log = folder / f"{workers[0].pid}.log"
    while not log.exists() or len(log.read_text().split()) < 3:
        time.sleep(0.005)
    workers[0].kill()
    code, errors = workers[1].finish(120)
    assert code == 0, errors
    assert json.loads(workers[1].out.read_text())["result"] == undisturbed()
    logs = evaluated(folder)
    twice = [digest for digest, times in Counter(digest for log in logs.values() for digest in log).items() if times > 1]
    assert len(twice) <= 1
    assert set(twice) <= {logs[str(workers[0].pid)][-1]}  # what it was at


@pytest.mark.slow
def test_a_search_on_two_processes_by_the_command_line_is_that_of_one(supernet: Path, tmp_path: Path) -> None:
    one, two = (
        command("search", "--supernet", supernet, "--out", tmp_path / count, "--workers", count, "--json", "--quiet", *words())
        for count in ("1", "2")
    )
    assert (one.code, two.code) == (0, 0), two.err
    results = [answer.json["result"] for answer in (one, two)]
    for candidate in (candidate for result in results for candidate in result["candidates"]):
        del candidate["reused"]  # the second search finds what the first evaluated
    assert results[0] == results[1]
    assert "ended early" not in two.err


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_an_impossible_number_of_workers_is_refused(supernet: Path, tmp_path: Path, workers: str) -> None:
    answer = command("search", "--supernet", supernet, "--out", tmp_path / "s", "--workers", workers)
    assert "--workers takes a number from 1 or auto" in answer.error


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_database_of_their_own_holds_several_searches(supernet: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    for name, limit in (("a", "70%"), ("b", "80%"), ("a again", "70%")):
        answer = command(
            "search", "--supernet", supernet, "--out", tmp_path / name, "--max-flops", limit, "--storage", url, "--quiet",
            *words(),
        )  # fmt: skip
        assert answer.code == 0, answer.err
        assert not (tmp_path / name / "study.db").exists()
