"""The report of a run: its page from top to bottom, the files it is written to, and the answer in a few lines for a terminal.

`report.json` is written last: a run that has it is finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from autoformer.cost import show
from autoformer.errors import CheckpointError
from autoformer.files import write_json
from autoformer.metric import WORDS
from autoformer.profiling.reports.blocks import TONES, Figure, Headline, Section
from autoformer.profiling.reports.boards import _boards_section
from autoformer.profiling.reports.budget import limit_table, main_measurement
from autoformer.profiling.reports.content import FORMAT, content
from autoformer.profiling.reports.delivered import (
    export_table,
    folder_table,
    machine_table,
    not_measured_table,
    skipped_table,
    step_table,
)
from autoformer.profiling.reports.latency import (
    _latency_text,
    _layer_section,
    blocks_figure,
    distribution_figure,
    latency_table,
    timeline_figure,
    trust_table,
)
from autoformer.profiling.reports.latency_table import _loop_section, _table_section, table_figure
from autoformer.profiling.reports.page import _write_text, page_html, page_markdown
from autoformer.profiling.reports.preferences import _preferences_text, preference_tables, preferences_figure, shapes_figure
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.search import _choice_text, candidates_figure, compared_table, progress_figure
from autoformer.profiling.reports.test_part import _data_text, _test_text, networks, part_table, reading_table, test_table
from autoformer.profiling.reports.training import _training_text, training_figure
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
    score_text,
    short_source,
    words_of,
)

MOST_LINES = 15  # of the summary


def build_report(run_folder: Path) -> dict[str, Any]:
    """Writes `report.html`, `report.md`, `recipe.yaml` and at last `report.json` into the folder of a run; gives the JSON.

    The same folder gives the same files. Raises `CheckpointError` naming the file that is missing or damaged.
    """
    run = Run.load(run_folder)
    report = content(run)
    drawn = figures(run)
    main = main_measurement(run).name
    _write_text(render_html(report, drawn, main), run_folder / "report.html")
    _write_text(render_markdown(report, main), run_folder / "report.md")
    recipe = "# The resolved recipe of this run; every setting, defaults included.\n"
    _write_text(recipe + yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True), run_folder / "recipe.yaml")
    write_json(report, run_folder / "report.json")
    return report


def render_html(report: Mapping[str, Any], drawn: list[Figure], main: str) -> str:
    """The page of one run. `main` names the measurement of the headline."""
    parts = sections(report, [figure.name for figure in drawn])
    return page_html(headline(report, main), parts, drawn, report["version"])


def render_markdown(report: Mapping[str, Any], main: str) -> str:
    """The same sentences and tables as Markdown."""
    return page_markdown(headline(report, main), sections(report, []), report["version"])


def figures(run: Run) -> list[Figure]:
    """All figures that this run has the numbers for."""
    found = [
        candidates_figure(run),
        progress_figure(run),
        preferences_figure(run),
        shapes_figure(run),
        training_figure("supernet", "Training of the supernet", run.supernet_history, run.metric),
        training_figure("finetune", "Finetuning of the chosen network", run.finetune_history, run.metric),
        distribution_figure(run.profile.measurements),
        timeline_figure([*run.profile.measurements, run.profile.reference]),
        blocks_figure([run.layers]) if run.layers is not None else None,
        table_figure(run) if run.table is not None else None,
    ]
    return [figure for figure in found if figure is not None]


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


def _again_text(report: Mapping[str, Any]) -> str:
    text = "Run from where this run was started."
    if "profile.table" in report["command"]:
        text += " With the stored latency table, this machine finds the same architecture and the same weights again."
    return text + " Measured times differ from one run to the next."


# --- the answer in a few lines ---


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """The answer in at most 15 lines for a terminal, from the content of `report.json`.

    Raises `CheckpointError` for a report of another format.
    """
    if report.get("format") != FORMAT:
        raise CheckpointError(f"report has format {report.get('format')!r}, expected {FORMAT!r}; build it again")
    chosen = report["chosen"]
    lines = [
        f"found {chosen['slug']} for {short_source(report['source'])} (seed {report['seed']}): {chosen['words']}",
        *(f"{limit_words(limit)}: {_found(limit)}, {limit['met']}" for limit in report["budget"]),
    ]
    if not report["budget"]:
        lines.append("budget: no limits were set")
    images = report["test"]["onnx fp32"]["images"]
    scores = "; ".join(f"{networks(name)} {score_text(report['test'][name])}" for name in _order(report["test"]))
    lines.append(f"{WORDS[report['metric']]} on {images} test images: {scores}")
    lines.append(_int8_line(report))
    search = report["search"]
    confirmed = search["compared"]["chosen"]["confirmed"]
    again = "" if confirmed is None else f"; on {confirmed['images']} images that took no part in it: {score_text(confirmed)}"
    lines.append(
        f"{report['tied']} of {report['candidates']} candidates cannot be told from the best on "
        f"{search['images']} search images; chosen: {search['choose']}{again}"
    )
    lines.append(readings_words(report))
    latencies = [f"{name}: {latency_text(stats)} p50, {stats['verdict']}" for name, stats in report["latency"].items()]
    skipped = [f"{item['what']} {item['status']}: {item['reason']}" for item in report["skipped"] if item["what"] != "ONNX int8"]
    files = "; ".join(file["path"] for file in report["files"].values() if "sha256" in file)
    end = [f"files: {files}"] if files else []
    room = MOST_LINES - len(lines) - len(end)
    return lines + _within(latencies, max(1, room - len(skipped))) + _within(skipped, max(1, room - len(latencies))) + end


def _within(lines: list[str], most: int) -> list[str]:
    """At most `most` lines; what does not fit is counted in the last."""
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], f"{lines[most - 1]} (and {len(lines) - most} more in the report)"]


def _found(limit: Mapping[str, Any]) -> str:
    if limit["measure"] != "latency_ms":
        return show(limit["measure"], limit["found"])
    if limit["found"] is None:
        return "not measured"
    return latency_text({"p50_ms": limit["found"], "p50_low_ms": limit["low"], "p50_high_ms": limit["high"]})


def _order(test: Mapping[str, Any]) -> list[str]:
    known = [name for name in ("inherited", "finetuned", "onnx fp32", "onnx fp16", "onnx int8") if name in test]
    return known + [name for name in test if name not in known]


def _int8_line(report: Mapping[str, Any]) -> str:
    paired = report["int8_disagreement"]
    if paired is None:
        return f"int8 {report['int8']['status']}: {report['int8']['reason']}"
    share = percent(paired["share"], paired["low"], paired["high"])
    advice = f"; {report['int8']['advice']}" if report["int8"]["advice"] else ""
    different = f"another class than fp32 on {paired['different']} of {paired['images']}, {share}"
    return f"int8 {report['int8']['status']}: {different}{advice}"
