"""`autoformer inspect` and `autoformer refit`: the two commands about TensorRT engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Classes, Data, Json, Out, Quiet


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
    from autoformer.profiling.insides.built_elsewhere import look_inside_any
    from autoformer.profiling.insides.engine_insides import plans_of

    found = [look_inside_any(plan, artefact, graph, twin=twin, runs=runs) for plan, artefact, graph in plans_of(engines)]
    if json:
        print_json([one.to_dict() for one in found])
        return
    for one in found:
        which = "a twin, described in full" if one.is_twin else "as it is; --twin shows more"
        print_table(f"{one.plan} ({one.precision}, {which})", ("question", "answer"), list(one.facts().items()))
        if not one.times:
            note(f"{one.plan.name} was built for GPUs that are not here, so its layers were not timed")
            continue
        rows = [
            (time.name[:60], ", ".join(time.modules)[:60], f"{time.median_ms:.4g} ms", f"{100 * time.share:.1f} %")
            for time in one.slowest(top)
        ]
        print_table(f"slowest layers, batch {one.batch}", ("layer", "torch modules", "median", "share"), rows)
    if any(one.times for one in found):
        note("timing each layer adds time: the sum of the layers is not the latency")


def refit(
    engines: Annotated[Path, typer.Argument(help="Export folder whose engines were built with --refittable.")],
    network: Annotated[str, typer.Option("--network", help="Folder of a finetuned network of the same architecture.")],
    out: Out,
    data: Data = None,
    classes: Classes = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time each engine in turn with one that is built without --refittable.")
    ] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put the weights of a finetuned network into engines of its architecture, in seconds instead of a build.

    The network is exported with the settings of the folder. Every engine is compared with it before it counts.

    Example: autoformer refit runs/export --network runs/finetuned --out runs/refitted
    """
    from autoformer.cli.console import print_json, print_table, progress_bar
    from autoformer.cli.networks import judged_part, network_and_images
    from autoformer.evaluate import EvaluationSet
    from autoformer.export.artefacts import ExportSource
    from autoformer.export.manifest import Manifest
    from autoformer.files import refuse_existing
    from autoformer.profiling.profiles.refitting import refit_folder

    refuse_existing(out)
    manifest = Manifest.load(engines)
    named, parts = network_and_images(network, data, classes)
    images = EvaluationSet.of(judged_part(parts.search, manifest.preprocessing), manifest.preprocessing)
    with progress_bar(quiet) as progress:
        given = ExportSource.of(images, parts.classes, parts.record)
        refitted, latency = refit_folder(engines, named.network, out, given, timed=measure, progress=progress)
    if json:
        print_json({"manifest": refitted.to_dict(), "latency": latency})
        return
    rows = [
        (f"{a.format} {a.precision}", a.status, a.file or "", a.reason, _latency(latency.get(a.precision)))
        for a in refitted.artefacts
        if a.is_engine
    ]
    print_table(f"refitted to {out}", ("artefact", "status", "file", "why", "p50 refitted, built without --refittable"), rows)


def _latency(found: dict[str, float] | None) -> str:
    return "" if found is None else f"{found['refitted']:.3g} ms, {found['fixed']:.3g} ms"
