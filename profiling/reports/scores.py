"""Scores in a report: on the test part, where int8 is compared with fp32 image by image, and on the search part by epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autoformer.cost import ExactCosts
from autoformer.data.value_range import words_on_range
from autoformer.metric import WORDS, Difference, Metric, metric_from, paired_difference, percent, percent_value, wilson
from autoformer.profiling.reports.blocks import (
    GREY,
    SERIES,
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
from autoformer.profiling.reports.run_folder import FINETUNED, FP32, INT8, PARENT, Epoch, Run
from autoformer.profiling.reports.wording import DIGEST_DIGITS, capital, interval, number_of, readings_words, score_text, words_of

NETWORKS = {
    PARENT: "parent, finetuned on these images",
    "inherited": "supernet weights, as inherited",
    "finetuned": "finetuned",
    "onnx fp32": "ONNX fp32",
    "onnx fp16": "ONNX fp16",
    "onnx int8": "ONNX int8",
}
MEANINGS: dict[Metric, str] = {
    "top1": "The share of images whose most probable class is the right one (top-1), with Wilson's interval.",
    "balanced_accuracy": "The mean over classes of the share of a class's images that are right: every class counts alike, "
    "however many images it has. Intervals are Wilson's, for the number of images that would make an accuracy as certain.",
    "macro_f1": "The mean over classes of F1, the harmonic mean of precision and recall: every class counts alike, however "
    "many images it has. Intervals are Wilson's, for the number of images that would make an accuracy as certain.",
}


def int8_disagreement(run: Run) -> dict[str, Any] | None:
    """On how many test images int8 names another class than fp32, image by image; None where there is no int8 file."""
    if INT8 not in run.predictions:
        return None
    fp32, int8 = run.predictions[FP32], run.predictions[INT8]
    different = int((fp32 != int8).sum())
    low, high = wilson(different / len(fp32), len(fp32))
    return {
        "images": len(fp32),
        "different": different,
        "share": different / len(fp32),
        "low": low,
        "high": high,
        "only_fp32_right": int(((fp32 == run.labels) & (int8 != run.labels)).sum()),
        "only_int8_right": int(((int8 == run.labels) & (fp32 != run.labels)).sum()),
    }


def parent_difference(run: Run) -> dict[str, Any] | None:
    """What the delivered network scores more than the finetuned parent, image by image; None where no parent was tested."""
    if PARENT not in run.predictions:
        return None
    found = paired_difference(run.predictions[PARENT], run.predictions[FINETUNED], run.labels, run.metric)
    largest, own = ExactCosts(run.space)(run.space.largest), run.delivered
    flops = None if own.flops is None else own.flops / largest.flops  # of a rival they may be unknown
    return {**found.to_dict(), "params": own.params / largest.params, "flops": flops}


def int8_values(run: Run) -> dict[str, Any]:
    """What became of the int8 file."""
    artefact = run.manifest.find("onnx", "int8")
    if artefact is None:
        return {"status": "not asked for", "reason": "the recipe's export.precisions does not name int8", "advice": ""}
    return {"status": artefact.status, "reason": artefact.reason, "advice": artefact.advice}


def reading_values(run: Run) -> dict[str, Any]:
    """How often the test part was read: by this run, and by all whose folders lie beside it."""
    split = run.parts["test"].digest
    by_split = Counter(reading.split for reading in run.readings)
    return {
        "split": split,
        "by_split": dict(by_split),
        "this_run": by_split[split],
        "all_runs": by_split[split] + run.beside.readings,
        "runs": 1 + run.beside.runs,
        "damaged": list(run.beside.damaged),
        "readings": [asdict(reading) for reading in run.readings],
    }


# --- words ---------------------------------------------------------------------------------------------------------


def networks(name: str) -> str:
    """A name of test.json in words."""
    return NETWORKS.get(name, name)


def in_order(names: Iterable[str]) -> list[str]:
    """Names of test.json in the order in which the networks came about."""
    return sorted(names, key=lambda name: [*NETWORKS, name].index(name))


def section(report: Mapping[str, Any]) -> Section:
    """The scores on the test part, and what int8 changes."""
    title = f"{capital(words_of(report))} on the test part"
    return Section(name="test", title=title, text=(*parent_text(report), *_int8_text(report)), tables=(test_table(report),))


def _shares(found: Mapping[str, Any]) -> str:
    params = f"{100 * found['params']:.2g} % of the parameters"
    return params if found["flops"] is None else f"{params} and {100 * found['flops']:.2g} % of the FLOPs"


def _points(found: Mapping[str, Any]) -> str:
    return str(Difference(found["value"], found["low"], found["high"], tied=False))


def parent_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    """How far the delivered network is from the parent, in a sentence; nothing where no parent was tested."""
    found = report.get("parent_difference")
    if found is None:
        return ()
    return (
        f"The delivered network differs from the parent that the supernet was cut out of by {_points(found)} points of "
        f"{words_of(report)}, image by image; it has {_shares(found)} of the largest network.",
    )


def _int8_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    paired = report["int8_disagreement"]
    if paired is None:
        return (f"There is no int8 file to compare with fp32: {report['int8']['status']}, {report['int8']['reason']}.",)
    return (
        f"Image by image, int8 names another class than fp32 on {paired['different']} of {paired['images']} test images, "
        f"{percent(paired['share'], paired['low'], paired['high'])}; on {paired['only_fp32_right']} of them only fp32 is right, "
        f"on {paired['only_int8_right']} only int8.",
        *((f"int8 is {report['int8']['advice']}.",) if report["int8"]["advice"] else ()),
    )


def test_table(report: Mapping[str, Any]) -> Table:
    """The score of every network on the test part."""
    metric, rows = metric_from(report["metric"]), list[tuple[str, ...]]()
    counted = metric == "top1"
    for name in in_order(report["test"]):
        score = report["test"][name]
        images = f"{score['correct']} of {score['images']}" if counted else str(score["images"])
        rows.append((networks(name), percent_value(score["value"], score["low"], score["high"]), interval(score), images))
    if "onnx int8" not in report["test"]:
        rows.append(("ONNX int8", "not measured", "–", "–"))
    return Table(
        title=f"{capital(WORDS[metric])} on images that took no part in any choice",
        columns=("network", WORDS[metric], "95 % interval", "right" if counted else "images"),
        rows=tuple(rows),
        numbers=(1, 2, 3),
        note=f"{MEANINGS[metric]} All networks see the same images, so neighbouring rows differ by less than they suggest.",
    )


def data_section(report: Mapping[str, Any]) -> Section:
    """The images, their parts, and the readings of the test part."""
    data = report["data"]
    size, channels = data["preprocessing"]["image_size"], data["preprocessing"]["in_chans"]
    colour = "grey" if channels == 1 else "RGB" if channels == 3 else f"{channels} channels"
    colour += words_on_range(data["preprocessing"].get("value_range"))
    names = data["classes"]
    shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    text = (
        f"{report['source']}: {len(names)} classes ({shown}); images of {size} × {size} px, {colour}. Parts: {data['layout']}.",
        f"The {readings_words(report)}.",
    )
    return Section(name="data", title="Data", text=text, tables=(part_table(report), reading_table(report)))


def part_table(report: Mapping[str, Any]) -> Table:
    """The parts of the data."""
    use = {
        "train": "supernet and finetuning",
        "search": "scoring candidates, calibrating and judging int8",
        "test": "read once per network, after every choice was made",
        "unlabelled": "distillation only, without labels",
    }
    parts = report["data"]["parts"]
    rows = [(name, str(parts[name]["images"]), use[name], parts[name]["digest"][:DIGEST_DIGITS]) for name in use if name in parts]
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
        note="A network that is read twice has a score that is less of a test. So has a run that was set up by what an earlier "
        "run read.",
    )


# --- training ------------------------------------------------------------------------------------------------------


def training_section(report: Mapping[str, Any]) -> Section:
    """Both trainings in a sentence each, and their curves."""
    supernet, finetune = report["training"]["supernet"], report["training"]["finetune"]
    text = (
        f"Supernet: {number_of(len(supernet), 'epoch')}, last loss {supernet[-1]['loss']:.3g}; every step trains one network of "
        "the space. "
        f"Finetuning: {number_of(len(finetune), 'epoch')}, last loss {finetune[-1]['loss']:.3g}. The curves of the "
        f"{words_of(report)} are on the search part, with 95 % intervals."
    )
    return Section(name="training", title="Training", text=(text,), figures=("supernet", "finetune"))


def training_figure(name: str, title: str, history: Sequence[Epoch], metric: Metric) -> Figure:
    """Scores on the search part above, the loss below, over epochs."""
    names = list(dict.fromkeys(network for epoch in history for network in epoch.scores))
    traces: list[Plot] = []
    for index, network in enumerate(names):
        scored = [epoch for epoch in history if network in epoch.scores]
        scores = [epoch.scores[network] for epoch in scored]
        colour = SERIES[index % len(SERIES)]
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": plain(network), "line": {"color": colour},
                "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)]},
                "x": [epoch.epoch for epoch in scored],
                "y": [100 * score.value for score in scores],
                "error_y": error_bars([(100 * score.low, 100 * score.value, 100 * score.high) for score in scores], colour),
                "text": [
                    f"{plain(network)}, epoch {epoch.epoch}<br>{score_text(score.to_dict())}"
                    for epoch, score in zip(scored, scores, strict=True)
                ],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    traces.append(
        {
            "type": "scatter", "mode": "lines", "name": "loss", "xaxis": "x", "yaxis": "y2", "line": {"color": GREY},
            "x": [epoch.epoch for epoch in history],
            "y": [epoch.loss for epoch in history],
            "text": [
                f"epoch {epoch.epoch}: loss {epoch.loss:.4g}<br>learning rate {epoch.learning_rate:.2g}, {epoch.seconds:.2g} s"
                for epoch in history
            ],
            "hovertemplate": "%{text}<extra></extra>",
        }
    )  # fmt: skip
    layout = common_layout("epoch", f"{WORDS[metric]}, %")
    layout["xaxis"]["anchor"] = "y2"
    layout["yaxis"]["domain"] = [0.42, 1]
    layout["yaxis2"] = {"title": {"text": "loss"}, "domain": [0, 0.34], "anchor": "x"}
    caption = (
        f"{capital(WORDS[metric])} on the search part with 95 % intervals where it was taken; mean loss of each epoch below."
    )
    return one_view(name, title, caption, traces, layout)
