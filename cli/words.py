"""Words of the command line that several commands understand alike: how many networks, which space, which metric."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoformer.architecture import whole_number
from autoformer.errors import ArchitectureError, CheckpointError, MeasurementError, short
from autoformer.files import read_json

if TYPE_CHECKING:
    from autoformer.metric import Metric
    from autoformer.space import SearchSpace


def count_of(networks: str) -> int | None:
    """The number that --networks says; None for auto. Raises `MeasurementError` for anything else."""
    if networks == "auto":
        return None
    if (count := whole_number(networks) or 0) < 4:
        raise MeasurementError(f"--networks takes auto or a whole number from 4, got {short(networks, 40)!r}")
    return count


def space_to_measure(supernet: Path | None, space: str | None, image_size: int | None) -> SearchSpace:
    """The space that --supernet or --space names. Raises `ArchitectureError` unless exactly one does, or for an image size
    beside --supernet.
    """
    from autoformer.parsing import read_space
    from autoformer.space import SearchSpace

    if (supernet is None) == (space is None):
        raise ArchitectureError("say which space to measure: either --supernet FOLDER or --space NAME")
    if supernet is not None:
        if image_size is not None:
            raise ArchitectureError("--image-size has no effect with --supernet, whose space says the sizes; leave it out")
        return SearchSpace.from_dict(read_json(supernet / "supernet.json", "space")["space"])
    assert space is not None
    return read_space(space, image_size=image_size)


def metric_of(option: str | None, recipe: Metric | None, record: Mapping[str, Any] | None) -> Metric:
    """The metric of `--metric`, else of the recipe that was given, else that of the run `record` is of, else top-1.

    Raises `CheckpointError` when the record names an unknown one.
    """
    from autoformer.metric import metric_from

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
    from autoformer.metric import percent_value

    value, low, high = (percent_value(score[name], score["low"], score["high"]) for name in ("value", "low", "high"))
    return value, f"{low[:-2]} to {high}", str(score["images"])
