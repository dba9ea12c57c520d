"""The report as sections of sentences, tables and figures; the HTML page and the Markdown file show the same ones.

Everything is made from the content of `report.json` (report_content.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autoformer.cost import show
from autoformer.evaluate import WORDS, metric_from
from autoformer.profiling.report_boards import board_tables
from autoformer.profiling.report_latency_loop import loop_table, loop_text
from autoformer.profiling.report_layers import LAYERS_TEXT, layer_table
from autoformer.profiling.report_numbers import (
    capital,
    change,
    interval,
    latency_interval,
    latency_text,
    limit_words,
    percent,
    percent_value,
    score_text,
    times,
)
from autoformer.profiling.report_search_tables import compared_table, preference_tables
from autoformer.profiling.report_tables import (
    DIGEST_DIGITS,
    Table,
    export_table,
    folder_table,
    latency_table,
    limit_table,
    machine_table,
    not_measured_table,
    part_table,
    reading_table,
    skipped_table,
    step_table,
    test_table,
    trust_table,
)

# Words that a page may colour.
TONES = {
    "met": "good", "exported": "good", "VALID": "good",
    "not met": "bad", "rejected": "bad", "INVALID": "bad",
    "not shown": "open", "skipped": "open", "UNSTABLE": "open", "not measured": "open", "not asked for": "open",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report. `figures` are names of figures (report_figures.py)."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[str, ...] = ()
    figures_first: bool = False  # on a page, before the tables
    code: str = ""  # shown as it is, folded away on a page when it is long
    code_title: str = ""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What stands first: title, one sentence, four numbers, verdicts as (word, tone)."""

    title: str
    sentence: str
    numbers: tuple[tuple[str, str, str], ...]  # name, value, what it means
    verdicts: tuple[tuple[str, str], ...]


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


def short_source(source: str) -> str:
    """The last part of where the data come from: `flowers` of `/data/flowers`."""
    return Path(source).name or source


def device_words(device: Mapping[str, Any]) -> str:
    """The machine in a few words."""
    gpus = [gpu["name"] for gpu in device["gpus"]]
    cores = f"{device['cores']} core{'' if device['cores'] == 1 else 's'}"
    return ", ".join([device["jetson"] or device["cpu"], cores, *gpus])


def words_of(report: Mapping[str, Any]) -> str:
    """The run's metric as people say it."""
    return WORDS[metric_from(report["metric"])]


def _images(score: Mapping[str, Any]) -> str:
    """On how many images a score is, and how many of them are right where it counts that."""
    return f"{score['correct']} of {score['images']}" if score["metric"] == "top1" else str(score["images"])


def _choice_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    search = report["search"]
    how = {"best": f"the highest {words_of(report)}", "cheapest": "the fewest FLOPs"}[search["choose"]]
    tied = report["tied"]
    test = "McNemar's exact test" if report["metric"] == "top1" else "random swaps of guesses"
    if tied == 1:
        ties = f"No other candidate is within reach of the best on these images ({test}, 5 %)."
    else:
        ties = (
            f"{tied} of the {report['candidates']}, the best included, cannot be told apart from the best on these images "
            f"({test}, 5 %); among them the one with {how} was chosen."
        )
    loop = report["latency_loop"]
    if loop is not None and loop["instead_of"]:
        ties += f" That was {loop['instead_of']}; after measuring, {loop['slug']} was chosen instead, see below."
    return (
        f"{report['candidates']} networks were scored with inherited weights on {_seen_words(search)}. {ties}",
        *_work_text(report),
        _accuracy_text(report),
    )


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
    text = f"Together they were given {work['evaluated']:,} images"
    if work["saved"] > 0:
        text += f", {100 * work['saved']:.0f} % less than if every one had seen every image"
    return (text + (f"; {work['reused']:,} guesses came from earlier searches." if work["reused"] else "."),)


def _accuracy_text(report: Mapping[str, Any]) -> str:
    """The score of the chosen network and of the best: the confirmed ones where there are, and how far to trust them."""
    search, metric = report["search"], words_of(report)
    chosen, best = search["compared"]["chosen"], search["compared"]["best"]
    alone = chosen["number"] == best["number"]
    of_best = "" if alone else f" and {score_text(best['score'])} for the best"
    on_search = f"{score_text(chosen['score'])} for the chosen network{', the best of all' if alone else ''}{of_best}"
    optimistic = "such scores are optimistic, because the best of many was picked by them"
    if chosen["confirmed"] is None:
        return f"On the search images the {metric} is {on_search}; {optimistic}. Only the test part is free of that."
    again = "" if alone or best["confirmed"] is None else f", that of the best {score_text(best['confirmed'])}"
    return (
        f"The {metric} of the chosen network is {score_text(chosen['confirmed'])} on {search['confirmation']['images']} images "
        f"that took no part in the choice{again}. On the search images it is {on_search}; {optimistic}."
    )


def _preferences_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    found = report["search"]["preferences"]
    one = found["front"] == 1
    return (
        f"{found['front']} of {found['evaluated']} networks {'is' if one else 'are'} on the front: nothing that was scored on "
        f"all images is at least as good in {words_of(report)} and every cost, and better in one. Shares of few networks are "
        "rough, and a search that follows its best candidates proposes more of what they have, so a preference may be stronger "
        "than it looks here.",
        "In the tables, 67 / 40 means that a choice is made by 67 % of the networks on the front and by 40 % of all evaluated.",
    )


def readings_words(report: Mapping[str, Any]) -> str:
    """How often the test part was read, by this run and by all that lie beside it."""
    readings = report["test_readings"]
    text = f"test part {readings['split'][:DIGEST_DIGITS]} was read {times(readings['this_run'])} by this run"
    if readings["runs"] > 1:
        text += f", {times(readings['all_runs'])} by the {readings['runs']} runs in this place"
    if count := len(readings["damaged"]):
        names = ", ".join(readings["damaged"][:3]) + (f" and {count - 3} more" if count > 3 else "")
        text += f"; not counted, because the ledger cannot be read: {names}"
    return text


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


def _boards_section(report: Mapping[str, Any]) -> list[Section]:
    """What other devices found; nothing where no result was imported."""
    if not report["boards"]:
        return []
    text = ("As the program of the bundle found it on these devices; imported with `autoformer report import`.",)
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


def _attempt(number: int) -> str:
    return "" if number == 1 else f", attempt {number}: the earlier ones were not steady"
