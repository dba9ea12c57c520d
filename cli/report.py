"""`autoformer report build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Json

app = typer.Typer(help="Write reports.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Keeps `build` a subcommand."""


@app.command()
def build(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    json: Json = False,
) -> None:
    """Write report.html, report.md and report.json of a run again from what its folder holds.

    Example: autoformer report build runs/quickstart
    """
    from autoformer.cli.console import note, print_json
    from autoformer.profiling.report import build_report, summary_lines

    report = build_report(run)
    if json:
        print_json(report)
        return
    for line in summary_lines(report):
        print(line)
    note(f"report: {run / 'report.html'}")
