"""The answer of a finished run for a terminal: what was found, its files in one table, which of them to ship, what to type."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def print_run(report: Mapping[str, Any], folder: Path) -> None:
    """From the content of `report.json` in the folder of a run.

    Raises `CheckpointError` for a report of another format, and for one that was edited or damaged.
    """
    from autoformer.cli.console import print_table, say
    from autoformer.files import believing
    from autoformer.profiling.reports.delivered import ship_reasons, ship_table, waits_for_times
    from autoformer.profiling.reports.run_page import refuse_other_format, summary_lines

    refuse_other_format(report, folder)
    again = f"build it again, with `autoformer report build {shlex.quote(str(folder))}`"
    with believing(folder / "report.json", again):
        lines = summary_lines(report)
        if "ship" not in report:  # a run of an earlier version
            for line in (*lines, f"which file to ship is not in this report: {again}"):
                say(line)
            return
        table, reasons, ship = ship_table(report), ship_reasons(report), report["ship"]
        shipped = ship["sentence"] if ship["file"] is None else f"ship this one: {folder / ship['file']}"
        for line in lines:
            say(line)
        say()
        print_table(table.title, table.columns, table.rows)
        say(table.note)
        say()
        say(shipped)
        for reason in reasons:
            say(f"  {reason}")
    say("next:")
    for command, what in next_commands(folder, unsure=waits_for_times(report)).items():
        say(f"  {command}{what and f'    # {what}'}")


def next_commands(folder: Path, *, unsure: bool = False) -> dict[str, str]:
    """What to type after a run, with what it is for; `unsure`: where its times do not stand, first of all a new measurement."""
    here, there = shlex.quote(str(folder)), shlex.quote(str(_free(folder)))
    bundled = _bundled(folder)
    place = "in the bundle's folder" if bundled is None else f"in {shlex.quote(str(bundled))}, which is there already"
    bundling = {f"autoformer bundle {here} --out {there}": "the files with all that the device needs"}
    first = {"the same autoformer run with --measure-again": "on a quiet machine: its times decide which file to ship"}
    return {
        **(first if unsure else {}),
        **({} if bundled else bundling),
        "python3 board.pyz verify": f"{place}, on the device: answers, accuracy and limits there",
    }


def _bundled(folder: Path) -> Path | None:
    """A bundle beside the run that holds its files as they are now, and was made after its report, which says which to ship."""
    exported, report = folder / "export" / "manifest.json", folder / "report.json"
    if not exported.is_file():
        return None
    since = report.stat().st_mtime if report.is_file() else 0.0
    beside = sorted(folder.parent.glob(f"{glob.escape(folder.name)}-bundle*/manifest.json"))
    same = (path for path in beside if path.read_bytes() == exported.read_bytes() and path.stat().st_mtime >= since)
    return next((path.parent for path in same), None)


def _free(folder: Path) -> Path:
    """Where a bundle of the run can be written: one that is there already stays, as it may have been delivered."""
    names = (f"{folder.name}-bundle{number}" for number in ("", *(f"-{count}" for count in range(2, 1000))))
    return next(path for name in names if not (path := folder.parent / name).exists())
