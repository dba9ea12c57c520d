"""What the command line asks of a run, as a recipe: one of a name or file, or the one that suits the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoformer.cli.chain.begun_from import check_start, recipe_from
from autoformer.cli.chain.choosing_recipe import SHIPPED, recipe_for
from autoformer.cli.chain.recipe import Recipe, parse_recipe, recipe_values
from autoformer.cli.chain.shipped import found_recipe
from autoformer.data.loading import load_parts
from autoformer.data.named_sets import is_named
from autoformer.data.parts import DataConfig
from autoformer.errors import RecipeError
from autoformer.files import IDENTITY
from autoformer.parsing import BudgetConfig, check_limits


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of a run; None and empty: not given."""

    recipe: str | None = None  # a name or path
    data: str | None = None
    out: Path | None = None
    group_by: str | None = None
    start: str | None = None  # --from
    limits: Mapping[str, str | None] = field(default_factory=dict)  # by the names in the section budget
    epochs: int | None = None
    others: Mapping[str, Any] = field(default_factory=dict)  # by key of a recipe
    settings: Sequence[str] = ()  # KEY=VALUE


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The recipe of a run, the name that it goes by, and what a person should know of how it came about."""

    recipe: Recipe
    name: str
    out: Path  # folder of the run
    lines: tuple[str, ...]


def resolved(asked: Asked, say: Callable[[str], None] = lambda line: None) -> Resolved:
    """The recipe that is asked for.

    Limits that are given take the place of all that the recipe has; `--epochs` is of the supernet, and the other trainings keep
    their share of it. `say` is told before images are looked at, which may take a while. Raises `RecipeError` when there is
    neither a recipe nor data, and what the recipe and the data raise.
    """
    words, start, settings, lines = asked.recipe, asked.start, list(asked.settings), list[str]()
    check_limits(BudgetConfig.model_validate(dict(asked.limits)))  # before any image is read
    if start is not None:
        check_start(start)
    if words is None:
        if asked.data is None:
            raise RecipeError("say which images: autoformer run --data FOLDER; or name a recipe: autoformer run quickstart")
        _check_settings(asked)
        if is_named(asked.data) or Path(asked.data).exists():
            say(f"looking at the images of {asked.data}, which say what recipe suits them")
        parts = load_parts(_data_of(asked))
        begun = begun_run(asked)
        choice = recipe_for(parts, start=start, begun=begun)
        words, start = choice.name, choice.start or start
        settings = [*choice.settings, *settings]
        lines.append(f"recipe {choice.name}: {choice.reason}; `autoformer recipe show {choice.name}` shows it")
        lines += [choice.advice] if choice.advice and begun is None else []  # said when it began
        if choice.settings:
            lines.append(
                f"since there are {len(parts.train):,} images to train on, not as in the recipe: {', '.join(choice.settings)}"
            )
    given = {key: value for key, value in asked.others.items() if value is not None}
    given |= {"data.source": asked.data, "data.group_by": asked.group_by}
    limits = {name: limit for name, limit in asked.limits.items() if limit is not None}
    if limits:
        settings = [*_without_limits(words, limits, lines), *settings]
        given |= {f"budget.{name}": limit for name, limit in limits.items()}
    if asked.epochs is not None:
        refuse_twice("--epochs", "train.epochs", asked.settings)
        given |= _epochs(recipe_values(words), asked.epochs, asked.settings)
    recipe, said = recipe_from(words, start, settings, given)
    name = found_recipe(words).stem
    return Resolved(recipe=recipe, name=name, out=asked.out or usual_folder(name, asked.data), lines=(*lines, *said))


def _data_of(asked: Asked) -> DataConfig:
    """How the images are read that the recipe is chosen by: as those of the run will be."""
    settings = [setting for setting in asked.settings if setting.partition("=")[0].strip().startswith("data.")]
    return parse_recipe({}, settings, "--set", {"data.source": asked.data, "data.group_by": asked.group_by}).data


def _check_settings(asked: Asked) -> None:
    """Raises `RecipeError` for settings that none of the recipes takes that may be chosen, before any image is read."""
    refused = []
    for name in SHIPPED:
        try:
            parse_recipe(recipe_values(name), asked.settings, "--set", {"data.source": asked.data, "train.start": asked.start})
        except RecipeError as error:
            refused.append(error)
    if len(refused) == len(SHIPPED):
        raise refused[0]


def usual_folder(name: str, data: str | None) -> Path:
    """Where the run of a recipe goes that is not told."""
    return Path("runs") / (name if data is None else f"{name}-{Path(data).name}")


def begun_run(asked: Asked) -> Path | None:
    """The folder of a run of these images that was begun before, the latest; None: there is none."""
    places = [usual_folder(name, asked.data) for name in SHIPPED] if asked.out is None else [asked.out]
    begun = [place for place in places if (place / IDENTITY).is_file()]
    return max(begun, key=lambda place: (place / IDENTITY).stat().st_mtime, default=None)


def refuse_twice(option: str, key: str, settings: Sequence[str]) -> None:
    """Raises `RecipeError` where `settings`, KEY=VALUE, hold what an option says as well."""
    if any(setting.partition("=")[0].strip() == key for setting in settings):
        raise RecipeError(f"{option} and --set {key} say the same thing twice; leave one out")


def _without_limits(words: Path | str, limits: Mapping[str, str], lines: list[str]) -> list[str]:
    """Settings that take the recipe's own limits away."""
    own = recipe_values(words).get("budget")
    taken = [name for name in own if name not in limits] if isinstance(own, Mapping) else []
    if taken:
        asked = ", ".join(f"{name}={limit}" for name, limit in limits.items())
        lines.append(f"limits: {asked}, not the recipe's {', '.join(taken)}")
    return [f"budget.{name}=null" for name in taken]


def _epochs(values: Mapping[str, Any], epochs: int, settings: Sequence[str]) -> dict[str, int]:
    """So many epochs of the supernet, and as large a share of them for the other trainings as the recipe has."""
    plan = Recipe.model_validate({})
    of = {"train": plan.train.epochs, "finetune": plan.finetune.epochs, "parent": 0}
    for section in of:
        own = values.get(section)
        said = own.get("epochs") if isinstance(own, Mapping) else None
        of[section] = int(getattr(said, "value", said) or of[section])
    asked = {setting.partition("=")[0].strip() for setting in settings}
    return {
        f"{section}.epochs": max(1, round(epochs * count / of["train"]))
        for section, count in of.items()
        if count and f"{section}.epochs" not in asked
    }
