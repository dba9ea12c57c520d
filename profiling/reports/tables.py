"""The tables of the report, made from the content of `report.json`; cells are plain text, escaping is up to the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.metric import WORDS, Metric, metric_from
from autoformer.profiling.kits.board_results import BoardResult
from autoformer.profiling.reports.blocks import Table
from autoformer.profiling.reports.wording import (
    DIGEST_DIGITS,
    capital,
    duration,
    file_size,
    interval,
    latency_text,
    percent_value,
    shown_value,
)

MEASURES = {"params": "parameters", "flops": "FLOPs (multiply-adds)", "latency_ms": "latency"}
NETWORKS = {
    "inherited": "supernet weights, as inherited",
    "finetuned": "finetuned",
    "onnx fp32": "ONNX fp32",
    "onnx fp16": "ONNX fp16",
    "onnx int8": "ONNX int8",
}
MEANINGS: dict[Metric, str] = {
    "top1": "The share of images whose first guess is right (top-1), with Wilson's interval.",
    "balanced_accuracy": "The mean over classes of the share of a class's images that are right: every class counts alike, "
    "however many images it has. Intervals are Wilson's for as many images as the score is as sure as.",
    "macro_f1": "The mean over classes of F1, the harmonic mean of precision and recall: every class counts alike, however "
    "many images it has. Intervals are Wilson's for as many images as the score is as sure as.",
}
STEPS = ("latency table", "train", "search", "extract", "finetune", "export", "profile", "test")  # in their order


def networks(name: str) -> str:
    """A name of test.json in words."""
    return NETWORKS.get(name, name)


def limit_table(report: Mapping[str, Any]) -> Table:
    """Each limit, what was found, and whether it is met."""
    rows = []
    for limit in report["budget"]:
        measure = limit["measure"]
        sign = "at most" if limit["limit"].startswith("max") else "at least"
        found, basis = shown_value(measure, limit["found"]) if measure != "latency_ms" else "not measured", limit["reason"]
        if measure == "latency_ms":
            if limit["found"] is not None:
                found = latency_text({"p50_ms": limit["found"], "p50_low_ms": limit["low"], "p50_high_ms": limit["high"]})
            predicted = limit["predicted"]
            basis = "" if predicted is None else f"predicted {shown_value(measure, predicted)}; "
            basis += f"searched with {shown_value(measure, limit['searched_with'])} (the limit less the table's margin); "
            basis += limit["reason"] + ("" if limit["qualification"] is None else f"; {limit['qualification']}")
        stated = limit["stated"] or "not recorded"
        row = (MEASURES[measure], f"{sign} {stated}", shown_value(measure, limit["value"]), found, limit["met"], basis)
        rows.append(row)
    stated = {limit["measure"] for limit in report["budget"]}
    chosen = report["chosen"]
    for measure in ("params", "flops"):
        if measure not in stated:
            row = (MEASURES[measure], "no limit", "–", shown_value(measure, chosen[measure]), "–", "counted exactly")
            rows.append(row)
    return Table(
        title="Limits",
        columns=("cost", "stated", "limit", "found", "verdict", "how it is known"),
        rows=tuple(rows),
        numbers=(2, 3),
        note=(
            "Percentages are of the largest network of the space. FLOPs are multiply-adds of one image, counted as fvcore "
            "does. A latency limit is met when the measurement is VALID and the whole 95 % interval of the median is inside."
        ),
    )


def test_table(report: Mapping[str, Any]) -> Table:
    """The score of every network on the test part."""
    metric, rows = metric_from(report["metric"]), list[tuple[str, ...]]()
    counted = metric == "top1"
    for name, score in report["test"].items():
        images = f"{score['correct']} of {score['images']}" if counted else str(score["images"])
        rows.append((networks(name), percent_value(score["value"], score["low"], score["high"]), interval(score), images))
    rows.sort(key=lambda row: [*NETWORKS.values(), row[0]].index(row[0]))
    if "onnx int8" not in report["test"]:
        rows.append(("ONNX int8", "not measured", "–", "–"))
    return Table(
        title=f"{capital(WORDS[metric])} on images that nothing was chosen by",
        columns=("network", WORDS[metric], "95 % interval", "right" if counted else "images"),
        rows=tuple(rows),
        numbers=(1, 2, 3),
        note=f"{MEANINGS[metric]} All networks see the same images, so neighbouring rows differ by less than they suggest.",
    )


def export_table(report: Mapping[str, Any]) -> Table:
    """The exported files with what proved them."""
    rows = tuple(
        (name, file["path"], file_size(file["bytes"]), file["sha256"][:DIGEST_DIGITS], file["proof"])
        for name, file in report["files"].items()
        if "sha256" in file
    )
    return Table(
        title="Exported files",
        columns=("what", "where in this folder", "size", "SHA-256", "compared with its source"),
        rows=rows,
        numbers=(2,),
        note="Every file was compared with the network on images of the search part before it counted as exported.",
    )


def folder_table(report: Mapping[str, Any]) -> Table:
    """What else lies in the run's folder."""
    rows = tuple((name, file["path"]) for name, file in report["files"].items() if "sha256" not in file)
    return Table(title="Also in this folder", columns=("what", "where"), rows=rows)


def skipped_table(report: Mapping[str, Any]) -> Table:
    """Artefacts that were asked for and are not there."""
    rows = [(item["what"], item["status"], item["reason"]) for item in report["skipped"]]
    return Table(
        title="Not delivered", columns=("what", "status", "reason"), rows=tuple(rows) or (("nothing", "–", "–"),)
    )  # fmt: skip


def not_measured_table(report: Mapping[str, Any]) -> Table:
    """What has no number, and why."""
    rows = tuple((item["what"], item["reason"]) for item in report["not_measured"])
    return Table(title="No number here is about", columns=("what", "why"), rows=rows)


def part_table(report: Mapping[str, Any]) -> Table:
    """The parts of the data."""
    use = {
        "train": "supernet and finetuning",
        "search": "scoring candidates, calibrating and judging int8",
        "test": "read at the end, when every choice was made",
    }
    parts = report["data"]["parts"]
    rows = [(name, str(parts[name]["images"]), use[name], parts[name]["digest"][:DIGEST_DIGITS]) for name in use]
    return Table(title="Parts", columns=("part", "images", "used for", "digest"), rows=tuple(rows), numbers=(1,))


def reading_table(report: Mapping[str, Any]) -> Table:
    """Who read the test part."""
    readings = report["test_readings"]
    rows = [
        (networks(reading["reader"]), reading["time"], str(reading["images"]), reading["split"][:DIGEST_DIGITS])
        for reading in readings["readings"]
    ]
    return Table(
        title="Readings of the test part in this run",
        columns=("by", "time", "images", "digest"),
        rows=tuple(rows) or (("nothing", "–", "–", "–"),),
        numbers=(2,),
        note="Each reading beyond one per network would make its score less of a test, and so does every run that goes by "
        "what an earlier one read.",
    )


def machine_table(report: Mapping[str, Any]) -> Table:
    """The machine and its software."""
    device = report["device"]
    absent = "not reported by this machine"
    facts = [
        ("processor", device["cpu"]),
        ("cores in use", str(device["cores"])),
        ("instructions", ", ".join(device["isa"]) or absent),
        ("frequency governor", device["governor"] or absent),
        ("load before the run", absent if device["load_average"] is None else f"{device['load_average']:.2g}"),
        ("memory", absent if device["memory_mib"] is None else f"{device['memory_mib'] / 1024:.3g} GiB"),
        ("GPU", "; ".join(f"{gpu['name']}, driver {gpu['driver']}, compute capability {gpu['compute_capability']}"
                          for gpu in device["gpus"]) or "none found"),
        *([("Jetson", f"{device['jetson']}; {device['l4t']}")] if device["jetson"] else []),
        *([("power mode", device["power_mode"])] if device["power_mode"] else []),
        *([("clocks", "locked" if device["clocks_locked"] else "free to move")] if device["clocks_locked"] is not None else []),
        *([("temperature before", f"{device['cpu_temperature_c']:.3g} °C")] if device["cpu_temperature_c"] is not None else []),
        *([("container", device["container"])] if device["container"] else []),
        *((name, value) for name, value in sorted(device["thread_settings"].items())),
        ("operating system", device["operating_system"]),
        ("Python", device["python"]),
        ("autoformer-toolchain", report["version"]),
        *((name, version) for name, version in sorted(device["versions"].items()) if name != "autoformer-toolchain"),
    ]  # fmt: skip
    return Table(title="Machine and versions", columns=("", ""), rows=tuple(facts))


def step_table(report: Mapping[str, Any]) -> Table:
    """Time per step."""
    steps = report["steps"]
    order = [name for name in STEPS if name in steps] + [name for name in steps if name not in STEPS]
    rows = [(name, duration(steps[name])) for name in order]
    rows.append(("all steps", duration(sum(report["steps"].values()))))
    return Table(
        title="Time per step", columns=("step", "time"), rows=tuple(rows), numbers=(1,),
        note="Summed over all resumptions of the run.",
    )  # fmt: skip


def boards_content(results: Sequence[BoardResult]) -> list[dict[str, Any]]:
    """One entry for each imported result, in the order of their dates."""
    return [
        {
            "command": result.command,
            "bundle": result.bundle,
            "created": result.created,
            "device": result.device.to_dict(),
            "ran_on": [{"runtime": row.runtime, "device": row.device} for row in result.ran_on()],
            "latency": {
                name: {
                    "backend": taken.backend, "precision": taken.precision, "batch": taken.batch, **taken.stats.to_dict(),
                    "settings": dict(taken.settings), "verdict": taken.verdict.level, "reasons": list(taken.verdict.reasons),
                }
                for name, taken in result.measurements.items()
            },
            "artefacts": {name: dict(found) for name, found in result.artefacts.items()},
            "budget": {name: dict(found) for name, found in result.budget.items()},
            "not_measured": dict(result.not_measured),
        }
        for result in results
    ]  # fmt: skip


def board_tables(boards: Sequence[Mapping[str, Any]]) -> tuple[Table, ...]:
    """Latencies, and what was verified, each named with its device."""
    timed, verified = list[tuple[str, ...]](), list[tuple[str, ...]]()
    for board in boards:
        where = "; ".join(f"{row['device']}, {row['runtime']}" for row in board["ran_on"])
        day = str(board["created"])[:10]
        for name, found in board["latency"].items():
            low, high = found["p50_low_ms"], found["p50_high_ms"]
            interval = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
            shown = f"{found['p50_ms']:.3g} ms{interval}"
            timed.append((where, f"{name}, batch {found['batch']}", shown, found["verdict"], day))
        for name, found in board["artefacts"].items():
            verified.append((where, name, str(found.get("status")), str(found.get("reason")), day))
        for name, found in board["budget"].items():
            verified.append((where, f"limit {name}", str(found.get("status")), _limit(found), day))
        for name, reason in board["not_measured"].items():
            verified.append((where, name, "not measured", reason, day))
    tables = []
    if timed:
        tables.append(
            Table(title="Latency there", columns=("device", "file", "p50 [95 % interval]", "verdict", "date"), rows=tuple(timed))
        )
    if verified:
        tables.append(Table(title="Verified there", columns=("device", "what", "status", "why", "date"), rows=tuple(verified)))
    return tuple(tables)


def _limit(found: Mapping[str, Any]) -> str:
    if found.get("reason"):
        return str(found["reason"])
    value = found.get("median_ms", found.get("value"))
    shown = f"{value:.4g}" if isinstance(value, int | float) else "unknown"
    return f"{shown}, limit {found.get('limit')}" + (f", of {found['measured']}" if found.get("measured") else "")
