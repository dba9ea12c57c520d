"""What pages are made of: a headline, and sections of sentences, tables and figures. The page's writer is `page`.

Figures are plotly's in plain JSON (`data` and `layout`); colours of text and grid are the page's. Whatever comes from files goes
through `plain`: plotly reads its texts as a small HTML.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.escaping import visible

# Words that a page may colour.
TONES = {
    "within budget": "good", "exported": "good", "VALID": "good", "ship this": "good",
    "over budget": "bad", "rejected": "bad", "INVALID": "bad", "less accurate": "bad",
    "inconclusive": "open", "UNSTABLE": "open", "not measured": "open", "not tested": "open",
    # nothing to worry about
    "not installed": "plain", "not asked for": "plain", "slower": "plain", "as fast, less exact": "plain",
    "built for this GPU": "plain",
}  # fmt: skip
# Readable on white and on near-black, and different for people who see red and green alike (after Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE, OLIVE, GREY = "#3f8fd2", "#e07b1a", "#12936f", "#b5669f", "#9a8700", "#8b919a"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, OLIVE, GREY)
SYMBOLS = ("circle", "diamond", "square", "cross", "triangle-up", "x")

Plot = dict[str, Any]  # {"data": [...], "layout": {...}}


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
class Picture:
    """A small image, as an address that holds it (data:), with words below."""

    address: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure, or several views of it to switch between, by the word on the switch; `switch` says what it changes."""

    name: str
    title: str
    caption: str
    views: dict[str, Plot]
    switch: str = ""

    def to_dict(self) -> dict[str, Any]:
        """What the page's script draws."""
        views = [{"word": word, "plot": plot} for word, plot in self.views.items()]
        return {"name": self.name, "switch": self.switch, "views": views}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report. `figures` are names of figures of the page; those that it lacks are left out."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[str, ...] = ()
    figures_first: bool = False  # on a page, before the tables
    pictures: tuple[Picture, ...] = ()
    code: str = ""  # shown as it is, folded away on a page when it is long
    code_title: str = ""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What stands first: title, the answer in a sentence, four numbers, verdicts as (word, tone), a table, and more sentences."""

    title: str
    answer: str = ""
    numbers: tuple[tuple[str, str, str], ...]  # name, value, what it means
    verdicts: tuple[tuple[str, str], ...]
    table: Table | None = None
    reasons: tuple[str, ...] = ()  # of the answer
    sentence: str  # what else is to be said at once


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page, and the same as JSON values for programs."""

    headline: Headline
    sections: tuple[Section, ...]
    figures: tuple[Figure, ...]
    values: Mapping[str, Any]
    version: str = __version__  # that wrote what the page is about


# --- figures -------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """`text` as plotly shows it letter by letter."""
    return html.escape(visible(text), quote=False).replace("%{", "&#37;{")  # which would be filled in


def words(architecture: Architecture) -> str:
    """An architecture in the short lines of a hover label."""
    heads = ", ".join(map(str, architecture.num_heads))
    ratios = ", ".join(f"{ratio:g}" for ratio in architecture.mlp_ratio)
    size = "" if architecture.image_size is None else f", image {architecture.image_size} px"
    lines = f"width {architecture.embed_dim}, depth {architecture.depth}{size}<br>heads {heads}<br>MLP ratios {ratios}"
    return "<br>".join((lines, *architecture.asked_for))


def error_bars(spans: Sequence[tuple[float, float, float]], colour: str) -> Plot:
    """Bars over intervals, each given as its lower end, the value and its upper end."""
    up, down = [high - value for _, value, high in spans], [value - low for low, value, _ in spans]
    return {"type": "data", "symmetric": False, "thickness": 1.5, "color": colour, "array": up, "arrayminus": down}


def one_view(name: str, title: str, caption: str, traces: Sequence[Plot], layout: Plot) -> Figure:
    """A figure without a switch."""
    return Figure(name=name, title=title, caption=caption, views={"": {"data": list(traces), "layout": layout}})


def common_layout(x: str, y: str, **more: Any) -> Plot:
    """The common look: no background of its own, legend above, axis titles."""
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 60, "r": 16, "t": 24, "b": 52},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "showlegend": True,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        **more,
    }
