"""The report as sections of sentences, tables and figures; the HTML page and the Markdown file show the same ones.

Everything is made from the content of `report.json` (report_content.py). Cells are plain text: escaping is up to the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autoformer.cost import show
from autoformer.profiling.report_numbers import (
    accuracy_text,
    change,
    duration,
    file_size,
    latency_decimals,
    latency_text,
    percent,
    percent_value,
)

# Words that a page may colour.
TONES = {
    "met": "good", "exported": "good", "VALID": "good",
    "not met": "bad", "rejected": "bad", "INVALID": "bad",
    "not shown": "open", "skipped": "open", "UNSTABLE": "open", "not measured": "open", "not asked for": "open",
}  # fmt: skip
MEASURES = {"params": "parameters", "flops": "FLOPs (multiply-adds)", "latency_ms": "latency"}
NETWORKS = {
    "inherited": "supernet weights, as inherited",
    "finetuned": "finetuned",
    "onnx fp32": "ONNX fp32",
    "onnx int8": "ONNX int8",
}
STEPS = ("latency table", "train", "search", "extract", "finetune", "export", "profile", "test")  # in their order
DIGEST_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. `numbers` are the columns that stand to the right; `note` is a sentence below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report. `figures` are names of figures (report_figures.py)."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[str, ...] = ()
    code: str = ""  # shown as it is, folded away on a page when it is long
    code_title: str = ""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What stands first: title, one sentence, four numbers, verdicts as (word, tone)."""

    title: str
    sentence: str
    numbers: tuple[tuple[str, str, str], ...]  # name, value, what it means
    verdicts: tuple[tuple[str, str], ...]


def networks(name: str) -> str:
    """A name of test.json in words."""
    return NETWORKS.get(name, name)


def short_source(source: str) -> str:
    """The last part of where the data come from: `flowers` of `/data/flowers`."""
    return Path(source).name or source


def headline(report: Mapping[str, Any], main_latency: str) -> Headline:
    """The first screen. `main_latency` names the measurement that is shown there."""
    chosen, score = report["chosen"], report["test"]["onnx fp32"]
    latency = report["latency"][main_latency]
    verdicts = [
        (f"{limit_words(limit)}: {limit['met']}", TONES[limit["met"]]) for limit in report["budget"]
    ] or [("no limits were set", "open")]  # fmt: skip
    verdicts.append((f"int8: {report['int8']['status']}", TONES[report["int8"]["status"]]))
    verdicts.append((f"timing: {latency['verdict']}", TONES[latency["verdict"]]))
    verdicts += [(f"{item['what']}: {item['status']}", "open") for item in report["skipped"] if item["status"] == "skipped"]
    return Headline(
        title=f"A vision transformer for {short_source(report['source'])}",
        sentence=(
            f"Out of {report['candidates']} networks scored inside the budget, the search chose {chosen['slug']}: "
            f"{chosen['words']}. Finetuned and exported, it was measured on {device_words(report['device'])}."
        ),
        numbers=(
            ("accuracy on test", percent_value(score["accuracy"], score["low"], score["high"]),
             f"95 % interval {interval(score)}; {score['correct']} of {score['images']} images, ONNX fp32"),
            ("parameters", show("params", chosen["params"]), "of the network that was exported"),
            ("FLOPs", show("flops", chosen["flops"]), "multiply-adds for one image"),
            ("latency", latency_text(latency).split(" [")[0],
             f"{latency_interval(latency)}; {latency['qualification']}"),
        ),
        verdicts=tuple(verdicts),
    )  # fmt: skip


def interval(score: Mapping[str, Any]) -> str:
    """The interval of an accuracy: `96.6 to 99.0 %`."""
    low = percent_value(score["low"], score["low"], score["high"])[:-2]
    return f"{low} to {percent_value(score['high'], score['low'], score['high'])}"


def latency_interval(stats: Mapping[str, Any]) -> str:
    """The interval of a median: `95 % interval 0.349 to 0.355 ms`."""
    low, high = stats["p50_low_ms"], stats["p50_high_ms"]
    if low is None or high is None:
        return "too few runs for an interval"
    places = latency_decimals(stats["p50_ms"], low, high)
    return f"95 % interval {low:.{places}f} to {high:.{places}f} ms"


def device_words(device: Mapping[str, Any]) -> str:
    """The machine in a few words."""
    gpus = [gpu["name"] for gpu in device["gpus"]]
    cores = f"{device['cores']} core{'' if device['cores'] == 1 else 's'}"
    return ", ".join([device["jetson"] or device["cpu"], cores, *gpus])


def limit_words(limit: Mapping[str, Any]) -> str:
    """A limit in short: `params ≤ 80% (210.4k)`."""
    sign = "≤" if limit["limit"].startswith("max") else "≥"
    name = {"params": "parameters", "flops": "FLOPs", "latency_ms": "latency"}[limit["measure"]]
    value = shown_value(limit["measure"], limit["value"])
    stated = limit["stated"]
    return f"{name} {sign} {value}" + (f" ({stated})" if stated and "%" in stated else "")


def shown_value(measure: str, value: float) -> str:
    """A limit or a count with four digits."""
    return f"{value:.4g} ms" if measure == "latency_ms" else show(measure, value)


def sections(report: Mapping[str, Any], figures: Sequence[str]) -> list[Section]:
    """The whole report below the headline. `figures` are the names of those that can be drawn."""

    def drawn(*names: str) -> tuple[str, ...]:
        return tuple(name for name in names if name in figures)

    recipe = yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True)
    return [
        Section(name="choice", title="The choice", text=_choice_text(report), figures=drawn("candidates")),
        Section(name="budget", title="Cost against the budget", tables=(_limit_table(report),)),
        Section(name="accuracy", title="Accuracy on the test part", text=_test_text(report), tables=(_test_table(report),)),
        Section(name="latency", title="Latency", text=_latency_text(report), tables=(_latency_table(report), _trust_table(report)),
                figures=drawn("latency", "timeline")),
        *_table_section(report, drawn("table")),
        Section(name="training", title="Training", text=_training_text(report), figures=drawn("supernet", "finetune")),
        Section(name="files", title="What was delivered", tables=(_file_table(report), _skipped_table(report))),
        Section(name="not-measured", title="What was not measured", tables=(_not_measured_table(report),)),
        Section(name="data", title="Data", text=_data_text(report), tables=(_part_table(report), _reading_table(report))),
        Section(name="machine", title="Machine, versions, time", tables=(_machine_table(report), _step_table(report))),
        Section(
            name="again", title="Do it again", text=(_again_text(report),), code=report["command"], code_title="Command"
        ),
        Section(name="recipe", title="Recipe", text=("Every setting, defaults included; also in recipe.yaml.",),
                code=recipe, code_title="Resolved recipe"),
    ]  # fmt: skip


# --- budget and accuracy -----------------------------------------------------------------------------------------


def _limit_table(report: Mapping[str, Any]) -> Table:
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


def _test_table(report: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = []
    for name, score in report["test"].items():
        value, right = percent_value(score["accuracy"], score["low"], score["high"]), f"{score['correct']} of {score['images']}"
        rows.append((networks(name), value, interval(score), right))
    rows.sort(key=lambda row: [*NETWORKS.values(), row[0]].index(row[0]))
    if "onnx int8" not in report["test"]:
        rows.append(("ONNX int8", "not measured", "–", "–"))
    return Table(
        title="Top-1 accuracy on images that nothing was chosen by",
        columns=("network", "accuracy", "95 % interval", "right"),
        rows=tuple(rows),
        numbers=(1, 2, 3),
        note="Intervals are Wilson's. All networks see the same images, so neighbouring rows differ by less than they suggest.",
    )


def _test_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    paired = report["int8_disagreement"]
    if paired is None:
        return (f"There is no int8 file to compare with fp32: {report['int8']['status']}, {report['int8']['reason']}.",)
    return (
        f"Image by image, int8 names another class than fp32 on {paired['different']} of {paired['images']} test images, "
        f"{percent(paired['share'], paired['low'], paired['high'])}; on {paired['only_fp32_right']} of them only fp32 is right, "
        f"on {paired['only_int8_right']} only int8.",
    )


# --- search and training -----------------------------------------------------------------------------------------


def _choice_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    search = report["search"]
    how = {"best": "the highest accuracy", "cheapest": "the fewest FLOPs"}[search["choose"]]
    tied = report["tied"]
    if tied == 1:
        ties = "No other candidate is within reach of the best on these images (McNemar's exact test, 5 %)."
    else:
        ties = (
            f"{tied} of the {report['candidates']}, the best included, cannot be told apart from the best on these images "
            f"(McNemar's exact test, 5 %); among them the one with {how} was chosen."
        )
    return (
        f"{report['candidates']} networks were scored with inherited weights on the {search['images']} images of the search "
        f"part. {ties}",
        f"The chosen network is right on {accuracy_text(report['chosen']['search_accuracy'])} of them, the best on "
        f"{accuracy_text(search['best_accuracy'])}. These accuracies are optimistic, because the best of many was picked by "
        "them; only the test part is free of that.",
    )


def _training_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    supernet, finetune = report["training"]["supernet"], report["training"]["finetune"]
    return (
        f"Supernet: {len(supernet)} epochs, last loss {supernet[-1]['loss']:.3g}; every step trains one network of the space. "
        f"Finetuning: {len(finetune)} epochs, last loss {finetune[-1]['loss']:.3g}. Accuracies in the curves are on the "
        "search part, with 95 % intervals.",
    )


# --- latency -----------------------------------------------------------------------------------------------------


def _latency_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "All files were run in turns, after warm-up, with a small fixed network among them (the reference). Absolute times of "
        "a machine drift by some per cent from hour to hour; compare runs by the ratio to the reference. "
        f"Measured {report['latency_measured']}.",
    )


def _timed(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Name of the file and figures, the reference last."""
    files = [(name.removesuffix(f" ({stats['backend']})"), stats) for name, stats in report["latency"].items()]
    return [*files, ("reference network", report["reference"])]


def _latency_table(report: Mapping[str, Any]) -> Table:
    def tail(stats: Mapping[str, Any], name: str) -> str:
        places = latency_decimals(stats["p50_ms"], stats["p50_low_ms"], stats["p50_high_ms"])
        return "too few runs" if stats[name] is None else f"{stats[name]:.{places}f} ms"

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


def _trust_table(report: Mapping[str, Any]) -> Table:
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


def _table_section(report: Mapping[str, Any], figures: tuple[str, ...]) -> list[Section]:
    """How well the latency table predicts; nothing where the run has none."""
    table = report["latency_table"]
    if table is None:
        return []
    prediction = table["prediction"]
    facts = [
        ("model", f"{table['constant_ms']:.3g} ms + {table['ms_per_gflop']:.3g} ms per GFLOP"),
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


# --- files, data, machine ----------------------------------------------------------------------------------------


def _file_table(report: Mapping[str, Any]) -> Table:
    rows = []
    for name, file in report["files"].items():
        size = file_size(file["bytes"]) if file.get("bytes") is not None else "–"
        rows.append((name, file["path"], size, file.get("sha256", "–")[:DIGEST_DIGITS], file.get("proof", "–")))
    return Table(
        title="Files",
        columns=("what", "where in the run's folder", "size", "SHA-256", "proved equal to its source by"),
        rows=tuple(rows),
        numbers=(2,),
        note="Exported files were compared with the network on images of the search part before they counted as exported.",
    )


def _skipped_table(report: Mapping[str, Any]) -> Table:
    rows = [(item["what"], item["status"], item["reason"]) for item in report["skipped"]]
    return Table(
        title="Not delivered", columns=("what", "status", "reason"), rows=tuple(rows) or (("nothing", "–", "–"),)
    )  # fmt: skip


def _not_measured_table(report: Mapping[str, Any]) -> Table:
    rows = tuple((item["what"], item["reason"]) for item in report["not_measured"])
    return Table(title="No number here is about", columns=("what", "why"), rows=rows)


def _data_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    data = report["data"]
    size, channels = data["preprocessing"]["image_size"], data["preprocessing"]["in_chans"]
    colour = "grey" if channels == 1 else "RGB" if channels == 3 else f"{channels} channels"
    names = data["classes"]
    shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    return (
        f"{report['source']}: {len(names)} classes ({shown}); images of {size} × {size} px, {colour}. "
        f"Parts: {data['layout']}.",
    )


def _part_table(report: Mapping[str, Any]) -> Table:
    use = {
        "train": "supernet and finetuning",
        "search": "scoring candidates, calibrating and judging int8",
        "test": "read at the end, when every choice was made",
    }
    parts = report["data"]["parts"]
    rows = [(name, str(parts[name]["images"]), use[name], parts[name]["digest"][:DIGEST_DIGITS]) for name in use]
    return Table(title="Parts", columns=("part", "images", "used for", "digest"), rows=tuple(rows), numbers=(1,))


def _reading_table(report: Mapping[str, Any]) -> Table:
    readings = report["test_readings"]
    rows = [
        (networks(reading["reader"]), reading["time"], str(reading["images"]), reading["split"][:DIGEST_DIGITS])
        for reading in readings["readings"]
    ]
    counts = "; ".join(f"split {split[:DIGEST_DIGITS]}: {count} times" for split, count in readings["by_split"].items())
    return Table(
        title="Readings of the test part in this run",
        columns=("by", "time", "images", "digest"),
        rows=tuple(rows),
        numbers=(2,),
        note=f"{counts or 'never read'}. Each reading beyond one per network would make its accuracy less of a test.",
    )


def _machine_table(report: Mapping[str, Any]) -> Table:
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
        ("operating system", device["operating_system"]),
        ("Python", device["python"]),
        ("autoformer-toolchain", report["version"]),
        *((name, version) for name, version in sorted(device["versions"].items()) if name != "autoformer-toolchain"),
    ]  # fmt: skip
    return Table(title="Machine and versions", columns=("", ""), rows=tuple(facts))


def _step_table(report: Mapping[str, Any]) -> Table:
    steps = report["steps"]
    order = [name for name in STEPS if name in steps] + [name for name in steps if name not in STEPS]
    rows = [(name, duration(steps[name])) for name in order]
    rows.append(("all steps", duration(sum(report["steps"].values()))))
    return Table(
        title="Time per step", columns=("step", "time"), rows=tuple(rows), numbers=(1,),
        note="Summed over all resumptions of the run.",
    )  # fmt: skip


def _again_text(report: Mapping[str, Any]) -> str:
    text = "Run from where this run was started."
    if "profile.table" in report["command"]:
        text += " With the stored latency table, this machine finds the same architecture and the same weights again."
    return text + " Measured times differ from one run to the next."
