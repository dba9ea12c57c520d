"""The answer of a finished run for a terminal: what was found, its files in one table, which of them to ship, what to type."""

from __future__ import annotations

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
    from autoformer.profiling.reports.delivered import ship_reasons, ship_table
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
    for command, what in next_commands(folder).items():
        say(f"  {command}{what and f'    # {what}'}")


def next_commands(folder: Path) -> dict[str, str]:
    """What to type after a run, with what it is for."""
    here, there = shlex.quote(str(folder)), shlex.quote(f"{folder}-bundle")
    return {
        f"autoformer bundle {here} --out {there}": "the files with all that the device needs",
        "python3 board.pyz verify": "in the bundle's folder, on the device: answers, accuracy and limits there",
    }
