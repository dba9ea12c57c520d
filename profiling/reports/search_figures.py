"""The figures of the search: candidates against each cost, the best score so far, and what the Pareto front prefers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.cost import show
from autoformer.metric import WORDS, Score
from autoformer.profiling.reports.blocks import (
    BLUE,
    GREEN,
    GREY,
    OLIVE,
    ORANGE,
    PURPLE,
    SERIES,
    Figure,
    Plot,
    common_layout,
    plain,
    words,
)
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.search import BASELINES, compared, preferences
from autoformer.profiling.reports.wording import capital, score_text
from autoformer.search.candidate import Candidate, known_best
from autoformer.search.result import fronts

COSTS = {
    "FLOPs": ("flops", "multiply-adds of one image"),
    "Parameters": ("params", "parameters"),
    "Predicted latency": ("latency_ms", "predicted latency, ms"),
}
# Open marks around the points of candidates that have a name; they differ in shape and size, so they can lie on one point.
MARKS: dict[str, dict[str, Any]] = {
    "best": {"symbol": "circle-open", "size": 17, "color": BLUE},
    BASELINES["dearest"]: {"symbol": "diamond-open", "size": 15, "color": PURPLE},
    BASELINES["uniform"]: {"symbol": "square-open", "size": 13, "color": OLIVE},
}
DASHES = {BASELINES["dearest"]: "dash", BASELINES["uniform"]: "dot"}
MOST_BLOCKS_WITH_NUMBERS = 8  # cells of more are too narrow on a phone


# --- candidates --------------------------------------------------------------------------------------------------


def candidates_figure(run: Run) -> Figure:
    """Every evaluated candidate's score on the search part against each cost."""
    views = {
        word: _candidates(run, measure, title)
        for word, (measure, title) in COSTS.items()
        if all(getattr(candidate.cost, measure) is not None for candidate in run.search.candidates)
    }
    fewer = len(run.search.candidates) - len(known_best(run.search.candidates))
    faint = "" if not fewer else "Partial: saw only some of the search images, so its height is rough. "
    return Figure(
        name="candidates",
        title=f"Every evaluated network: {WORDS[run.metric]} on the search part against cost",
        caption=(
            "A point is one network with inherited weights; hovering shows it. The line is the Pareto front in the cost shown. "
            f"Tied (blue): cannot be told from the best on these images. {faint}The bar is the 95 % interval of the chosen one; "
            "all others are about as wide. Dashed: the limit; dotted: the limit that was searched with, where it differs."
        ),
        views=views,
        switch="cost on the horizontal axis",
    )


def _candidates(run: Run, measure: str, title: str) -> Plot:
    result = run.search
    tied = {candidate.number for candidate in result.tied}
    full, confirmed = known_best(result.candidates), result.confirmed
    whole = {candidate.number for candidate in full}
    groups = {
        "partial": [candidate for candidate in result.candidates if candidate.number not in whole],
        "other": [candidate for candidate in full if candidate.number not in tied | {result.chosen.number}],
        "tied": [candidate for candidate in result.tied if candidate.number != result.chosen.number],
        "chosen": [result.chosen],
    }
    looks = {
        "partial": {"color": GREY, "size": 5, "opacity": 0.4},
        "other": {"color": GREY, "size": 7, "opacity": 0.8},
        "tied": {"color": BLUE, "size": 8},
        "chosen": {"color": ORANGE, "size": 15, "symbol": "star", "line": {"width": 1, "color": "#ffffff"}},
    }
    on_front = fronts(result.candidates)[measure]
    line = {
        "type": "scatter", "mode": "lines", "name": "Pareto front", "hoverinfo": "skip",
        "line": {"shape": "hv", "color": GREEN, "width": 2},
        "x": [getattr(candidate.cost, measure) for candidate in on_front],
        "y": [100 * candidate.score.value for candidate in on_front],
    }  # fmt: skip
    traces: list[Plot] = [line]
    for name, members in groups.items():
        if members:
            shown = name if name == "chosen" else f"{name} ({len(members)})"
            traces.append({**_points(run, members, confirmed, measure), "name": shown, "marker": looks[name]})
    value, low, high = result.chosen.score.value, result.chosen.score.low, result.chosen.score.high
    traces[-1]["error_y"] = {
        "type": "data", "symmetric": False, "array": [100 * (high - value)], "arrayminus": [100 * (value - low)],
        "color": ORANGE, "thickness": 1.5,
    }  # fmt: skip
    named = compared(result)
    for name, mark in MARKS.items():
        if name in named:
            look = {**mark, "line": {"width": 2, "color": mark["color"]}}
            traces.append({**_points(run, [named[name]], confirmed, measure), "name": name, "marker": look})
    layout = common_layout(title, f"{WORDS[run.metric]} on the search part, %", shapes=_limit_lines(run, measure))
    if measure != "latency_ms":
        layout["xaxis"] |= {"exponentformat": "SI"}
    return {"data": traces, "layout": layout}


def _points(run: Run, members: Sequence[Candidate], confirmed: Mapping[int, Score], measure: str) -> Plot:
    return {
        "type": "scatter", "mode": "markers",
        "x": [getattr(candidate.cost, measure) for candidate in members],
        "y": [100 * candidate.score.value for candidate in members],
        "text": [_hover(run, candidate, confirmed.get(candidate.number)) for candidate in members],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _hover(run: Run, candidate: Candidate, again: Score | None) -> str:
    cost, result = candidate.cost, run.search
    names = ", ".join(name for name, other in compared(result).items() if other.number == candidate.number)
    latency = "" if cost.latency_ms is None else f", {show('latency_ms', cost.latency_ms)} predicted"
    seen, every = candidate.score.images, len(result.labels)
    fewer = "" if seen == every else f"<br>saw only {seen} of {every} search images"
    on_others = "" if again is None else f"<br>on {again.images} other images {score_text(again.to_dict())}"
    return (
        f"<b>{candidate.architecture.slug}</b>{f' ({names})' if names else ''}<br>"
        f"{words(candidate.architecture)}<br>"
        f"{show('params', cost.params)} params, {show('flops', cost.flops)} multiply-adds{latency}<br>"
        f"{score_text(candidate.score.to_dict())}, generation {candidate.generation + 1}{fewer}{on_others}"
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


# --- progress ----------------------------------------------------------------------------------------------------


def progress_figure(run: Run) -> Figure | None:
    """The best score so far against images evaluated, a line per method; baselines are level. None without a history."""
    if not run.progress:
        return None
    traces: list[Plot] = []
    for index, (method, points) in enumerate(run.progress.items()):
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": plain(method),
                "line": {"shape": "hv", "width": 2.5, "color": SERIES[index % len(SERIES)]},
                "x": [images for images, _ in points],
                "y": [100 * best for _, best in points],
                "hovertemplate": f"{plain(method)}: %{{y:.2f}} % after %{{x:,}} images<extra></extra>",
            }
        )  # fmt: skip
    ends = [images for points in run.progress.values() for images, _ in points]
    for name, candidate in compared(run.search).items():
        if name in DASHES and candidate.score.images == len(run.search.labels):
            text = f"{name}: {score_text(candidate.score.to_dict())}"
            colour, y = MARKS[name]["color"], 100 * candidate.score.value
            level = {
                "type": "scatter", "mode": "lines", "legendgroup": name, "showlegend": False, "hoverinfo": "skip",
                "x": [0, max(ends)], "y": [y, y], "line": {"dash": DASHES[name], "width": 1.5, "color": colour},
            }  # fmt: skip
            mark = {
                "type": "scatter", "mode": "markers", "name": name, "legendgroup": name, "x": [max(ends)], "y": [y],
                "text": [text], "hovertemplate": "%{text}<extra></extra>",
                "marker": {**MARKS[name], "line": {"width": 2, "color": colour}},
            }  # fmt: skip
            traces += [level, mark]
    layout = common_layout("images evaluated", f"best {WORDS[run.metric]} so far, %")
    layout["xaxis"]["rangemode"] = "tozero"
    return Figure(
        name="progress",
        title="The best so far against the work done",
        caption=(
            "An image counts once for every network that was given it. Level lines are the baselines, which need no search: one "
            "network each. Scores are on the search part, where the best of many looks better than it is."
        ),
        views={"": {"data": traces, "layout": layout}},
    )


# --- preferences -------------------------------------------------------------------------------------------------


def preferences_figure(run: Run) -> Figure:
    """Heads above, MLP ratios below: each choice in each block, as its share on the front less that among all evaluated."""
    found = preferences(run.space, run.search)
    blocks = found["blocks"]
    kinds = (("heads", "heads", ""), ("mlp_ratio", "MLP ratio", "2"))
    traces = [_cells(blocks, kind, word, axis, found) for kind, word, axis in kinds]
    reach = max((abs(cell) for trace in traces for row in trace["z"] for cell in row if cell is not None), default=0)
    most = max(10, 10 * math.ceil(reach / 10))
    layout = common_layout("block", "heads", showlegend=False)
    layout["margin"]["t"] = 40
    layout["xaxis"] |= {
        "anchor": "y2",
        "range": [0.5, len(blocks) + 0.5],
        "tick0": 1,
        "tickangle": 0,
        "dtick": 2 ** max(0, math.ceil(math.log2(len(blocks) / MOST_BLOCKS_WITH_NUMBERS))),
        "showgrid": False,
    }
    layout["yaxis"] |= {"type": "category", "domain": [0.54, 1], "showgrid": False}
    layout["yaxis2"] = {
        "title": {"text": "MLP ratio"}, "type": "category", "domain": [0, 0.46], "anchor": "x", "showgrid": False,
    }  # fmt: skip
    layout["coloraxis"] = {
        "cmin": -most, "cmax": most, "colorscale": _DIVERGING,
        "colorbar": {
            "orientation": "h", "ypad": 0, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "len": 0.6, "thickness": 10,
            "outlinewidth": 0, "tickvals": [-most, 0, most], "ticktext": [f"−{most} points", "as often", f"+{most} points"],
        },
    }  # fmt: skip
    more = " The number in a cell is the share on the front in %." if len(blocks) <= MOST_BLOCKS_WITH_NUMBERS else ""
    if any(not block["front"] for block in blocks):
        more += " Empty: no network on the front is so deep."
    return Figure(
        name="blocks",
        title="Heads and MLP ratios, block by block",
        caption=(
            f"Blue: a larger share of the {found['front']} networks on the front makes this choice than of all "
            f"{found['evaluated']} evaluated; orange: a smaller one. Networks that are too shallow for a block are left out "
            f"there.{more}"
        ),
        views={"": {"data": traces, "layout": layout}},
    )


# See-through, so that the page's own background and letters keep their contrast in both schemes.
_DIVERGING = [[0, "rgba(224,123,26,0.7)"], [0.5, "rgba(139,145,154,0.15)"], [1, "rgba(63,143,210,0.7)"]]


def _cells(blocks: list[dict[str, Any]], kind: str, word: str, axis: str, found: Mapping[str, Any]) -> Plot:
    """The heat map of one kind of choice; cells of blocks that nothing on the front has are empty."""
    choices = sorted({entry["choice"] for block in blocks for entry in block[kind]})
    z: list[list[float | None]] = []
    shown, hover = [], []
    for choice in choices:
        differences: list[float | None] = []
        shares, texts = [], []
        for block in blocks:
            counts = next((entry for entry in block[kind] if entry["choice"] == choice), {"front": 0, "evaluated": 0})
            among = 100 * counts["evaluated"] / block["evaluated"]
            here = f"block {block['block']}, {word} {choice:g}<br>"
            everywhere = f"{counts['evaluated']} of {block['evaluated']} evaluated ({among:.0f} %)"
            if block["front"]:
                share = 100 * counts["front"] / block["front"]
                differences.append(round(share - among, 2))
                shares.append(f"{share:.0f}" if len(blocks) <= MOST_BLOCKS_WITH_NUMBERS else "")
                texts.append(f"{here}{counts['front']} of {block['front']} on the front ({share:.0f} %)<br>{everywhere}")
            else:
                differences.append(None)
                shares.append("")
                texts.append(f"{here}no network on the front is so deep<br>{everywhere}")
        z.append(differences)
        shown.append(shares)
        hover.append(texts)
    return {
        "type": "heatmap", "name": word, "coloraxis": "coloraxis", "xgap": 2, "ygap": 2, "hoverongaps": True,
        "x": [block["block"] for block in blocks], "y": [f"{choice:g}" for choice in choices], "yaxis": f"y{axis}",
        "z": z, "text": shown, "texttemplate": "%{text}", "hovertext": hover, "hovertemplate": "%{hovertext}<extra></extra>",
    }  # fmt: skip


def shapes_figure(run: Run) -> Figure:
    """Width, depth and image size: shares on the front beside those among all evaluated, as bars."""
    found = preferences(run.space, run.search)
    rows = [(kind, entry) for kind, entries in found["shapes"].items() for entry in entries]
    groups = {"front": ("on the front", BLUE), "evaluated": ("among all evaluated", GREY)}
    traces = [
        {
            "type": "bar", "orientation": "h", "name": f"{word} ({found[group]})", "marker": {"color": colour},
            "y": [[kind for kind, _ in rows], [f"{entry['choice']:g}" for _, entry in rows]],
            "x": [100 * entry[group] / found[group] for _, entry in rows],
            "text": [f"{kind} {entry['choice']:g}: {entry[group]} of {found[group]} {word}" for kind, entry in rows],
            "textposition": "none", "hovertemplate": "%{text} (%{x:.0f} %)<extra></extra>",
        }
        for group, (word, colour) in groups.items()
    ]  # fmt: skip
    layout = common_layout("share of the networks, %", "", bargap=0.25)
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["yaxis"] = {"autorange": "reversed", "showgrid": False}
    kinds = [kind if kind != "image size" else "image size (px)" for kind in found["shapes"]]
    return Figure(
        name="shapes",
        title=capital(", ".join(kinds[:-1]) + f" and {kinds[-1]}"),
        caption="Of the same networks: which share has each value.",
        views={"": {"data": traces, "layout": layout}},
    )
