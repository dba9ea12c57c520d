"""The figure of a comparison: score against latency, both with intervals; for a page (plotly), or by itself (SVG)."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoformer.escaping import visible
from autoformer.metric import WORDS
from autoformer.profiling.profiles.comparison import Comparison
from autoformer.profiling.reports.blocks import SERIES, Figure, Plot, common_layout, error_bars, one_view, plain
from autoformer.profiling.reports.wording import capital

NOTHING = "nothing has both a score and a time"
LOGARITHMIC_FROM = 5.0  # longest time over shortest
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#374151}.axis{stroke:#8b919a}.grid{stroke:#8b919a;stroke-opacity:.25}"
    ".small{font-size:12px}@media(prefers-color-scheme:dark){text{fill:#d1d5db}}"
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A row that has both a score and a time; each with the ends of its interval around it."""

    number: int  # from 1, of the row
    backend: str
    times_ms: tuple[float, float, float]
    scores: tuple[float, float, float]  # in per cent
    pareto: bool
    words: str


def points_of(comparison: Comparison) -> list[Point]:
    """The rows that can be drawn, in rising order of their times."""
    found = []
    for number, row in enumerate(comparison.rows, 1):
        if row.score is not None and row.measurement is not None:
            stats, score = row.measurement.stats, row.score
            found.append(
                Point(
                    number=number,
                    backend=row.measurement.backend,
                    times_ms=(stats.p50_low_ms or stats.p50_ms, stats.p50_ms, stats.p50_high_ms or stats.p50_ms),
                    scores=(100 * score.low, 100 * score.value, 100 * score.high),
                    pareto=row.pareto,
                    words=f"{row.name} ({row.measurement.backend}): {score}, {stats.p50_ms:.4g} ms",
                )
            )
    return sorted(found, key=lambda point: point.times_ms[1])


def colours_of(points: Sequence[Point]) -> dict[str, str]:
    """A colour for each backend, in the order of the rows."""
    backends = dict.fromkeys(point.backend for point in sorted(points, key=lambda point: point.number))
    return {backend: SERIES[place % len(SERIES)] for place, backend in enumerate(backends)}


def axis_titles(comparison: Comparison) -> tuple[str, str]:
    """What stands along the axes."""
    batch = comparison.profile.measurements[0].batch if comparison.profile else 1
    each = "one image" if batch == 1 else f"{batch} images"
    return f"median latency of {each}, ms", f"{WORDS[comparison.metric]}, %"


def escaped(text: str) -> str:
    """`text` for SVG, which has no form for letters that do not show."""
    return html.escape(visible(text))


def _is_logarithmic(points: Sequence[Point]) -> bool:
    times = [time for point in points for time in point.times_ms]
    return max(times) > LOGARITHMIC_FROM * min(times)


# --- for a page ----------------------------------------------------------------------------------------------------


def comparison_figure(comparison: Comparison) -> Figure | None:
    """Every row with both, numbered as in the table; None where there is no such row."""
    points = points_of(comparison)
    if not points:
        return None
    traces: list[Plot] = []
    for backend, colour in colours_of(points).items():
        own = [point for point in points if point.backend == backend]
        front = [point for point in own if point.pareto]
        line = {"type": "scatter", "mode": "lines", "name": f"Pareto front, {backend}", "hoverinfo": "skip"}
        if len(front) > 1:
            ends = {"x": [point.times_ms[1] for point in front], "y": [point.scores[1] for point in front]}
            traces.append({**line, **ends, "line": {"color": colour, "width": 1}})
        traces.append({**_marks(own, colour), "name": backend})
    layout = common_layout(*axis_titles(comparison))
    if _is_logarithmic(points):
        layout["xaxis"] |= {"type": "log", "dtick": "D2"}
    caption = (
        "Numbers are those of the table; bars are 95 % intervals. Filled: no other on the same backend beats it in score and "
        "median time at once. Rows without a score or a time are not drawn."
    )
    return one_view("comparison", f"{capital(WORDS[comparison.metric])} against latency", caption, traces, layout)


def _marks(points: Sequence[Point], colour: str) -> Plot:
    times, scores = [point.times_ms for point in points], [point.scores for point in points]
    return {
        "type": "scatter", "mode": "markers+text", "textposition": "top right",
        "x": [time for _, time, _ in times], "y": [score for _, score, _ in scores],
        "error_x": error_bars(times, colour), "error_y": error_bars(scores, colour),
        "marker": {"size": 12, "color": colour, "symbol": ["circle" if point.pareto else "circle-open" for point in points]},
        "text": [str(point.number) for point in points], "hovertext": [plain(point.words) for point in points],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }  # fmt: skip


# --- by itself -----------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 760, 460
NUMBER_WIDTH, NUMBER_HEIGHT = 18, 14
LEFT, RIGHT, TOP, BOTTOM = 70, 230, 24, 56  # around the axes; the names stand on the right


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


def picture(comparison: Comparison) -> str:
    """The figure as SVG, with the names of all rows beside it."""
    points = points_of(comparison)
    title = escaped(f"{WORDS[comparison.metric]} against latency")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{title}"><style>{STYLE}</style>'
    ]
    parts += _drawn(points, axis_titles(comparison)) if points else [_text(LEFT, HEIGHT / 2, NOTHING)]
    for number, row in enumerate(comparison.rows, 1):
        left_out = "" if number in {point.number for point in points} else " (not drawn)"
        name = row.name if len(row.name) <= 28 else "…" + row.name[-27:]
        parts.append(_text(WIDTH - RIGHT + 14, TOP - 4 + 18 * number, f"{number}  {name}{left_out}", "small"))
    return "".join([*parts, "</svg>\n"])


def _drawn(points: Sequence[Point], titles: tuple[str, str]) -> list[str]:
    x, y = _axes(points)
    parts, colours = _grid(x, y, titles), colours_of(points)
    for backend, colour in colours.items():
        own = [point for point in points if point.pareto and point.backend == backend]
        front = [f"{x(point.times_ms[1])},{y(point.scores[1])}" for point in own]
        parts.append(f'<polyline points="{" ".join(front)}" fill="none" stroke="{colour}" stroke-opacity=".6"/>')
    numbers: list[tuple[float, float]] = []  # where they stand; one that would lie on another moves up
    for point in points:
        (fast, time, slow), (worse, score, better) = map(x, point.times_ms), map(y, point.scores)
        colour = colours[point.backend]
        parts.append(f'<g stroke="{colour}" fill="{colour if point.pareto else "none"}">')
        parts.append(f'<line x1="{fast}" y1="{score}" x2="{slow}" y2="{score}"/>')
        parts.append(f'<line x1="{time}" y1="{worse}" x2="{time}" y2="{better}"/>')
        parts.append(
            f'<circle cx="{time}" cy="{score}" r="6" stroke-width="2"><title>{escaped(point.words)}</title></circle></g>'
        )
        left, top = time + 9, score - 8
        while any(abs(left - other) < NUMBER_WIDTH and abs(top - above) < NUMBER_HEIGHT for other, above in numbers):
            top -= NUMBER_HEIGHT
        numbers.append((left, top))
        parts.append(_text(left, top, str(point.number)))
    return parts


def _axes(points: Sequence[Point]) -> tuple[Axis, Axis]:
    """Axes that hold every interval, with some room around."""
    times, scores = [time for point in points for time in point.times_ms], [one for point in points for one in point.scores]
    low, high, logarithmic = min(times), max(times), _is_logarithmic(points)
    room = (high / low) ** 0.08 if logarithmic else 0.08 * (high - low or high)
    low, high = (low / room, high * room) if logarithmic else (max(0.0, low - room), high + room)
    margin = 0.08 * (max(scores) - min(scores)) or 5
    y = Axis(max(0.0, min(scores) - margin), min(102.0, max(scores) + margin), HEIGHT - BOTTOM, TOP)
    return Axis(low, high, LEFT, WIDTH - RIGHT, logarithmic), y


def _grid(x: Axis, y: Axis, titles: tuple[str, str]) -> list[str]:
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in x.ticks:
        parts.append(f'<line class="grid" x1="{x(value)}" y1="{TOP}" x2="{x(value)}" y2="{bottom}"/>')
        parts.append(_text(x(value), bottom + 18, f"{value:g}", "small", "middle"))
    for value in y.ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y(value)}" x2="{right}" y2="{y(value)}"/>')
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:.4g}", "small", "end"))
    parts.append(f'<path class="axis" d="M{LEFT},{TOP}V{bottom}H{right}" fill="none"/>')
    parts.append(_text((LEFT + right) / 2, HEIGHT - 14, titles[0], anchor="middle"))
    upward = f'<g transform="translate(18,{(TOP + bottom) / 2}) rotate(-90)">{_text(0, 0, titles[1], anchor="middle")}</g>'
    return [*parts, upward]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    marked = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{marked}>{escaped(text)}</text>'
