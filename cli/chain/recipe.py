"""Recipes: one YAML file that says everything about a run, each part checked by the class beside the code that reads it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from autoformer.data.parts import DataConfig
from autoformer.errors import RecipeError
from autoformer.export.config import ExportConfig
from autoformer.metric import Metric
from autoformer.parsing import BudgetConfig, SpaceConfig
from autoformer.profiling.profiles.config import ProfileConfig
from autoformer.search.config import SearchConfig
from autoformer.settings import Settings
from autoformer.training.config import FinetuneConfig, SupernetConfig

Model = TypeVar("Model", bound=BaseModel)


class Recipe(Settings):
    """Everything about a run."""

    seed: int = Field(0, ge=0, lt=2**31)
    threads: int | None = Field(None, gt=0, le=1024, description="threads of the training; empty: as many as torch takes")
    metric: Metric = Field("top1", description="what networks are compared by, everywhere after training")
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    space: SpaceConfig = Field(default_factory=lambda: SpaceConfig())
    train: SupernetConfig = Field(default_factory=lambda: SupernetConfig())
    budget: BudgetConfig = Field(default_factory=lambda: BudgetConfig())
    search: SearchConfig = Field(default_factory=lambda: SearchConfig())
    finetune: FinetuneConfig = Field(default_factory=lambda: FinetuneConfig())
    export: ExportConfig = Field(default_factory=lambda: ExportConfig())
    profile: ProfileConfig = Field(default_factory=lambda: ProfileConfig())


def load_recipe(path: Path, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a file, with `key=value` overrides (`train.epochs=50`; values are YAML), and what options gave by key.

    A value of None in `given` was not given.

    Raises `RecipeError` for a missing file, no YAML, an unknown key (naming the nearest known one) or an impossible value.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(f"recipe {path} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {path} holds no keys; expected sections like train: and search:")
    return parse_recipe(values, overrides, str(path), given)


def parse_recipe(
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    source: str = "recipe",
    given: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe from its values; see `load_recipe`."""
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
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


def merge_override(values: dict[str, Any], override: str) -> None:
    """Sets one `key=value` in nested `values`."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override!r} is not understood; write it as --set train.epochs=50")
    try:
        value = yaml.safe_load(text) if text.strip() else None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(f"--set {override[:80]!r}: the value is not YAML") from error
    merge(values, key.strip(), value)


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
            near = difflib.get_close_matches(key, known, 1, 0.0)[0]
            raise RecipeError(f"{source}: unknown key {key!r}; did you mean {near!r}?") from error
        if isinstance(first.get("input"), Mapping):  # of values that do not go together: nobody wants to read them all
            raise RecipeError(f"{source}: {key}{key and ': '}{first['msg'].removeprefix('Value error, ')}") from error
        raise RecipeError(f"{source}: {key} = {repr(first.get('input'))[:80]}: {first['msg']}") from error


def _keys(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
