"""`autoformer report build` and `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.help import Group
from autoformer.cli.options import Json

app = typer.Typer(cls=Group, help="Write reports.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Keeps `build` a subcommand."""


@app.command()
def build(
    sources: Annotated[list[Path], typer.Argument(help="A finished run; or several runs, exports, bundles, files of `profile`.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for a report of several; refused if it exists.")] = None,
    json: Json = False,
) -> None:
    """Write report.html, report.md and report.json: of one run into its own folder, or of several sources into --out.

    Examples:

      autoformer report build runs/quickstart

      autoformer report build runs/a runs/b laptop.json --out runs/report
    """
    from autoformer.cli.answer import print_run
    from autoformer.cli.console import note, print_json, say
    from autoformer.errors import CheckpointError, OutputExistsError
    from autoformer.files import refuse_unfinished
    from autoformer.profiling.reports.run_page import build_report

    run = sources[0]
    for source in sources:
        if not source.exists():
            raise CheckpointError(f"{source} does not exist; expected the folder of a run, or measurements to lay side by side")
        refuse_unfinished(source)
    if out is not None or len(sources) > 1 or not (run / "run.json").is_file():
        from autoformer.profiling.reports.joint_page import build_joint_report

        if out is None:
            raise OutputExistsError("a report of several sources needs a folder of its own; give --out FOLDER")
        if out.suffix in (".html", ".md", ".json"):
            raise OutputExistsError(f"a report is three files in a folder, got --out {out}; give --out {out.with_suffix('')}")
        joint = build_joint_report(sources, out)
        if json:
            print_json(joint)
        else:
            say(f"{len(joint['measurements'])} measurements, {len(joint['layers'])} profiles of layers")
            note(f"report: {out / 'report.html'}")
        return
    report = build_report(run)
    if json:
        print_json(report)
        return
    print_run(report, run)
    note(f"report: {run / 'report.html'}")


@app.command(name="import")
def import_results(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="What a device wrote: board.pyz bench or verify --out FILE, or a kit's result; or the manifest.json of "
            "engines that were built ahead of time."
        ),
    ],
    into: Annotated[
        Path | None, typer.Option("--into", help="Markdown file whose table of what ran where gets a row; it has marks for it.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder of the run that the bundle came from; its report shows the results.")
    ] = None,
    json: Json = False,
) -> None:
    """Import the results of a target device: into a table of what ran where, and into the report of the run.

    Examples:

      autoformer report import result.json --run runs/quickstart

      autoformer report import result.json --into README.md

      autoformer report import runs/export/manifest.json --into README.md
    """
    from dataclasses import asdict

    from autoformer.cli.console import note, print_json, print_table
    from autoformer.errors import DataError
    from autoformer.export.manifest import FORMAT as MANIFEST
    from autoformer.export.manifest import Manifest
    from autoformer.files import read_json, replacing
    from autoformer.profiling.kits import result as kit_result
    from autoformer.profiling.kits.board_results import (
        COLUMNS,
        BoardResult,
        add_rows,
        keep_with_run,
        read_markdown,
        rows_of_export,
        rows_of_kit,
    )
    from autoformer.profiling.reports.run_page import build_report

    expected = "what board.pyz verify, bench or measure wrote"
    formats = {path: read_json(path, "format", expected=expected)["format"] for path in results}
    kits = [path for path in results if formats[path] == kit_result.FORMAT]
    exports = [path for path in results if formats[path] == MANIFEST]
    if kits and run is not None:
        raise DataError(f"{kits[0]} is of a kit, which belongs to no run; its table: autoformer profile table --from {kits[0]}")
    if exports and run is not None:
        raise DataError(f"{exports[0]} is of engines that ran nowhere yet, which a run's report shows by itself; use --into FILE")
    loaded = [(path, BoardResult.load(path)) for path in results if path not in (*kits, *exports)]
    rows = [row for _, result in loaded for row in result.ran_on()]
    rows += [row for path in kits for row in rows_of_kit(kit_result.KitResult.load(path))]
    rows += [row for path in exports for row in rows_of_export(path, Manifest.read(path))]
    text = None if into is None else add_rows(read_markdown(into), rows)
    if run is not None:
        for path, result in loaded:
            keep_with_run(path, result, run)
        build_report(run)
        note(f"report: {run / 'report.html'}")
    if into is not None and text is not None:
        with replacing(into) as beside:
            beside.write_text(text, encoding="utf-8")
    if json:
        print_json([asdict(row) for row in rows])
    else:
        print_table("ran on", COLUMNS, [(row.runtime, row.device, row.what, row.date) for row in rows])
