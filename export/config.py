"""What a person can ask of an export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from autoformer.architecture import whole_number
from autoformer.errors import ExportError
from autoformer.export.engines.artefact import read_batches
from autoformer.export.engines.builder import EngineConfig
from autoformer.export.engines.target_gpus import read_gpus
from autoformer.export.engines.tensorrt_versions import PRODUCTS, TENSORRT, TENSORRT_RTX, Product
from autoformer.settings import Settings


class ExportConfig(Settings):
    """What is written, and how it is judged."""

    precisions: tuple[Literal["fp32", "tf32", "fp16", "int8"], ...] = Field(
        ("fp32", "fp16", "int8"), description="of the files, one for each; tf32: of TensorRT engines alone"
    )
    formats: tuple[Literal["onnx", "tensorrt", "tensorrt-rtx"], ...] = Field(
        ("onnx", "tensorrt"),
        description="of the files; TensorRT engines where it is installed, TensorRT-RTX's for other machines",
    )
    calibration_images: int = Field(128, gt=0, description="images of the search part that int8 is calibrated on")
    input: Literal["float32", "uint8"] = Field(
        "float32", description="of the files; uint8: pixels, with the normalisation folded in"
    )
    max_disagreement: float = Field(0.01, ge=0, le=1, description="share of images that int8 may give another class than fp32")
    max_class_loss: float = Field(0.05, ge=0, le=1, description="share of a class's images that int8 may lose against fp32")
    opset: int = Field(20, ge=17, le=25, description="of the ONNX files; 17 for old runtimes")
    batch: int | None = Field(None, gt=0, le=4096, description="images in each call; empty or dynamic: any number")

    gpus: tuple[str, ...] = Field(
        (), description="that engines of TensorRT-RTX are for, like sm89 or RTX 4090; empty: all from compute capability 8.0 on"
    )
    engine_batches: tuple[str, ...] = Field(
        ("1:1:8",), min_length=1, description="of engines, a profile each: 8, or smallest:tuned for:largest like 1:8:32"
    )
    workspace_mib: int | None = Field(None, gt=0, description="scratch memory of engines; empty: all of the device")
    builder_level: int = Field(3, ge=0, le=5, description="of TensorRT; higher builds longer")
    timing_cache: Path | None = Field(None, description="folder that builds of engines share, much faster for similar networks")
    refittable: bool = Field(False, description="engines whose weights can be replaced; may run slower")

    @model_validator(mode="after")
    def _engine_settings_make_sense(self) -> ExportConfig:
        try:
            for product in PRODUCTS.values():
                self.engines(product)
        except ExportError as error:
            raise ValueError(str(error)) from error
        products = [PRODUCTS[name] for name in self.formats if name in PRODUCTS]
        given = {name for name in type(self).model_fields if getattr(self, name) != type(self).model_fields[name].default}
        for name in given & {"timing_cache", "refittable"} if TENSORRT not in products else ():
            raise ValueError(f"{name} is about engines of TensorRT; add tensorrt to the formats")
        if "gpus" in given and TENSORRT_RTX not in products:
            raise ValueError("gpus are those of TensorRT-RTX; add tensorrt-rtx to the formats")
        for name in given & {"engine_batches", "workspace_mib", "builder_level"} if not products else ():
            raise ValueError(f"{name} is about engines; add tensorrt or tensorrt-rtx to the formats")
        if "tf32" in self.precisions and not products:
            raise ValueError("precision tf32 is of engines alone; add tensorrt or tensorrt-rtx to the formats")
        return self

    def engines(self, product: Product = TENSORRT) -> EngineConfig:
        """How engines of a product are built. Timing caches and refitting are TensorRT's, other GPUs TensorRT-RTX's."""
        config = EngineConfig(
            format=product.format, profiles=tuple(map(read_batches, self.engine_batches)), workspace_mib=self.workspace_mib,
            optimization_level=self.builder_level,
        )  # fmt: skip
        if product is TENSORRT_RTX:
            return replace(config, gpus=read_gpus(self.gpus))
        return replace(config, timing_cache=self.timing_cache, refittable=self.refittable)

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without GPUs where none are chosen: runs that were begun before there was that setting go on."""
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name != "gpus" or value}

    @field_validator("batch", mode="before")
    @classmethod
    def _dynamic_is_any(cls, value: object) -> object:
        if value == "dynamic":
            return None
        number = whole_number(value) if isinstance(value, str) else None  # of the command line
        return value if number is None else number

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
