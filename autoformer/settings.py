"""The base of what a person writes down in a recipe: each settings class stands beside the code that reads it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Frozen, unknown keys refused, numbers finite; a number where a text is expected is taken as it was written."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


def first_problem(error: ValidationError) -> str:
    """What is wrong with settings that a file holds, in one line: the first key, what stands there and what was expected."""
    first = error.errors()[0]
    given = "" if isinstance(first.get("input"), dict) else f" is {repr(first.get('input'))[:60]}"
    return f"{'.'.join(map(str, first['loc'])) or 'config'}{given}: {first['msg']}"
