"""`autoformer profile run`, `table` and (in its own file) `kit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoformer.cli.kit import kit
from autoformer.cli.options import AnyBatch, Json, Quiet, Threads

if TYPE_CHECKING:
    from autoformer.space import SearchSpace

app = typer.Typer(help="Measure latency.", no_args_is_help=True, rich_markup_mode=None)
app.command()(kit)


@app.command()
def run(
    artefacts: Annotated[
        list[str], typer.Argument(help="ONNX files, engines, folders of networks or exports, timm:NAME[@FILE].")
    ],
    batch: AnyBatch = None,
    threads: Threads = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="Measuring time per artefact.")] = 3.0,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for all samples.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure artefacts in turns on everything this machine can run them on.

    Example: autoformer profile run runs/quickstart/export --threads 1
    """
    from autoformer.checkpoint import refuse_existing_file
    from autoformer.cli.console import note, print_json, print_table, progress_bar
    from autoformer.profiling.latency import profile_artefacts
    from autoformer.profiling.measure import MeasureConfig

    if out is not None:
        refuse_existing_file(out)
    config = MeasureConfig(min_s=seconds, max_s=4 * seconds)
    with progress_bar(quiet) as progress:
        profile = profile_artefacts(artefacts, config=config, batch=batch, threads=threads, out=out, progress=progress)
    if json:
        print_json(profile.to_dict())
        return
    rows = []
    for measured in profile.measurements:
        stats = measured.stats
        shown = [f"{value:.3f}" if value is not None else "too few runs" for value in (stats.p50_ms, stats.p90_ms, stats.p99_ms)]
        rows.append((measured.name, measured.precision, *shown, f"{profile.ratio(measured):.3f}", str(measured.verdict)))
    columns = ("artefact", "precision", "p50 ms", "p90 ms", "p99 ms", "p50 / reference", "verdict")
    print_table(f"latency of one call, batch {profile.measurements[0].batch}, {threads} threads", columns, rows)
    for missing in profile.not_measured:
        note(f"not measured: {missing.name} on {missing.backend}: {missing.reason}")


@app.command()
def table(
    out: Annotated[Path, typer.Option("--out", help="JSON file to write.")],
    supernet: Annotated[Path | None, typer.Option("--supernet", help="Folder of the supernet that will be searched.")] = None,
    space: Annotated[str | None, typer.Option("--space", help="Or a preset like tiny, or a YAML file.")] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", help="Pixels; with --space.")] = None,
    result: Annotated[
        Path | None,
        typer.Option("--from", help="result.json that a kit's board.pyz wrote on another device; nothing is measured."),
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="With --from: which, where it holds several.")] = None,
    backend: Annotated[str, typer.Option("--backend", help="onnxruntime-cpu, onnxruntime-cuda, torch-cpu.")] = "onnxruntime-cpu",
    networks: Annotated[int, typer.Option("--networks", min=4, help="Networks to measure.")] = 8,
    batch: AnyBatch = None,
    threads: Threads = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a few networks of a space here and fit a table that a search can use as its latency.

    Example: autoformer profile table --supernet runs/super --out laptop.json

    What a kit measured on another device: autoformer profile table --from result.json --out orin.json
    """
    from autoformer.checkpoint import refuse_existing_file
    from autoformer.cli.console import print_json, print_table, progress_bar
    from autoformer.profiling.table_measurement import measure_table

    refuse_existing_file(out)
    if result is not None:
        from autoformer.profiling.kit_result import KitResult
        from autoformer.profiling.kit_table import chosen_setting, table_of

        brought, asked = KitResult.load(result), None
        if supernet is not None or space is not None:
            asked = space_to_measure(supernet, space, image_size)
        found = table_of(brought, chosen_setting(brought, precision, batch), asked)
    else:
        measured = space_to_measure(supernet, space, image_size)
        with progress_bar(quiet) as progress:
            found = measure_table(measured, backend=backend, count=networks, batch=batch or 1, threads=threads, progress=progress)
    found.save(out)
    if json:
        print_json(found.to_dict())
        return
    rows = [
        (n.architecture.slug, f"{n.flops / 1e6:.2f} M", f"{n.measured_ms:.3f}", f"{n.left_out_ms:.3f}", n.verdict)
        for n in found.networks
    ]
    print_table(str(found), ("network", "FLOPs", "measured ms", "predicted left out ms", "verdict"), rows)


def space_to_measure(supernet: Path | None, space: str | None, image_size: int | None) -> SearchSpace:
    """The space that --supernet or --space names. Raises `ArchitectureError` unless exactly one does."""
    from autoformer.checkpoint import read_json
    from autoformer.cli.spaces import read_space
    from autoformer.errors import ArchitectureError
    from autoformer.space import SearchSpace

    if (supernet is None) == (space is None):
        raise ArchitectureError("say which space to measure: either --supernet FOLDER or --space NAME")
    if supernet is not None:
        return SearchSpace.from_dict(read_json(supernet / "supernet.json", "space")["space"])
    assert space is not None
    return read_space(space, image_size=image_size)
