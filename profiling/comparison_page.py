"""A comparison as a table of words, and as a page: figure, table, what is missing and what the times mean."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from autoformer.checkpoint import replacing, write_json
from autoformer.errors import DataError
from autoformer.profiling.comparison import Comparison, Row
from autoformer.profiling.comparison_plot import draw
from autoformer.profiling.report_numbers import latency_text

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
        said.append(f"Times were taken in turns in one go: {first.qualification('p50')}; other rows on their own backend.")
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
