"""What a person can ask of a measurement in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from autoformer.settings import Settings


class ProfileConfig(Settings):
    """How latency is measured."""

    table: Path | None = Field(None, description="a stored latency table of the target; empty: measured at the start of the run")
    networks: int | None = Field(8, ge=4, description="networks measured for the table; empty: as many as lower its error")
    backend: Literal[
        "onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-graph", "tensorrt-rtx", "tensorrt-rtx-graph"
    ] = Field("onnxruntime-cpu", description="what runs the networks that are timed: the runtime of the target")
    batch: int = Field(1, gt=0, description="images in one call")
    threads: int = Field(1, gt=0, le=1024, description="threads of the CPU backend")
    seconds: float = Field(3.0, gt=0, description="measuring time per artefact")
    finalists: int = Field(5, gt=0, description="networks measured in a round after a search under a latency limit")
    rounds: int = Field(3, ge=0, description="of measuring, correcting the table and choosing again; 0: nothing is measured then")
