"""How many networks can start in the race of a run, and how many of them are the search's own; before anything is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from autoformer.cli.chain.entrants import started_from, taking_turns
from autoformer.cli.chain.race import MOST, race_schedule
from autoformer.cli.chain.recipe import Recipe
from autoformer.pretrained.rivals import default_rivals, smaller_sibling
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.tables.loop import elsewhere
from autoformer.profiling.tables.table import LatencyTable

ENOUGH = 3  # of the search's own: with its choice one that differs, and one that is larger or plain


@dataclass(frozen=True)
class Places:
    """Who can start, where nobody breaks a limit."""

    every: int
    own: int  # at most, found by the search
    asked: int  # of the search's own that would start if there were places


def places_of(recipe: Recipe, race: RaceConfig, image_size: int) -> Places:
    """The places of a race of this run, whose search's networks take images of this size."""
    every = race_schedule(MOST, recipe.finetune, race).entrants
    parent = started_from(recipe.train.start)
    siblings = int(parent is not None and smaller_sibling(parent) is not None)
    others = rivals_of(recipe, race, image_size)
    kinds = [(True, race.finalists), (False, others), (False, siblings), (True, race.homogeneous), (True, 1)]
    turns = taking_turns([itertools.repeat(is_own, count) for is_own, count in kinds])
    own = sum(itertools.islice(turns, every))
    return Places(every, own, race.finalists + race.homogeneous + 1)


def rivals_of(recipe: Recipe, race: RaceConfig, image_size: int) -> int:
    """How many networks out of timm are looked at: none where a latency table is of another device, which is not here."""
    if (path := recipe.profile.table) is not None:
        conditions = LatencyTable.load(path).measurement_conditions
        if elsewhere(conditions, DeviceFacts.collect()) is not None:
            return 0
    return len(default_rivals(image_size, started_from(recipe.train.start) is not None) if race.rivals is None else race.rivals)


def few_places(recipe: Recipe, image_size: int) -> Iterator[str]:
    """A line where a race would hold hardly any of the networks that the search found."""
    if recipe.race is None:
        return
    found = places_of(recipe, recipe.race, image_size)
    if found.own < min(ENOUGH, found.asked):
        networks = "1 network" if found.every == 1 else f"{found.every} networks"
        yield (
            f"the race has room for {networks}, at most {found.own} of the search's own: its choice may start alone, without a "
            "larger or a plain one beside it; more epochs (--epochs, finetune.epochs), a higher race.cost or race.rivals=[] make "
            "room"
        )
