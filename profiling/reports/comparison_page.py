"""A comparison as a table of words, and as a page: figure, table, what is missing and what the times mean."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoformer.errors import DataError
from autoformer.files import replacing, write_json
from autoformer.metric import WORDS
from autoformer.profiling.profiles.comparison import Comparison, Row
from autoformer.profiling.reports.blocks import BLUE, ORANGE
from autoformer.profiling.reports.wording import latency_text

WIDTH, HEIGHT = 760, 460
NUMBER_WIDTH, NUMBER_HEIGHT = 18, 14
LEFT, RIGHT, TOP, BOTTOM = 70, 230, 24, 56  # around the axes; the names stand on the right
LOGARITHMIC_FROM = 5.0  # longest time over shortest
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#374151}.axis{stroke:#8b919a}.grid{stroke:#8b919a;stroke-opacity:.25}"
    ".small{font-size:12px}@media(prefers-color-scheme:dark){text{fill:#d1d5db}}"
)


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        move: Callable[[float], float] = math.log if self.logarithmic else float
        share = (move(value) - move(self.low)) / (move(self.high) - move(self.low))
        return round(self.start + share * (self.end - self.start), 2)

    @property
    def ticks(self) -> list[float]:
        """Round values inside, at most a dozen."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
            return [value for value in every if self.low <= value <= self.high]
        rough = (self.high - self.low) / 6
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step) + 1)]


def draw(comparison: Comparison) -> str:
    """The figure as SVG. Rows without a score or a time are left out, and stay in the list of names."""
    drawn = [(number, row) for number, row in enumerate(comparison.rows, 1) if row.score and row.measurement]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{html.escape(WORDS[comparison.metric])} against latency"><style>{STYLE}</style>'
    ]
    if drawn:
        parts += _plot(comparison, drawn)
    else:
        parts.append(_text(LEFT, HEIGHT / 2, "nothing has both a score and a time"))
    for place, (number, row) in enumerate((n, r) for n, r in enumerate(comparison.rows, 1)):
        left_out = "" if row.score and row.measurement else " (not drawn)"
        name = row.name if len(row.name) <= 28 else "…" + row.name[-27:]
        parts.append(_text(WIDTH - RIGHT + 14, TOP + 14 + 18 * place, f"{number}  {name}{left_out}", "small"))
    return "".join([*parts, "</svg>\n"])


def _plot(comparison: Comparison, drawn: Sequence[tuple[int, Row]]) -> list[str]:
    points = [(number, row, *_places(row)) for number, row in drawn]
    times = [time for _, _, span, _ in points for time in span]
    scores = [score for _, _, _, span in points for score in span]
    logarithmic = max(times) > LOGARITHMIC_FROM * min(times)
    room = (max(times) / min(times)) ** 0.08 if logarithmic else 0.08 * (max(times) - min(times) or max(times))
    low, high = (min(times) / room, max(times) * room) if logarithmic else (max(0.0, min(times) - room), max(times) + room)
    x = Axis(low, high, LEFT, WIDTH - RIGHT, logarithmic)
    margin = 0.08 * (max(scores) - min(scores)) or 0.05
    y = Axis(max(0.0, min(scores) - margin), min(1.02, max(scores) + margin), HEIGHT - BOTTOM, TOP)
    parts = _axes(x, y, comparison)
    for on_gpu, colour in ((False, BLUE), (True, ORANGE)):
        front = sorted((x(span[1]), y(value[1])) for _, row, span, value in points if row.pareto and row.on_gpu == on_gpu)
        if len(front) > 1:
            joined = " ".join(f"{left},{top}" for left, top in front)
            parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-opacity=".6"/>')
    numbers: list[tuple[float, float]] = []  # where they stand; one that would lie on another moves up
    for number, row, (fast, time, slow), (worse, score, better) in sorted(points, key=lambda point: point[2][1]):
        colour = ORANGE if row.on_gpu else BLUE
        parts.append(f'<g stroke="{colour}" fill="{colour if row.pareto else "none"}">')
        parts.append(f'<line x1="{x(fast)}" y1="{y(score)}" x2="{x(slow)}" y2="{y(score)}"/>')
        parts.append(f'<line x1="{x(time)}" y1="{y(worse)}" x2="{x(time)}" y2="{y(better)}"/>')
        parts.append(f'<circle cx="{x(time)}" cy="{y(score)}" r="6" stroke-width="2"><title>{_told(row)}</title></circle></g>')
        left, top = x(time) + 9, y(score) - 8
        while any(abs(left - other) < NUMBER_WIDTH and abs(top - above) < NUMBER_HEIGHT for other, above in numbers):
            top -= NUMBER_HEIGHT
        numbers.append((left, top))
        parts.append(_text(left, top, str(number)))
    return parts


def _axes(x: Axis, y: Axis, comparison: Comparison) -> list[str]:
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in x.ticks:
        parts.append(f'<line class="grid" x1="{x(value)}" y1="{TOP}" x2="{x(value)}" y2="{bottom}"/>')
        parts.append(_text(x(value), bottom + 18, f"{value:g}", "small", "middle"))
    for value in y.ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y(value)}" x2="{right}" y2="{y(value)}"/>')
        parts.append(_text(LEFT - 8, y(value) + 4, f"{100 * value:.4g}", "small", "end"))
    parts.append(f'<path class="axis" d="M{LEFT},{TOP}V{bottom}H{right}" fill="none"/>')
    batch = comparison.profile.measurements[0].batch if comparison.profile else 1
    each = "one image" if batch == 1 else f"{batch} images"
    parts.append(_text((LEFT + right) / 2, HEIGHT - 14, f"median latency of {each}, ms", anchor="middle"))
    parts.append(
        f'<text transform="translate(18,{(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(WORDS[comparison.metric])}, %</text>"
    )
    return parts


def _places(row: Row) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Time and score of a row, each with its interval around it."""
    assert row.measurement is not None
    assert row.score is not None
    stats, score = row.measurement.stats, row.score
    return (stats.p50_low_ms or stats.p50_ms, stats.p50_ms, stats.p50_high_ms or stats.p50_ms), (
        score.low,
        score.value,
        score.high,
    )


def _told(row: Row) -> str:
    """What the pointer over a point shows."""
    assert row.measurement is not None
    return html.escape(f"{row.name} ({row.measurement.backend}): {row.score}, {row.measurement.stats.p50_ms:.4g} ms")


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    marked = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{marked}>{html.escape(text)}</text>'


COLUMNS = (
    "", "artefact", "score, 95 % interval", "against the first, points", "params", "FLOPs", "file", "backend",
    "p50, 95 % interval", "times the first", "verdict",
)  # fmt: skip
SUFFIXES = (".html", ".svg", ".json")
PAGE_STYLE = (
    "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1f2937;background:#fff}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .7rem;text-align:left;border-bottom:1px solid #8b919a55}"
    ".wide{overflow-x:auto}@media(prefers-color-scheme:dark){body{color:#e5e7eb;background:#111827}}"
)


def table(comparison: Comparison) -> list[tuple[str, ...]]:
    """The rows of `COLUMNS` in words; a star marks those that no other beats in score and time."""
    return [(f"{number}{' *' if row.pareto else ''}", *_cells(row)) for number, row in enumerate(comparison.rows, 1)]


def _cells(row: Row) -> tuple[str, ...]:
    costs, taken = row.costs, row.measurement
    differs = "" if row.difference is None else f"{row.difference}{' tied' if row.difference.tied else ''}"
    return (
        row.name,
        "–" if row.score is None else str(row.score),
        differs,
        _short(costs.params),
        _short(costs.flops),
        "–" if costs.bytes is None else f"{costs.bytes / 1e6:.3g} MB",
        "–" if taken is None else f"{taken.backend} {taken.precision}",
        "–" if taken is None else latency_text(taken.stats.to_dict()),
        "–" if row.ratio is None else f"{row.ratio:.3f}",
        "–" if taken is None else taken.verdict.level,
    )


def _short(count: int | None) -> str:
    if count is None:
        return "–"
    unit, word = next(((size, word) for size, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if count >= size), (1.0, ""))
    return f"{count / unit:.3g}{word}"


def notes(comparison: Comparison) -> list[str]:
    """What the figures mean, in sentences."""
    said = []
    if comparison.images:
        said.append(f"Scores are {comparison.words}, with the preparation of images that each wants.")
    if comparison.profile is not None:
        first = next(row.measurement for row in comparison.rows if row.measurement)
        said.append(
            f"Times were taken in turns in one go: {first.measurement_conditions('p50')}; other rows on their own backend."
        )
    said.append("* marks rows that no other on the same kind of device beats in score and median time at once.")
    return said


def render_html(comparison: Comparison) -> str:
    """The page; it loads nothing and runs nothing."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    body = "".join(f"<tr>{_row(cells)}</tr>" for cells in table(comparison))
    missing = "".join(f"<li>{html.escape(f'{item.name}, {item.backend}: {item.reason}')}</li>" for item in comparison.missing)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Comparison</title><style>{PAGE_STYLE}</style></head><body><h1>Comparison</h1>{draw(comparison)}"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        + "".join(f"<p>{html.escape(text)}</p>" for text in notes(comparison))
        + (f"<h2>Not measured</h2><ul>{missing}</ul>" if missing else "")
        + "</body></html>\n"
    )


def _row(cells: Sequence[str]) -> str:
    return "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)


def check_suffix(path: Path) -> None:
    """Raises `DataError` unless `path` names a kind of file that `save` writes."""
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path} has an ending that says nothing; expected one of {', '.join(SUFFIXES)}")


def save(comparison: Comparison, path: Path) -> None:
    """Writes the comparison as its ending says: a page, the figure alone, or JSON. Whole or not at all."""
    check_suffix(path)
    if path.suffix == ".json":
        write_json(comparison.to_dict(), path)
        return
    text = draw(comparison) if path.suffix == ".svg" else render_html(comparison)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
