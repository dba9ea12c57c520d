"""What TensorRT made of a network, for one plan of a manifest: its layers, what was fused, and what each takes.

An engine that was not built to be described knows little more than names of layers. A twin, built the same way but `detailed`,
knows more; it is thrown away afterwards, since a detailed engine may be slower.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoformer.errors import CheckpointError
from autoformer.export.engines.artefact import checked_trtexec, profiles_of, settings_of, trtexec_of
from autoformer.export.engines.builder import PRECISIONS, EngineBuilder
from autoformer.export.engines.engine import Engine
from autoformer.export.engines.layers import EngineLayers, LayerTime, inspect_engine, layer_times, read_layers
from autoformer.export.engines.tensorrt_versions import how_to_build_one, product_named
from autoformer.export.engines.trtexec import PlanInput
from autoformer.export.manifest import FILE_NAME, Artefact, Manifest, sha256_of
from autoformer.records import fields_to_json
from autoformer.temporary import temporary_folder

RUNS = 50  # of the profiler


@dataclass(frozen=True)
class EngineInsides:
    """One plan, looked into."""

    plan: Path
    precision: str
    is_twin: bool  # of an engine that was built the same way, described in full
    batch: int
    layers: EngineLayers
    times: tuple[LayerTime, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**{name: value for name, value in fields_to_json(self).items() if name != "layers"}, **self.layers.to_dict()}

    def facts(self) -> dict[str, str]:
        """What TensorRT made of the network, in words by question."""
        layers = self.layers
        return {
            "layers": f"{len(layers.layers)}, {sum(layer.is_opaque for layer in layers.layers)} of them opaque",
            "attention in one kernel": f"{layers.attention}; {len(layers.attention_kernels)} attention kernels",
            "layer normalisation fused": str(layers.layer_norm),
            "int8 products that run in int8": str(layers.int8),
            "layers that only move values": str(len(layers.reformats)),
        }

    def slowest(self, count: int) -> list[LayerTime]:
        """The slowest layers, the slowest first."""
        return sorted(self.times, key=lambda time: -time.median_ms)[:count]


def plans_of(path: Path) -> list[tuple[Path, Artefact, Path | None]]:
    """The plans of a folder, or the one plan, each with its record and the ONNX file it was built from where that is beside it.

    Raises `CheckpointError` where there is nothing, or no manifest describes them.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; expected a .plan file, or the folder of an export or of a bundle's engines"
        )
    folder = path if path.is_dir() else path.parent
    if not (folder / FILE_NAME).is_file():
        raise CheckpointError(f"{folder} has no {FILE_NAME}; a plan is code, so unknown ones are not loaded")
    manifest = Manifest.load(folder)
    found = []
    for artefact in manifest.artefacts:
        if artefact.is_engine and artefact.file is not None and (path.is_dir() or artefact.file == path.name):
            plan = manifest.verified_file(folder, artefact)
            found.append((plan, artefact, _graph(folder, PRECISIONS.get(artefact.precision, ""), artefact)))
    if not found:
        raise CheckpointError(f"{path} holds no engine that counts; build one: {how_to_build_one()}")
    return found


def _graph(folder: Path, precision: str, artefact: Artefact) -> Path | None:
    """The ONNX file of this digest, in the folder or, for engines of a bundle, the one above."""
    for place in (folder, folder.parent):
        if (place / FILE_NAME).is_file():
            manifest = Manifest.load(place)
            source = manifest.find("onnx", precision)
            if source is not None and source.file is not None and source.sha256 == artefact.made.get("graph_sha256"):
                return manifest.verified_file(place, source)
    return None


def look_inside(plan: Path, artefact: Artefact, graph: Path | None, *, twin: bool = False, runs: int = RUNS) -> EngineInsides:
    """Layers and their times at the batch that the first profile is tuned for.

    `twin` builds the engine once more, described in full. Raises `CheckpointError` when that is asked for without the ONNX
    file, and what loading, building and running raise.
    """
    batch = profiles_of(artefact)[0][1]
    if not twin:
        return _inside(plan, artefact, graph, batch, runs, is_twin=False)
    if graph is None:
        raise CheckpointError(f"the ONNX file that {plan} was built from is not beside it, so no twin can be built")
    with temporary_folder("twin") as temporary:
        config = replace(settings_of(artefact), detailed=True, timing_cache=None)  # a folder that a file names is not ours
        copy = temporary / plan.name
        if trtexec_of(artefact) is None:
            built = EngineBuilder(config).build(graph, copy)
            same = replace(artefact, sha256=built.sha256, made=built.made())
        else:
            made = checked_trtexec(plan, artefact).build(graph, copy, config, PlanInput.of(artefact))
            same = replace(artefact, sha256=sha256_of(copy), made=made)
        return replace(_inside(copy, same, graph, batch, runs, is_twin=True), plan=plan)


def _inside(plan: Path, artefact: Artefact, graph: Path | None, batch: int, runs: int, *, is_twin: bool) -> EngineInsides:
    if trtexec_of(artefact) is None:
        with Engine.load(plan, sha256=artefact.sha256, product=product_named(artefact.format)) as engine:
            engine.prepare(batch)
            layers = inspect_engine(engine, graph)
            times = layer_times(engine, runs, layers)
        return EngineInsides(plan, artefact.precision, is_twin, batch, layers, times)
    profile, described = checked_trtexec(plan, artefact).layers(plan, PlanInput.of(artefact), batch)
    layers = read_layers(json.dumps(described), graph)
    modules = {layer.name: layer.modules for layer in layers.layers}
    taken = {str(entry["name"]): float(entry.get("medianMs", entry["averageMs"])) for entry in profile}
    whole = sum(taken.values())
    times = tuple(
        LayerTime(name=name, median_ms=ms, share=ms / whole if whole else 0.0, modules=modules.get(name, ()))
        for name, ms in taken.items()
    )
    return EngineInsides(plan, artefact.precision, is_twin, batch, layers, times)
