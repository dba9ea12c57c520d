"""`autoformer inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Json


def inspect(
    engines: Annotated[Path, typer.Argument(help="A .plan file, or the folder of an export or of a bundle's engines.")],
    twin: Annotated[
        bool, typer.Option("--twin", help="Build each engine once more with every layer described, and look into that one.")
    ] = False,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs that each layer's time is the median of.")] = 50,
    top: Annotated[int, typer.Option("--top", min=1, help="Layers shown, the slowest first; all with --json.")] = 15,
    json: Json = False,
) -> None:
    """Show what TensorRT made of a network: is attention fused, do int8 layers run in int8, where does the time go.

    Example: autoformer inspect runs/export --twin
    """
    from autoformer.cli.console import note, print_json, print_table
    from autoformer.profiling.insides.engine_insides import look_inside, plans_of

    found = [look_inside(plan, artefact, graph, twin=twin, runs=runs) for plan, artefact, graph in plans_of(engines)]
    if json:
        print_json([one.to_dict() for one in found])
        return
    for one in found:
        layers = one.layers
        answers = [
            ("layers", f"{len(layers.layers)}, {sum(layer.is_opaque for layer in layers.layers)} of them opaque"),
            ("attention in one kernel", f"{layers.attention}; {len(layers.attention_kernels)} attention kernels"),
            ("layer normalisation fused", str(layers.layer_norm)),
            ("int8 products that run in int8", str(layers.int8)),
            ("layers that only move values", str(len(layers.reformats))),
        ]
        which = "a twin, described in full" if one.is_twin else "as it is; --twin tells more"
        print_table(f"{one.plan} ({one.precision}, {which})", ("question", "answer"), answers)
        slowest = sorted(one.times, key=lambda time: -time.median_ms)[:top]
        rows = [(t.name[:60], ", ".join(t.modules)[:60], f"{t.median_ms:.4g} ms", f"{100 * t.share:.1f} %") for t in slowest]
        print_table(f"slowest layers, batch {one.batch}", ("layer", "torch modules", "median", "share"), rows)
    note("layers are timed one by one, which costs time: their sum is not the latency")
