"""What pages are made of: a headline, and sections of sentences, tables and figures. The page's writer is `page`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoformer import __version__
from autoformer.profiling.reports.plots import Figure

# Words that a page may colour.
TONES = {
    "within budget": "good", "exported": "good", "VALID": "good",
    "over budget": "bad", "rejected": "bad", "INVALID": "bad",
    "inconclusive": "open", "skipped": "open", "UNSTABLE": "open", "not measured": "open", "not asked for": "open",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. `numbers` are the columns that stand to the right; `note` is a sentence below.

    On a phone the rows of a table with many columns are taken apart, except where its cells are so short that it is `compact`.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()
    note: str = ""
    compact: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report. `figures` are names of figures of the page; those that it lacks are left out."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[str, ...] = ()
    figures_first: bool = False  # on a page, before the tables
    code: str = ""  # shown as it is, folded away on a page when it is long
    code_title: str = ""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What stands first: title, one sentence, four numbers, verdicts as (word, tone)."""

    title: str
    sentence: str
    numbers: tuple[tuple[str, str, str], ...]  # name, value, what it means
    verdicts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page, and the same as JSON values for programs."""

    headline: Headline
    sections: tuple[Section, ...]
    figures: tuple[Figure, ...]
    values: Mapping[str, Any]
    version: str = __version__  # that wrote what the page is about
