"""Latency in a report: the times of every file, whether they can be trusted, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from autoformer.profiling.insides.layers import LayerProfile
from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.order_statistics import percentile
from autoformer.profiling.reports.blocks import SERIES, Figure, Plot, Section, Table, common_layout, one_view, plain
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.wording import how_words, latency_text

MAX_CDF_POINTS = 400
SPANS_PER_ROUND = 20  # of the timeline
TAIL = 99  # percentile that the distribution is drawn to


def values(run: Run, measurement: Measurement) -> dict[str, Any]:
    """One measurement as JSON, without its samples, which stand in latency.json."""
    return {
        "backend": measurement.backend,
        "precision": measurement.precision,
        "batch": measurement.batch,
        "threads": measurement.threads,
        "qualification": str(measurement.measurement_conditions("p50")),
        **measurement.stats.to_dict(),
        "device_clock": measurement.device_stats and measurement.device_stats.to_dict(),
        "images_per_s": measurement.images_per_s,
        "ratio_to_reference": run.profile.ratio(measurement),
        "verdict": measurement.verdict.level,
        "reasons": list(measurement.verdict.reasons),
        "warmup_runs": measurement.warmup.runs,
        "warmup_settled": measurement.warmup.settled,
    }


# --- words ---------------------------------------------------------------------------------------------------------


def section(report: Mapping[str, Any]) -> Section:
    """The times of every file, and whether they can be trusted."""
    number = report["latency_attempt"]
    attempt = "" if number == 1 else f", attempt {number}: the earlier ones were not steady"
    text = (
        "All files were run in turns, after warm-up, with a small fixed network among them (the reference). Absolute times of "
        "a machine drift by some per cent from hour to hour, and up to twofold where others use its cores too, as on virtual "
        "machines; compare runs by the ratio to the reference. "
        f"Measured {report['latency_measured']}{attempt}."
    )
    tables = (latency_table(report), trust_table(report))
    return Section(name="latency", title="Latency", text=(text,), tables=tables, figures=("latency", "timeline"))


def _timed(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Name of the file and figures, the reference last."""
    files = [(name.removesuffix(f" ({stats['backend']})"), stats) for name, stats in report["latency"].items()]
    return [*files, ("reference network", report["reference"])]


def latency_table(report: Mapping[str, Any]) -> Table:
    """Times of every file, the reference last."""

    def tail(stats: Mapping[str, Any], name: str) -> str:
        return "too few runs" if stats[name] is None else f"{stats[name]:.3g} ms"

    has_clock = any(stats["device_clock"] for _, stats in _timed(report))
    rows = []
    for name, stats in _timed(report):
        clock = latency_text(stats["device_clock"]) if stats["device_clock"] else "none"
        rows.append(
            (
                name,
                how_words(stats),
                latency_text(stats),
                *((clock,) if has_clock else ()),
                *(tail(stats, figure) for figure in ("p90_ms", "p99_ms", "max_ms")),
                f"{stats['ratio_to_reference']:.3g}",
            )
        )
    columns = ("file", "how", "p50 [95 % interval]", *(("p50 by the device's clock",) if has_clock else ()))
    columns += ("p90", "p99", "slowest", "ratio to reference")
    return Table(
        title="Time of one run",
        columns=columns,
        rows=tuple(rows),
        numbers=tuple(range(2, len(columns))),
        note="Wall time as the caller of one run sees it, with input and output in memory.",
    )


def trust_table(report: Mapping[str, Any]) -> Table:
    """The verdicts on these times, with their reasons."""
    rows = []
    for name, stats in _timed(report):
        drift = "too few runs" if stats["drift"] is None else f"{100 * stats['drift']:+.2g} %"
        settled = f"{stats['warmup_runs']}, {'settled' if stats['warmup_settled'] else 'not settled'}"
        reasons = "; ".join(stats["reasons"]) or "nothing against it"
        rows.append((name, str(stats["n"]), drift, settled, stats["verdict"], reasons))
    return Table(
        title="Whether these times can be trusted",
        columns=("file", "runs", "drift", "warm-up runs", "verdict", "reasons"),
        rows=tuple(rows),
        numbers=(1, 2, 3),
        note="Intervals take runs as independent, which they are not quite; so drift and waiting are judged as well.",
    )


# --- figures -------------------------------------------------------------------------------------------------------


def distribution_figure(measurements: Sequence[Measurement]) -> Figure:
    """The share of runs that took at most so long, one curve per measurement."""
    traces: list[Plot] = []
    ends: list[tuple[float, float]] = []  # the fastest run, and the one at the percentile TAIL
    every = []
    for index, measurement in enumerate(measurements):
        ordered = sorted(measurement.samples_ms)
        n = len(ordered)
        count = min(n, MAX_CDF_POINTS)
        ranks = sorted({max(1, round(n * (point + 1) / count)) for point in range(count)} | {1, n})
        ends.append((ordered[0], percentile(ordered, TAIL)))
        every.append(ordered)
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": plain(measurement.name),
                "line": {"shape": "hv", "color": SERIES[index % len(SERIES)], "width": 2},
                "x": [_rounded(ordered[rank - 1]) for rank in ranks],
                "y": [round(100 * rank / n, 3) for rank in ranks],
                "hovertemplate": f"{plain(measurement.name)}<br>%{{y:.3g}} % of runs within %{{x:.4g}} ms<extra></extra>",
            }
        )  # fmt: skip
    low, high = min(start for start, _ in ends), max(end for _, end in ends)
    space = 0.05 * (high - low or high)
    layout = common_layout("time of one run, ms", "share of runs, %")
    layout["xaxis"]["range"] = [_rounded(max(0.0, low - space)), _rounded(high + space)]
    layout["yaxis"]["range"] = [0, 101]
    outside = sum(sample > high + space for ordered in every for sample in ordered)
    total = sum(map(len, every))
    caption = (
        f"Of {total} runs, {outside} took longer than the figure shows; a double click shows all. A curve is drawn through at "
        f"most {MAX_CDF_POINTS} of its runs, the fastest and the slowest included."
    )
    return one_view("latency", "Distribution of wall times", caption, traces, layout)


def timeline_figure(measurements: Sequence[Measurement]) -> Figure:
    """Medians of successive spans of runs, with the middle 80 % of each span, over the rounds of the measurement."""
    traces: list[Plot] = []
    for index, measurement in enumerate(measurements):
        colour = SERIES[index % len(SERIES)]
        name = plain(measurement.name)
        spans = _spans(measurement)
        x = [round(place, 4) for place, _ in spans]
        low, middle, high = ([_rounded(percentile(span, percent)) for _, span in spans] for percent in (10, 50, 90))
        edge = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False, "legendgroup": name}
        traces += [
            {**edge, "x": x, "y": low, "line": {"width": 0, "color": colour}},
            {**edge, "x": x, "y": high, "line": {"width": 0, "color": colour}, "fill": "tonexty", "fillcolor": f"{colour}33"},
            {
                "type": "scatter", "mode": "lines", "name": name, "legendgroup": name, "x": x, "y": middle,
                "line": {"color": colour, "width": 1.5},
                "hovertemplate": f"{name}<br>round %{{x:.2f}}: %{{y:.4g}} ms<extra></extra>",
            },
        ]  # fmt: skip
    layout = common_layout("round of the measurement", "time of one run, ms")
    layout["xaxis"]["dtick"] = 1
    caption = (
        f"Each round visits every network. Lines are medians of {SPANS_PER_ROUND} spans of a round, bands hold the middle 80 % "
        "of their runs; slower runs are not drawn, the table has the slowest."
    )
    return one_view("timeline", "Wall times while measuring", caption, traces, layout)


def _spans(measurement: Measurement) -> list[tuple[float, list[float]]]:
    """The runs in successive spans: the place of each in rounds (0.5 is the middle of the first), and its sorted times."""
    rounds = measurement.round_runs or (len(measurement.samples_ms),)
    found, start = [], 0
    for index, runs in enumerate(rounds):
        count = min(SPANS_PER_ROUND, runs)
        edges = [start + runs * part // count for part in range(count + 1)] if count else []
        for left, right in pairwise(edges):
            place = index + ((left + right) / 2 - start) / runs
            found.append((place, sorted(measurement.samples_ms[left:right])))
        start += runs
    return found


def _rounded(value: float) -> float:
    """Five digits, which keeps the page small."""
    return float(f"{value:.5g}")


# --- layers --------------------------------------------------------------------------------------------------------


def layer_section(layers: Sequence[Mapping[str, Any]], sources: Sequence[str] = ("",)) -> list[Section]:
    """Where the time of each profile goes, in its JSON form; nothing without profiles."""
    if not layers:
        return []
    text = (
        "Times of layers are taken with the runtime's profiler, which adds some to each, so small layers seem larger than they "
        "are. Shares are of the time under the profiler: they say where the time goes, and not how long a run takes."
    )
    tables = tuple(layer_table(one, source) for one, source in zip(layers, sources, strict=True))
    return [Section(name="layers", title="Where the time goes", text=(text,), tables=tables, figures=("layers",))]


def layer_table(layers: Mapping[str, Any], source: str = "") -> Table:
    """Time by kind of module, from the JSON form of a `LayerProfile`."""
    total = layers["sum_ms"]
    rows = [(name, f"{100 * ms / total:.1f} %" if total else "–", f"{ms:.3g} ms") for name, ms in layers["by_kind_ms"].items()]
    known = f"{100 * layers['joined_share']:.0f} %"
    note = f"{len(layers['layers'])} layers; the torch module is known of {known} of the time."
    if layers["end_to_end_ms"] is not None:
        note += f" Under the profiler the layers take {total:.3g} ms in all, {layers['sum_over_end_to_end']:.3g} times the "
        note += f"{layers['end_to_end_ms']:.3g} ms of a run without it."
    return Table(
        title=f"{layers['name']} on {layers['backend']}" + (f" ({source})" if source else ""),
        columns=("kind", "share", "under the profiler"), rows=tuple(rows), numbers=(1, 2), note=note, compact=True,
    )  # fmt: skip


def _filled(index: int) -> Plot:
    """A colour for each kind; from where they come again, with stripes."""
    return {"color": SERIES[index % len(SERIES)], "pattern": {"shape": "/" if index >= len(SERIES) else ""}}


def blocks_figure(profiles: Sequence[LayerProfile]) -> Figure | None:
    """The share of each block in the time under the profiler, by kind, one view per profile; None without profiles."""
    views = {}
    for profile in profiles:
        blocks, total = list(profile.by("block")), profile.sum_ms or 1.0
        traces: list[Plot] = []
        for index, kind in enumerate(profile.by("kind")):
            times = [
                sum(layer.average_ms for layer in profile.layers if (layer.block, layer.kind) == (block, kind))
                for block in blocks
            ]
            traces.append(
                {
                    "type": "bar", "name": plain(kind), "x": [plain(block) for block in blocks],
                    "y": [_rounded(100 * time / total) for time in times], "marker": _filled(index),
                    "text": [f"{plain(kind)}: {100 * time / total:.3g} %, {time:.3g} ms under the profiler" for time in times],
                    "textposition": "none", "hovertemplate": "%{x}<br>%{text}<extra></extra>",
                }
            )  # fmt: skip
        word = plain(f"{profile.name} on {profile.backend}")
        views[word] = {"data": traces, "layout": common_layout("", "share of the profiled time, %", barmode="stack")}
    if not views:
        return None
    caption = "Shares of the time of one run under the runtime's profiler, by transformer block and kind of module; 100 % in all."
    switch = "network" if len(views) > 1 else ""
    return Figure(name="layers", title="Where the time goes, block by block", caption=caption, views=views, switch=switch)
