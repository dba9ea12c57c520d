"""The base of what a person writes down in a recipe: each settings class stands beside the code that reads it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, unknown keys refused, numbers finite; a number where a text is expected is taken as it was written."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)
