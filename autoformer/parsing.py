"""Words become values: "6M", "60%", "2.5ms", the name or file of a space, a path."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from autoformer.cost import Budget, CostModel
from autoformer.errors import ArchitectureError, BudgetError, CheckpointError, RecipeError, short
from autoformer.settings import Settings, fitted, read_yaml
from autoformer.space import PRESETS, SearchSpace

UNITS = {
    "params": {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9},
    "flops": {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9},
    "latency_ms": {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3},
}


ASKED = (
    "patch_sizes", "stem", "stem_dim", "stem_depths", "mlp_kernels", "pool_after", "class_token", "relative_position",
    "head_dims", "mean_shift",
)  # fmt: skip


class SpaceConfig(Settings):
    """A preset or a YAML file, with any of its choices replaced."""

    preset: str = Field("micro", description=f"{', '.join(PRESETS)}, or a YAML file of a space")
    embed_dims: tuple[int, ...] | None = Field(None, description="widths of the tokens; empty, here and below: as the preset")
    depths: tuple[int, ...] | None = Field(None, description="numbers of blocks")
    num_heads: tuple[int, ...] | None = Field(None, description="per block, heads; 0: it may lack its attention")
    mlp_ratios: tuple[float, ...] | None = Field(None, description="per block, hidden channels by width; 0: it may lack its MLP")
    image_sizes: tuple[int, ...] | None = Field(None, description="pixels; several make the resolution part of the search")
    head_dim: int | None = Field(None, description="channels of a head")
    patch_size: int | None = Field(None, gt=0, description="pixels; empty: the preset's, or a grid of 4 to 8 for micro")
    max_relative_position: int | None = Field(None, description="patches; distances beyond it count as this one")
    sharing: Literal["entangled", "classical"] | None = Field(None, description="classical: independent weights per choice")
    patch_sizes: tuple[int, ...] | None = Field(None, description="pixels; several, patch_size among them, become a choice")
    stem: Literal["patch", "conv"] | None = Field(None, description="conv: 3 × 3 convolutions of stride 2 down to the patches")
    stem_dim: int | None = Field(None, gt=0, description="channels of a convolutional stem")
    stem_depths: tuple[int, ...] | None = Field(None, description="further 3 × 3 convolutions of a convolutional stem")
    mlp_kernels: tuple[int, ...] | None = Field(
        None, description="per block, side of a depthwise convolution inside the MLP: odd, 0 for none"
    )
    pool_after: tuple[int, ...] | None = Field(None, description="blocks before the grid of patches is halved; 0: it never is")
    class_token: bool | None = Field(None, description="false: tokens are the patches alone")
    relative_position: bool | None = Field(
        None, description="relative positions in attention; empty: as the preset, and none where a network of timm is the start"
    )
    head_dims: tuple[int, ...] | None = Field(None, description="channels per head, head_dim the most of them")
    mean_shift: bool | None = Field(None, description="what a network lacks leaves its mean in the bias behind it")

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not asked for, so that runs from before it existed are gone on with."""
        found: dict[str, Any] = write(self)
        return {key: value for key, value in found.items() if key not in ASKED or value is not None}

    def make(self, image_size: int, in_chans: int, num_classes: int) -> SearchSpace:
        """The space for these images and classes. Raises `ArchitectureError` when sizes do not fit."""
        size: int | None = image_size
        from_file = self.preset not in PRESETS
        searched = () if from_file else PRESETS[self.preset].image_sizes
        if from_file or self.image_sizes is not None or (len(searched) > 1 and searched[-1] == size):
            size = None  # the space names its sizes; where there are several, images are stored in the largest
        changes = self._changes()
        if size is not None and (self.preset != "micro" or self.patch_size is not None):
            changes["image_sizes"], size = (size,), None  # looked at with the other changes: a patch may divide it
        space = read_space(self.preset, image_size=size, in_chans=in_chans, num_classes=num_classes)
        return SearchSpace.from_dict({**space.to_dict(), **changes})

    def changed(self, space: SearchSpace) -> SearchSpace:
        """Another space with what is said here. Raises `ArchitectureError` when that does not fit together."""
        return SearchSpace.from_dict({**space.to_dict(), **self._changes()})

    def _changes(self) -> dict[str, Any]:
        return {name: value for name, value in self if name != "preset" and value is not None}


class BudgetConfig(Settings):
    """Limits in words: 6M, 1.3G, 2.5ms, or a percentage of the largest network."""

    max_params: str | None = Field(None, description="upper limit on parameters: 6M, or 60% of the largest network's")
    min_params: str | None = Field(None, description="lower limit on parameters")
    max_flops: str | None = Field(None, description="upper limit on FLOPs (multiply-adds): 1.3G, or 60%")
    min_flops: str | None = Field(None, description="lower limit on FLOPs")
    max_latency: str | None = Field(None, description="upper limit on measured latency: 2.5ms, or 60%")


def read_space(
    text: str, *, image_size: int | None = None, in_chans: int | None = None, num_classes: int | None = None
) -> SearchSpace:
    """The space of a preset's name or of a YAML file with the fields of `SearchSpace` (embed_dims, depths, num_heads,
    mlp_ratios, head_dim, image_sizes, patch_size, ...). What is given beside it replaces the space's own.

    Raises `ArchitectureError` for an unknown name or field, `RecipeError` for a file that is not YAML.
    """
    path = Path(text)
    if text in PRESETS or path.suffix not in (".yaml", ".yml"):
        space = SearchSpace.preset(text, image_size=image_size)
    else:
        space = _of_file(path)
        if image_size is not None:
            space = replace(space, image_sizes=(image_size,))
    if in_chans is not None:
        space = replace(space, in_chans=in_chans)
    return space if num_classes is None else replace(space, num_classes=num_classes)


def _of_file(path: Path) -> SearchSpace:
    try:
        values = read_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"space {path} cannot be read: {short(' '.join(str(error).split()))}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"space {path} holds no fields; expected embed_dims, depths, num_heads, mlp_ratios")
    kinds = get_type_hints(SearchSpace)
    try:
        return SearchSpace.from_dict({"name": path.stem, **{key: fitted(kinds.get(key), value) for key, value in values.items()}})
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from error


def parse(measure: str, text: str, largest: float | None) -> float:
    """A limit on `measure` ("params", "flops", "latency_ms"), absolute or in percent of `largest`.

    Raises `BudgetError` on anything else, saying what is understood. A latency needs its unit.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµ%]*)\s*", str(text))
    number, unit = (float(match[1]), match[2]) if match else (0.0, "?")
    if match and not 0 < number < math.inf:
        raise BudgetError(f"limit {text!r} on {measure.removesuffix('_ms')} must be above 0")
    if unit == "%" and largest is not None:
        return number / 100 * largest
    if unit not in UNITS[measure]:
        example = {"params": "6M", "flops": "1.3G", "latency_ms": f"{match[1]}ms" if match and not unit else "2.5ms"}[measure]
        raise BudgetError(
            f"limit {text!r} on {measure.removesuffix('_ms')} is not understood; write {example}, or 60% of the largest network's"
        )
    return number * UNITS[measure][unit]


def check_limits(stated: BudgetConfig) -> None:
    """Whether every limit can be understood, before anything is known of the space. Raises `BudgetError` as `parse` does."""
    for name, text in stated:
        if text is not None:
            parse(name.replace("latency", "latency_ms")[4:], text, 1.0)


def percentage(text: str) -> float:
    """A share like "5%" as a number, 0.05. Raises `BudgetError` on anything else."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*%\s*", text)
    if match is None:
        raise BudgetError(f"{text!r} is not a percentage; write 5%")
    return float(match[1]) / 100


def read_budget(space: SearchSpace, costs: CostModel, stated: BudgetConfig) -> Budget:
    """The limits in words as a `Budget`; percentages are of the largest network of `space`."""
    largest, limits = costs(space.largest), dict[str, float]()
    if stated.max_latency is not None and largest.latency_ms is None:
        raise BudgetError(f"limit {stated.max_latency!r} on latency needs measured latencies: give a latency table of the target")
    for name, text in stated:
        if text is not None:
            name = name.replace("latency", "latency_ms")
            limits[name] = parse(name[4:], text, getattr(largest, name[4:]))
    return Budget(**limits)


def refuse_missing(path: Path, expected: str) -> None:
    """Raises `CheckpointError` when nothing stands at `path`; for commands whose imports would let a typo wait for seconds."""
    if path.exists():
        return
    beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [name for name in beside if not name.startswith(".")], 1)
    meant = f"; did you mean {path.parent / near[0]}?" if near else ""
    if re.match(r"\w+=", path.parts[0] if path.parts else "") and not Path(path.parts[0]).exists():
        meant = "; options are written --name VALUE, and what a command works on without a name (--help shows both)"
    raise CheckpointError(f"{short(path, 120)} does not exist{meant or f'; expected {expected}'}")
