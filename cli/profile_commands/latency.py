"""`autoformer profile run` and `table`; `kit`, `layers`, `counts` and `compare` have files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.help import Group
from autoformer.cli.options import AnyBatch, AnyThreads, Json, LockClocks, Quiet, Threads
from autoformer.cli.profile_commands import counts, layers, regression
from autoformer.cli.profile_commands.kit import kit
from autoformer.cli.words import count_of, space_to_measure

app = typer.Typer(cls=Group, help="Measure latency.", no_args_is_help=True, rich_markup_mode=None)
app.command()(layers.layers)
app.command()(counts.counts)
app.command()(regression.compare)
app.command()(kit)
NOT_VALID = 1  # exit code of --strict


@app.command()
def run(
    artefacts: Annotated[
        list[str], typer.Argument(help="ONNX files, engines, folders of networks or exports, timm:NAME[@FILE].")
    ],
    batch: AnyBatch = None,
    threads: Threads = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="Measuring time per artefact.")] = 3.0,
    batches: Annotated[str | None, typer.Option("--batches", help="Several batches: 1,2,4,8.")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Batches 1, 2, 4, … while the throughput grows by 5 %.")] = False,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", help="Run on this one alone; repeatable. torch-compiled-cpu, onnxruntime-tensorrt and more."),
    ] = None,
    spinning: Annotated[bool, typer.Option("--spinning", help="Let ONNX Runtime's threads burn a core while they wait.")] = False,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="Loading, first run, run after 10 s of rest and memory, in fresh processes.")
    ] = False,
    energy: Annotated[bool, typer.Option("--energy", help="Power and joule per call, where a sensor tells it.")] = False,
    lock_clocks: LockClocks = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 unless everything is VALID, with locked clocks on GPUs.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for all samples.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure artefacts in turns on everything this machine can run them on.

    Example: autoformer profile run runs/quickstart/export --threads 1
    """
    from dataclasses import replace

    from autoformer.architecture import whole_number
    from autoformer.cli.console import note, print_json, progress_bar
    from autoformer.cli.profile_commands.measurement_tables import doubtful, show_profile, show_sweep
    from autoformer.errors import MeasurementError, short
    from autoformer.files import refuse_existing_file
    from autoformer.profiling.measuring.backend import USUAL_BACKENDS
    from autoformer.profiling.measuring.measure import MeasureConfig
    from autoformer.profiling.profiles.batch_sweep import BatchSweep, measure_batches
    from autoformer.profiling.profiles.latency import Profile, ProfileRequest, profile_artefacts

    several = batches is not None or sweep
    if (batch is not None) + (batches is not None) + sweep > 1:
        raise MeasurementError("--batch, --batches and --sweep each say which batches to measure; give one of them")
    sizes = None if batches is None else [whole_number(number.strip()) or 0 for number in batches.split(",")]
    if sizes is not None and 0 in sizes:
        raise MeasurementError(f"--batches {short(batches, 40)!r} is not a list of numbers from 1; write 1,2,4,8")
    if out is not None:
        refuse_existing_file(out)
    config = MeasureConfig.lasting(seconds)
    asked = ProfileRequest(
        batch=batch, threads=threads, spinning=spinning, backends=backend or USUAL_BACKENDS, cold_starts=cold_start,
        energy_s=seconds if energy else 0.0, lock_clocks=lock_clocks,
    )  # fmt: skip
    with progress_bar(quiet) as progress:

        def profiled(images: int | None, file: Path | None) -> Profile:
            request = replace(asked, batch=images)
            return profile_artefacts(artefacts, request, config=config, out=file, progress=progress)

        found = measure_batches(lambda images: profiled(images, None), sizes, out) if several else profiled(batch, out)
    if json:
        print_json(found.to_dict())
    elif isinstance(found, BatchSweep):
        show_sweep(found)
    else:
        show_profile(found, threads)
    if strict and (lines := doubtful(found.profiles if isinstance(found, BatchSweep) else [found])):
        note(f"not VALID: {'; '.join(lines)}")
        raise typer.Exit(NOT_VALID)


@app.command()
def table(
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")],
    supernet: Annotated[Path | None, typer.Option("--supernet", help="Folder of the supernet that will be searched.")] = None,
    space: Annotated[
        str | None, typer.Option("--space", help="Instead of a supernet: a preset like tiny, or a YAML file.")
    ] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", help="Pixels; with --space.")] = None,
    result: Annotated[
        Path | None,
        typer.Option("--from", help="result.json that a kit's board.pyz wrote on a target device; nothing is measured."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="With --from: the precision to take, if the file has several.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", help="onnxruntime-cpu (the default), torch-cpu, tensorrt, tensorrt-graph (CUDA graph)…"),
    ] = None,
    networks: Annotated[
        str | None,
        typer.Option(
            "--networks", help="How many to measure, 4 or more; auto (the default): 12, then more while that lowers the error."
        ),
    ] = None,
    batch: AnyBatch = None,
    threads: AnyThreads = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a few networks of a space here and fit a table that a search can use as its latency.

    Example: autoformer profile table --supernet runs/super --out laptop.json

    What a kit measured on a target device: autoformer profile table --from result.json --out orin.json
    """
    from shutil import rmtree

    from autoformer.cli.console import print_json, print_table, progress_bar
    from autoformer.cli.options import refuse_without_effect
    from autoformer.files import refuse_existing_file, sole_worker
    from autoformer.profiling.tables.measuring import TableConfig, measure_table

    refuse_existing_file(out)
    if result is not None:
        refuse_without_effect(
            "with --from, whose times were measured already", backend=backend, networks=networks, threads=threads
        )
        from autoformer.profiling.kits.result import KitResult
        from autoformer.profiling.kits.table import chosen_setting, table_of

        brought, asked = KitResult.load(result), None
        if supernet is not None or space is not None:
            asked = space_to_measure(supernet, space, image_size)
        found = table_of(brought, chosen_setting(brought, precision, batch), asked)
    else:
        measured = space_to_measure(supernet, space, image_size)
        how = TableConfig(
            backend=backend or "onnxruntime-cpu", precision=precision or "fp32", batch=batch or 1, threads=threads or 1,
            networks=count_of(networks or "auto"),
        )  # fmt: skip
        work = out.with_name(f"{out.name}.work")  # graphs and finished measurements, until the table is there
        work.mkdir(parents=True, exist_ok=True)
        with sole_worker(work), progress_bar(quiet) as progress:
            found = measure_table(measured, how, folder=work, progress=progress)
    found.save(out)
    if result is None:
        rmtree(work)
    if json:
        print_json(found.to_dict())
        return
    rows = [
        (n.architecture.slug, f"{n.flops / 1e6:.2f} M", f"{n.measured_ms:.3f}", f"{n.left_out_ms:.3f}", n.verdict)
        for n in found.networks
    ]
    print_table(str(found), ("network", "FLOPs", "measured ms", "predicted by the others ms", "verdict"), rows)
    kinds = []
    for kind, errors in found.compared.items():
        taus = ("none" if tau is None else f"{tau:.2f}" for tau in (errors.tau, errors.tau_near))
        wrong = (f"{100 * errors.mape:.2f} %", f"{100 * errors.worst:.2f} %")
        kinds.append((kind, "kept" if kind == found.kind else "", *wrong, *taus))
    columns = ("formula", "", "cross-validation error", "worst", "Kendall's tau", "tau, near pairs")
    print_table(f"formulas compared; {found.stopped}", columns, kinds)
