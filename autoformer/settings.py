"""What a person writes down: YAML as its version 1.2 reads it, and the base of the classes that check what it says.

A word without quotes is true, false, null or a number only where the core schema of YAML 1.2 says so: `off`, `yes`, `1:30` and
`2001-01-01` are texts, `010` is ten, `1e-3` a number. How it was written is kept, since a setting that wants a text takes it as
it stands (`fitted`). Keys are texts, each there once; what an alias repeats is a copy, and all of it must be of a sane size.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

MOST_BYTES = 1 << 18  # of a document
MOST_VALUES = 100_000  # of a document, once its aliases are written out
TAG = "tag:yaml.org,2002:"
CORE = {  # https://yaml.org/spec/1.2.2/#103-core-schema, in this order
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": r"<<",  # of version 1.1; it changes no other word
}


class Settings(BaseModel):
    """Frozen, unknown keys refused, numbers finite; a number where a text is expected is taken as it was written.

    A number is no truth value, a truth value no number, and a text neither.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_of_its_kind(cls, value: object, info: ValidationInfo) -> object:
        if wanted := _mismatch(cls.model_fields[info.field_name or ""].annotation, value):
            raise ValueError(f"expected {wanted}")
        return value


@dataclass(frozen=True)
class Word:
    """A word that is no text by YAML's rules: what it says, and how it was written."""

    text: str
    value: bool | int | float | None


# --- reading ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Knows the words of version 1.2 alone."""


class _Dumper(yaml.SafeDumper):
    """Quotes what any version of YAML would take for something else than a text."""


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern in CORE.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(TAG + _name, re.compile(f"(?:{_pattern})$"), None)


def read_yaml(text: str) -> Any:
    """The one document of `text`: dicts, lists, texts and `Word`s. Raises `ValueError` of one line, with the line's number."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES} letters")
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return Word("", None)
        _written_out(node, {})
        return _value(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = f"{error.context}, {error.problem}" if error.context and error.problem else error.problem or error.context
        raise ValueError(f"{'' if mark is None else f'line {mark.line + 1}: '}{words}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for. Raises `ValueError` for more than any recipe has, and for a node inside itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if known.setdefault(id(node), 0) == 0:
        known[id(node)] = -1
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_written_out(child, known) for child in children)
    if known[id(node)] < 0:
        raise ValueError(f"{_line(node)}: an alias inside of what it stands for")
    if known[id(node)] > MOST_VALUES:
        raise ValueError(f"{_line(node)}: with its aliases written out this is more than {MOST_VALUES} values")
    return known[id(node)]


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
        return _mapping(node)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
        return [_value(item) for item in node.value]
    kind = node.tag.removeprefix(TAG)
    if not isinstance(node, yaml.ScalarNode) or kind not in ("str", "null", "bool", "int", "float", "merge"):
        raise ValueError(f"{_line(node)}: {node.tag[:60]} is not understood; write texts, numbers, lists and sections")
    if kind in ("str", "merge"):
        return node.value
    if not re.fullmatch(CORE[kind], node.value):  # tagged by hand
        raise ValueError(f"{_line(node)}: {node.value[:60]!r} is not of {kind}")
    return Word(node.value, _scalar(kind, node))


def _scalar(kind: str, node: yaml.ScalarNode) -> bool | int | float | None:
    word = node.value.lower()
    if kind == "null":
        return None
    if kind == "bool":
        return bool(word == "true")
    if kind == "float":
        return float(word.replace(".inf", "inf").replace(".nan", "nan"))
    try:
        return int(word, 0) if word.startswith(("0o", "0x")) else int(word)
    except ValueError as error:
        raise ValueError(f"{_line(node)}: a number of {len(word)} digits") from error


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, item in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{_line(key)}: a list or a section cannot be a key")
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ValueError(f"line {line}: {key.value[:60]!r} is there twice, first in line {lines[key.value]}")
        lines[key.value] = line
        if key.tag != f"{TAG}merge":
            found[key.value] = _value(item)
            continue
        for one in item.value if isinstance(item, yaml.SequenceNode) else [item]:
            if not isinstance(one, yaml.MappingNode):
                raise ValueError(f"line {line}: << takes sections")
            merged = _mapping(one) | merged
    return merged | found


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def write_yaml(values: Mapping[str, Any]) -> str:
    """A document that `read_yaml`, and readers of YAML 1.1, read as these values."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


# --- words become values ---------------------------------------------------------------------------------------------


def fitted(kind: Any, value: Any) -> Any:
    """What `read_yaml` gave, as a setting of type `kind` takes it: a word as it was written where a text is wanted, else what it
    says; nothing where a section is wanted is an empty one.
    """
    if isinstance(value, Word):
        if value.value is None:
            return {} if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        return value.text if takes_text(kind, value.text) else value.value
    if isinstance(value, list):
        items = _items(kind, len(value))
        return [fitted(item, one) for item, one in zip(items, value, strict=True)]
    if isinstance(value, Mapping):
        kinds = _fields(kind)
        return {key: fitted(kinds.get(key), item) for key, item in value.items()}
    return value


def takes_text(kind: Any, text: str | None = None) -> bool:
    """Whether a setting of type `kind` takes any text; with `text`: whether it takes this one."""
    kinds = list(_alternatives(kind))
    choices = [choice for one in kinds if get_origin(one) is Literal for choice in get_args(one)]
    return str in kinds or Path in kinds or (text is not None and text in choices)


def kind_of(model: type[BaseModel], key: str) -> Any:
    """The type of the setting `key`, with dots between sections; None where there is none."""
    kind: Any = model
    for name in key.split("."):
        kind = _fields(kind).get(name)
    return kind


def _fields(kind: Any) -> dict[str, Any]:
    for one in _alternatives(kind):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return {name: field.annotation for name, field in one.model_fields.items()}
    return {}


def _items(kind: Any, count: int) -> list[Any]:
    """The type of each of `count` items of a list."""
    for one in _alternatives(kind):
        if get_origin(one) is tuple:
            kinds = get_args(one)
            return [kinds[0]] * count if kinds[-1] is ... else [*kinds, *[None] * count][:count]
    return [None] * count


def _alternatives(kind: Any) -> Iterator[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        for one in get_args(kind):
            yield from _alternatives(one)
    else:
        yield kind


def _mismatch(kind: Any, value: object) -> str | None:
    """What was wanted where a number stands for a truth value, a truth value for a number, or a text for either."""
    if kind is None:
        return None
    if isinstance(value, list | tuple):
        found = enumerate(map(_mismatch, _items(kind, len(value)), value), 1)
        return next((f"{wanted} at place {place}" for place, wanted in found if wanted), None)
    kinds = list(_alternatives(kind))
    numbers = int in kinds or float in kinds
    if isinstance(value, bool):
        return "a number" if numbers and bool not in kinds else None
    if isinstance(value, int | float):
        return "true or false" if bool in kinds and not numbers else None
    if isinstance(value, str) and not takes_text(kind, value):
        return "a number" if numbers else "true or false" if bool in kinds else None
    return None


def first_problem(error: ValidationError) -> str:
    """What is wrong with settings that a file holds, in one line: the first key, what stands there and what was expected."""
    first = error.errors()[0]
    given = "" if isinstance(first.get("input"), dict) else f" is {repr(first.get('input'))[:60]}"
    return f"{'.'.join(map(str, first['loc'])) or 'config'}{given}: {first['msg']}"
