"""The race in a report: its decision in a sentence, who took part and how far each came, what it cost, and what that says of
inherited scores.

Everything but the figures is made from values of `report.json`, so `describe` shows a race as the report does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.cost import show
from autoformer.metric import WORDS, metric_from
from autoformer.profiling.race.entrant import WORDS as KINDS
from autoformer.profiling.race.entrant import Entrant
from autoformer.profiling.race.record import Raced, RaceRecord, counted
from autoformer.profiling.reports.blocks import (
    BLUE,
    GREEN,
    GREY,
    OLIVE,
    ORANGE,
    PURPLE,
    SYMBOLS,
    Figure,
    Plot,
    Section,
    Table,
    common_layout,
    error_bars,
    one_view,
    plain,
)
from autoformer.profiling.reports.wording import duration, latency_text, score_text
from autoformer.records import to_json

WINNER, RUNNER_UP = "delivered", "runner-up"
OTHERS = (GREEN, PURPLE, OLIVE, GREY)  # of those that neither won nor came second
FADED = 0.4  # opacity of what is out
FROM_SCRATCH = "from scratch"
# The rule of `halving`, for a reader of the report.
GO_ON = (
    "After each step the highest scores go on; of equal ones that of the faster network is first, then that of the one named "
    "first."
)
EITHER_START = (
    "A network learns longer from scratch, so the best of those that began so, and the best of the others, each keep a place, "
    "also before higher scores."
)


def values(race: RaceRecord) -> dict[str, Any]:
    """The decision, everyone who took part in the order of the final ranking, and what it cost; JSON."""
    limit, agreement = race.limits.max_latency_ms, race.agreement
    return {
        "sentence": race.sentence(),
        "metric": race.metric,
        "winner": race.winner,
        "runner_up": race.runner_up,
        "tied": race.tied,
        "difference": to_json(race.difference()),
        "images": race.images,
        "held_out_images": race.held_out_images,
        "limit_ms": limit,
        "latency_qualification": None if race.measurement_conditions is None else str(race.measurement_conditions),
        "schedule": to_json(race.schedule),
        "entrants": [_entrant(race, one) for one in ranked(race)],
        "refused": [
            {"name": one.name, "kind": one.kind, "what": KINDS[one.kind], "network": one.network, "reason": one.reason}
            for one in race.refused
        ],
        "agreement": to_json(agreement),
        "cost": {
            "finetunes": race.cost,
            "extra_epochs": race.extra_epochs,
            "epochs": race.schedule.epochs,
            "extra_seconds": race.extra_seconds,
            "own_seconds": race.own_seconds,
            "beside_seconds": dict(race.seconds),
        },
    }


def ranked(race: RaceRecord) -> list[Raced]:
    """The winner, the runner-up, then those who came far before the others; of those the best score first."""
    first = [race.winner, race.runner_up]

    def place(one: Raced) -> tuple[float, ...]:
        named = first.index(one.entrant.name) if one.entrant.name in first else len(first)
        last = one.last
        if last is None or last.score is None:
            return named, 1, 0.0, 0.0, 0.0
        return named, 0, -last.epochs, -last.score.value, one.entrant.latency_ms or 0.0

    return sorted(race.entrants, key=place)  # else in the order of starting


def _entrant(race: RaceRecord, one: Raced) -> dict[str, Any]:
    entrant, timing, last, limit = one.entrant, one.entrant.timing, one.last, race.limits.max_latency_ms
    latency = entrant.latency_ms
    return {
        "name": entrant.name,
        "kind": entrant.kind,
        "what": KINDS[entrant.kind],
        "network": entrant.network,
        "architecture": to_json(entrant.architecture),
        "image_size": entrant.image_size,
        "start": start(entrant),
        "note": entrant.note,
        "params": entrant.params,
        "flops": entrant.flops,
        "latency_ms": latency,
        "low_ms": None if timing is None else timing.low_ms,
        "high_ms": None if timing is None else timing.high_ms,
        "measured": timing is not None,
        "verdict": None if timing is None else timing.verdict.level,
        "share_of_limit": None if latency is None or limit is None else latency / limit,
        "inherited_score": to_json(entrant.inherited),
        "rate": one.rate,
        "epochs": 0 if last is None else last.epochs,
        "score": None if last is None else to_json(last.score),
        "held_out_score": to_json(one.held_out),
        "finished": last is not None and last.epochs == race.schedule.epochs,
        "out": one.out,
        "curve": [{"epochs": part.epochs, "score": to_json(part.score)} for part in one.curve()],
    }


def start(entrant: Entrant) -> str:
    """What its training began with."""
    if entrant.fresh:
        return FROM_SCRATCH
    return "pretrained" if entrant.architecture is None else "inherited"


# --- words ---------------------------------------------------------------------------------------------------------


def sections(report: Mapping[str, Any]) -> list[Section]:
    """The race; nothing in a run without one."""
    if "race" not in report:
        return []
    race = report["race"]
    text = (_way_text(race), agreement_text(race), cost_text(race))  # the page begins with the decision
    tables = (result_table(race), entrant_table(race), *([refused_table(race)] if race["refused"] else []))
    return [
        Section(name="race", title="The race", text=text, tables=tables, figures=("race", "race-latency"), figures_first=True)
    ]


def _way_text(race: Mapping[str, Any]) -> str:
    """How the race was run."""
    rungs, count = race["schedule"]["rungs"], len(race["entrants"])
    whole = counted(race["schedule"]["epochs"])
    what = f"{count} networks were finetuned alike" if count > 1 else "One network was finetuned"
    if not rungs:
        return f"{what}, for {whole}."
    rates = race["schedule"]["rates"]
    tried = "" if len(rates) == 1 else f", with {' and '.join(f'{rate:g}' for rate in rates)} times the learning rate"
    steps = [
        f"all to epoch {rungs[0]['epochs']}{tried}",
        *(f"{rung['entrants']} to epoch {rung['epochs']}" for rung in rungs[1:]),
    ]
    both = len({one["start"] == FROM_SCRATCH for one in race["entrants"]}) == 2
    to_end = f"; the best to the end after {whole}, and with it the second where the two cannot be told apart"
    to_end += ", or where it alone began from scratch" if both else ""
    if rungs[-1]["epochs"] == race["schedule"]["epochs"]:
        to_end = ""
    return f"{what}: {', '.join(steps)}{to_end}. {GO_ON}" + (f" {EITHER_START}" if both else "")


def agreement_text(race: Mapping[str, Any]) -> str:
    """Whether inherited scores ordered the networks as their training did."""
    found, rungs = race["agreement"], race["schedule"]["rungs"]
    if found is None:
        return "Too few networks with inherited scores were raced to say whether these order networks as finetuning does."
    after = f"those after {counted(rungs[0]['epochs'] if rungs else race['schedule']['epochs'])} of finetuning"
    if found["low"] > 0:
        said = "inherited scores put these networks in much the same order"
    elif found["high"] < 0:
        said = "inherited scores put these networks in the opposite order: they misled the search here"
    else:
        said = "the interval holds 0, so inherited scores do not show which of these networks is better"
    return (
        f"Kendall's tau between inherited scores and {after} is {found['tau']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}] "
        f"over {found['networks']} networks (1: the same order, 0: chance; the 95 % interval is about the images): {said}."
    )


def cost_text(race: Mapping[str, Any]) -> str:
    """What was spent beyond the delivered network's own finetune."""
    cost = race["cost"]
    finetunes = f"{cost['finetunes']:.2g}"
    beside = ", ".join(f"{name} {duration(seconds)}" for name, seconds in cost["beside_seconds"].items())
    return (
        f"The race cost {finetunes} finetune{'' if finetunes == '1' else 's'} beyond the delivered network's own: "
        f"{counted(cost['extra_epochs'])}, where a finetune has {cost['epochs']}; {duration(cost['extra_seconds'])} beside "
        f"{duration(cost['own_seconds'])}." + (f" Spent on other things: {beside}." if beside else "")
    )


def result_table(race: Mapping[str, Any]) -> Table:
    """How far each came and how it ended, in the order of the final ranking."""
    metric = WORDS[metric_from(race["metric"])]
    return _table(
        "How the race ended", [[groups[0], *groups[4:]] for groups in entrant_cells(race)], "learning rate", -1,
        f"The {metric} is that after the epochs beside it, on the images that decided; of few epochs it is no match for that of "
        "many.",
    )  # fmt: skip


def entrant_table(race: Mapping[str, Any]) -> Table:
    """What each is and costs, in the same order."""
    where = race["latency_qualification"]
    measured = "No latency was measured." if where is None else f"Latencies: {where}, all measured together."
    note = f"FLOPs are multiply-adds of one image. {measured}"
    return _table("Who took part", [groups[:4] for groups in entrant_cells(race)], "parameters", None, note)


def _table(title: str, rows: list[list[list[tuple[str, str]]]], first: str, end: int | None, note: str) -> Table:
    """One of groups of cells; numbers are the columns from `first` to `end`."""
    flat = [[cell for group in groups for cell in group] for groups in rows]
    columns = tuple(column for column, _ in flat[0])
    numbers = tuple(range(len(columns)))[columns.index(first) : end]
    return Table(
        title=title, columns=columns, rows=tuple(tuple(text for _, text in cells) for cells in flat), numbers=numbers, note=note
    )


def entrant_cells(race: Mapping[str, Any]) -> list[list[list[tuple[str, str]]]]:
    """What is told of each entrant as (column, text), in groups that a narrow table puts into one column."""
    scored = f"{WORDS[metric_from(race['metric'])]} on {race['images']} images"
    again, held_out = f"on {race['held_out_images']} held-out images", any(one["held_out_score"] for one in race["entrants"])
    share = None if race["limit_ms"] is None else f"of the limit, {race['limit_ms']:.4g} ms"

    def percent_of_limit(one: Mapping[str, Any]) -> str:
        return "–" if one["share_of_limit"] is None else f"{100 * one['share_of_limit']:.0f} %"

    def score_of(one: Mapping[str, Any], name: str) -> str:
        return "–" if one[name] is None else score_text(one[name])

    return [
        [
            [("name", f"{number}  {one['name']}"), ("network", one["network"])],
            [("what it is", one["what"]), ("starts", one["start"] + ("" if one["note"] is None else f"; {one['note']}"))],
            [
                ("images", f"{one['image_size']} px"),
                ("parameters", show("params", one["params"])),
                ("FLOPs", "–" if one["flops"] is None else show("flops", one["flops"])),
            ],
            [("latency, 95 % interval", _latency(one)), *([] if share is None else [(share, percent_of_limit(one))])],
            [("learning rate", "–" if one["rate"] is None else f"× {one['rate']:g}"), ("epochs", str(one["epochs"]))],
            [(scored, score_of(one, "score")), *([(again, score_of(one, "held_out_score"))] if held_out else [])],
            [("how it ended", _end(race, one))],
        ]
        for number, one in enumerate(race["entrants"], 1)
    ]


def _latency(one: Mapping[str, Any]) -> str:
    if one["latency_ms"] is None:
        return "not measured"
    if not one["measured"]:
        return f"{show('latency_ms', one['latency_ms'])} predicted"
    said = latency_text({"p50_ms": one["latency_ms"], "p50_low_ms": one["low_ms"], "p50_high_ms": one["high_ms"]})
    return said if one["verdict"] == "VALID" else f"{said}, {one['verdict']}"


def _end(race: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    """How the race ended for one."""
    if one["name"] == race["winner"]:
        return WINNER
    if one["name"] != race["runner_up"]:
        return one["out"] or "finished, behind"
    tied = ", cannot be told apart" if race["tied"] else ""
    return f"{RUNNER_UP}{tied}" + ("" if one["out"] is None else f"; {one['out']}")


def refused_table(race: Mapping[str, Any]) -> Table:
    """Networks that did not start, with the reason."""
    rows = tuple((one["name"], one["what"], one["network"], one["reason"]) for one in race["refused"])
    return Table(title="Did not start", columns=("name", "what it is", "network", "why"), rows=rows)


# --- figures -------------------------------------------------------------------------------------------------------


def figures(race: Mapping[str, Any]) -> list[Figure]:
    """Scores by epoch, and scores against latencies where there are latencies; from the values of a race."""
    against = latency_figure(race)
    return [epoch_figure(race), *([] if against is None else [against])]


def _looks(race: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Colour, width and opacity of each entrant, in their order: the winner strong, what is out faded."""
    found = []
    for index, one in enumerate(race["entrants"]):
        first, second = one["name"] == race["winner"], one["name"] == race["runner_up"]
        found.append(
            {
                "color": ORANGE if first else BLUE if second else OTHERS[index % len(OTHERS)],
                "width": 4 if first else 2.5 if second else 1.5,
                "symbol": "star" if first else SYMBOLS[index % len(SYMBOLS)],
                "opacity": 1 if first or one["finished"] else FADED,
            }
        )
    return found


def epoch_figure(race: Mapping[str, Any]) -> Figure:
    """The score of each entrant by epoch, with its better learning rate."""
    metric, traces = WORDS[metric_from(race["metric"])], list[Plot]()
    for number, (one, look) in enumerate(zip(race["entrants"], _looks(race), strict=True), 1):
        if not one["curve"]:
            continue
        scores = [part["score"] for part in one["curve"]]
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": _name(number, one), "opacity": look["opacity"],
                "line": {"color": look["color"], "width": look["width"]},
                "marker": {"symbol": look["symbol"], "size": 9},
                "x": [part["epochs"] for part in one["curve"]],
                "y": [100 * score["value"] for score in scores],
                "error_y": error_bars(_spans(scores), look["color"]),
                "text": [_hover(race, one, part["epochs"], part["score"]) for part in one["curve"]],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    layout = common_layout("epochs of finetuning", f"{metric}, %")
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["legend"]["traceorder"] = "reversed"
    caption = (
        "Orange: the network that is delivered. Faded: out before the end. Bars are 95 % intervals on the images that decided; "
        "networks are compared image by image, which is far sharper."
    )
    if len(race["schedule"]["rates"]) > 1:
        caption += " Of the learning rates tried, the better one of each network is drawn."
    return one_view("race", f"The race: {metric} by epoch", caption, traces[::-1], layout)  # the winner is drawn on top


def latency_figure(race: Mapping[str, Any]) -> Figure | None:
    """The last score of each entrant against its latency, and the limit; None where nothing has both."""
    metric, traces, times = WORDS[metric_from(race["metric"])], list[Plot](), list[float]()
    for number, (one, look) in enumerate(zip(race["entrants"], _looks(race), strict=True), 1):
        if one["score"] is None or one["latency_ms"] is None:
            continue
        low, middle, high = (one[name] or one["latency_ms"] for name in ("low_ms", "latency_ms", "high_ms"))
        symbol = look["symbol"] if one["finished"] else f"{look['symbol']}-open"
        times += [low, high]
        traces.append(
            {
                "type": "scatter", "mode": "markers+text", "name": _name(number, one), "textposition": "top right",
                "opacity": look["opacity"], "text": [str(number)],
                "marker": {"symbol": symbol, "color": look["color"], "size": 15 if number == 1 else 10},
                "x": [middle], "y": [100 * one["score"]["value"]],
                "error_x": error_bars([(low, middle, high)], look["color"]),
                "error_y": error_bars(_spans([one["score"]]), look["color"]),
                "hovertext": [_hover(race, one, one["epochs"], one["score"])], "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )  # fmt: skip
    if not traces:
        return None
    limit, shapes = race["limit_ms"], list[Plot]()
    if limit is not None:
        line = {"dash": "dash", "width": 1.5, "color": GREY}
        shapes.append({"type": "line", "x0": limit, "x1": limit, "yref": "paper", "y0": 0, "y1": 1, "line": line})
    layout = common_layout("latency, ms", f"{metric}, %", shapes=shapes)
    layout["legend"]["traceorder"] = "reversed"
    if limit is not None:  # a line alone does not widen an axis
        ends = [*times, limit]
        space = 0.05 * (max(ends) - min(ends) or limit)
        layout["xaxis"]["range"] = [max(0.0, min(ends) - space), max(ends) + space]
    caption = (
        "Numbers are those of the table; scores are on the images that decided, bars are 95 % intervals. Filled: finished. Open "
        "and faded: out before the end, with the score of fewer epochs."
        + ("" if limit is None else " Dashed: the limit on latency.")
    )
    return one_view("race-latency", f"The race: {metric} against latency", caption, traces[::-1], layout)


def _spans(scores: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, float]]:
    return [(100 * score["low"], 100 * score["value"], 100 * score["high"]) for score in scores]


def _name(number: int, one: Mapping[str, Any]) -> str:
    return plain(f"{number}  {one['network']}")


def _hover(race: Mapping[str, Any], one: Mapping[str, Any], epochs: int, score: Mapping[str, Any]) -> str:
    rate = "" if one["rate"] is None else f", {one['rate']:g} times the learning rate"
    return (
        f"<b>{plain(one['network'])}</b> ({plain(one['name'])}: {plain(one['what'])})<br>"
        f"{score_text(score)} after {counted(epochs)}{rate}<br>{plain(_latency(one))}, {plain(_end(race, one))}"
    )
