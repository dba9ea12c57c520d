"""Recipes: one YAML file that says everything about a run, each part checked by the class beside the code that reads it."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from autoformer.cli.chain.shipped import found_recipe
from autoformer.data.parts import DataConfig
from autoformer.errors import RecipeError, short
from autoformer.export.config import ExportConfig
from autoformer.files import TIMM
from autoformer.metric import Metric
from autoformer.parsing import BudgetConfig, SpaceConfig
from autoformer.profiling.profiles.config import ProfileConfig
from autoformer.profiling.race.config import RaceConfig
from autoformer.search.config import SearchConfig
from autoformer.settings import Settings, fitted, kind_of, read_yaml, takes_text
from autoformer.training.config import FinetuneConfig, ParentConfig, SupernetConfig

Model = TypeVar("Model", bound=BaseModel)
STEPS_PER_EPOCH = 8  # fewest, before a batch is made smaller
SMALLEST_BATCH = 8
SEEN = reprlib.Repr()  # a value in an error: cut before it is written
SEEN.maxlevel, SEEN.maxstring, SEEN.maxother = 3, 80, 80


class Recipe(Settings):
    """Everything about a run."""

    seed: int = Field(0, ge=0, lt=2**31, description="of all random choices")
    threads: int | None = Field(None, gt=0, le=1024, description="threads of the training; empty: as many as torch takes")
    metric: Metric = Field("top1", description="what networks are compared by, everywhere after training")
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    space: SpaceConfig = Field(default_factory=lambda: SpaceConfig())
    parent: ParentConfig | None = Field(
        default_factory=lambda: ParentConfig(),
        description="where train.start is one pretrained network: it is finetuned first, and teaches; empty: it is cut as it is",
    )
    train: SupernetConfig = Field(default_factory=lambda: SupernetConfig())
    budget: BudgetConfig = Field(default_factory=lambda: BudgetConfig())
    search: SearchConfig = Field(default_factory=lambda: SearchConfig())
    finetune: FinetuneConfig = Field(default_factory=lambda: FinetuneConfig())
    race: RaceConfig | None = Field(
        None,
        description="finetune a few finalists and rivals side by side and deliver the best; empty: the search's choice alone",
    )
    export: ExportConfig = Field(default_factory=lambda: ExportConfig())
    profile: ProfileConfig = Field(default_factory=lambda: ProfileConfig())

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later sections where they say nothing, so that runs from before they existed are gone on with."""
        found: dict[str, Any] = write(self)
        start = self.train.start
        silent = set() if self.race is not None else {"race"}
        if start is None or (not start.startswith(TIMM) and self.parent == ParentConfig()):
            silent.add("parent")
        return {key: value for key, value in found.items() if key not in silent}


def load_recipe(path: Path | str, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a file or of a shipped recipe's name, with `key=value` overrides (`train.epochs=50`), and what options gave
    by key.

    Values are YAML 1.2 (`autoformer.settings`); an override of a text is taken as it stands. None in `given` was not given.

    Raises `RecipeError` for a missing file, no YAML, an unknown key (naming the nearest known one) or an impossible value.
    """
    return parse_recipe(recipe_values(path), overrides, str(path), given)


def recipe_values(path: Path | str) -> dict[str, Any]:
    """What the file of a recipe says, or the shipped one of this name. Raises `RecipeError` for a missing file and no YAML."""
    path = found_recipe(str(path))
    try:
        values = read_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(
            f"recipe {path} cannot be read: {error.strerror or short(error)}; give the path of a YAML file"
        ) from error
    except ValueError as error:
        raise RecipeError(f"recipe {path} cannot be read: {short(error)}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {path} holds no keys; expected sections like train: and search:")
    return values


def parse_recipe(
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    source: str = "recipe",
    given: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe from its values; see `load_recipe`."""
    merged = fitted(Recipe, values)
    for override in overrides:
        merge_override(merged, override)
    for key, value in (given or {}).items():
        if value is not None:
            merge(merged, key, value)
    return checked(Recipe, merged, source)


def recipe_of(path: Path | None, section: str, settings: Sequence[str] | None, seed: int | None) -> Recipe:
    """The recipe of a command about one `section`: a file or the defaults, `KEY=VALUE` with or without the section's name.

    Keys of other sections are written in full: `data.unreadable=skip`.
    """
    others = tuple(f"{name}." for name in Recipe.model_fields if name != section)
    overrides = [
        setting if setting.startswith(others) else f"{section}.{setting.removeprefix(section + '.')}"
        for setting in settings or ()
    ]
    if seed is not None:
        overrides.append(f"seed={seed}")
    return parse_recipe({}, overrides) if path is None else load_recipe(path, overrides)


def batch_for(usual: int, images: int) -> int:
    """The batch of a recipe, halved until an epoch of so many images has enough steps, or none would be left of it."""
    while usual > SMALLEST_BATCH and images < STEPS_PER_EPOCH * usual:
        usual //= 2
    return max(1, min(usual, images))


def merge_override(values: dict[str, Any], override: str) -> None:
    """Sets one `key=value` in the nested `values` of a recipe."""
    key, equals, text = override.partition("=")
    key, text = key.strip(), text.strip()
    if not equals or not key:
        raise RecipeError(f"--set {short(override)!r} is not understood; write it as --set train.epochs=50")
    kind = kind_of(Recipe, key)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if takes_text(kind) and text not in ("", "~", "null") and not quoted:
        merge(values, key, text)
        return
    try:
        value = fitted(kind, read_yaml(text))
    except ValueError as error:
        raise RecipeError(f"--set {short(override, 80)!r}: the value cannot be read ({short(error)})") from error
    merge(values, key, value)


def merge(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets `key`, with dots between sections, in nested `values`."""
    *sections, name = key.split(".")
    place = values
    for section in sections:
        if place.get(section) is None:
            place[section] = {}
        place = place[section]
        if not isinstance(place, dict):
            raise RecipeError(f"{key}: {section} is a value, not a section")
    place[name] = value


def checked(model: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """`values` as a `model`. Raises `RecipeError` with one line about the first thing that is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = list(_keys(model))
            near = difflib.get_close_matches(key[:80], known, 1, 0.0)[0]
            raise RecipeError(f"{source}: unknown key {short(key, 80)!r}; did you mean {near!r}?") from error
        said = first["msg"].removeprefix("Value error, ")
        if isinstance(first.get("input"), Mapping):  # of values that do not go together: nobody wants to read them all
            raise RecipeError(f"{source}: {key}{key and ': '}{said}") from error
        raise RecipeError(f"{source}: {key} = {short(SEEN.repr(first.get('input')), 80)}: {said}") from error


def _keys(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):  # a section, or one that may be left out
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _keys(kind, f"{prefix}{name}.")
