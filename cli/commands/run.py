"""`autoformer run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoformer.cli.chain.helpers import check_workers
from autoformer.cli.options import (
    Data,
    GroupBy,
    Json,
    LatencyTable,
    Log,
    MaxFlops,
    MaxLatency,
    MaxParams,
    Metric,
    Quiet,
    Seed,
    Set,
    Unlabelled,
)

if TYPE_CHECKING:
    from autoformer.cli.chain.recipe import Recipe


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A name (autoformer recipe list) or a YAML file. Default: the one that suits the images of --data."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; default runs/RECIPE-DATA.")] = None,
    data: Data = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Weights to start from: timm:NAME[@FILE], official:FILE, or the folder of a supernet or network."
        ),
    ] = None,
    max_params: MaxParams = None,
    max_flops: MaxFlops = None,
    max_latency: MaxLatency = None,
    latency_table: LatencyTable = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Of the supernet; the other trainings keep their share of it.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="cpu|cuda|cuda:N", help="What trains. Default: a GPU where there is one.")
    ] = None,
    group_by: GroupBy = None,
    unlabelled: Unlabelled = None,
    metric: Metric = None,
    seed: Seed = None,
    settings: Set = None,
    workers: Annotated[
        str,
        typer.Option(
            "--workers",
            help="Processes that share search and race on this machine, with the same result. auto: one per GPU; without one, "
            "those that the recipe's threads leave cores for share the race.",
        ),
    ] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what each step would take here, measured; train and write nothing.")
    ] = False,
    measure_again: Annotated[
        bool, typer.Option("--measure-again", help="Time the files of a finished run anew, as on a machine that is quiet by now.")
    ] = False,
    log: Log = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole chain: train, search, race (or extract and finetune), export, verify, measure, report.

    Run it again after an interruption and it goes on where it stopped. --workers may differ then.

    Examples:

      autoformer run quickstart

      autoformer run --data photos/ --max-latency 5ms

      autoformer run --data photos/ --from timm:deit_small_patch16_224 --max-latency 60% --dry-run

      autoformer run cifar --data torch/cifar10@FOLDER --out runs/cifar --set train.epochs=50
    """
    from autoformer.cli.device import choose_device

    if device is not None:
        choose_device(device)  # before torch looks for GPUs
    from autoformer.cli.chain.asked import Asked, resolved
    from autoformer.cli.console import note, print_json, progress_bar
    from autoformer.files import IDENTITY, refuse_existing
    from autoformer.training.trackers import trackers_of

    check_workers(workers)  # a mistake in it should not end the run after its training
    if out is not None and not dry_run and not (out / IDENTITY).is_file():
        refuse_existing(out)  # before any image is read
    trackers_of(log or ())
    chosen = resolved(
        Asked(
            recipe=recipe, data=data, out=out, group_by=group_by, start=start, epochs=epochs, settings=settings or [],
            limits={"max_params": max_params, "max_flops": max_flops, "max_latency": max_latency},
            others={
                "data.unlabelled": unlabelled, "metric": metric and metric.value, "seed": seed,
                "profile.table": latency_table and str(latency_table),
            },
        ),
        (lambda line: None) if quiet else note,
    )  # fmt: skip
    if not quiet:
        for line in chosen.lines:
            note(line)
    if dry_run:
        _show_price(chosen.recipe, chosen.out, json, quiet)
        return
    from autoformer.cli.answer import print_run
    from autoformer.cli.chain.chain import run_recipe

    with progress_bar(quiet) as progress:
        say = (lambda line: None) if quiet else note
        report = run_recipe(chosen.recipe, chosen.out, progress, workers, say, log or (), measure_again)
    if json:
        print_json(report)
        return
    print_run(report, chosen.out)
    note(f"report: {chosen.out / 'report.html'}")


def _show_price(recipe: Recipe, out: Path, json: bool, quiet: bool) -> None:
    from autoformer.cli.chain.chain import planned
    from autoformer.cli.chain.price import OtherPrograms, price_of, shorter_line, total_s
    from autoformer.cli.console import note, print_json, print_table, progress_bar
    from autoformer.profiling.reports.wording import duration

    with progress_bar(quiet) as progress:
        plan = planned(recipe, out, progress, (lambda line: None) if quiet else note)
        others = OtherPrograms()
        prices = price_of(plan, out, progress)
        busy = others.cores()
    if json:
        print_json({"steps": [price.to_dict() for price in prices], "seconds": total_s(prices), "other_cores": busy})
        return
    rows = [(price.step, duration(price.seconds), price.measured) for price in prices]
    title = f"{out}: nothing written; on this machine, as busy as it is now, about"
    print_table(title, ("step", "time", "measured"), [*rows, ("all steps", duration(total_s(prices)), "")])
    for line in filter(None, (others.line(busy), shorter_line(prices, plan.recipe.train.epochs))):
        note(line)
