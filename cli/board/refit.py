"""`board.pyz refit` and `board.pyz inspect`: new weights for engines that are here, and what TensorRT made of them.

A refit takes the engines that another bundle of the same architecture has built on this device, so that a finetuned network
needs no new build. It needs TensorRT's Python bindings; NVIDIA's trtexec cannot refit.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from autoformer.cli.board.bundle import ENGINES, Bundle
from autoformer.cli.board.judging import Judge
from autoformer.cli.board.program import Answer
from autoformer.errors import CheckpointError
from autoformer.export.engines.artefact import refitted_artefact, trtexec_of
from autoformer.export.engines.builder import PRECISIONS
from autoformer.export.engines.tensorrt_versions import TENSORRT, TENSORRT_RTX, how_to_rebuild, import_tensorrt
from autoformer.export.manifest import Artefact
from autoformer.profiling.insides.engine_insides import look_inside, plans_of

SLOWEST = 5  # layers shown


def refit(arguments: argparse.Namespace) -> Answer:
    """The engines of another bundle of the same architecture, with this bundle's weights, compared before they count."""
    bundle, other = Bundle.open(arguments.bundle), Bundle.open(arguments.source)
    if other.manifest.architecture is None or other.manifest.architecture != bundle.manifest.architecture:
        raise CheckpointError(f"{other.folder} holds another architecture; a refit changes weights alone, build new engines")
    there = [one for one in (other.engines or other.manifest).artefacts if one.is_engine and one.file is not None]
    engines = [one for one in there if one.format == TENSORRT.format]
    if there and not engines:
        raise CheckpointError(
            f"the engines of {other.folder} are of TensorRT-RTX and cannot be refitted; {how_to_rebuild(TENSORRT_RTX)}"
        )
    if not engines:
        raise CheckpointError(f"{other.folder} holds no engine; build there first: python3 board.pyz build --refittable")
    import_tensorrt()
    out = bundle.folder / ENGINES
    out.mkdir(exist_ok=True)
    judge = Judge(bundle)
    made = [_refitted(bundle, judge, other.folder / ENGINES, engine) for engine in engines]
    names = {entry.name for entry in made}
    kept = [entry for entry in (bundle.engines.artefacts if bundle.engines is not None else ()) if entry.name not in names]
    replace(bundle.manifest, artefacts=(*kept, *made)).save(out)
    answer = {entry.precision: {"status": entry.status, "reason": entry.reason} for entry in made}
    return answer, all(entry.status == "exported" for entry in made)


def _refitted(bundle: Bundle, judge: Judge, source: Path, engine: Artefact) -> Artefact:
    """One engine with this bundle's weights; rejected with the reason where that does not work."""
    graph, wanted = bundle.manifest.find("onnx", PRECISIONS[engine.precision]), PRECISIONS[engine.precision]
    if trtexec_of(engine) is not None:
        reason = "trtexec built it, which cannot refit; build it anew"
    elif graph is None or graph.file is None:
        reason = f"the bundle has no {wanted} file to take weights from"
    else:
        assert engine.file is not None, "chosen so"
        plan = bundle.folder / ENGINES / f"model.{engine.precision}.plan"
        try:
            file = bundle.manifest.verified_file(bundle.folder, graph)
        except CheckpointError as error:  # the others may be refitted all the same
            reason = str(error)
        else:
            return refitted_artefact(engine, source / engine.file, file, plan, partial(judge.engine, engine.precision))
    return Artefact(format="tensorrt", precision=engine.precision, status="rejected", reason=reason)


def inspect(arguments: argparse.Namespace) -> Answer:
    """What TensorRT made of the engines that are here: is attention fused, do int8 layers run in int8, which layers are slow."""
    answer: dict[str, Any] = {}
    bundle = Bundle.open(arguments.bundle)
    folders = list(dict.fromkeys(folder for folder, artefact in bundle.artefacts() if artefact.is_engine))
    if not folders:
        raise CheckpointError(f"{bundle.folder} holds no engine; build there first: python3 board.pyz build")
    for plan, artefact, graph in (one for folder in folders for one in plans_of(folder)):  # those built here come last, and stay
        found = look_inside(plan, artefact, graph, twin=graph is not None)
        slowest = [{"name": time.name, "ms": time.median_ms} for time in found.slowest(SLOWEST)]
        name = artefact.precision if artefact.format == TENSORRT.format else artefact.name
        answer[name] = found.to_dict() if arguments.json else {**found.facts(), "slowest layers": slowest}
    return answer, True
