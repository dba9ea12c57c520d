"""The report's part on latency: limits, measurements, tables, layers and the loop that answered a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.errors import MeasurementError
from autoformer.profiling.insides.layers import LayerProfile
from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.order_statistics import INCONCLUSIVE, OVER_BUDGET, VALID, WITHIN_BUDGET
from autoformer.profiling.reports.blocks import SERIES, Figure, Plot, Section, Table, common_layout, plain
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.wording import change, latency_text
from autoformer.profiling.tables.limit import LatencyAnswer


def limits(run: Run) -> list[dict[str, Any]]:
    """Each limit: as stated, its value, what was found, and whether it is met; in the order of `Budget`."""
    found = []
    for name, value in run.limits.to_dict().items():
        kind, measure = name.split("_", 1)
        words = run.stated.get("max_latency" if measure == "latency_ms" else name)
        limit: dict[str, Any] = {"limit": name, "measure": measure, "stated": words, "value": value}
        limit["searched_with"] = getattr(run.searched_with, name)
        if measure == "latency_ms":
            limit |= _latency_limit(run, value)
        else:
            count = getattr(run.search.chosen.cost, measure)
            kept = count <= value if kind == "max" else count >= value
            limit |= {"found": count, "met": WITHIN_BUDGET if kept else OVER_BUDGET, "reason": "counted exactly"}
        found.append(limit)
    return found


def _latency_limit(run: Run, limit_ms: float) -> dict[str, Any]:
    """What is known about a limit on latency."""
    known: dict[str, Any] = {"found": None, "low": None, "high": None, "predicted": run.search.chosen.cost.latency_ms}
    known["qualification"] = None if run.measurement_conditions is None else str(run.measurement_conditions)
    measurement, reason = measurement_of_limit(run)
    if measurement is None:
        return {**known, "met": INCONCLUSIVE, "reason": reason}
    stats, verdict = measurement.stats, measurement.verdict
    known |= {"found": stats.p50_ms, "low": stats.p50_low_ms, "high": stats.p50_high_ms, "measured_as": measurement.name}
    if stats.p50_low_ms is None or stats.p50_high_ms is None:
        return {**known, "met": INCONCLUSIVE, "reason": f"{stats.n} runs are too few for an interval of the median"}
    if stats.p50_low_ms > limit_ms:
        return {**known, "met": OVER_BUDGET, "reason": f"the whole interval of the median is above the limit; {verdict}"}
    if verdict.level != VALID:
        return {**known, "met": INCONCLUSIVE, "reason": f"the measurement is {verdict}"}
    if stats.p50_high_ms > limit_ms:
        return {**known, "met": INCONCLUSIVE, "reason": "the limit lies inside the interval of the median"}
    return {
        **known,
        "met": WITHIN_BUDGET,
        "reason": "the whole interval of the median is inside the limit; the measurement is VALID",
    }


def measurement_of_limit(run: Run) -> tuple[Measurement | None, str]:
    """The measurement that means the same as the limit on latency; or None and the reason."""
    wanted = run.measurement_conditions
    if wanted is None:
        return None, "the run has no latency table, so it is not said what a latency means"
    if wanted.statistic != "p50":
        return None, f"the limit is on {wanted.statistic}; only the median has an interval here"
    for measurement in run.profile.measurements:
        try:
            if measurement.measurement_conditions("p50") == wanted:
                return measurement, ""
        except MeasurementError:
            continue
    have = "; ".join(str(measurement.measurement_conditions("p50")) for measurement in run.profile.measurements) or "nothing"
    return None, f"the limit means {wanted}; measured was {have}"


def main_measurement(run: Run) -> Measurement:
    """The measurement that the first lines show: of the limit, else of an fp32 file, else the first."""
    of_limit = measurement_of_limit(run)[0]
    if of_limit is not None:
        return of_limit
    every = run.profile.measurements
    return next((measurement for measurement in every if measurement.precision == "fp32"), every[0])


def _latency(run: Run, measurement: Measurement) -> dict[str, Any]:
    """One measurement without its samples, which stand in latency.json."""
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


def _table(run: Run) -> dict[str, Any] | None:
    """The latency table's fit, and how its prediction for the chosen network compares with the measurement."""
    table = run.table
    if table is None:
        return None
    measurement, reason = measurement_of_limit(run)
    predicted = run.search.chosen.cost.latency_ms
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


def _latency_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "All files were run in turns, after warm-up, with a small fixed network among them (the reference). Absolute times of "
        "a machine drift by some per cent from hour to hour; compare runs by the ratio to the reference. "
        f"Measured {report['latency_measured']}{_attempt(report['latency_attempt'])}.",
    )


def _table_section(report: Mapping[str, Any], figures: tuple[str, ...]) -> list[Section]:
    """How well the latency table predicts; nothing where the run has none."""
    table = report["latency_table"]
    if table is None:
        return []
    prediction = table["prediction"]
    facts = [
        ("model", table["model"]),
        ("meaning", table["qualification"]),
        ("networks measured", f"{table['networks']}, of these {table['doubtful']} not VALID"),
        ("error on a network left out of the fit", f"mean {100 * table['left_out_mape']:.2g} %, "
         f"worst {100 * table['left_out_worst']:.2g} %"),
        ("margin taken off the limit", f"{100 * table['margin']:.2g} %"),
        ("chosen network, predicted", "no prediction" if prediction["predicted_ms"] is None
         else f"{prediction['predicted_ms']:.3g} ms"),
        ("chosen network, predicted against measured", f"not measured: {prediction['reason']}" if prediction["error"] is None
         else change(prediction["predicted_ms"], prediction["measured_ms"])),
        ("measured", table["created"]),
    ]  # fmt: skip
    text = "The search cannot time every candidate; it predicts from networks that were timed before it began."
    known = Table(title="Fit", columns=("", ""), rows=tuple(facts))
    return [Section(name="table", title="The latency table", text=(text,), tables=(known,), figures=figures)]


def _layer_section(report: Mapping[str, Any], figures: tuple[str, ...]) -> list[Section]:
    """Where the time of the fp32 file goes; nothing where the run did not take it apart."""
    layers = report["layers"]
    if layers is None:
        return []
    return [
        Section(
            name="layers", title="Where the time goes", text=(LAYERS_TEXT,), tables=(layer_table(layers),), figures=figures
        )
    ]  # fmt: skip


def _loop_section(report: Mapping[str, Any]) -> list[Section]:
    """What was measured before the choice was final; nothing where no latency is limited."""
    loop = report["latency_loop"]
    if loop is None:
        return []
    tables = (loop_table(loop),) if loop["rounds"] else ()
    return [Section(name="loop", title="Latency in the loop", text=loop_text(loop), tables=tables)]


def _attempt(number: int) -> str:
    return "" if number == 1 else f", attempt {number}: the earlier ones were not steady"


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
        threads = "" if stats["threads"] is None else f", {stats['threads']} thread{'' if stats['threads'] == 1 else 's'}"
        clock = latency_text(stats["device_clock"]) if stats["device_clock"] else "none"
        rows.append(
            (
                name,
                f"{stats['backend']}, {stats['precision']}, batch {stats['batch']}{threads}",
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


def loop_text(loop: Mapping[str, Any]) -> tuple[str, ...]:
    """What the measurements changed, in sentences."""
    if not loop["rounds"]:
        return (f"The networks that the search offered were not measured: {loop['not_measured']}.",)
    count = sum(len(slugs) for slugs in loop["slugs"])
    speed_factors = sorted({network["pace"] for taken in loop["rounds"] for network in taken["networks"]} - {1.0})
    shown = " to ".join(f"{value:.3f}" for value in dict.fromkeys((*speed_factors[:1], *speed_factors[-1:])))
    beside = f" Networks of the latency table ran beside them and took {shown} times as long as then; times are divided by that."
    speed_factor = beside if speed_factors else ""
    changed = f" It is chosen instead of {loop['instead_of']}, which the search offered first." if loop["instead_of"] else ""
    return (
        f"Before the choice was final {count} networks were exported and measured in {len(loop['rounds'])} rounds. Measured ones "
        f"count with their measurement, the others with the corrected table. The limit of {loop['limit_ms']:.4g} ms is "
        f"{loop['status']} by {loop['slug']}: {loop['reason']} ({loop['qualification']}).{speed_factor}{changed}",
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
        columns=("round", "network", "predicted", "measured, 95 % interval", "error of the prediction", "limit", ""),
        rows=tuple(rows),
        numbers=(2, 3, 4),
        note="Weights are fresh in these measurements; the delivered files are measured once more below.",
    )


LAYERS_TEXT = "Per-layer times are taken with the runtime's profiler, which slows it down; their sum is not scaled to fit."


def layer_table(layers: Mapping[str, Any], source: str = "") -> Table:
    """Time by kind of module, from the JSON form of a `LayerProfile`."""
    total = layers["sum_ms"]
    rows = [(name, f"{ms:.4f} ms", f"{100 * ms / total:.1f} %" if total else "–") for name, ms in layers["by_kind_ms"].items()]
    known = f"{100 * layers['joined_share']:.0f} %"
    note = f"Sum {total:.4g} ms over {len(layers['layers'])} layers; the torch module is known of {known}."
    if layers["end_to_end_ms"] is not None:
        note += f" A run without the profiler took {layers['end_to_end_ms']:.4g} ms, the sum is "
        note += f"{layers['sum_over_end_to_end']:.3g} times that."
    return Table(
        title=f"{layers['name']} on {layers['backend']}" + (f" ({source})" if source else ""),
        columns=("kind", "one run", "share"), rows=tuple(rows), numbers=(1, 2), note=note, compact=True,
    )  # fmt: skip


def blocks_figure(profiles: Sequence[LayerProfile]) -> Figure | None:
    """Time of each block by kind, one view per profile; None without profiles."""
    views = {}
    for profile in profiles:
        blocks = list(profile.by("block"))
        traces: list[Plot] = []
        for index, kind in enumerate(profile.by("kind")):
            times = [
                sum(layer.average_ms for layer in profile.layers if (layer.block, layer.kind) == (block, kind))
                for block in blocks
            ]
            traces.append(
                {
                    "type": "bar", "name": plain(kind), "x": [plain(block) for block in blocks],
                    "y": [float(f"{time:.5g}") for time in times], "marker": {"color": SERIES[index % len(SERIES)]},
                }
            )  # fmt: skip
        word = plain(f"{profile.name} on {profile.backend}")
        views[word] = {"data": traces, "layout": common_layout("", "one run, ms", barmode="stack")}
    if not views:
        return None
    caption = "Average time of one run under the runtime's profiler, by transformer block and kind of module."
    switch = "network" if len(views) > 1 else ""
    return Figure(name="layers", title="Time by block", caption=caption, views=views, switch=switch)
