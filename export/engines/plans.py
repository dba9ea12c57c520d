"""Which plans may be loaded here: a plan is executable code, for one version of one product, on the GPUs that it was built for.

It is loaded only when its digest is known, from whoever just built it or from the manifest beside it. Runs on boards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoformer.errors import CheckpointError, MissingPackageError
from autoformer.export.engines.cuda_runtime import Cuda, Gpu
from autoformer.export.engines.target_gpus import in_words, runs_on
from autoformer.export.engines.tensorrt_versions import (
    TENSORRT,
    TENSORRT_RTX,
    Product,
    collecting_logger,
    how_to_rebuild,
    import_tensorrt,
    product_named,
    product_of,
    tensorrt_missing,
    titled,
)
from autoformer.export.manifest import FILE_NAME, Artefact, Manifest


def read_plan(path: Path, sha256: str | None = None) -> bytes:
    """The bytes of a plan whose digest is `sha256`, or the one in the manifest beside it when None.

    Raises `CheckpointError` when the digest is unknown or differs, or when the manifest says that it was built by another
    version or for another device, and `MissingPackageError` when nothing here runs such plans.
    """
    product = product_of_plan(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; {how_to_rebuild(product)}")
    artefact = _described(path)
    if sha256 is None:
        if not (path.parent / FILE_NAME).is_file():
            raise CheckpointError(
                f"{path} has no {FILE_NAME} beside it; a plan is code, so unknown ones are not loaded; {how_to_rebuild(product)}"
            )
        if artefact is None:
            raise CheckpointError(
                f"{path} is not in the manifest beside it; a plan is code, so it is not loaded; {how_to_rebuild(product)}"
            )
        sha256 = artefact.sha256
    if artefact is not None and artefact.sha256 == sha256:
        _check_built_here(path, artefact)
    plan = path.read_bytes()  # once: what was checked is what is run
    if hashlib.sha256(plan).hexdigest() != sha256:
        raise CheckpointError(
            f"{path} is not the plan that the manifest describes (other SHA-256); {how_to_rebuild(product)}"
        )  # fmt: skip
    return plan


def product_of_plan(path: Path) -> Product:
    """What runs a plan, by the manifest beside it; TensorRT where that says nothing."""
    artefact = _described(path)
    return TENSORRT if artefact is None else product_named(artefact.format)


def _described(path: Path) -> Artefact | None:
    return Manifest.load(path.parent).find_file(path.name) if (path.parent / FILE_NAME).is_file() else None


def _check_built_here(path: Path, artefact: Artefact) -> None:
    made, product = artefact.made, product_named(artefact.format)
    if product.ahead_of_time and (missing := tensorrt_missing(product)):  # it may be built where it cannot run
        raise MissingPackageError(missing)
    needed = (product.format,) if product.ahead_of_time else (product.format, "gpu", "compute_capability")
    if unknown := [key for key in needed if not isinstance(made.get(key), str)]:
        raise CheckpointError(f"the manifest does not say for which {unknown[0]} {path} was built; {how_to_rebuild(product)}")
    version = import_tensorrt(product).__version__
    if made[product.format] != version:
        raise CheckpointError(
            f"{path} was built by {product.title} {made[product.format]}, here is {version}; {how_to_rebuild(product)}"
        )
    gpu = Cuda().gpu()
    if product.ahead_of_time:
        _check_built_for(path, artefact, gpu)
    elif (made["gpu"], made["compute_capability"]) != (gpu.name, gpu.compute_capability):
        raise CheckpointError(
            f"{path} was built for {made['gpu']} (compute capability {made['compute_capability']}), here is "
            f"{gpu.name} ({gpu.compute_capability}); {how_to_rebuild(product)}"
        )


def _check_built_for(path: Path, artefact: Artefact, gpu: Gpu) -> None:
    settings = artefact.made.get("config")
    built_for = settings.get("gpus") if isinstance(settings, Mapping) else None
    if not isinstance(built_for, list) or not all(isinstance(each, str) for each in built_for):
        raise CheckpointError(f"the manifest does not say for which GPUs {path} was built; {how_to_rebuild(TENSORRT_RTX)}")
    if not runs_on(built_for, gpu.compute_capability):
        raise CheckpointError(
            f"{path} was built for {in_words(built_for)}, here is {gpu.name} (compute capability {gpu.compute_capability}); "
            f"{how_to_rebuild(TENSORRT_RTX)}"
        )


def deserialized(trt: Any, runtime: Any, plan: bytes, source: Path) -> Any:
    """The engine of a checked plan. Raises `CheckpointError` with the library's reason when there is none."""
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise CheckpointError(
            f"{titled(trt)} cannot load {source}: {collecting_logger(trt).take()}; {how_to_rebuild(product_of(trt))}"
        )
    return engine
