"""`autoformer inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Json


def inspect(
    engines: Annotated[Path, typer.Argument(help="A .plan file, or the folder of an export or of a bundle's engines.")],
    twin: Annotated[
        bool, typer.Option("--twin", help="Build each engine again with every layer described, and inspect that one.")
    ] = False,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs; a layer's time is the median over them.")] = 50,
    top: Annotated[int, typer.Option("--top", min=1, help="Slowest layers to show; --json has all.")] = 15,
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
        which = "a twin, described in full" if one.is_twin else "as it is; --twin shows more"
        print_table(f"{one.plan} ({one.precision}, {which})", ("question", "answer"), list(one.facts().items()))
        rows = [
            (time.name[:60], ", ".join(time.modules)[:60], f"{time.median_ms:.4g} ms", f"{100 * time.share:.1f} %")
            for time in one.slowest(top)
        ]
        print_table(f"slowest layers, batch {one.batch}", ("layer", "torch modules", "median", "share"), rows)
    note("timing each layer adds time: the sum of the layers is not the latency")
