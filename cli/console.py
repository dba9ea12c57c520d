"""What a person sees: tables and lines on stdout, progress and messages on stderr; a program gets JSON on stdout.

Every text of a command leaves through here, so that nothing from files can repaint a terminal: what does not show is escaped.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from autoformer.cli.progress_display import bars, lines
from autoformer.errors import AutoformerWarning
from autoformer.escaping import json_text, one_line, visible
from autoformer.progress import Progress, silent

LONGEST = 600  # letters of a warning
Cell = str | Sequence[str]  # a text, or several, each on a line of its own


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json_text(value, sort_keys=True))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table on stdout; wide columns wrap instead of being cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(title)), title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(Text(visible(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text("\n".join(map(visible, [cell] if isinstance(cell, str) else cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Name and value, a line each."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(visible(name)), Text(visible(str(value))))
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(Text(visible(title)), style="bold")
    console.print(table)


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
