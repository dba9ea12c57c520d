"""Limits in words, before anything long is done: what they are here, and which of them cannot be met or keep nothing out."""

from __future__ import annotations

from pathlib import Path

from autoformer.cli.chain.recipe import Recipe
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, show
from autoformer.errors import BudgetError
from autoformer.parsing import BudgetConfig, parse
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, device_name
from autoformer.profiling.race.timing import Timekeeper
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace

CERTAINLY = 0.5  # of the time of the smallest network, measured in a hurry: a limit below cannot be met
MUCH_MARGIN = 0.2  # of a latency limit, from which a person should know that it is not used


def shares_line(recipe: Recipe, stated: Budget) -> str:
    """What limits in percent are, to be given in units another time; empty where there are none."""
    shares = [(name, text) for name, text in recipe.budget if text is not None and "%" in text]
    names = [name.replace("latency", "latency_ms") for name, _ in shares]
    said = [f"{name} {text} is {show(key[4:], getattr(stated, key))}" for key, (name, text) in zip(names, shares, strict=True)]
    today = "; a machine is not as fast every day: for a product give milliseconds" if "max_latency_ms" in names else ""
    return f"limits of the largest network: {', '.join(said)}{today}" if said else ""


def idle_line(budget: BudgetConfig) -> str:
    """That a limit in percent is above all networks, which may be a slip; empty where none is."""
    shares = [(name, text) for name, text in budget if name.startswith("max_") and text and "%" in text]
    idle = [f"{name} {text}" for name, text in shares if parse(name.replace("latency", "latency_ms")[4:], text, 1.0) > 1]
    if not idle:
        return ""
    return f"{' and '.join(idle)} is more than the largest network has and keeps none out; stop with Ctrl-C if less was meant"


def uncertain_line(sought: Budget, recipe: Recipe, table: LatencyTable) -> str:
    """That much of a latency limit is left unused because the table is uncertain, and what to do; empty where it is little."""
    if sought.max_latency_ms is None or table.margin < MUCH_MARGIN:
        return ""
    most, count = show("latency_ms", sought.max_latency_ms), len(table.networks)
    remedy = (
        "measured on a quiet machine" if table.doubtful else f"of more than {count} networks (--set profile.networks={2 * count})"
    )
    return (
        f"latency table: off by up to {100 * table.margin:.0f} %, so only networks below {most} are searched for the limit of "
        f"{recipe.budget.max_latency}; with a table {remedy}, under another --out, more of it is used"
    )


def keeper_of(recipe: Recipe, folder: Path) -> Timekeeper:
    """What times networks as the recipe's limit means it."""
    profile = recipe.profile
    device = device_name(DeviceFacts.collect(), profile.backend, profile.threads)
    meaning = MeasurementConditions(
        statistic="p50", batch=profile.batch, precision="fp32", backend=profile.backend, device=device
    )
    return Timekeeper(meaning=meaning, config=MeasureConfig.lasting(profile.seconds), folder=folder)


def limit_words(limit: str, smallest_ms: float, largest_ms: float) -> str:
    """What a limit on latency is here. Raises `BudgetError` where the smallest network is far from keeping it."""
    most = parse("latency_ms", limit, largest_ms)
    words = "" if "%" not in limit else f"{limit} is about {show('latency_ms', most)}; "
    range_words = f"networks from {show('latency_ms', smallest_ms)} to {show('latency_ms', largest_ms)}"
    if most < CERTAINLY * smallest_ms:
        raise BudgetError(f"max_latency={limit} cannot be met: this recipe has {range_words} here; raise the limit")
    return words + range_words


def refuse_impossible(recipe: Recipe, space: SearchSpace, folder: Path) -> None:
    """Raises `BudgetError` for a latency that the smallest network is far from, by a first look at it.

    That takes seconds, and a table that says the same takes minutes. Its graph stays in `folder`.
    """
    limit = recipe.budget.max_latency
    if limit is None or "%" in limit:
        return
    keeper = keeper_of(recipe, folder)
    smallest_ms = keeper.alone(keeper.of_space(space, space.smallest))
    if parse("latency_ms", limit, smallest_ms) < CERTAINLY * smallest_ms:
        least = show("latency_ms", smallest_ms)
        raise BudgetError(
            f"max_latency={limit} cannot be met: this recipe's smallest network takes {least} here; raise the limit"
        )
