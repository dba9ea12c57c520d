"""What a person sees: tables and lines on stdout, progress and messages on stderr; a program gets JSON on stdout.

Every text of a command leaves through here, so that nothing from files can repaint a terminal: what does not show is escaped.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autoformer.cli.progress_display import bars, lines
from autoformer.errors import AutoformerWarning
from autoformer.escaping import json_text, one_line, visible
from autoformer.progress import Progress, silent

if TYPE_CHECKING:
    from rich.table import Table

    from autoformer.profiling.profiles.latency import NotMeasured

LONGEST = 600  # letters of a warning
UNBOUND = 1_000_000  # letters of a line that nothing bounds
Cell = str | Sequence[str]  # a text, or several, each on a line of its own


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json_text(value, sort_keys=True))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table on stdout; wide columns wrap instead of being cut."""
    from rich.table import Table
    from rich.text import Text

    shown = [["\n".join(map(visible, [cell] if isinstance(cell, str) else cell)) for cell in row] for row in (columns, *rows)]
    table = Table(show_edge=False, pad_edge=False)
    for name, width in zip(shown[0], _widths(shown, between=3), strict=True):
        table.add_column(Text(name), overflow="fold", width=width)
    for row in shown[1:]:
        table.add_row(*map(Text, row))
    _print(title, table)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Name and value, a line each."""
    from rich.table import Table
    from rich.text import Text

    shown = [[visible(name), visible(str(value))] for name, value in facts.items()]
    table = Table.grid(padding=(0, 2))
    for width, no_wrap in zip(_widths(shown, between=2), (True, False), strict=False):
        table.add_column(no_wrap=no_wrap, overflow="fold", width=width)
    for row in shown:
        table.add_row(*map(Text, row))
    _print(title, table)


def _widths(rows: Sequence[Sequence[str]], between: int) -> list[int]:
    """How wide the columns are: as their longest lines, or less where the lines have to fit a terminal, or into a pipe the
    letters that the variable COLUMNS says. No word is broken for that in a pipe, and on a terminal only where nothing else helps.
    """
    from rich.cells import cell_len

    columns = [[cell for row in rows for cell in row[place : place + 1]] for place in range(len(rows[0]) if rows else 0)]
    widths = [max(1, *(cell_len(line) for cell in column for line in cell.split("\n"))) for column in columns]
    least = [max((cell_len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    asked, on_terminal = os.environ.get("COLUMNS", ""), sys.stdout.isatty()
    letters = shutil.get_terminal_size().columns if on_terminal else int(asked) if asked.isdecimal() else UNBOUND
    room = letters - between * (len(widths) - 1)
    for floor in (least, [1] * len(widths)) if on_terminal else (least,):
        while sum(widths) > room and (wider := [place for place, width in enumerate(widths) if width > floor[place]]):
            widths[max(wider, key=widths.__getitem__)] -= 1
    return widths


def _print(title: str, table: Table) -> None:
    """On stdout; into a pipe without blanks at the ends of lines."""
    from rich.console import Console
    from rich.text import Text

    heading = Text(visible(title), style="bold")
    if sys.stdout.isatty():
        console = Console(highlight=False)
        console.print(heading)
        console.print(table)
        return
    console = Console(width=UNBOUND, highlight=False)
    with console.capture() as taken:
        console.print(heading)
        console.print(table)
    print("\n".join(line.rstrip() for line in taken.get().removesuffix("\n").split("\n")))


def say(text: str = "") -> None:
    """One line on stdout."""
    print(visible(text))


def note(text: str) -> None:
    """One line on stderr."""
    print(visible(text), file=sys.stderr, flush=True)


@contextmanager
def warnings_as_lines(quiet: bool) -> Iterator[None]:
    """Each warning is one line on stderr while the block runs; those of libraries, and what they log, not where `quiet`."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, AutoformerWarning) or not quiet:
            note(f"warning: {one_line(str(message))[:LONGEST]}")

    spoken = logging.lastResort  # where loggers write that nobody has set up
    with warnings.catch_warnings():
        warnings.showwarning = show
        if quiet:
            logging.lastResort = logging.NullHandler()
        try:
            yield
        finally:
            logging.lastResort = spoken


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """Bars on stderr, one per kind of work; plain lines now and then where stderr is not a terminal."""
    if quiet:
        yield silent
    elif not sys.stderr.isatty():
        yield lines(note)
    else:
        with bars() as report:
            yield report


def say_not_measured(missing: Iterable[NotMeasured]) -> None:
    """What could not be measured, a line for each reason."""
    by_reason: dict[str, list[NotMeasured]] = {}
    for item in dict.fromkeys(missing):
        by_reason.setdefault(item.reason, []).append(item)
    for reason, items in by_reason.items():
        names, backends = (
            ", ".join(dict.fromkeys(words)) for words in zip(*((one.name, one.backend) for one in items), strict=True)
        )
        note(f"not measured: {names} on {backends}: {reason}")
