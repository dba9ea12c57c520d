"""The steps of a run: which there are, that one begins, and how long each took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from autoformer.cli.chain.parent import has_parent
from autoformer.cli.chain.recipe import Recipe
from autoformer.errors import AutoformerError
from autoformer.files import read_json, write_json

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
