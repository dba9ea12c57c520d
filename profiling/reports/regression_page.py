"""Two profiles of the same networks side by side: the table of `profile compare` for a terminal, and its page."""

from __future__ import annotations

from collections import Counter

from autoformer.profiling.profiles.regression import FASTER, SAME, SLOWER, Ratio, Regressions
from autoformer.profiling.reports.blocks import (
    BLUE,
    GREY,
    Figure,
    Headline,
    Page,
    Section,
    Table,
    common_layout,
    error_bars,
    one_view,
    plain,
)
from autoformer.profiling.reports.delivered import gaps_section

COLUMNS = ("artefact", "", "statistic", "A ms", "B ms", "B / A, 95 % interval", "verdict")
TONE_OF = {SLOWER: "bad", FASTER: "good", SAME: "good"}


def title(found: Regressions) -> str:
    """What is asked."""
    return f"B against A, at most {100 * found.permitted:g} % slower"


def table(found: Regressions) -> list[tuple[str, ...]]:
    """The rows of `COLUMNS` in words."""
    return [
        (
            one.name, f"{one.precision}, batch {one.batch}", one.statistic, f"{one.before_ms:.3f}", f"{one.after_ms:.3f}",
            f"{one.ratio:.3f}" + ("" if one.low is None else f" [{one.low:.3f}, {one.high:.3f}]"), f"{one.verdict}: {one.reason}",
        )
        for one in found.ratios
    ]  # fmt: skip


def regression_page(found: Regressions) -> Page:
    """The page of a comparison of two profiles, and its JSON."""
    counts = Counter(one.verdict for one in found.ratios)
    head = Headline(
        title="Two profiles side by side",
        sentence=title(found) + ".",
        numbers=(("ratios", str(len(found.ratios)), "of one statistic of one network, B over A"),),
        verdicts=tuple((f"{count} {verdict}", TONE_OF.get(verdict, "open")) for verdict, count in counts.items()),
    )
    text = (
        "On a CPU every time is first divided by that of the reference network of its own profile, unless other devices are "
        "compared. The interval of a ratio follows from the intervals of its times."
    )
    rows = Table(title="Ratios", columns=COLUMNS, rows=tuple(table(found)), numbers=(3, 4, 5))
    sections = [Section(name="ratios", title="B over A", text=(text,), tables=(rows,), figures=("ratios",), figures_first=True)]
    if alone := [("A", name) for name in found.only_before] + [("B", name) for name in found.only_after]:
        sections.append(gaps_section([(which, name, "it is in this profile alone") for which, name in alone]))
    return Page(headline=head, sections=tuple(sections), figures=(ratio_figure(found),), values=found.to_dict())


def ratio_figure(found: Regressions) -> Figure:
    """Every ratio with its interval, beside 1 and what is permitted."""
    ratios = found.ratios[::-1]  # the first stands on top
    points = {
        "type": "scatter", "mode": "markers", "name": "B / A", "marker": {"color": BLUE, "size": 9},
        "x": [one.ratio for one in ratios], "y": [_words(one) for one in ratios],
        "error_x": error_bars([(one.low or one.ratio, one.ratio, one.high or one.ratio) for one in ratios], BLUE),
        "text": [f"{one.ratio:.3f}<br>{plain(f'{one.verdict}: {one.reason}')}" for one in ratios],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip
    upright = {"type": "line", "yref": "paper", "y0": 0, "y1": 1}
    shapes = [
        {**upright, "x0": x, "x1": x, "line": {"dash": dash, "width": 1.5, "color": GREY}}
        for x, dash in ((1, "dot"), (1 + found.permitted, "dash"))
    ]
    layout = common_layout("B / A", "", shapes=shapes, showlegend=False)
    caption = "Bars are 95 % intervals. Dotted: as fast as before; dashed: what is permitted."
    return one_view("ratios", "Ratio of the times", caption, [points], layout)


def _words(one: Ratio) -> str:
    return plain(f"{one.name}, {one.backend}, {one.precision}, batch {one.batch}, {one.statistic}")
