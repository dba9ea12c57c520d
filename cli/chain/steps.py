"""The steps of a run: which there are, that one begins, and how long each took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TypeVar

from autoformer.cli.chain.parent import has_parent
from autoformer.cli.chain.recipe import Recipe
from autoformer.errors import AutoformerError
from autoformer.files import read_json, whole_lines, write_json
from autoformer.profiling.reports.wording import duration

SLOW = 3  # times the median epoch
LOST_S, LOST_SHARE = 30.0, 0.1  # below which nothing is said of it
Result = TypeVar("Result")


def steps_of(recipe: Recipe) -> list[str]:
    """The steps of a run, in their order."""
    within_latency = recipe.budget.max_latency is not None
    wanted = {
        "latency table": within_latency or recipe.profile.table is not None,
        "parent": has_parent(recipe),
        "train": True,
        "search": True,
        "latency in the loop": within_latency and recipe.profile.rounds > 0,
        "race": recipe.race is not None,
        "finetune": recipe.race is None,
        "export": True,
        "profile": True,
        "test": True,
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


def disturbed_line(log: Path) -> str:
    """That some epochs of a training took far longer than most, with what that cost; empty where it cost little.

    `log` is the training's `log.jsonl`; of one that is damaged nothing is said.
    """
    with suppress(ValueError, KeyError, TypeError, OverflowError):
        rows = [json.loads(line) for line in whole_lines(log)]
        seconds = [float(row["seconds"]) for row in rows if row["event"] == "epoch"]
        usual = median(seconds) if seconds else 0.0
        slow = [each for each in seconds if each > SLOW * usual]
        lost = sum(slow) - usual * len(slow)
        if lost >= max(LOST_S, LOST_SHARE * sum(seconds)):
            return (
                f"train: {len(slow)} of {len(seconds)} epochs took over {SLOW} times the median, {duration(lost)} more in all: "
                "something else kept this machine busy, or it throttled"
            )
    return ""


class Steps:
    """How long each step took, kept in `steps.json`, also where it was stopped; the time of one that was killed is not in it.

    `names` are the steps that will be, in their order; `say` is told when one begins.
    """

    def __init__(self, out: Path, names: Sequence[str], say: Callable[[str], None]) -> None:
        self.path, self.names, self.say = out / "steps.json", names, say
        self.told = set[str]()
        self.seconds: dict[str, float] = read_json(self.path, "seconds")["seconds"] if self.path.exists() else {}

    def timed(self, name: str, work: Callable[[], Result]) -> Result:
        if name not in self.told and name in self.names:
            self.told.add(name)
            self.say(f"step {self.names.index(name) + 1} of {len(self.names)}: {name}")
        started = time.perf_counter()
        try:
            result = work()
        except BaseException:  # Ctrl-C too
            with suppress(OSError, AutoformerError):  # the first error is the one to tell
                self._add(name, started)
            raise
        self._add(name, started)
        return result

    def _add(self, name: str, started: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        write_json({"format": "autoformer/steps/1", "seconds": self.seconds}, self.path)
