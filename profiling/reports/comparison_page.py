"""Tables and pages of what lies side by side: networks, for `compare`, and two profiles of the same, for `profile compare`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from autoformer import __version__
from autoformer.cost import show
from autoformer.metric import WORDS
from autoformer.profiling.measuring.verdict import VALID
from autoformer.profiling.profiles.comparison import Comparison, Row
from autoformer.profiling.profiles.latency import NO_GPU
from autoformer.profiling.profiles.regression import FASTER, SAME, SLOWER, Ratio, Regressions
from autoformer.profiling.reports import page
from autoformer.profiling.reports.blocks import (
    BLUE,
    GREY,
    TONES,
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
from autoformer.profiling.reports.comparison_figure import NOTHING, comparison_figure, picture
from autoformer.profiling.reports.delivered import gaps_section, machine_table
from autoformer.profiling.reports.wording import capital, device_words, file_size, latency_text, score_text

COLUMNS = (
    "", "artefact", "score, 95 % interval", "against the first, points", "params", "FLOPs", "file", "backend",
    "p50, 95 % interval", "times the first", "verdict",
)  # fmt: skip
SUFFIXES = (*page.SUFFIXES, ".svg")
MOST_REASONS = 3  # of rows whose time is not to be relied upon
RATIO_COLUMNS = ("artefact", "", "statistic", "A ms", "B ms", "B / A, 95 % interval", "verdict")
TONE_OF = {SLOWER: "bad", FASTER: "good", SAME: "good"}


def table(comparison: Comparison) -> list[tuple[str, ...]]:
    """The rows of `COLUMNS` in words; a star marks those that no other beats in score and time."""
    sizes = len({row.image_size for row in comparison.rows} - {None}) > 1
    return [(f"{number}{' *' if row.pareto else ''}", *_cells(row, sizes)) for number, row in enumerate(comparison.rows, 1)]


def _cells(row: Row, sizes: bool) -> tuple[str, ...]:
    """A row; with `sizes` beside the name that of its images."""
    costs, taken = row.costs, row.measurement
    differs = "" if row.difference is None else f"{row.difference}{' tied' if row.difference.tied else ''}"
    return (
        row.name + (f", {row.image_size} px" if sizes and row.image_size else ""),
        "–" if row.score is None else str(row.score),
        differs,
        "–" if costs.params is None else show("params", costs.params),
        "–" if costs.flops is None else show("flops", costs.flops),
        "–" if costs.bytes is None else file_size(costs.bytes),
        "–" if taken is None else f"{taken.backend} {taken.precision}",
        "–" if taken is None else latency_text(taken.stats.to_dict()),
        "–" if row.ratio is None else f"{row.ratio:.3f}",
        "–" if taken is None else taken.verdict.level,
    )


def notes(comparison: Comparison) -> list[str]:
    """What the figures mean, in sentences."""
    said = []
    if comparison.images:
        said.append(f"Scores are {comparison.words}, with the preparation of images that each network wants.")
    if comparison.profile is not None:
        first = next(row.measurement for row in comparison.rows if row.measurement)
        conditions = first.measurement_conditions("p50")
        said.append(
            f"Times were measured in turns, in one session: {conditions}; other rows in their precision, on their backend. A "
            "network of torch is written to ONNX first, in fp32, and that file is scored and timed. The column “times the first” "
            "is filled where a time can be related to the first row's: on the same backend, in the same precision or of the same "
            "network."
        )
        unsteady = [row for row in comparison.rows if row.measurement and row.measurement.verdict.level != VALID]
        for row in unsteady[:MOST_REASONS]:
            assert row.measurement is not None
            said.append(f"{row.name} is {row.measurement.verdict.level}: {'; '.join(row.measurement.verdict.reasons)}.")
        if unsteady:
            said.append(
                "Measure those again on a quieter machine, or for longer (--seconds): by then they may be in another order."
            )
    said.append("* marks rows that no other on the same backend beats in score and median time at once.")
    return said


def comparison_page(comparison: Comparison) -> Page:
    """The page of a comparison, and its JSON."""
    figure, values = comparison_figure(comparison), comparison.to_dict()
    text = (*notes(comparison), *(() if figure else (f"No figure is drawn: {NOTHING}.",)))
    rows = tuple((f"{number}  {name}", *rest) for number, name, *rest in table(comparison))
    side_by_side = Table(title=capital(comparison.words), columns=COLUMNS[1:], rows=rows, numbers=(3, 4, 5, 7, 8, 9))
    sections = [
        Section(name="table", title="The table", text=text, tables=(side_by_side,), figures=("comparison",), figures_first=True)
    ]
    if comparison.missing:
        sections.append(gaps_section([(item.name, item.backend, item.reason) for item in comparison.missing]))
    if values["device"] is not None:
        machine = machine_table(values["device"], __version__)
        sections.append(Section(name="machine", title="Machine and versions", tables=(machine,)))
    drawn = () if figure is None else (figure,)
    return Page(headline=_headline(comparison), sections=tuple(sections), figures=drawn, values=values)


def _headline(comparison: Comparison) -> Headline:
    """How many networks, the best of them, and how far the times can be trusted."""
    rows = comparison.rows
    numbers = [("networks", str(len({row.name for row in rows})), comparison.words)]
    scored = [(row.score, row.name) for row in rows if row.score is not None]
    if scored:
        score, name = max(scored, key=lambda one: one[0].value)
        numbers.append((f"highest {WORDS[comparison.metric]}", score_text(score.to_dict()).split(" [")[0], name))
    timed = [(row.measurement, row.name) for row in rows if row.measurement is not None]
    if timed:
        taken, name = min(timed, key=lambda one: one[0].stats.p50_ms)
        numbers.append(("lowest latency", latency_text(taken.stats.to_dict()).split(" [")[0], f"{name}, {taken.backend}"))
    levels = Counter(taken.verdict.level for taken, _ in timed)
    verdicts = [(f"{count} {level}", TONES[level]) for level, count in levels.items()]
    absent = [item for item in comparison.missing if item.reason == NO_GPU]
    if missed := len(comparison.missing) - len(absent):
        verdicts.append((f"{missed} not measured", "open"))
    if absent:
        verdicts.append(("no GPU here", "plain"))
    where = f" Measured on {device_words(timed[0][0].device.to_dict())}." if timed else ""
    return Headline(
        title="Networks side by side",
        sentence=f"The first, {rows[0].name}, is what the others are compared with.{where}",
        numbers=tuple(numbers),
        verdicts=tuple(verdicts),
    )


def check_suffix(path: Path) -> None:
    """Raises `DataError` unless `path` names a kind of file that `save` writes."""
    page.check_suffix(path, SUFFIXES)


def save(comparison: Comparison, path: Path) -> None:
    """Writes the comparison as its ending says: a page, Markdown, JSON, or the figure alone. Whole or not at all."""
    check_suffix(path)
    if path.suffix == ".svg":
        page.write_text(picture(comparison), path)
    else:
        page.save(comparison_page(comparison), path)


# --- two profiles --------------------------------------------------------------------------------------------------


def ratio_title(found: Regressions) -> str:
    """What is asked."""
    return f"B against A, at most {100 * found.permitted:g} % slower"


def ratio_table(found: Regressions) -> list[tuple[str, ...]]:
    """The rows of `RATIO_COLUMNS` in words."""
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
        sentence=ratio_title(found) + ".",
        numbers=(("ratios", str(len(found.ratios)), "of one statistic of one network, B over A"),),
        verdicts=tuple((f"{count} {verdict}", TONE_OF.get(verdict, "open")) for verdict, count in counts.items()),
    )
    text = (
        "On a CPU every time is first divided by that of the reference network of its own profile, unless other devices are "
        "compared. The interval of a ratio follows from the intervals of its times."
    )
    rows = Table(title="Ratios", columns=RATIO_COLUMNS, rows=tuple(ratio_table(found)), numbers=(3, 4, 5))
    sections = [Section(name="ratios", title="B over A", text=(text,), tables=(rows,), figures=("ratios",), figures_first=True)]
    if alone := [("A", name) for name in found.only_before] + [("B", name) for name in found.only_after]:
        sections.append(gaps_section([(which, name, "it is in this profile alone") for which, name in alone]))
    return Page(headline=head, sections=tuple(sections), figures=(ratio_figure(found),), values=found.to_dict())


def ratio_figure(found: Regressions) -> Figure:
    """Every ratio with its interval, beside 1 and what is permitted."""
    ratios = found.ratios[::-1]  # the first stands on top
    points = {
        "type": "scatter", "mode": "markers", "name": "B / A", "marker": {"color": BLUE, "size": 9},
        "x": [one.ratio for one in ratios], "y": [_ratio_words(one) for one in ratios],
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


def _ratio_words(one: Ratio) -> str:
    return plain(f"{one.name}, {one.backend}, {one.precision}, batch {one.batch}, {one.statistic}")
