"""`autoformer profile layers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Batch, Json, Threads


def layers(
    artefact: Annotated[Path, typer.Argument(help="An ONNX file, an engine, or a JSON file of trtexec --exportProfile.")],
    batch: Batch = 1,
    threads: Threads = 1,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Profiled runs.")] = 50,
    scopes: Annotated[
        Path | None, typer.Option("--scopes", help="The .scopes.json of the ONNX file that an engine was built from.")
    ] = None,
    graph: Annotated[Path | None, typer.Option("--graph", help="The ONNX file that an engine was built from.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write.")] = None,
    export_profile: Annotated[
        Path | None, typer.Option("--export-profile", help="JSON file to write in the form of trtexec --exportProfile.")
    ] = None,
    json: Json = False,
) -> None:
    """Show where the time goes: per layer, joined to torch modules, kinds and blocks.

    Example: autoformer profile layers runs/quickstart/export/model.fp32.onnx
    """
    from autoformer.checkpoint import refuse_existing_file, write_json
    from autoformer.cli.console import note, print_json, print_table
    from autoformer.errors import MeasurementError
    from autoformer.profiling.artefact_backends import PLAN_SUFFIXES
    from autoformer.profiling.layers import LayerProfile
    from autoformer.profiling.onnxruntime_layers import layers_of_onnx, read_scopes

    for path in (out, export_profile):
        if path is not None:
            refuse_existing_file(path)
    if graph is not None and artefact.suffix not in PLAN_SUFFIXES:
        raise MeasurementError("--graph has no effect but on an engine; leave it out")
    if scopes is not None and artefact.suffix != ".json":
        raise MeasurementError("--scopes has no effect but on a JSON file of trtexec; leave it out")
    if artefact.suffix == ".json":
        found = LayerProfile.load(artefact, {} if scopes is None else read_scopes(scopes))
    elif artefact.suffix == ".onnx":
        found = layers_of_onnx(artefact, batch=batch, threads=threads, runs=runs)
    elif artefact.suffix in PLAN_SUFFIXES:
        from autoformer.profiling.tensorrt_layers import layers_of_engine

        found = layers_of_engine(artefact, graph=graph, batch=batch, runs=runs)
    else:
        raise MeasurementError(f"{artefact} is no .onnx file, no engine ({', '.join(PLAN_SUFFIXES)}) and no .json file of layers")
    if out is not None:
        write_json(found.to_dict(), out)
    if export_profile is not None:
        write_json(found.to_trtexec(), export_profile)
    if json:
        print_json(found.to_dict())
        return
    for what in ("kind", "block"):
        rows = [(name, f"{ms:.4f}", f"{100 * ms / found.sum_ms:.1f} %") for name, ms in found.by(what).items()]
        print_table(f"{found.name} on {found.backend}, by {what}", (what, "ms a run", "share"), rows)
    dearest = sorted(found.layers, key=lambda layer: -layer.average_ms)[:10]
    shown = [(layer.name, layer.operator, layer.scope or "unknown", f"{layer.average_ms:.4f}") for layer in dearest]
    print_table("the dearest layers", ("layer", "operator", "torch module", "ms a run"), shown)
    whole = "" if found.end_to_end_ms is None else f"; a run without the profiler {found.end_to_end_ms:.4f} ms"
    ratio = "" if found.ratio is None else f", ratio {found.ratio:.3f}"
    note(f"sum of the layers {found.sum_ms:.4f} ms{whole}{ratio}; {100 * found.joined:.0f} % of it joined to torch modules")
