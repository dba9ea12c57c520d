"""`autoformer refit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Classes, Data, Json, Out, Quiet


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
    from autoformer.profiling.profiles.refitting import refit_folder

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
        if a.format == "tensorrt"
    ]
    print_table(f"refitted to {out}", ("artefact", "status", "file", "why", "p50 refitted, built without --refittable"), rows)


def _latency(found: dict[str, float] | None) -> str:
    return "" if found is None else f"{found['refitted']:.3g} ms, {found['fixed']:.3g} ms"
