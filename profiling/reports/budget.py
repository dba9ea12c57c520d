"""The budget in a report: each limit, what was found, how much of it that uses, and whether the network keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autoformer.cost import use_words
from autoformer.errors import MeasurementError
from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.verdict import INCONCLUSIVE, count_status
from autoformer.profiling.profiles.shipping import LimitUse
from autoformer.profiling.reports.blocks import Section, Table
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.wording import latency_text, shown_value
from autoformer.profiling.tables.limit import ODD_PACE, Timing

MEASURES = {"params": "parameters", "flops": "FLOPs (multiply-adds)", "latency_ms": "latency"}
MUCH_ROOM = 0.5  # of a latency limit, below which a person may want to know what else fits
PHOTOGRAPHS = 64  # pixels, from which images are photographs that were shrunk
NOT_COUNTED = "it could not be counted"


def limits(run: Run) -> list[dict[str, Any]]:
    """Each limit: as stated, its value, what was found, the share of it that is used, and the status that follows (`met`).

    In the order of `Budget`. A share is of the stated limit, by the measured latency where there is one and else the predicted.
    """
    found = []
    for name, value in run.limits.to_dict().items():
        measure = name.partition("_")[2]
        words = run.stated.get("max_latency" if measure == "latency_ms" else name)
        limit: dict[str, Any] = {"limit": name, "measure": measure, "stated": words, "value": value}
        limit["searched_with"] = getattr(run.searched_with, name)
        if measure == "latency_ms":
            limit |= _latency_limit(run, value)
        else:
            count = getattr(run.delivered, measure)
            met = INCONCLUSIVE if count is None else count_status(name, value, count)
            limit |= {"found": count, "met": met, "reason": NOT_COUNTED if count is None else "counted exactly"}
        used = run.delivered.predicted_ms if measure == "latency_ms" and limit["found"] is None else limit["found"]
        limit["share"] = None if used is None or name.startswith("min_") else used / value
        found.append(limit)
    return found


def _latency_limit(run: Run, limit_ms: float) -> dict[str, Any]:
    """What is known about a limit on latency; `limit_status` decides, as everywhere."""
    known: dict[str, Any] = {"found": None, "low": None, "high": None, "predicted": run.delivered.predicted_ms}
    known["qualification"] = None if run.measurement_conditions is None else str(run.measurement_conditions)
    measurement, reason = measurement_of_limit(run)
    if measurement is None:
        return {**known, "met": INCONCLUSIVE, "reason": reason}
    stats = measurement.stats
    known |= {"found": stats.p50_ms, "low": stats.p50_low_ms, "high": stats.p50_high_ms, "measured_as": measurement.name}
    timing = _timing(measurement)
    return {**known, "met": timing.status(limit_ms), "reason": timing.why(limit_ms)}


def pace_line(limit: Mapping[str, Any]) -> str | None:
    """That a network was timed on a machine much slower or faster than when its latency table was measured; else None."""
    found, predicted = limit["found"], limit.get("predicted")
    if not found or not predicted or 1 / ODD_PACE < found / predicted < ODD_PACE:
        return None
    pace = f"{found / predicted:.2g} times as slow" if found > predicted else f"{predicted / found:.2g} times as fast"
    return (
        f"the latency table predicts {predicted:.3g} ms for what took {found:.3g} ms: this machine is {pace} "
        "now as when the table was measured, or the network is unlike those in it; --measure-again times it anew"
    )


def room_lines(limits: Sequence[Mapping[str, Any]], image_size: int) -> Iterator[str]:
    """That most of a latency limit is left, of networks for photographs, and what may turn it into a higher score."""
    share = next((limit.get("share") for limit in limits if limit["limit"] == "max_latency_ms"), None)
    if share is not None and share < MUCH_ROOM and image_size >= PHOTOGRAPHS:
        yield (
            f"{100 * (1 - share):.0f} % of the latency limit is left: a pretrained start (--from), or images larger than "
            f"{image_size} px (--set data.image_size=..., another --out) may turn it into a higher score"
        )


def measurement_of_limit(run: Run) -> tuple[Measurement | None, str]:
    """The measurement that means the same as the limit on latency; or None and the reason."""
    wanted = run.measurement_conditions
    if wanted is None:
        return None, "the run has no latency table, so nothing says what a latency means"
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


def use_by(run: Run, measurement: Measurement | None) -> dict[str, LimitUse]:
    """How much of each limit a file with this measurement uses, by the limit's name.

    A limit on latency is held against the file's own time where statistic, batch and device are those of the limit; its precision
    and backend are the file's own.
    """
    found = {}
    for limit in limits(run):
        use = LimitUse(share=limit["share"], status=limit["met"], reason=limit["reason"])
        if limit["measure"] == "latency_ms":
            use = _latency_use(run, measurement, limit["value"])
        found[str(limit["limit"])] = use
    return found


def _latency_use(run: Run, measurement: Measurement | None, limit_ms: float) -> LimitUse:
    wanted = run.measurement_conditions
    if wanted is None or wanted.statistic != "p50":
        return LimitUse(share=None, status=INCONCLUSIVE, reason=measurement_of_limit(run)[1])
    if measurement is None:
        return LimitUse(share=None, status=INCONCLUSIVE, reason="its time was not measured")
    own = measurement.measurement_conditions("p50")
    if replace(own, precision=wanted.precision, backend=wanted.backend) != wanted:
        return LimitUse(share=None, status=INCONCLUSIVE, reason=f"the limit means {wanted}; measured was {own}")
    timing = _timing(measurement)
    return LimitUse(share=timing.measured_ms / limit_ms, status=timing.status(limit_ms), reason=timing.why(limit_ms))


def _timing(measurement: Measurement) -> Timing:
    stats = measurement.stats
    return Timing(
        measured_ms=stats.p50_ms, low_ms=stats.p50_low_ms, high_ms=stats.p50_high_ms, runs=stats.n, verdict=measurement.verdict
    )


def main_measurement(run: Run) -> Measurement:
    """The measurement that the first lines show: of the limit, else of an fp32 file, else the first."""
    of_limit = measurement_of_limit(run)[0]
    if of_limit is not None:
        return of_limit
    every = run.profile.measurements
    return next((measurement for measurement in every if measurement.precision == "fp32"), every[0])


# --- words ---------------------------------------------------------------------------------------------------------


def section(report: Mapping[str, Any]) -> Section:
    """The limits beside what was found."""
    return Section(name="budget", title="Cost against the budget", tables=(limit_table(report),))


def found_text(limit: Mapping[str, Any]) -> str:
    """What was found about a limit: a count, a median with its interval, or that nothing was measured."""
    if limit["found"] is None:
        return "not measured"
    if limit["measure"] != "latency_ms":
        return shown_value(limit["measure"], limit["found"])
    return latency_text({"p50_ms": limit["found"], "p50_low_ms": limit["low"], "p50_high_ms": limit["high"]})


def used_text(limit: Mapping[str, Any]) -> str:
    """How much of a limit is used; nothing of a lower limit, and of reports from before shares were written."""
    return "" if limit.get("share") is None else f"{use_words(limit['limit'], limit['share'])} used{_predicted(limit)}"


def _predicted(limit: Mapping[str, Any]) -> str:
    return " (predicted)" if limit["found"] is None else ""


def limit_table(report: Mapping[str, Any]) -> Table:
    """Each limit, what was found, how much of the limit that is, and the status that follows."""
    rows = []
    for limit in report["budget"]:
        measure = limit["measure"]
        sign = "at most" if limit["limit"].startswith("max") else "at least"
        basis = limit["reason"]
        if measure == "latency_ms":
            predicted = limit["predicted"]
            basis = "" if predicted is None else f"predicted {shown_value(measure, predicted)}; "
            basis += f"searched with {shown_value(measure, limit['searched_with'])} (the limit less the table's margin); "
            basis += limit["reason"] + ("" if limit["qualification"] is None else f"; {limit['qualification']}")
        stated, value = f"{sign} {limit['stated'] or 'not recorded'}", shown_value(measure, limit["value"])
        used = "–" if limit["share"] is None else f"{100 * limit['share']:.0f} %{_predicted(limit)}"
        rows.append((MEASURES[measure], stated, value, found_text(limit), used, limit["met"], basis))
    limited = {limit["measure"] for limit in report["budget"]}
    for measure in ("params", "flops"):
        if measure not in limited:
            count = report["chosen"][measure]
            found, basis = ("–", NOT_COUNTED) if count is None else (shown_value(measure, count), "counted exactly")
            rows.append((MEASURES[measure], "no limit", "–", found, "–", "–", basis))
    return Table(
        title="Limits",
        columns=("cost", "stated", "limit", "found", "used", "status", "how it is known"),
        rows=tuple(rows),
        numbers=(2, 3, 4),
        note=(
            "Percentages are of the largest network of the space. FLOPs are multiply-adds of one image, counted as fvcore "
            "does. A latency is within budget when its measurement is VALID and the whole 95 % interval of the median lies "
            "inside the limit, and over budget when it is VALID and the whole interval lies above. Anything else is inconclusive."
        ),
    )
