"""What every setting of a recipe means, takes and is by default: out of the models that check recipes, so that it is true."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from autoformer.cli.chain.recipe import Recipe
from autoformer.errors import RecipeError, short
from autoformer.escaping import one_line

BOUNDS = {"gt": "above", "ge": "from", "lt": "below", "le": "to"}
KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", dict: "keys with values"}
LETTERS = 60  # of a default that is shown


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of a recipe."""

    key: str
    takes: str
    default: str  # as in a recipe; empty: nothing
    meaning: str

    def to_dict(self) -> dict[str, str]:
        """The JSON form."""
        return asdict(self)


def every_setting(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[Setting]:
    """All settings, section by section, in the order of the models."""
    for name, field in model.model_fields.items():
        section = next((one for one in _alternatives(field.annotation) if _is_section(one)), None)
        if section is None:
            yield Setting(key=prefix + name, takes=_takes(field), default=_default(field), meaning=_sentence(field))
        else:
            if type(None) in _alternatives(field.annotation):
                yield Setting(key=prefix + name, takes="a section, or nothing", default=_default(field), meaning=_sentence(field))
            yield from every_setting(section, f"{prefix}{name}.")


def explained(key: str) -> list[Setting]:
    """The settings that `key` names: one, or all of a section. Raises `RecipeError` naming the nearest there is."""
    if not key.strip():
        raise RecipeError("say which setting: autoformer recipe explain train.mixup, or nothing for all of them")
    known = {setting.key: setting for setting in every_setting()}
    found = [setting for name, setting in known.items() if name == key or name.startswith(f"{key}.")]
    if found:
        return found
    ends = [name for name in known if name.rpartition(".")[2] == key]
    if ends:
        return [known[name] for name in ends]
    near = difflib.get_close_matches(key[:80], known, 3, 0.3)
    raise RecipeError(f"no setting {short(key, 80)!r}; the nearest are {', '.join(near) or 'train.epochs and search.method'}")


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _takes(field: FieldInfo) -> str:
    kinds = [_words(kind) for kind in _alternatives(field.annotation) if kind is not type(None)]
    bounds = [
        f"{words} {value:.10g}"
        for bound in field.metadata
        for name, words in BOUNDS.items()
        if (value := getattr(bound, name, None)) is not None
    ]
    return " ".join([" or ".join(dict.fromkeys(kinds)), *bounds])


def _words(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(str(one) for one in arguments)
    if origin is tuple:
        if arguments[-1] is ...:
            return f"list of {_words(arguments[0])}"
        return f"list of {len(arguments)} times {_words(arguments[0])}"
    if origin is not None and origin is not Union:
        return KINDS.get(origin, "value")
    return KINDS.get(kind, "section" if _is_section(kind) else "value")


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if field.default_factory else field.default
    if value is PydanticUndefined or value is None:
        return ""
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_written(one) for one in value)}]"[:LETTERS]
    return _written(value)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return one_line(str(value))[:LETTERS]


def _sentence(field: FieldInfo) -> str:
    return one_line(field.description or "")
