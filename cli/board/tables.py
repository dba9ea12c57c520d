"""What `board.pyz bench` and `verify` show to people: a short table each; everything else is in the JSON.

Standard library only; works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoformer.escaping import visible
from autoformer.export.expected import MATCHES
from autoformer.profiling.measuring.verdict import VALID

REST = "--json has the rest"


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of columns that are as wide as their widest cell; no cell makes a line of its own."""
    shown = [[visible(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def bench_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The times of `bench`: a row for each file, then what speaks against a time, and what was not measured."""
    taken = answer["measurements"]
    columns = ("file", "batch", "p50 ms, 95 % interval", "p90 ms", "images/s", "verdict")
    yield from text_table(columns, [_bench_row(name, one) for name, one in taken.items()]) if taken else ()
    for name, one in taken.items():
        if one["verdict"]["level"] != VALID:
            yield f"{name} is {one['verdict']['level']}: {'; '.join(one['verdict']['reasons'])}"
    yield from (f"{name}: GPU clock {clock}" for name, clock in answer.get("GPU clock", {}).items())
    yield from (f"not measured: {name}: {reason}" for name, reason in answer["not measured"].items())
    yield REST


def _bench_row(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    stats = one["stats"]
    tail = "–" if stats.get("p90_ms") is None else f"{stats['p90_ms']:.4g}"
    images = f"{1000 * one['batch'] / stats['p50_ms']:.4g}"
    median = _median(stats["p50_ms"], stats.get("p50_low_ms"), stats.get("p50_high_ms"))
    return name, str(one["batch"]), median, tail, images, one["verdict"]["level"]


def _median(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.4g}" + (" [too few runs]" if low is None or high is None else f" [{low:.4g}, {high:.4g}]")


def verify_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """What `verify` found: a row for each file and each limit, then the reasons of what is not as it should be."""
    yield from (f"damaged: {said}" for said in answer["files"])
    artefacts, limits = answer["artefacts"], answer["budget"]
    if artefacts:
        columns = ("file", "status", "right here", "right where exported", "accuracy")
        yield from text_table(columns, [_verify_row(name, found) for name, found in artefacts.items()])
    for name, found in artefacts.items():
        if found["status"] != MATCHES:
            yield f"{name}: {found['reason']}"
    if limits:
        yield ""
        header = ("limit", "", "file", "found", "used", "status")
        yield from text_table(header, [_limit_row(name, found) for name, found in limits.items()])
    for name, found in limits.items():
        if why := found.get("reason") or (f"the time is {found['verdict']}" if found.get("verdict", VALID) != VALID else ""):
            yield f"{name}: {why}"
        if found.get("limit means"):
            why = f", since {ship} is the file to ship" if (ship := found.get("to ship")) else ""
            yield f"{name} was stated for {found['limit means']}; timed here was {found['measured']}{why}"
    yield REST


def predict_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """A line for each image: its classes, the most probable first."""
    for image, classes in answer.items():
        named = (f"{one['name']} {100 * one['probability']:.1f} %" for one in classes)
        yield f"{image}: {', '.join(named)}"


def _verify_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    of = f" of {found['images']}" if "images" in found else ""
    right = (f"{found[key]}{of}" if key in found else "–" for key in ("right", "right there"))
    return name, found["status"], *right, found.get("accuracy", "–")


def _limit_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """A limit: what was found, and how much of an upper limit that is."""
    value, limit = found.get("median_ms", found.get("value")), found["limit"]
    shown = "–" if value is None else f"{value:.6g}"
    if "median_ms" in found:
        shown = _median(found["median_ms"], found.get("low_ms"), found.get("high_ms"))
    used = "–" if value is None or not name.startswith("max_") else f"{100 * value / limit:.0f} %"
    return name, f"{limit:.{4 if name.endswith('_ms') else 6}g}", found.get("measured", "–"), shown, used, found["status"]
