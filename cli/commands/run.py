"""`autoformer run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.chain.helpers import processes
from autoformer.cli.options import Data, GroupBy, Json, Metric, Quiet, Set, Unlabelled


def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML file that says everything about the run.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; default runs/NAME.")] = None,
    data: Data = None,
    group_by: GroupBy = None,
    unlabelled: Unlabelled = None,
    metric: Metric = None,
    settings: Set = None,
    workers: Annotated[
        str,
        typer.Option("--workers", help="Processes that share search and race on this machine; auto: one per GPU. Same result."),
    ] = "1",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole chain: train, search, race (or extract and finetune), export, verify, measure, report.

    Run it again after an interruption and it goes on where it stopped. --workers may differ then.

    Examples:

      autoformer run recipes/quickstart.yaml

      autoformer run recipes/quickstart.yaml --data photos/ --out runs/photos --set train.epochs=50
    """
    from autoformer.cli.chain.chain import run_recipe
    from autoformer.cli.chain.recipe import load_recipe
    from autoformer.cli.console import note, print_json, progress_bar, say
    from autoformer.profiling.reports.run_page import summary_lines

    processes(workers)  # a mistake in it should not end the run after its training
    given = {
        "data.source": data, "data.group_by": group_by, "data.unlabelled": unlabelled, "metric": metric and metric.value
    }  # fmt: skip
    chosen = load_recipe(recipe, settings or [], given)
    folder = out or Path("runs") / (recipe.stem if data is None else f"{recipe.stem}-{Path(data).name}")
    with progress_bar(quiet) as progress:
        report = run_recipe(chosen, folder, progress, workers, (lambda line: None) if quiet else note)
    if json:
        print_json(report)
        return
    for line in summary_lines(report):
        say(line)
    note(f"report: {folder / 'report.html'}")
