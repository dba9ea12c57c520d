"""Recipes: one YAML file that says everything about a run, each part checked by the class beside the code that reads it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autoformer.cli.spaces import read_space
from autoformer.data import DataConfig, DataParts
from autoformer.errors import ExportError, RecipeError
from autoformer.evaluate import Metric
from autoformer.export.engine_artefacts import read_batches
from autoformer.export.engine_builder import EngineConfig
from autoformer.search_config import SearchConfig
from autoformer.space import PRESETS, SearchSpace
from autoformer.training_config import FinetuneConfig, SupernetConfig

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A part of a recipe: frozen, unknown keys refused, numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class SpaceConfig(Section):
    """A preset or a YAML file, with any of its choices replaced."""

    preset: str = Field("micro", description="tiny, small, base, edge, micro, or a YAML file of a space")
    embed_dims: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    num_heads: tuple[int, ...] | None = None
    mlp_ratios: tuple[float, ...] | None = None
    image_sizes: tuple[int, ...] | None = Field(None, description="pixels; several make the resolution part of the search")
    head_dim: int | None = None
    patch_size: int | None = Field(None, gt=0, description="pixels; empty: the preset's, or a grid of 4 to 8 for micro")
    max_relative_position: int | None = None
    sharing: Literal["entangled", "classical"] | None = Field(None, description="classical: independent weights per choice")

    def make(self, parts: DataParts) -> SearchSpace:
        """The space for these images and classes. Raises `ArchitectureError` when sizes do not fit."""
        size: int | None = parts.preprocessing.image_size
        from_file = self.preset not in PRESETS
        searched = () if from_file else PRESETS[self.preset].image_sizes
        if from_file or self.image_sizes is not None or (len(searched) > 1 and searched[-1] == size):
            size = None  # the space names its sizes; where there are several, images are stored in the largest
        space = read_space(self.preset, image_size=size, in_chans=parts.preprocessing.in_chans, num_classes=len(parts.classes))
        changes = {name: value for name, value in self if name != "preset" and value is not None}
        return SearchSpace.from_dict({**space.to_dict(), **changes})


class BudgetConfig(Section):
    """Limits in words: 6M, 1.3G, 2.5ms, or a percentage of the largest network."""

    max_params: str | None = None
    min_params: str | None = None
    max_flops: str | None = None
    min_flops: str | None = None
    max_latency: str | None = None


class ExportConfig(Section):
    """What is written, and how it is judged."""

    precisions: tuple[Literal["fp32", "tf32", "fp16", "int8"], ...] = ("fp32", "fp16", "int8")  # tf32: engines alone
    formats: tuple[Literal["onnx", "tensorrt"], ...] = ("onnx", "tensorrt")
    calibration_images: int = Field(128, gt=0, description="images of the search part that int8 is calibrated on")
    input: Literal["float32", "uint8"] = Field(
        "float32", description="of the files; uint8: pixels, with the normalisation folded in"
    )
    max_disagreement: float = Field(0.01, ge=0, le=1, description="share of images where int8 may guess otherwise than fp32")
    max_class_loss: float = Field(0.05, ge=0, le=1, description="share of a class's images that int8 may lose against fp32")
    opset: int = Field(20, ge=17, le=25, description="of the ONNX files; 17 for old runtimes")
    batch: int | None = Field(None, gt=0, le=4096, description="images in each call; empty or dynamic: any number")

    engine_batches: tuple[str, ...] = Field(
        ("1:1:8",), min_length=1, description="of TensorRT engines, a profile each: 8, or smallest:tuned for:largest like 1:8:32"
    )
    workspace_mib: int | None = Field(None, gt=0, description="scratch memory of TensorRT engines; empty: all of the device")
    builder_level: int = Field(3, ge=0, le=5, description="of TensorRT; higher builds longer")
    timing_cache: Path | None = Field(None, description="folder that builds of engines share, much faster for similar networks")
    refittable: bool = Field(False, description="engines whose weights can be replaced; may run slower")

    @model_validator(mode="after")
    def _engine_settings_make_sense(self) -> ExportConfig:
        try:
            self.engines()
        except ExportError as error:
            raise ValueError(str(error)) from error
        if "tensorrt" in self.formats:
            return self
        for name in ("engine_batches", "workspace_mib", "builder_level", "timing_cache", "refittable"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is about TensorRT engines; add tensorrt to the formats")
        if "tf32" in self.precisions:
            raise ValueError("precision tf32 is of TensorRT engines alone; add tensorrt to the formats")
        return self

    def engines(self) -> EngineConfig:
        """How engines are built."""
        return EngineConfig(
            profiles=tuple(map(read_batches, self.engine_batches)), workspace_mib=self.workspace_mib,
            optimization_level=self.builder_level, timing_cache=self.timing_cache, refittable=self.refittable,
        )  # fmt: skip

    @field_validator("batch", mode="before")
    @classmethod
    def _dynamic_is_any(cls, value: object) -> object:
        return None if value == "dynamic" else value

    @field_validator("precisions")
    @classmethod
    def _fp32_is_the_source(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "fp32" not in value:
            raise ValueError("fp32 must be among them: the other files are made from it")
        return value

    @field_validator("formats")
    @classmethod
    def _onnx_is_the_source(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "onnx" not in value:
            raise ValueError("onnx must be among them: engines are built from it")
        return value


class ProfileConfig(Section):
    """How latency is measured."""

    table: Path | None = Field(None, description="a stored latency table of the target; empty: measured at the start of the run")
    networks: int | None = Field(8, ge=4, description="networks measured for the table; empty: as many as lower its error")
    backend: Literal["onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-graph"] = "onnxruntime-cpu"
    batch: int = Field(1, gt=0, description="images in one call")
    threads: int = Field(1, gt=0, le=1024, description="threads of the CPU backend")
    seconds: float = Field(3.0, gt=0, description="measuring time per artefact")
    finalists: int = Field(5, gt=0, description="networks measured in a round after a search under a latency limit")
    rounds: int = Field(3, ge=0, description="of measuring, correcting the table and choosing again; 0: nothing is measured then")


class Recipe(Section):
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
