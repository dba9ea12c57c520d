"""Engines of a space's networks, to be timed: built once beside their ONNX files, all with one timing cache.

Networks of a space repeat each other's layers, so what TensorRT has timed for one serves the next: a whole table, and every
round of measuring after a search, shares the cache of this user. It is keyed by device and versions and locked while in use.
"""

from __future__ import annotations

import os
from pathlib import Path

from autoformer.checkpoint import read_json, write_json
from autoformer.errors import CheckpointError
from autoformer.export.cuda_runtime import Cuda
from autoformer.export.engine_builder import EngineBuilder, EngineConfig
from autoformer.export.manifest import sha256_of
from autoformer.export.tensorrt_versions import import_tensorrt
from autoformer.profiling.tensorrt_backend import GRAPH, PLAIN, TensorRTBackend

ENGINES = (PLAIN, GRAPH)  # backends
KEYS = ("sha256", "graph", "tensorrt", "gpu")


def timing_folder() -> Path:
    """The timing caches of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoformer" / "timing"


def engine_of(graph: Path, *, batch: int, backend: str) -> TensorRTBackend:
    """The engine of an ONNX file for exactly `batch` images, built where it is not beside the file.

    One that another TensorRT, another GPU or another file left there is built anew. Raises what building and loading raise.
    """
    plan = graph.with_suffix(f".b{batch}.plan")
    record = plan.with_suffix(".json")
    here = {"graph": sha256_of(graph), "tensorrt": import_tensorrt().__version__, "gpu": Cuda().gpu().name}
    if not _is_of(record, plan, here):
        config = EngineConfig(profiles=((batch, batch, batch),), timing_cache=timing_folder())
        built = EngineBuilder(config).build(graph, plan)
        write_json({"sha256": built.sha256, **here}, record)
    digest = read_json(record, *KEYS)["sha256"]
    return TensorRTBackend(plan, batch=batch, sha256=digest, cuda_graph=backend == GRAPH)


def _is_of(record: Path, plan: Path, here: dict[str, str]) -> bool:
    if not record.is_file() or not plan.is_file():
        return False
    try:
        found = read_json(record, *KEYS)
    except CheckpointError:
        return False
    return all(found[key] == value for key, value in here.items())
