"""The report of a run: its page from top to bottom, the files it is written to, and the answer in a few lines for a terminal.

`report.json` is written last: a run that has it is finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from autoformer.cost import show
from autoformer.errors import CheckpointError, short
from autoformer.export.judging.per_class import counted
from autoformer.metric import WORDS, percent, percent_value
from autoformer.profiling.reports import (
    budget,
    delivered,
    judged,
    latency,
    latency_table,
    page,
    preferences,
    race,
    scores,
    search,
)
from autoformer.profiling.reports.blocks import TONES, Figure, Headline, Page, Picture, Section
from autoformer.profiling.reports.content import FORMAT, content
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.wording import (
    capital,
    device_words,
    file_size,
    interval,
    latency_interval,
    latency_text,
    limit_words,
    readings_words,
    score_text,
    short_source,
    shown_value,
    words_of,
)
from autoformer.profiling.tables.limit import status_from
from autoformer.settings import write_yaml

PRECISIONS = ("fp32", "tf32", "fp16", "int8")
MOST_LINES = 15  # of the summary


def build_report(run_folder: Path) -> dict[str, Any]:
    """Writes `report.html`, `report.md`, `recipe.yaml` and at last `report.json` into the folder of a run; gives the JSON.

    The same folder gives the same files. Raises `CheckpointError` naming the file that is missing or damaged.
    """
    run = Run.load(run_folder)
    report = content(run)
    whole = run_page(run, report)
    page.save(whole, run_folder / "report.html")
    page.save(whole, run_folder / "report.md")
    recipe = "# The resolved recipe of this run; every setting, defaults included.\n"
    page.write_text(recipe + write_yaml(run.recipe), run_folder / "recipe.yaml")
    page.save(whole, run_folder / "report.json")
    return report


def run_page(run: Run, report: dict[str, Any]) -> Page:
    """The page of one run and the content of its `report.json`."""
    found = tuple(figures(run, report["ship"]["file"]))
    head = headline(report, budget.main_measurement(run).name)
    pictures = judged.pictures_of(run.mistakes or (), run.classes)
    return Page(headline=head, sections=sections(report, pictures), figures=found, values=report, version=run.version)


def figures(run: Run, shipped: str | None = None) -> list[Figure]:
    """All figures that this run has the numbers for; `shipped` is the file to ship."""
    found = [
        search.candidates_figure(run),
        search.progress_figure(run),
        preferences.preferences_figure(run),
        preferences.shapes_figure(run),
        judged.confusion_figure(counted(run.labels, delivered.judged_as(run, shipped).predictions, run.classes)),
        scores.training_figure("supernet", "Training of the supernet", run.supernet_history, run.metric),
        *([] if run.race is None else race.figures(race.values(run.race))),
        scores.training_figure(
            "finetune",
            f"Finetuning of the {'chosen' if run.race is None else 'delivered'} network",
            run.finetune_history,
            run.metric,
        ),
        latency.distribution_figure(run.profile.measurements),
        latency.timeline_figure([*run.profile.measurements, run.profile.reference]),
        latency.blocks_figure([run.layers]) if run.layers is not None else None,
        latency_table.table_figure(run) if run.table is not None else None,
    ]
    return [figure for figure in found if figure is not None]


def headline(report: Mapping[str, Any], main_latency: str) -> Headline:
    """The first screen: the file to ship, or the one that it would be, with its numbers.

    `main_latency` names the measurement that is shown where there is neither.
    """
    ship, chosen = report["ship"], report["chosen"]
    shown = next((one for one in ship["files"] if one["name"] == (ship["name"] or ship["likely"])), None)
    score = report["test"]["onnx fp32"] if shown is None else shown["score"]
    latency = report["latency"][main_latency if shown is None else shown["measured_as"]]
    what = "ONNX fp32" if shown is None else shown["name"]
    size = report["files"].get(what, {}).get("bytes") if shown is None else shown["bytes"]
    kind = "network" if chosen["architecture"] is None else "vision transformer"
    return Headline(
        title=f"A {kind} for {short_source(report['source'])}",
        answer=ship["sentence"],
        numbers=(
            (f"{words_of(report)} on test", percent_value(score["value"], score["low"], score["high"]),
             f"95 % interval {interval(score)}; {_images(score)} images, {what}"),
            ("latency", latency_text(latency).split(" [")[0],
             "; ".join(filter(None, (_latency_limit(report, shown), latency_interval(latency), latency["qualification"])))),
            ("size of the file", "–" if size is None else file_size(size),
             f"{what}, {show('params', chosen['params'])} parameters"),
            ("FLOPs", "–" if chosen["flops"] is None else show("flops", chosen["flops"]), "multiply-adds for one image"),
        ),
        verdicts=tuple(_verdicts(report, shown, latency["verdict"])),
        table=delivered.ship_table(report),
        reasons=tuple(delivered.ship_reasons(report)),
        sentence=_sentence(report),
    )  # fmt: skip


def _latency_limit(report: Mapping[str, Any], shown: Mapping[str, Any] | None) -> str:
    """How much of the limit on latency is used: by the file that is shown, else as the budget says."""
    limit = next((one for one in report["budget"] if one["limit"] == "max_latency_ms"), None)
    if limit is None:
        return ""
    share = limit["share"] if shown is None else shown["limits"]["max_latency_ms"]["share"]
    return f"limit {shown_value('latency_ms', limit['value'])}" + ("" if share is None else f", {100 * share:.0f} % used")


def _verdicts(report: Mapping[str, Any], shown: Mapping[str, Any] | None, timing: str) -> Iterator[tuple[str, str]]:
    """What became of limits, by the file that is shown, and of int8; whether the time can be trusted; what was not made here."""
    for limit in report["budget"]:
        use = {"share": limit["share"], "status": limit["met"]} if shown is None else shown["limits"][limit["limit"]]
        share = "" if use["share"] is None else f"{100 * use['share']:.0f} % used, "
        yield f"{limit_words(limit)}: {share}{use['status']}", TONES[use["status"]]
    if not report["budget"]:
        yield "no limits were set", "plain"
    if report["int8"]["advice"]:  # slower on the device of this run
        yield "int8: rejected on this device", TONES["rejected"]
    elif report["int8"]["status"] != "skipped":
        yield f"int8: {report['int8']['status']}", TONES[report["int8"]["status"]]
    yield f"timing: {timing}", TONES[timing]
    if (searched := report["search"].get("searchability")) and not searched["searchable"]:
        yield f"search: not much more than chance{', a race decided' if 'race' in report else ''}", "open"
    for item in report["skipped"]:
        if item["status"] == "skipped":
            yield f"{item['what'].split()[0]}: {delivered.NOT_INSTALLED}", TONES[delivered.NOT_INSTALLED]


def _sentence(report: Mapping[str, Any]) -> str:
    """The decision, where it was measured, and how far what is delivered is from the parent."""
    chosen, device = report["chosen"], device_words(report["device"])
    parent = "".join(f" {sentence}" for sentence in scores.parent_text(report))
    parent += "".join(f" {capital(pace)}." for limit in report["budget"] if (pace := budget.pace_line(limit)) is not None)
    if "race" in report:
        return f"{report['race']['sentence']} Exported, it was measured on {device}.{parent}"
    return (
        f"Of {report['candidates']} scored networks within the budget, the search chose {chosen['slug']}: {chosen['words']}. "
        f"Finetuned and exported, it was measured on {device}.{parent}"
    )


def sections(report: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> tuple[Section, ...]:
    """The whole report below the headline; `pictures` are those of the worst mistakes."""
    layers = report["layers"]
    return (
        *race.sections(report),
        search.section(report),
        preferences.section(report),
        budget.section(report),
        scores.section(report),
        *judged.sections(report["judged"], pictures, delivered.EXACT),
        latency.section(report),
        *latency.layer_section([] if layers is None else [layers]),
        *latency_table.sections(report),
        *delivered.board_sections(report),
        scores.training_section(report),
        delivered.section(report),
        delivered.gaps_section([(item["what"], item["reason"]) for item in report["not_measured"]]),
        scores.data_section(report),
        delivered.machine_section(report),
        Section(name="again", title="Do it again", text=(_again_text(report),), code=report["command"], code_title="Command"),
        Section(
            name="recipe",
            title="Recipe",
            text=("Every setting, defaults included; also in recipe.yaml.",),
            code=write_yaml(report["recipe"]),
            code_title="Resolved recipe",
        ),
    )


def _images(score: Mapping[str, Any]) -> str:
    """On how many images a score is, and how many of them are right where it counts that."""
    return f"{score['correct']} of {score['images']}" if score["metric"] == "top1" else str(score["images"])


def _again_text(report: Mapping[str, Any]) -> str:
    text = "Run from where this run was started."
    if "profile.table" in report["command"]:
        text += " With the stored latency table, this machine finds the same architecture and the same weights again."
    return text + " Measured times differ from one run to the next."


# --- the answer in a few lines -------------------------------------------------------------------------------------


def refuse_other_format(report: Mapping[str, Any], folder: Path | None = None) -> None:
    """Raises `CheckpointError` for a report of another format than the run in `folder` gets now."""
    if report.get("format") != FORMAT:
        raise CheckpointError(
            f"{(folder or Path()) / 'report.json'} has format {short(repr(report.get('format')), 60)}, expected {FORMAT!r}; "
            f"write it again with: autoformer report build {'RUN' if folder is None else quote(str(folder))}"
        )


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """The answer in at most 15 lines for a terminal, from the content of `report.json`.

    Raises `CheckpointError` for a report of another format.
    """
    refuse_other_format(report)
    chosen = report["chosen"]
    lines = [
        f"delivers {chosen['slug']} for {short_source(report['source'])} (seed {report['seed']}): {chosen['words']}",
        *([report["race"]["sentence"]] if "race" in report else []),
        *(_limit_line(limit) for limit in report["budget"]),
        *filter(None, map(budget.pace_line, report["budget"])),
        *budget.room_lines(report["budget"], report["data"]["preprocessing"]["image_size"]),
    ]
    if not report["budget"]:
        lines.append("budget: no limits were set")
    test = report["test"]
    shown = "; ".join(f"{scores.networks(name)} {score_text(test[name])}" for name in scores.in_order(test))
    lines.append(f"{WORDS[report['metric']]} on {test['onnx fp32']['images']} test images: {shown}")
    lines.append(_int8_line(report))
    found = report["search"]
    held_out = found["compared"]["chosen"]["confirmed"]
    again = "" if held_out is None else f"; on {held_out['images']} held-out images: {score_text(held_out)}"
    lines.append(
        f"{report['tied']} of {report['candidates']} candidates are not significantly different from the best on "
        f"{found['images']} search images; chosen: {found['choose']}{again}"
    )
    lines += [f"search: {found['searchability']['words'].partition(' (random')[0]}"] if found.get("searchability") else []
    lines += scores.parent_text(report)
    lines.append(readings_words(report))
    skipped = [
        f"{item['what']}{_status_before(item)}: {item['reason']}"
        for item in report["skipped"]
        if item["what"] != "ONNX int8" and (report["device"]["gpus"] or item["status"] != "skipped")  # engines, without a GPU
    ]
    if "ship" in report:  # whose table has the files and their times
        return lines + _within(skipped, max(1, MOST_LINES - len(lines)))
    timed = sorted(
        report["latency"].items(), key=lambda item: by_precision(item[0])
    )  # a report that was read is in another order
    latencies = [f"{name}: {latency_text(stats)} p50, {stats['verdict']}" for name, stats in timed]
    paths = [file["path"] for file in report["files"].values() if "sha256" in file]
    files = "; ".join(sorted(paths, key=by_precision))
    end = [f"files: {files}"] if files else []
    room = MOST_LINES - len(lines) - len(end)
    return lines + _within(latencies, max(1, room - len(skipped))) + _within(skipped, max(1, room - len(latencies))) + end


def _status_before(item: Mapping[str, Any]) -> str:
    """Why a file is not there, in a word, where its reason does not say the same."""
    words = delivered.status_words(item["status"])
    return "" if words in item["reason"] else f" {words}"


def by_precision(name: str) -> tuple[int, str]:
    """The place of a file among those of a run: fp32 first."""
    return next((place for place, precision in enumerate(PRECISIONS) if precision in name), len(PRECISIONS)), name


def _within(lines: list[str], most: int) -> list[str]:
    """At most `most` lines; what does not fit is counted in the last."""
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], f"{lines[most - 1]} (and {len(lines) - most} more in the report)"]


def _limit_line(limit: Mapping[str, Any]) -> str:
    said = (budget.found_text(limit), budget.used_text(limit), status_from(limit["met"]))
    return f"{limit_words(limit)}: {', '.join(filter(None, said))}"


def _int8_line(report: Mapping[str, Any]) -> str:
    paired = report["int8_disagreement"]
    if paired is None:
        return f"int8 {report['int8']['status']}: {report['int8']['reason']}"
    share = percent(paired["share"], paired["low"], paired["high"])
    advice = f"; {report['int8']['advice']}" if report["int8"]["advice"] else ""
    different = f"another class than fp32 on {paired['different']} of {paired['images']}, {share}"
    return f"int8 {report['int8']['status']}: {different}{advice}"
