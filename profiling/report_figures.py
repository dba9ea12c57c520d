"""The figures of the report, as plotly figures in plain JSON (`data` and `layout`); colours of text and grid are the page's.

Whatever comes from files goes through `plain`: plotly reads its texts as a small HTML.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from autoformer.architecture import Architecture
from autoformer.cost import show
from autoformer.evaluate import WORDS, Metric
from autoformer.evaluated import Candidate
from autoformer.profiling.measure import Measurement
from autoformer.profiling.report_content import measurement_of_limit
from autoformer.profiling.report_data import Epoch, Run
from autoformer.profiling.report_numbers import capital, latency_text, score_text
from autoformer.profiling.statistics import percentile

# Readable on white and on near-black, and told apart by people who see red and green alike (after Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE, GREY = "#3f8fd2", "#e07b1a", "#12936f", "#b5669f", "#8b919a"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, "#9a8700", GREY)
SYMBOLS = ("circle", "diamond", "square", "cross", "triangle-up", "x")

MAX_CDF_POINTS = 400
SPANS_PER_ROUND = 20  # of the timeline
TAIL = 99  # percentile that the distribution is drawn to

Plot = dict[str, Any]  # {"data": [...], "layout": {...}}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure, or several views of it to switch between, by the word on the switch."""

    name: str
    title: str
    caption: str
    views: dict[str, Plot]

    def to_dict(self) -> dict[str, Any]:
        """What the page's script draws."""
        return {"name": self.name, "views": [{"word": word, "plot": plot} for word, plot in self.views.items()]}


def figures(run: Run) -> list[Figure]:
    """All figures that this run has the numbers for."""
    found = [
        candidates_figure(run),
        training_figure("supernet", "Training of the supernet", run.supernet_history, run.metric),
        training_figure("finetune", "Finetuning of the chosen network", run.finetune_history, run.metric),
        distribution_figure(run.profile.measurements),
        timeline_figure([*run.profile.measurements, run.profile.reference]),
    ]
    if run.table is not None:
        found.append(table_figure(run))
    return found


def plain(text: str) -> str:
    """`text` as plotly shows it letter by letter."""
    return html.escape(text, quote=False)


def words(architecture: Architecture) -> str:
    """An architecture in the short lines of a hover label."""
    heads = ", ".join(map(str, architecture.num_heads))
    ratios = ", ".join(f"{ratio:g}" for ratio in architecture.mlp_ratio)
    size = "" if architecture.image_size is None else f", image {architecture.image_size} px"
    return f"width {architecture.embed_dim}, depth {architecture.depth}{size}<br>heads {heads}<br>MLP ratios {ratios}"


def _layout(x: str, y: str, **more: Any) -> Plot:
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


# --- search ------------------------------------------------------------------------------------------------------

COSTS = {
    "FLOPs": ("flops", "multiply-adds of one image"),
    "Parameters": ("params", "parameters"),
    "Predicted latency": ("latency_ms", "predicted latency, ms"),
}


def candidates_figure(run: Run) -> Figure:
    """Every evaluated candidate's score on the search part against each cost."""
    views = {
        word: _candidates(run, measure, title)
        for word, (measure, title) in COSTS.items()
        if all(getattr(candidate.cost, measure) is not None for candidate in run.search.candidates)
    }
    return Figure(
        name="candidates",
        title=f"Every evaluated network: {WORDS[run.metric]} on the search part against cost",
        caption=(
            "A point is one network with inherited weights; hovering shows it. The line is the Pareto front in the cost shown. "
            "Blue points cannot be told from the best on these images. The bar is the 95 % interval of the chosen one; all "
            "others are about as wide. Dashed: the limit; dotted: the limit that was searched with, where it differs."
        ),
        views=views,
    )


def front(candidates: Sequence[Candidate], measure: str) -> list[Candidate]:
    """The candidates that nothing evaluated beats in score at the same cost or less, cheapest first."""
    found: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (getattr(c.cost, measure), -c.score.value, c.number)):
        if not found or candidate.score.value > found[-1].score.value:
            found.append(candidate)
    return found


def _candidates(run: Run, measure: str, title: str) -> Plot:
    result = run.search
    tied = {candidate.number for candidate in result.tied}
    groups = {
        "other": [candidate for candidate in result.candidates if candidate.number not in tied],
        "tied with the best": [candidate for candidate in result.tied if candidate.number != result.chosen.number],
        "chosen": [result.chosen],
    }
    looks = {
        "other": {"color": GREY, "size": 7, "opacity": 0.75},
        "tied with the best": {"color": BLUE, "size": 8},
        "chosen": {"color": ORANGE, "size": 15, "symbol": "star", "line": {"width": 1, "color": "#ffffff"}},
    }
    on_front = front(result.candidates, measure)
    line = {
        "type": "scatter", "mode": "lines", "name": "Pareto front", "hoverinfo": "skip",
        "line": {"shape": "hv", "color": GREEN, "width": 2},
        "x": [getattr(candidate.cost, measure) for candidate in on_front],
        "y": [100 * candidate.score.value for candidate in on_front],
    }  # fmt: skip
    traces: list[Plot] = [line]
    for name, members in groups.items():
        if not members:
            continue
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": f"{name} ({len(members)})" if name != "chosen" else name,
                "marker": looks[name],
                "x": [getattr(candidate.cost, measure) for candidate in members],
                "y": [100 * candidate.score.value for candidate in members],
                "text": [_candidate_hover(candidate, result.best.number) for candidate in members],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    value, low, high = result.chosen.score.value, result.chosen.score.low, result.chosen.score.high
    traces[-1]["error_y"] = {
        "type": "data", "symmetric": False, "array": [100 * (high - value)], "arrayminus": [100 * (value - low)],
        "color": ORANGE, "thickness": 1.5,
    }  # fmt: skip
    layout = _layout(title, f"{WORDS[run.metric]} on the search part, %", shapes=_limit_lines(run, measure))
    if measure != "latency_ms":
        layout["xaxis"] |= {"exponentformat": "SI"}
    return {"data": traces, "layout": layout}


def _candidate_hover(candidate: Candidate, best: int) -> str:
    cost = candidate.cost
    latency = "" if cost.latency_ms is None else f", {show('latency_ms', cost.latency_ms)} predicted"
    return (
        f"<b>{candidate.architecture.slug}</b>{' (best score)' if candidate.number == best else ''}<br>"
        f"{words(candidate.architecture)}<br>"
        f"{show('params', cost.params)} params, {show('flops', cost.flops)} multiply-adds{latency}<br>"
        f"{score_text(candidate.score.to_dict())}, generation {candidate.generation + 1}"
    )


def _limit_lines(run: Run, measure: str) -> list[Plot]:
    """Vertical lines at the limits on one cost."""
    lines = []
    for name, value in run.limits.to_dict().items():
        if name.split("_", 1)[1] != measure:
            continue
        sought = getattr(run.searched_with, name)
        for x, dash in ((value, "dash"), *(((sought, "dot"),) if sought != value else ())):
            line = {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1}
            lines.append({**line, "line": {"dash": dash, "width": 1.5, "color": GREY}})
    return lines


# --- training ----------------------------------------------------------------------------------------------------


def training_figure(name: str, title: str, history: Sequence[Epoch], metric: Metric) -> Figure:
    """Scores on the search part above, the loss below, over epochs."""
    names = list(dict.fromkeys(network for epoch in history for network in epoch.scores))
    traces: list[Plot] = []
    for index, network in enumerate(names):
        scored = [epoch for epoch in history if network in epoch.scores]
        scores = [epoch.scores[network] for epoch in scored]
        colour = SERIES[index % len(SERIES)]
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": plain(network), "line": {"color": colour},
                "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)]},
                "x": [epoch.epoch for epoch in scored],
                "y": [100 * score.value for score in scores],
                "error_y": {
                    "type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": colour,
                    "array": [100 * (score.high - score.value) for score in scores],
                    "arrayminus": [100 * (score.value - score.low) for score in scores],
                },
                "text": [
                    f"{plain(network)}, epoch {epoch.epoch}<br>{score_text(score.to_dict())}"
                    for epoch, score in zip(scored, scores, strict=True)
                ],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    traces.append(
        {
            "type": "scatter", "mode": "lines", "name": "loss", "xaxis": "x", "yaxis": "y2", "line": {"color": GREY},
            "x": [epoch.epoch for epoch in history],
            "y": [epoch.loss for epoch in history],
            "text": [
                f"epoch {epoch.epoch}: loss {epoch.loss:.4g}<br>learning rate {epoch.learning_rate:.2g}, {epoch.seconds:.2g} s"
                for epoch in history
            ],
            "hovertemplate": "%{text}<extra></extra>",
        }
    )  # fmt: skip
    layout = _layout("epoch", f"{WORDS[metric]}, %")
    layout["xaxis"]["anchor"] = "y2"
    layout["yaxis"]["domain"] = [0.42, 1]
    layout["yaxis2"] = {"title": {"text": "loss"}, "domain": [0, 0.34], "anchor": "x"}
    return Figure(
        name=name,
        title=title,
        caption=(
            f"{capital(WORDS[metric])} on the search part with 95 % intervals where it was taken; mean loss of each epoch below."
        ),
        views={"": {"data": traces, "layout": layout}},
    )


# --- latency -----------------------------------------------------------------------------------------------------


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
    layout = _layout("time of one run, ms", "share of runs, %")
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
    layout = _layout("round of the measurement", "time of one run, ms")
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
    layout = _layout("multiply-adds of one image", "latency, ms")
    layout["xaxis"]["exponentformat"] = "SI"
    return Figure(
        name="table",
        title="Latency against FLOPs",
        caption=f"Latency means {table.qualification}.",
        views={"": {"data": traces, "layout": layout}},
    )
