"""The report's plots of latency: distributions, time lines and the fit of a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.order_statistics import percentile
from autoformer.profiling.reports.blocks import BLUE, GREEN, ORANGE, SERIES, Figure, Plot, common_layout, plain, words
from autoformer.profiling.reports.latency import measurement_of_limit
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.wording import latency_text

MAX_CDF_POINTS = 400
SPANS_PER_ROUND = 20  # of the timeline
TAIL = 99  # percentile that the distribution is drawn to


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
    return Figure(
        name="latency",
        title="Distribution of wall times",
        caption=(
            f"Of {total} runs, {outside} took longer than the picture is wide; a double click shows all. "
            "A curve is drawn through at most 400 of its runs, the fastest and the slowest included."
        ),
        views={"": {"data": traces, "layout": layout}},
    )


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
    return Figure(
        name="timeline",
        title="Wall times while measuring",
        caption=(
            f"Each round visits every network. Lines are medians of {SPANS_PER_ROUND} spans of a round, bands hold the middle "
            "80 % of their runs; slower runs are not drawn, the table has the slowest."
        ),
        views={"": {"data": traces, "layout": layout}},
    )


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


def table_figure(run: Run) -> Figure:
    """The latency table: what was measured, what it predicts, and the chosen network as measured afterwards."""
    table = run.table
    assert table is not None
    networks = sorted(table.networks, key=lambda network: network.flops)
    traces: list[Plot] = [
        {
            "type": "scatter", "mode": "lines", "name": "fit", "line": {"color": GREEN, "width": 2},
            "x": [network.flops for network in networks],
            "y": [network.predicted_ms for network in networks],
            "hoverinfo": "skip",
        },
        {
            "type": "scatter", "mode": "markers", "name": f"measured for the fit ({len(networks)})",
            "marker": {"color": BLUE, "size": 9},
            "x": [network.flops for network in networks],
            "y": [network.measured_ms for network in networks],
            "text": [
                f"<b>{network.architecture.slug}</b><br>{words(network.architecture)}<br>measured {network.measured_ms:.3g} ms, "
                f"predicted without it {network.left_out_ms:.3g} ms<br>{plain(network.verdict)}"
                for network in networks
            ],
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]  # fmt: skip
    measurement = measurement_of_limit(run)[0]
    if measurement is not None:
        stats, chosen = measurement.stats, run.search.chosen
        point: Plot = {
            "type": "scatter", "mode": "markers", "name": "chosen, measured at the end",
            "marker": {"color": ORANGE, "size": 15, "symbol": "star"},
            "x": [chosen.cost.flops], "y": [stats.p50_ms],
            "text": [f"<b>{chosen.architecture.slug}</b><br>{words(chosen.architecture)}<br>{latency_text(stats.to_dict())}"],
            "hovertemplate": "%{text}<extra></extra>",
        }  # fmt: skip
        if stats.p50_low_ms is not None and stats.p50_high_ms is not None:
            point["error_y"] = {
                "type": "data", "symmetric": False, "color": ORANGE,
                "array": [stats.p50_high_ms - stats.p50_ms], "arrayminus": [stats.p50_ms - stats.p50_low_ms],
            }  # fmt: skip
        traces.append(point)
    layout = common_layout("multiply-adds of one image", "latency, ms")
    layout["xaxis"]["exponentformat"] = "SI"
    return Figure(
        name="table",
        title="Latency against FLOPs",
        caption=f"Latency means {table.measurement_conditions}.",
        views={"": {"data": traces, "layout": layout}},
    )
