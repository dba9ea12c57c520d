"""`board.pyz build`: TensorRT engines of a bundle's files, built on the device that will run them.

Each is compared with the logits of the file it is built from before it counts: an engine that is built again is a new engine.
TensorRT's Python bindings are used where they are, NVIDIA's trtexec where they are not.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial

from autoformer.cli.board.bundle import ENGINES, Bundle
from autoformer.cli.board.judging import Judge
from autoformer.cli.board.program import Answer, tell
from autoformer.errors import CheckpointError, MissingPackageError
from autoformer.export.engines.artefact import engine_artefact, how_to_build, read_batches
from autoformer.export.engines.builder import PRECISIONS, EngineConfig
from autoformer.export.engines.cuda_runtime import Cuda
from autoformer.export.engines.tensorrt_versions import PRODUCTS, TENSORRT_RTX, Product, builder_missing
from autoformer.export.engines.trtexec import Trtexec
from autoformer.export.manifest import Artefact

DEFAULT = ("fp32", "fp16", "int8")  # tf32 on request
TIMING = "timing"  # folder beside the engines that later builds reuse


def build(arguments: argparse.Namespace) -> Answer:
    """TensorRT engines of the fp32, fp16 and int8 files, each compared with the logits of the bundle before it counts."""
    product = PRODUCTS[arguments.format]
    bundle, program = Bundle.open(arguments.bundle), _program(product)
    judge, out = Judge(bundle), bundle.folder / ENGINES
    config = EngineConfig(
        profiles=tuple(map(read_batches, arguments.engine_batch or [f"1:{arguments.batch or 1}:{max(8, arguments.batch or 1)}"])),
        workspace_mib=arguments.workspace,
        optimization_level=arguments.builder_level,
        refittable=arguments.refittable,
        format=product.format,
    )
    if product.ahead_of_time:
        config = replace(config, gpus=(Cuda().gpu().compute_capability,))
    elif arguments.builder_level:
        config = replace(config, timing_cache=out / TIMING)
    out.mkdir(exist_ok=True)
    kept = [] if bundle.engines is None else list(bundle.engines.artefacts)
    made: list[Artefact] = []
    for precision in arguments.precision or DEFAULT:
        source = bundle.manifest.find("onnx", PRECISIONS[precision])
        if source is None or source.status != "exported":
            continue
        try:
            wanted = replace(config, precision=precision)
            graph, plan = bundle.manifest.verified_file(bundle.folder, source), out / wanted.plan_name
            made.append(
                engine_artefact(
                    source, graph, plan, wanted, partial(judge.engine, precision), program=program,
                    on_progress=tell if sys.stderr.isatty() and not arguments.quiet else None,
                )
            )  # fmt: skip
        except CheckpointError as error:  # the file is another one; the others are good all the same
            made.append(Artefact(format=product.format, precision=precision, status="rejected", reason=str(error)))
        kept = [entry for entry in kept if (entry.format, entry.precision) != (product.format, precision)] + made[-1:]
        replace(bundle.manifest, artefacts=tuple(kept)).save(out)  # what is built is kept if the next one fails
    answer = {entry.precision: {"status": entry.status, "reason": entry.reason} for entry in made}
    how = f"{product.title}'s Python bindings" if program is None else f"trtexec {program.tensorrt}"
    return {"built with": how, **answer}, bool(made) and all(entry.status == "exported" for entry in made)


def _program(product: Product) -> Trtexec | None:
    """As `how_to_build`; where TensorRT is missing and TensorRT-RTX is here, its option is named."""
    try:
        return how_to_build(product)
    except MissingPackageError as error:
        if product is TENSORRT_RTX or builder_missing(TENSORRT_RTX):
            raise
        raise MissingPackageError(f"{error}; for TensorRT-RTX: python3 board.pyz build --format tensorrt-rtx") from error
