"""Which metric a command goes by, and how it shows a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoformer.errors import CheckpointError
from autoformer.evaluate import Metric, metric_from


def metric_of(option: str | None, recipe: Metric | None, record: Mapping[str, Any] | None) -> Metric:
    """The metric of `--metric`, else of the recipe that was given, else that of the run `record` is of, else top-1.

    Raises `CheckpointError` when the record names an unknown one.
    """
    if option is not None:
        return metric_from(str(option))
    if recipe is not None:
        return recipe
    inner = (record or {}).get("recipe")
    held = (record or {}).get("metric", inner.get("metric", "top1") if isinstance(inner, Mapping) else "top1")
    try:
        return metric_from(held)
    except CheckpointError as error:
        raise CheckpointError(f"the record of the training was edited or damaged: {error}; give --metric") from error


def score_cells(score: Mapping[str, Any]) -> tuple[str, str, str]:
    """A score in its JSON form as cells of a table: value, interval, images."""
    value, low, high = (f"{100 * score[name]:.2f}" for name in ("value", "low", "high"))
    return f"{value} %", f"{low}–{high} %", str(score["images"])
