"""The search in a report: every candidate, the chosen network beside the best and the baselines, and the progress.

With successive halving, candidates have seen different numbers of search images. Comparisons and fronts are of those that saw
the most. Held-out images took no part in the choice; a few networks are scored on them once more (`confirmation` in files).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.cost import show
from autoformer.metric import WORDS, Score, metric_from
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
    Section,
    Table,
    common_layout,
    error_bars,
    one_view,
    plain,
    words,
)
from autoformer.profiling.reports.preferences import preferences
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.wording import capital, score_text, words_of
from autoformer.records import fields_to_json
from autoformer.search.audit import searchability
from autoformer.search.candidate import Candidate, known_best
from autoformer.search.result import SearchResult, fronts

BASELINES = {"dearest": "dearest inside", "uniform": "best uniform"}  # keys of search.json, and of report.json
MOST_EXPENSIVE, HOMOGENEOUS = "most expensive in the budget", "homogeneous baseline"
WORDS_OF = {"dearest inside": MOST_EXPENSIVE, "best uniform": HOMOGENEOUS}  # keys of report.json in words
COSTS = {
    "FLOPs": ("flops", "multiply-adds of one image"),
    "Parameters": ("params", "parameters"),
    "Predicted latency": ("latency_ms", "predicted latency, ms"),
}
# Open marks around the points of candidates that have a name; they differ in shape and size, so they can lie on one point.
MARKS: dict[str, dict[str, Any]] = {
    "best": {"symbol": "circle-open", "size": 17, "color": BLUE},
    MOST_EXPENSIVE: {"symbol": "diamond-open", "size": 15, "color": PURPLE},
    HOMOGENEOUS: {"symbol": "square-open", "size": 13, "color": OLIVE},
}
DASHES = {MOST_EXPENSIVE: "dash", HOMOGENEOUS: "dot"}


def compared(result: SearchResult) -> dict[str, Candidate]:
    """The candidates that a reader asks for, by their keys in report.json; one may be several of them."""
    known = {BASELINES.get(name, name): candidate for name, candidate in result.baselines.items()}
    return {"chosen": result.chosen, "best": result.best, **known}


def values(run: Run) -> dict[str, Any]:
    """How the search went, and every candidate; JSON."""
    result = run.search
    tied = {candidate.number for candidate in result.tied}
    by_cost = fronts(result.candidates)
    front = {candidate.number for candidate in by_cost["flops"]}

    def described(candidate: Candidate) -> dict[str, Any]:
        return {
            "number": candidate.number,
            "generation": candidate.generation,
            "slug": candidate.architecture.slug,
            "architecture": candidate.architecture.to_dict(),
            "params": candidate.cost.params,
            "flops": candidate.cost.flops,
            "predicted_latency_ms": candidate.cost.latency_ms,
            "score": candidate.score.to_dict(),
            "tied": candidate.number in tied,
            "front": candidate.number in front,
        }

    return {
        "method": run.search_config["method"],
        "choose": run.search_config["choose"],
        "images": len(result.labels),
        "chosen": result.chosen.number,
        "best": result.best.number,
        "best_score": result.best.score.to_dict(),
        "compared": {name: _compared(result, candidate) for name, candidate in compared(result).items()},
        "confirmation": _held_out(result),
        "work": _work(result),
        "fronts": {measure: [candidate.number for candidate in members] for measure, members in by_cost.items()},
        "history": {
            method: [{"images": images, "best": best} for images, best in points] for method, points in run.progress.items()
        },
        "preferences": preferences(run.space, result),
        "searchability": _searchability(result),
        "evaluated": [described(candidate) for candidate in result.candidates],
    }


def _searchability(result: SearchResult) -> dict[str, Any] | None:
    """Whether the order of the candidates is more than chance; None where too few random ones were evaluated to tell."""
    found = searchability(result)
    return None if found is None else {**fields_to_json(found), "words": str(found)}


def _compared(result: SearchResult, candidate: Candidate) -> dict[str, Any]:
    """One network beside the chosen one."""
    chosen = result.chosen
    if candidate.number == chosen.number:
        against = "the same network"
    elif candidate.score.images < chosen.score.images:
        against = "saw fewer images"
    elif result.on_par(candidate):
        against = "not significantly different"
    else:
        against = "worse" if candidate.score.value < chosen.score.value else "better"
    again = result.held_out_scores.get(candidate.number)
    return {
        "number": candidate.number,
        "slug": candidate.architecture.slug,
        "params": candidate.cost.params,
        "flops": candidate.cost.flops,
        "score": candidate.score.to_dict(),
        "confirmed": None if again is None else again.to_dict(),
        "against_chosen": against,
    }


def _held_out(result: SearchResult) -> dict[str, Any] | None:
    """Every held-out score, by the number of the candidate; None where no image was held out."""
    if not result.held_out_scores:
        return None
    scores = {str(number): score.to_dict() for number, score in sorted(result.held_out_scores.items())}
    return {"images": len(result.held_out_labels), "scores": scores}


def _work(result: SearchResult) -> dict[str, Any]:
    """Predictions that were made, and the share that halving saved of predictions for every network and search image."""
    whole = len(result.candidates) * len(result.labels)
    return {**result.images, "saved": 1 - result.images["evaluated"] / whole}


# --- words ---------------------------------------------------------------------------------------------------------


def section(report: Mapping[str, Any]) -> Section:
    """How the network was chosen, and what it is compared with."""
    text = (_choice_text(report), *_order_text(report), *_work_text(report), _accuracy_text(report))
    return Section(
        name="choice", title="The choice", text=text, tables=(compared_table(report),), figures=("candidates", "progress")
    )


def _choice_text(report: Mapping[str, Any]) -> str:
    search = report["search"]
    how = {"best": f"the highest {words_of(report)}", "cheapest": "the fewest FLOPs"}[search["choose"]]
    tied = report["tied"]
    test = "McNemar's exact test" if report["metric"] == "top1" else "random swaps of predictions"
    if tied == 1:
        ties = f"The others that saw all of them are significantly worse than the best ({test}, 5 %)."
    else:
        ties = (
            f"{tied} of the {report['candidates']}, the best included, are not significantly different from the best on these "
            f"images ({test}, 5 %); the one of them with {how} was chosen."
        )
    loop = report["latency_loop"]
    if loop is not None and loop["instead_of"]:
        ties += f" That was {loop['instead_of']}; after measuring, {loop['slug']} replaced it (see Latency in the loop)."
    if "race" in report:
        ties += " Whether that is delivered was decided by finetuning (see The race)."
    return f"{report['candidates']} networks were scored with inherited weights on {_seen_words(search)}. {ties}"


def _order_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Whether the order of the candidates is more than chance, where that is known."""
    found = report["search"].get("searchability")
    return () if found is None else (f"{capital(found['words'])}.",)


def _seen_words(search: Mapping[str, Any]) -> str:
    """On how many images the candidates were scored."""
    whole = sum(candidate["score"]["images"] == search["images"] for candidate in search["evaluated"])
    if whole == len(search["evaluated"]):
        return f"{search['images']} images of the search part"
    return f"up to {search['images']} images of the search part ({whole} of them on all)"


def _work_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    """What halving and earlier searches saved; nothing where they saved nothing."""
    work = report["search"]["work"]
    if not work["saved"] and not work["reused"]:
        return ()
    text = f"Together they saw {work['evaluated']:,} images"
    if work["saved"] > 0:
        text += f", {100 * work['saved']:.0f} % fewer than if every network had seen every image"
    return (text + (f"; {work['reused']:,} predictions came from earlier searches." if work["reused"] else "."),)


def _accuracy_text(report: Mapping[str, Any]) -> str:
    """The score of the chosen network and of the best: held-out ones where there are, and how far to trust them."""
    search, metric = report["search"], words_of(report)
    chosen, best = search["compared"]["chosen"], search["compared"]["best"]
    alone = chosen["number"] == best["number"]
    of_best = "" if alone else f" and {score_text(best['score'])} for the best"
    on_search = f"{score_text(chosen['score'])} for the chosen network{', the best of all' if alone else ''}{of_best}"
    optimistic = "such scores are optimistic, because they picked the best of many"
    if chosen["confirmed"] is None:
        return f"On the search images the {metric} is {on_search}; {optimistic}. Only the score on the test part is not."
    again = "" if alone or best["confirmed"] is None else f", that of the best {score_text(best['confirmed'])}"
    return (
        f"The {metric} of the chosen network is {score_text(chosen['confirmed'])} on {search['confirmation']['images']} held-out "
        f"images, which took no part in the choice{again}. On the search images it is {on_search}; {optimistic}."
    )


def compared_table(report: Mapping[str, Any]) -> Table:
    """The chosen network, the best and the baselines: scores on the search images and on held-out ones."""
    search = report["search"]
    held_out, metric = search["confirmation"], WORDS[metric_from(report["metric"])]
    rows = []
    for name, network in search["compared"].items():
        again = "not scored" if network["confirmed"] is None else score_text(network["confirmed"])
        row = (
            f"{WORDS_OF.get(name, name)} ({network['slug']})",
            score_text(network["score"]),
            *(() if held_out is None else (again,)),
            "–" if name == "chosen" else network["against_chosen"],
            show("params", network["params"]),
            show("flops", network["flops"]),
        )
        rows.append(row)
    columns = ["network", f"{metric} on the search images"]
    columns += [] if held_out is None else [f"on {held_out['images']} held-out images"]
    columns += ["against the chosen", "parameters", "FLOPs"]
    notes = {
        "dearest inside": "Most expensive in the budget: the network with the most FLOPs that the budget allows.",
        "best uniform": "Homogeneous baseline: the best evaluated network whose blocks are all alike.",
    }
    return Table(
        title="The chosen network beside others",
        columns=tuple(columns),
        rows=tuple(rows),
        numbers=tuple(range(len(columns) - 2, len(columns))),
        note=" ".join([*(text for name, text in notes.items() if name in search["compared"]),
                       "Networks are compared image by image on the search images."]),
    )  # fmt: skip


# --- candidates ----------------------------------------------------------------------------------------------------


def _in_words(result: SearchResult) -> dict[str, Candidate]:
    """The compared candidates, by words."""
    return {WORDS_OF.get(name, name): candidate for name, candidate in compared(result).items()}


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
            "A point is one network with inherited weights; hover over it to read more. The line is the Pareto front in the cost "
            f"shown. Tied (blue): not significantly different from the best on these images. {faint}The bar is the 95 % interval "
            "of the chosen one; all others are about as wide. Where the cost shown is limited, dashed: the limit; dotted: the "
            "limit that was searched with, where it differs."
        ),
        views=views,
        switch="cost on the horizontal axis",
    )


def _candidates(run: Run, measure: str, title: str) -> Plot:
    result = run.search
    tied = {candidate.number for candidate in result.tied}
    full, held_out = known_best(result.candidates), result.held_out_scores
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
            traces.append({**_points(run, members, held_out, measure), "name": shown, "marker": looks[name]})
    value, low, high = result.chosen.score.value, result.chosen.score.low, result.chosen.score.high
    traces[-1]["error_y"] = error_bars([(100 * low, 100 * value, 100 * high)], ORANGE)
    named = _in_words(result)
    for name, mark in MARKS.items():
        if name in named:
            look = {**mark, "line": {"width": 2, "color": mark["color"]}}
            traces.append({**_points(run, [named[name]], held_out, measure), "name": name, "marker": look})
    layout = common_layout(title, f"{WORDS[run.metric]} on the search part, %", shapes=_limit_lines(run, measure))
    if measure != "latency_ms":
        layout["xaxis"] |= {"exponentformat": "SI"}
    return {"data": traces, "layout": layout}


def _points(run: Run, members: Sequence[Candidate], held_out: Mapping[int, Score], measure: str) -> Plot:
    return {
        "type": "scatter", "mode": "markers",
        "x": [getattr(candidate.cost, measure) for candidate in members],
        "y": [100 * candidate.score.value for candidate in members],
        "text": [_hover(run, candidate, held_out.get(candidate.number)) for candidate in members],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _hover(run: Run, candidate: Candidate, again: Score | None) -> str:
    cost, result = candidate.cost, run.search
    names = ", ".join(name for name, other in _in_words(result).items() if other.number == candidate.number)
    latency = "" if cost.latency_ms is None else f", {show('latency_ms', cost.latency_ms)} predicted"
    seen, every = candidate.score.images, len(result.labels)
    fewer = "" if seen == every else f"<br>saw only {seen} of {every} search images"
    on_others = "" if again is None else f"<br>on {again.images} held-out images {score_text(again.to_dict())}"
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


# --- progress ------------------------------------------------------------------------------------------------------


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
    for name, candidate in _in_words(run.search).items():
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
    caption = (
        "An image counts once for every network that saw it. Level lines are the baselines, which need no search: one network "
        "each. Scores are on the search part, where the best of many looks better than it is."
    )
    return one_view("progress", "The best score so far against the work done", caption, traces, layout)
