"""The latency table in a report: how well it predicts, and what was measured before the choice was final."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoformer.profiling.race.entrant import Entrant
from autoformer.profiling.reports.blocks import (
    BLUE,
    GREEN,
    GREY,
    OLIVE,
    ORANGE,
    PURPLE,
    Figure,
    Plot,
    Section,
    Table,
    common_layout,
    error_bars,
    plain,
    words,
)
from autoformer.profiling.reports.budget import measurement_of_limit
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.wording import change, latency_text, number_of
from autoformer.profiling.tables.limit import LatencyAnswer
from autoformer.profiling.tables.table import LatencyTable


def values(run: Run) -> dict[str, Any] | None:
    """The latency table's fit, and how its prediction for the chosen network compares with the measurement."""
    table = run.table
    if table is None:
        return None
    measurement, reason = measurement_of_limit(run)
    predicted = run.delivered.predicted_ms
    if run.delivered.architecture is None:
        reason = "the table predicts networks of the search's space only"
    prediction: dict[str, Any] = {"predicted_ms": predicted, "measured_ms": None, "error": None, "reason": reason}
    if measurement is not None and predicted is not None:
        measured = measurement.stats.p50_ms
        prediction |= {"measured_ms": measured, "error": predicted / measured - 1}
    return {
        "qualification": str(table.measurement_conditions),
        "coefficients": dict(table.coefficients),
        "model": table.model,
        "networks": len(table.networks),
        "doubtful": len(table.doubtful),
        "left_out_mape": table.cross_validation_mape,
        "left_out_worst": table.cross_validation_worst,
        "margin": table.margin,
        "created": table.created,
        "prediction": prediction,
    }


# --- words and figure ----------------------------------------------------------------------------------------------


def sections(report: Mapping[str, Any]) -> list[Section]:
    """How well the latency table predicts, and what was measured in the loop; nothing where the run has no table."""
    table = report["latency_table"]
    if table is None:
        return _loop_section(report)
    prediction, which = table["prediction"], "delivered" if "race" in report else "chosen"
    missing = "not measured" if report["chosen"]["architecture"] is not None else "not compared"
    facts = [
        ("model", table["model"]),
        ("measurement conditions", table["qualification"]),
        ("networks measured", f"{table['networks']}, of these {table['doubtful']} not VALID"),
        ("cross-validation error", f"mean {100 * table['left_out_mape']:.2g} %, "
         f"worst {100 * table['left_out_worst']:.2g} %"),
        ("margin taken off the limit", f"{100 * table['margin']:.2g} %"),
        (f"{which} network, predicted", "no prediction" if prediction["predicted_ms"] is None
         else f"{prediction['predicted_ms']:.3g} ms"),
        (f"{which} network, predicted against measured", f"{missing}: {prediction['reason']}" if prediction["error"] is None
         else change(prediction["predicted_ms"], prediction["measured_ms"])),
        ("measured", table["created"]),
    ]  # fmt: skip
    text = (
        "The search cannot time every candidate. It predicts latencies from networks that were timed before it began. For the "
        "cross-validation error, each of these networks was predicted by a fit without it."
    )
    known = Table(title="Fit", columns=("", ""), rows=tuple(facts))
    fit = Section(name="table", title="The latency table", text=(text,), tables=(known,), figures=("table",))
    return [fit, *_loop_section(report)]


def table_figure(run: Run) -> Figure:
    """The latency table: measured against predicted, for its own networks and all that were measured after the search; and its
    fit against FLOPs.
    """
    table = run.table
    assert table is not None
    caption = (
        f"Measurement conditions: {table.measurement_conditions}. On the line a prediction is right; above it a network is "
        "slower. Networks of the table are predicted by a fit without them. Bars are 95 % intervals; times of finalists "
        "and race are divided by the machine speed factor."
    )
    views = {"measured against predicted": _against_predicted(run, table), "against FLOPs": _against_flops(run, table)}
    return Figure(
        name="table", title="The latency table", caption=caption, views=views, switch="what latencies are drawn against"
    )


@dataclass(frozen=True)
class _Timed:
    """A network that was both predicted and measured."""

    words: str  # of the hover label, for plotly
    predicted_ms: float
    span: tuple[float, float, float]  # the measurement with the ends of its interval


def _timed(name: str, predicted_ms: float, measured_ms: float, low_ms: float | None, high_ms: float | None) -> _Timed:
    span = (low_ms or measured_ms, measured_ms, high_ms or measured_ms)
    words = (
        f"<b>{name}</b><br>predicted {predicted_ms:.3g} ms, measured {measured_ms:.3g} ms: {change(predicted_ms, measured_ms)}"
    )
    return _Timed(words, predicted_ms, span)


def predicted_and_measured(run: Run, table: LatencyTable) -> dict[str, list[_Timed]]:
    """Every network that was both, in groups: those of the table, those measured after the search, in the race and at the end."""
    groups: dict[str, list[_Timed]] = {
        "of the table": [_timed(one.architecture.slug, one.left_out_ms, one.measured_ms, None, None) for one in table.networks],
        "finalists of the search": [
            _timed(one.architecture.slug, one.predicted_ms, one.timing.measured_ms, one.timing.low_ms, one.timing.high_ms)
            for one in (() if run.answer is None else run.answer.networks)
        ],
        "of the race": [
            _timed(plain(one.network), one.predicted_ms, one.timing.measured_ms, one.timing.low_ms, one.timing.high_ms)
            for one in _entrants(run)
            if one.predicted_ms is not None and one.timing is not None
        ],
    }
    measurement, predicted = measurement_of_limit(run)[0], run.delivered.predicted_ms
    if measurement is not None and predicted is not None:
        stats = measurement.stats
        groups["delivered, measured at the end"] = [
            _timed(plain(run.delivered.name), predicted, stats.p50_ms, stats.p50_low_ms, stats.p50_high_ms)
        ]
    return {name: members for name, members in groups.items() if members}


def _entrants(run: Run) -> list[Entrant]:
    """Those of the race that came to be measured, whether they started or not."""
    if run.race is None:
        return []
    return [one.entrant for one in run.race.entrants] + [one.entrant for one in run.race.refused if one.entrant is not None]


def _against_predicted(run: Run, table: LatencyTable) -> Plot:
    looks = {
        "of the table": (BLUE, "circle", 9), "finalists of the search": (PURPLE, "diamond", 10),
        "of the race": (OLIVE, "square", 10), "delivered, measured at the end": (ORANGE, "star", 15),
    }  # fmt: skip
    groups = predicted_and_measured(run, table)
    every = [time for members in groups.values() for one in members for time in (one.predicted_ms, *one.span)]
    ends = [0.95 * min(every), 1.05 * max(every)]
    traces: list[Plot] = [
        {
            "type": "scatter", "mode": "lines", "name": "as predicted", "line": {"color": GREY, "width": 1.5, "dash": "dash"},
            "x": ends, "y": ends, "hoverinfo": "skip",
        }
    ]  # fmt: skip
    for name, members in groups.items():
        colour, symbol, size = looks[name]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": f"{name} ({len(members)})",
                "marker": {"color": colour, "symbol": symbol, "size": size},
                "x": [one.predicted_ms for one in members], "y": [one.span[1] for one in members],
                "error_y": error_bars([one.span for one in members], colour),
                "text": [one.words for one in members], "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    return {"data": traces, "layout": common_layout("predicted latency, ms", "measured latency, ms")}


def _against_flops(run: Run, table: LatencyTable) -> Plot:
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
    architecture = run.delivered.architecture
    if measurement is not None and architecture is not None:
        stats = measurement.stats
        point: Plot = {
            "type": "scatter", "mode": "markers", "name": f"{'chosen' if run.race is None else 'delivered'}, measured at the end",
            "marker": {"color": ORANGE, "size": 15, "symbol": "star"},
            "x": [run.delivered.flops], "y": [stats.p50_ms],
            "text": [f"<b>{architecture.slug}</b><br>{words(architecture)}<br>{latency_text(stats.to_dict())}"],
            "hovertemplate": "%{text}<extra></extra>",
        }  # fmt: skip
        if stats.p50_low_ms is not None and stats.p50_high_ms is not None:
            point["error_y"] = error_bars([(stats.p50_low_ms, stats.p50_ms, stats.p50_high_ms)], ORANGE)
        traces.append(point)
    layout = common_layout("multiply-adds of one image", "latency, ms")
    layout["xaxis"]["exponentformat"] = "SI"
    return {"data": traces, "layout": layout}


# --- measured before the choice was final --------------------------------------------------------------------------


def loop_content(answer: LatencyAnswer | None) -> dict[str, Any] | None:
    """The answer as values; None where the run has no limit on latency."""
    if answer is None:
        return None
    return {
        **{name: value for name, value in answer.to_dict().items() if name not in ("device", "basis", "format")},
        "slug": answer.architecture.slug,
        "qualification": str(answer.measurement_conditions),
        "instead_of": answer.rounds[0].chosen.architecture.slug
        if answer.rounds and answer.rounds[0].chosen.architecture != answer.architecture
        else None,
        "slugs": [[network.architecture.slug for network in taken.networks] for taken in answer.rounds],
    }


def _loop_section(report: Mapping[str, Any]) -> list[Section]:
    """What was measured before the choice was final; nothing where no latency is limited."""
    loop = report["latency_loop"]
    if loop is None:
        return []
    tables = (loop_table(loop),) if loop["rounds"] else ()
    return [Section(name="loop", title="Latency in the loop", text=loop_text(loop), tables=tables)]


def loop_text(loop: Mapping[str, Any]) -> tuple[str, ...]:
    """What the measurements changed, in sentences."""
    if not loop["rounds"]:
        return (f"The networks that the search chose were not measured: {loop['not_measured']}.",)
    count = sum(len(slugs) for slugs in loop["slugs"])
    speed_factors = sorted({network["pace"] for taken in loop["rounds"] for network in taken["networks"]} - {1.0})
    shown = " to ".join(f"{value:.3f}" for value in dict.fromkeys((*speed_factors[:1], *speed_factors[-1:])))
    beside = (
        f" Networks of the latency table ran beside them and took {shown} times as long as then. The times are divided by this "
        "machine speed factor."
    )
    speed_factor = beside if speed_factors else ""
    changed = f" It replaces {loop['instead_of']}, which the search chose first." if loop["instead_of"] else ""
    return (
        f"Before the choice was final, {number_of(count, 'network')} {'was' if count == 1 else 'were'} exported and measured in "
        f"{number_of(len(loop['rounds']), 'round')}. Measured "
        f"networks count with their measurement, all others with the corrected table. For the limit of {loop['limit_ms']:.4g} ms "
        f"{loop['slug']} is {loop['status']}: {loop['reason']} ({loop['qualification']}).{speed_factor}{changed}",
    )


def loop_table(loop: Mapping[str, Any]) -> Table:
    """Every measured network, round by round."""
    rows = []
    for number, (taken, slugs) in enumerate(zip(loop["rounds"], loop["slugs"], strict=True), 1):
        for slug, network in zip(slugs, taken["networks"], strict=True):
            interval = "" if network["low_ms"] is None else f" [{network['low_ms']:.4g}, {network['high_ms']:.4g}]"
            mark = "final choice" if slug == loop["slug"] else ""
            measured = f"{network['measured_ms']:.4g} ms{interval}"
            error = f"{100 * network['error']:+.1f} %"
            rows.append((str(number), slug, f"{network['predicted_ms']:.4g} ms", measured, error, network["status"], mark))
    return Table(
        title="Measured in the loop",
        columns=("round", "network", "predicted", "measured, 95 % interval", "error of the prediction", "status", ""),
        rows=tuple(rows),
        numbers=(2, 3, 4),
        note="These measurements use fresh weights; the delivered files are measured once more (see Latency).",
    )
