"""Values and their JSON form: dataclasses are written field by field, and read back with the type of every value checked.

The type hints of a dataclass are its schema: numbers, texts, None, tuples, mappings by name, `Literal`, `Path`, dataclasses.
A class with a `from_dict` of its own is read by that. A field that is called otherwise in files says so: `stored_as("pace")`.
Standard library alone and Python 3.10, since boards read such files.
"""

from __future__ import annotations

import math
import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from autoformer.errors import CheckpointError, short

T = TypeVar("T")
EXPECTED = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


def stored_as(key: str) -> dict[str, str]:
    """The metadata of a field that has this name in files."""
    return {"key": key}


def to_json(value: Any) -> Any:
    """What JSON holds of a value: dataclasses as objects, tuples as lists, paths as text."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return fields_to_json(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def fields_to_json(record: Any) -> dict[str, Any]:
    """The JSON form of a dataclass, field by field; for a `to_dict` that adds to it."""
    return {_key(item): to_json(getattr(record, item.name)) for item in fields(record)}


def _key(item: Field[Any]) -> str:
    return str(item.metadata.get("key", item.name))


def from_json(kind: type[T], values: object, what: str = "", *, beside: Collection[str] = ()) -> T:
    """The dataclass `kind` from its JSON form; `what` is its place in the file, for errors.

    A key may be missing where the field has a default: so files of earlier versions are read. Keys in `beside` are passed over.

    Raises `CheckpointError` for what is missing, unknown or of another type, and for what `kind` itself refuses.
    """
    name = what or kind.__name__
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{name} is {_seen(values)}, expected a JSON object")
    known = _fields(kind)  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known) - set(beside)):
        raise CheckpointError(f"{name} has unknown keys {short(unknown)}; known are {', '.join(known)}")
    given = {}
    try:
        for key, (item, hint) in known.items():
            if key in values:
                given[item.name] = value_from_json(hint, values[key], f"{what}.{key}" if what else key)
            elif item.default is MISSING and item.default_factory is MISSING:
                raise CheckpointError(f"{name} lacks {key!r}; it was edited or damaged")
        return kind(**given)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{name}: {short(' '.join(str(error).split()))}") from error


@cache
def _fields(kind: Any) -> dict[str, tuple[Field[Any], Any]]:
    hints = get_type_hints(kind)
    return {_key(item): (item, hints[item.name]) for item in fields(kind) if item.init}


def value_from_json(hint: Any, value: Any, place: str) -> Any:
    """The value of type `hint` that JSON holds at `place`. Raises `CheckpointError` for anything else."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, place)
    if origin is Literal:
        if any(value == one and type(value) is type(one) for one in arguments):
            return value
        raise CheckpointError(f"{place} is {_seen(value)}, expected one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        return _tuple(arguments, value, place)
    if origin in (list, dict) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _collection(origin, arguments, value, place)
    if hint is float:
        if is_finite(value):
            return value
    elif hint in EXPECTED:
        if type(value) is hint:
            return value
    elif hint is Path:
        if isinstance(value, str):
            return Path(value)
    elif isinstance(origin, type) and isinstance(value, origin):  # made already, as an array is
        return value
    elif hasattr(hint, "from_dict"):
        return hint.from_dict(value)
    elif isinstance(hint, type) and is_dataclass(hint):
        return from_json(hint, value, place)
    raise CheckpointError(f"{place} is {_seen(value)}, expected {_words(hint)}")


def is_finite(value: object) -> bool:
    """Whether `value` is a number (no bool) that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _one_of(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) == 1:
        return value_from_json(others[0], value, place)
    for kind in others:
        try:
            return value_from_json(kind, value, place)
        except CheckpointError:
            continue
    raise CheckpointError(f"{place} is {_seen(value)}, expected {' or '.join(map(_words, kinds))}")


def _tuple(kinds: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise CheckpointError(f"{place} is {_seen(value)}, expected a list")
    if kinds == (float, ...) and all(type(item) is float and math.isfinite(item) for item in value):  # thousands of samples
        return tuple(value)
    if len(kinds) == 2 and kinds[1] is ...:
        return tuple(value_from_json(kinds[0], item, f"{place}[{index}]") for index, item in enumerate(value))
    if len(value) != len(kinds):
        raise CheckpointError(f"{place} has {len(value)} items, expected {len(kinds)}")
    return tuple(
        value_from_json(kind, item, f"{place}[{index}]") for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _collection(origin: type, kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if origin is list:
        return list(_tuple((kinds[0], ...), value, place))
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{place} is {_seen(value)}, expected a JSON object")
    return {key: value_from_json(kinds[1], item, f"{place}.{short(key, 40)}") for key, item in value.items()}


def _words(hint: Any) -> str:
    return EXPECTED.get(hint) or ("a text" if hint is Path else f"a {getattr(hint, '__name__', hint)}")


def _seen(value: object) -> str:
    return short(repr(value), 60)
