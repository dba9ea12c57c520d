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
    sources: Annotated[list[Path], typer.Argument(help="A finished run; or several runs, exports, bundles, files of `profile`.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for a report of several; refused if it exists.")] = None,
    json: Json = False,
) -> None:
    """Write report.html, report.md and report.json: of one run into its own folder, or of several sources into --out.

    Examples:

      autoformer report build runs/quickstart

      autoformer report build runs/a runs/b laptop.json --out runs/report
    """
    from autoformer.cli.console import note, print_json
    from autoformer.errors import OutputExistsError
    from autoformer.profiling.report import build_report, summary_lines

    run = sources[0]
    if out is not None or len(sources) > 1 or not (run / "run.json").is_file():
        from autoformer.profiling.joint_pages import build_joint_report

        if out is None:
            raise OutputExistsError("a report of several sources needs a folder of its own; give --out FOLDER")
        joint = build_joint_report(sources, out)
        if json:
            print_json(joint)
        else:
            print(f"{len(joint['measurements'])} measurements, {len(joint['layers'])} profiles of layers")
            note(f"report: {out / 'report.html'}")
        return
    report = build_report(run)
    if json:
        print_json(report)
        return
    for line in summary_lines(report):
        print(line)
    note(f"report: {run / 'report.html'}")
