"""The report as sections of sentences, tables and figures; the HTML page and the Markdown file show the same ones.

Everything is made from the content of `report.json` (report_content.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from autoformer.cost import show
from autoformer.profiling.reports.blocks import TONES, Headline, Section
from autoformer.profiling.reports.latency import (
    _latency_text,
    _layer_section,
    _loop_section,
    _table_section,
    latency_table,
    trust_table,
)
from autoformer.profiling.reports.search import _choice_text, _preferences_text, compared_table, preference_tables
from autoformer.profiling.reports.tables import (
    board_tables,
    export_table,
    folder_table,
    limit_table,
    machine_table,
    not_measured_table,
    part_table,
    reading_table,
    skipped_table,
    step_table,
    test_table,
)
from autoformer.profiling.reports.wording import (
    capital,
    device_words,
    interval,
    latency_interval,
    latency_text,
    limit_words,
    percent,
    percent_value,
    readings_words,
    short_source,
    words_of,
)


def headline(report: Mapping[str, Any], main_latency: str) -> Headline:
    """The first screen. `main_latency` names the measurement that is shown there."""
    chosen, score = report["chosen"], report["test"]["onnx fp32"]
    latency = report["latency"][main_latency]
    verdicts = [
        (f"{limit_words(limit)}: {limit['met']}", TONES[limit["met"]]) for limit in report["budget"]
    ] or [("no limits were set", "open")]  # fmt: skip
    slower = bool(report["int8"]["advice"])  # on the device of this run
    verdicts.append(
        ("int8: rejected on this device", TONES["rejected"])
        if slower
        else (f"int8: {report['int8']['status']}", TONES[report["int8"]["status"]])
    )
    verdicts.append((f"timing: {latency['verdict']}", TONES[latency["verdict"]]))
    verdicts += [(f"{item['what']}: {item['status']}", "open") for item in report["skipped"] if item["status"] == "skipped"]
    return Headline(
        title=f"A vision transformer for {short_source(report['source'])}",
        sentence=(
            f"Out of {report['candidates']} networks scored inside the budget, the search chose {chosen['slug']}: "
            f"{chosen['words']}. Finetuned and exported, it was measured on {device_words(report['device'])}."
        ),
        numbers=(
            (f"{words_of(report)} on test", percent_value(score["value"], score["low"], score["high"]),
             f"95 % interval {interval(score)}; {_images(score)} images, ONNX fp32"),
            ("parameters", show("params", chosen["params"]), "of the network that was exported"),
            ("FLOPs", show("flops", chosen["flops"]), "multiply-adds for one image"),
            ("latency", latency_text(latency).split(" [")[0],
             f"{latency_interval(latency)}; {latency['qualification']}"),
        ),
        verdicts=tuple(verdicts),
    )  # fmt: skip


def sections(report: Mapping[str, Any], figures: Sequence[str]) -> list[Section]:
    """The whole report below the headline. `figures` are the names of those that can be drawn."""

    def drawn(*names: str) -> tuple[str, ...]:
        return tuple(name for name in names if name in figures)

    words = capital(words_of(report))
    recipe = yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True)
    return [
        Section(
            name="choice",
            title="The choice",
            text=_choice_text(report),
            tables=(compared_table(report),),
            figures=drawn("candidates", "progress"),
        ),
        Section(
            name="preferences",
            title="What the Pareto front prefers",
            text=_preferences_text(report),
            tables=preference_tables(report),
            figures=drawn("blocks", "shapes"),
            figures_first=True,
        ),
        Section(name="budget", title="Cost against the budget", tables=(limit_table(report),)),
        Section(name="test", title=f"{words} on the test part", text=_test_text(report), tables=(test_table(report),)),
        Section(
            name="latency",
            title="Latency",
            text=_latency_text(report),
            tables=(latency_table(report), trust_table(report)),
            figures=drawn("latency", "timeline"),
        ),
        *_layer_section(report, drawn("layers")),
        *_table_section(report, drawn("table")),
        *_loop_section(report),
        *_boards_section(report),
        Section(name="training", title="Training", text=_training_text(report), figures=drawn("supernet", "finetune")),
        Section(
            name="files",
            title="What was delivered",
            tables=(export_table(report), skipped_table(report), folder_table(report)),
        ),
        Section(name="not-measured", title="What was not measured", tables=(not_measured_table(report),)),
        Section(name="data", title="Data", text=_data_text(report), tables=(part_table(report), reading_table(report))),
        Section(name="machine", title="Machine, versions, time", tables=(machine_table(report), step_table(report))),
        Section(name="again", title="Do it again", text=(_again_text(report),), code=report["command"], code_title="Command"),
        Section(
            name="recipe",
            title="Recipe",
            text=("Every setting, defaults included; also in recipe.yaml.",),
            code=recipe,
            code_title="Resolved recipe",
        ),
    ]


def _images(score: Mapping[str, Any]) -> str:
    """On how many images a score is, and how many of them are right where it counts that."""
    return f"{score['correct']} of {score['images']}" if score["metric"] == "top1" else str(score["images"])


def _test_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    paired = report["int8_disagreement"]
    if paired is None:
        return (f"There is no int8 file to compare with fp32: {report['int8']['status']}, {report['int8']['reason']}.",)
    return (
        f"Image by image, int8 names another class than fp32 on {paired['different']} of {paired['images']} test images, "
        f"{percent(paired['share'], paired['low'], paired['high'])}; on {paired['only_fp32_right']} of them only fp32 is right, "
        f"on {paired['only_int8_right']} only int8.",
        *((f"int8 is {report['int8']['advice']}.",) if report["int8"]["advice"] else ()),
    )


def _boards_section(report: Mapping[str, Any]) -> list[Section]:
    """What other devices found; nothing where no result was imported."""
    if not report["boards"]:
        return []
    text = ("As the program of the bundle found it on these devices; imported with autoformer report import.",)
    return [Section(name="boards", title="On other devices", text=text, tables=board_tables(report["boards"]))]


def _training_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    supernet, finetune = report["training"]["supernet"], report["training"]["finetune"]
    return (
        f"Supernet: {len(supernet)} epochs, last loss {supernet[-1]['loss']:.3g}; every step trains one network of the space. "
        f"Finetuning: {len(finetune)} epochs, last loss {finetune[-1]['loss']:.3g}. The curves of the "
        f"{words_of(report)} are on the search part, with 95 % intervals.",
    )


def _data_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    data = report["data"]
    size, channels = data["preprocessing"]["image_size"], data["preprocessing"]["in_chans"]
    colour = "grey" if channels == 1 else "RGB" if channels == 3 else f"{channels} channels"
    names = data["classes"]
    shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    return (
        f"{report['source']}: {len(names)} classes ({shown}); images of {size} × {size} px, {colour}. Parts: {data['layout']}.",
        f"The {readings_words(report)}.",
    )


def _again_text(report: Mapping[str, Any]) -> str:
    text = "Run from where this run was started."
    if "profile.table" in report["command"]:
        text += " With the stored latency table, this machine finds the same architecture and the same weights again."
    return text + " Measured times differ from one run to the next."
