"""`autoformer profile layers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import AnyBatch, AnyThreads, Json, refuse_without_effect

RUNS = 50  # profiled, unless --runs says how many


def layers(
    artefact: Annotated[Path, typer.Argument(help="An ONNX file, an engine, or a JSON file of trtexec --exportProfile.")],
    batch: AnyBatch = None,
    threads: AnyThreads = None,
    runs: Annotated[int | None, typer.Option("--runs", min=1, help="Profiled runs. Default: 50.")] = None,
    scopes: Annotated[
        Path | None, typer.Option("--scopes", help="The .scopes.json of the ONNX file that the engine was built from.")
    ] = None,
    graph: Annotated[Path | None, typer.Option("--graph", help="The ONNX file that the engine was built from.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write.")] = None,
    export_profile: Annotated[
        Path | None, typer.Option("--export-profile", help="JSON file to write in the form of trtexec --exportProfile.")
    ] = None,
    json: Json = False,
) -> None:
    """Show where the time goes: by layer, by torch module, by kind of layer and by block.

    Example: autoformer profile layers runs/quickstart/export/model.fp32.onnx
    """
    from autoformer.cli.console import note, print_json, print_table
    from autoformer.errors import MeasurementError
    from autoformer.files import refuse_existing_file, write_json
    from autoformer.profiling.backends.of_artefacts import PLAN_SUFFIXES, fixed_batch
    from autoformer.profiling.insides.layers import LayerProfile
    from autoformer.profiling.insides.onnxruntime_layers import layers_of_onnx, read_scopes

    for path in (out, export_profile):
        if path is not None:
            refuse_existing_file(path)
    if artefact.suffix not in PLAN_SUFFIXES:
        refuse_without_effect("except on an engine", graph=graph)
    if artefact.suffix != ".json":
        refuse_without_effect("except on a JSON file of trtexec", scopes=scopes)
    if artefact.suffix == ".json":
        refuse_without_effect("on times that were measured already", batch=batch, threads=threads, runs=runs)
        found = LayerProfile.load(artefact, {} if scopes is None else read_scopes(scopes))
    elif artefact.suffix == ".onnx":
        batch = batch or fixed_batch(str(artefact)) or 1
        found = layers_of_onnx(artefact, batch=batch, threads=threads or 1, runs=runs or RUNS)
    elif artefact.suffix in PLAN_SUFFIXES:
        from autoformer.profiling.insides.tensorrt_layers import layers_of_engine

        refuse_without_effect("on an engine, which runs on the GPU", threads=threads)
        found = layers_of_engine(artefact, graph=graph, batch=batch or 1, runs=runs or RUNS)
    else:
        raise MeasurementError(
            f"{artefact} is not an .onnx file, an engine ({', '.join(PLAN_SUFFIXES)}) or a .json file of layers"
        )
    if out is not None:
        write_json(found.to_dict(), out)
    if export_profile is not None:
        write_json(found.to_trtexec(), export_profile)
    if json:
        print_json(found.to_dict())
        return
    for what in ("kind", "block"):
        rows = [(name, f"{100 * ms / found.sum_ms:.1f} %", f"{ms:.4f}") for name, ms in found.by(what).items()]
        print_table(f"{found.name} on {found.backend}, by {what}", (what, "share", "ms under the profiler"), rows)
    slowest = sorted(found.layers, key=lambda layer: -layer.average_ms)[:10]
    shown = [(layer.name, layer.operator, layer.scope or "unknown", f"{layer.average_ms:.4f}") for layer in slowest]
    print_table("slowest layers", ("layer", "operator", "torch module", "ms under the profiler"), shown)
    whole = ""
    if found.end_to_end_ms is not None and found.ratio is not None:
        whole = f", {found.ratio:.2f} times the {found.end_to_end_ms:.4f} ms of a run without it"
    known = f"torch modules are known for {100 * found.joined:.0f} % of it"
    note(f"the layers take {found.sum_ms:.4f} ms under the profiler{whole}; {known}")
