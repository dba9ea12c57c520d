"""Class by class: how many images of each class are right, which classes are taken for which, and the worst mistakes as pictures.

A section of the report of a run, and the page of `evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoformer import __version__
from autoformer.data.classes import some_of
from autoformer.export.judging.mistakes import Mistake
from autoformer.export.judging.per_class import ClassCount, Confusion, worst_first
from autoformer.metric import WORDS, Score, metric_from, percent_value
from autoformer.profiling.reports.blocks import Figure, Headline, Page, Picture, Section, Table, common_layout, one_view, plain
from autoformer.profiling.reports.scores import MEANINGS
from autoformer.profiling.reports.wording import capital, interval, number_of, shortened
from autoformer.records import from_json

FORMAT = "autoformer/evaluation/1"
MOST_CLASSES = 60  # in the table of a page
MOST_CONFUSIONS = 15
LEAST_IMAGES = 3  # of a class, from which none recognised says something
LINE = 24  # letters of a name that stay together in a table
MOST_IN_MATRIX = 40  # classes a side of the figure, beyond which its cells cannot be read
LONGEST_TICK = 24  # letters of a class name beside the figure
NOTE = (
    "Recall is the share of the class's images that are right, with Wilson's 95 % interval; precision is the share of the images "
    "called so that really are; F1 is the harmonic mean of the two."
)


def mistake_values(mistakes: Sequence[Mistake], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The mistakes in JSON, without their pictures."""
    return [
        {
            "image": one.image,
            "class": classes[one.label],
            "named": classes[one.predicted],
            "probability": one.probability,
        }
        for one in mistakes
    ]


def pictures_of(mistakes: Sequence[Mistake], classes: Sequence[str]) -> tuple[Picture, ...]:
    """The mistakes as pictures, each with what it is, what it was called and how surely."""
    return tuple(
        Picture(
            address=one.address,
            words=f"{classes[one.label]}, called {classes[one.predicted]} ({100 * one.probability:.0f} %): {one.image}",
        )
        for one in mistakes
    )


# --- the section ---------------------------------------------------------------------------------------------------


def sections(judged: Mapping[str, Any], pictures: Sequence[Picture], who: str) -> tuple[Section, ...]:
    """The classes, and the mistakes where there are pictures.

    `judged` has what `per_class.counted` gives, and in a report of a run "who" answered; else that is `who`, whose mistakes the
    pictures are.
    """
    counts = [from_json(ClassCount, one) for one in judged["per_class"]]
    confused = [from_json(Confusion, one) for one in judged["confusions"]]
    tables = [class_table(counts), *([confusion_table(confused, counts)] if confused else [])]
    said = (_sentence(counts, judged.get("who", who)),)
    found = [Section(name="classes", title="Class by class", text=said, tables=tuple(tables), figures=("confusion",))]
    if pictures:
        which = f"The {len(pictures)} wrong answers that" if len(pictures) > 1 else "The wrong answer that"
        text = (
            f"{which} {who} was surest of: the class of the image, what it was called, and the "
            "probability that the network gave that. Here wrong labels, strange images and classes that look alike are found."
            + _otherwise(judged)
        )
        found.append(Section(name="mistakes", title="The worst mistakes", text=(text,), pictures=tuple(pictures)))
    return tuple(found)


def never_right(judged: Mapping[str, Any]) -> str | None:
    """That classes are never recognised, as a caution for whoever ships the network; None where each one is at least once."""
    counts = [one for one in judged["per_class"] if one["images"] >= LEAST_IMAGES]
    missed = [one["name"] for one in counts if not one["right"]]
    if not missed:
        return None
    classes = f"{len(missed)} class{'es are' if len(missed) > 1 else ' is'} not recognised on any test image"
    return f"{classes} ({some_of(missed)}): train longer, start from a pretrained network, or give more images of them."


def _otherwise(judged: Mapping[str, Any]) -> str:
    """How far the pictures, which are of the fp32 file, speak for the file that was judged, where that is another."""
    if (count := judged.get("fp32_otherwise")) is None:
        return ""
    images = sum(one["images"] for one in judged["per_class"])
    return f" {capital(judged['who'])}, the one to ship, has another answer to {count} of the {images} images."


def _sentence(counts: Sequence[ClassCount], who: str) -> str:
    ordered = worst_first(counts)
    wrong = sum(one.images - one.right for one in ordered)
    if not wrong:
        return f"{capital(who)} has all {sum(one.images for one in ordered)} images right."
    worst, images = ordered[0], sum(one.images for one in ordered)
    whole = sum(one.right == one.images for one in ordered)
    every = f"in {whole} of {len(ordered)} classes every image is right" if whole else "no class is without a mistake"
    return (
        f"{capital(who)} has {wrong} of {images} images wrong. The lowest class is {worst.name}, with {worst.right} of "
        f"{worst.images} right; {every}."
    )


def class_table(counts: Sequence[ClassCount]) -> Table:
    """The classes, the lowest recall first."""
    ordered = worst_first(counts)
    shown = ordered[:MOST_CLASSES]
    rows = [class_cells(one) for one in shown]
    rows += [class_cells(one) for one in counts if one.recall is None][: MOST_CLASSES - len(rows)]
    rows = [(breakable(name), *cells) for name, *cells in rows]
    rest = len(ordered) - len(shown)
    left = f" {rest} class{'es' * (rest > 1)} with a higher recall {'are' if rest > 1 else 'is'} left out here." if rest else ""
    return Table(
        title="Classes, the lowest recall first",
        columns=CLASS_COLUMNS,
        rows=tuple(rows),
        numbers=(1, 2, 3, 4, 5, 6),
        note=NOTE + left,
    )


def breakable(name: str) -> str:
    """A name that may be broken into lines where it is long and has no spaces, at places that cannot be seen."""
    return " ".join("\u200b".join(word[at : at + LINE] for at in range(0, len(word), LINE)) for word in name.split(" "))


CLASS_COLUMNS = ("class", "right", "recall", "95 % interval", "called so", "precision", "F1")


def class_cells(one: ClassCount) -> tuple[str, ...]:
    """One class in the cells of `CLASS_COLUMNS`."""
    if one.recall is None or one.low is None or one.high is None:
        recall, span = "–", "–"
    else:
        recall = percent_value(one.recall, one.low, one.high)
        span = interval({"value": one.recall, "low": one.low, "high": one.high})
    precision = "–" if one.precision is None else f"{100 * one.precision:.0f} %"
    return (one.name, f"{one.right} of {one.images}", recall, span, str(one.named), precision, f"{one.f1:.2f}")


CONFUSION_COLUMNS = ("class", "taken for", "images", "of the class")


def confusion_rows(confused: Sequence[Confusion], counts: Sequence[ClassCount], most: int) -> list[tuple[str, ...]]:
    """The most frequent confusions in the cells of `CONFUSION_COLUMNS`."""
    images = {one.name: one.images for one in counts}
    return [(one.name, one.taken_for, str(one.images), f"{100 * one.images / images[one.name]:.0f} %") for one in confused[:most]]


def confusion_table(confused: Sequence[Confusion], counts: Sequence[ClassCount]) -> Table:
    """Which classes are taken for which, the most frequent first."""
    left, cells = len(confused) - MOST_CONFUSIONS, confusion_rows(confused, counts, MOST_CONFUSIONS)
    return Table(
        title="Taken for another class",
        columns=CONFUSION_COLUMNS,
        rows=tuple((breakable(name), breakable(other), *rest) for name, other, *rest in cells),
        numbers=(2, 3),
        note=f"{number_of(left, 'pair')} that {'is' if left == 1 else 'are'} no more frequent left out." if left > 0 else "",
    )


def confusion_figure(judged: Mapping[str, Any]) -> Figure | None:
    """The confusion matrix in shares of each class; None where it would have too many classes to be read, or nothing to show."""
    counts = [from_json(ClassCount, one) for one in judged["per_class"]]
    confused = [from_json(Confusion, one) for one in judged["confusions"]]
    if not 1 < len(counts) <= MOST_IN_MATRIX or not confused:
        return None
    place = {one.name: number for number, one in enumerate(counts)}
    matrix = np.zeros((len(counts), len(counts)), np.int64)
    for one in counts:
        matrix[place[one.name], place[one.name]] = one.right
    for pair in confused:
        matrix[place[pair.name], place[pair.taken_for]] = pair.images
    shares = 100 * matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    names = [plain(one.name) for one in counts]
    short = [plain(name) for name in shortened([one.name for one in counts], LONGEST_TICK)]  # whole in the hover label
    totals = np.maximum(1, matrix.sum(1))
    labels = [
        [f"{name} called {other}: {matrix[row, column]} of {totals[row]}" for column, other in enumerate(names)]
        for row, name in enumerate(names)
    ]
    trace = {
        "type": "heatmap", "z": np.round(shares, 2).tolist(), "x": list(range(len(names))), "y": list(range(len(names))),
        "hovertext": labels, "hovertemplate": "%{hovertext}<extra></extra>", "zmin": 0, "zmax": 100, "xgap": 1, "ygap": 1,
        "colorscale": [[0, "rgba(63,143,210,0)"], [1, "rgba(63,143,210,1)"]], "colorbar": {"title": {"text": "%"}},
    }  # fmt: skip
    if len(names) <= 12:
        trace |= {"texttemplate": "%{text}", "text": matrix.astype(str).tolist()}
    layout = common_layout("called", "class", showlegend=False)
    ticks = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": short}
    layout["xaxis"] |= ticks
    layout["yaxis"] |= {**ticks, "autorange": "reversed", "title": {"text": "class", "standoff": 12}}
    caption = "Each row is a class; colours are shares of its images, so that large and small classes are seen alike."
    return one_view("confusion", "Confusion matrix", caption, [trace], layout)


# --- the page of `evaluate` ----------------------------------------------------------------------------------------


def judged_page(values: Mapping[str, Any], pictures: Sequence[Picture]) -> Page:
    """The page about the answers of one network. `values` are those that `evaluate` gives as JSON."""
    score = Score.from_dict(
        {key: values[key] for key in ("metric", "value", "low", "high", "images", "correct") if key in values}
    )
    words = WORDS[metric_from(values["metric"])]
    wrong = sum(one["images"] for one in values["confusions"])
    shown = [one for one in values["per_class"] if one["images"]]
    numbers = [
        (words, percent_value(score.value, score.low, score.high), f"95 % interval {interval(score.to_dict())}"),
        ("images", f"{score.images:,}", f"{values['source']}: {values['images_of']}"),
        ("wrong", f"{wrong:,}", f"{100 * wrong / score.images:.1f} % of the images"),
        ("classes", str(len(shown)), f"of {len(values['classes'])} that the network knows"),
    ]
    figure = confusion_figure(values)
    files = Table(
        title="Beside this page",
        columns=("file", "what it holds"),
        rows=(
            ("evaluation.json", "all of this, for programs"),
            ("images.csv", "every image: its class, what it was called, and how surely"),
            ("classes.csv", "every class"),
            ("confusion.csv", "the confusion matrix, classes in rows, what they were called in columns"),
        ),
    )
    return Page(
        headline=Headline(
            title=f"{capital(words)} of {values['artefact']}",
            sentence=f"{values['file']} was asked about {values['images_of']} of {values['source']}.",
            numbers=tuple(numbers),
            verdicts=tuple((note, "open") for note in values["notes"]),
        ),
        sections=(
            *sections(values, pictures, "the network"),
            Section(name="how", title="How it was judged", text=(MEANINGS[score.metric],), tables=(files,)),
        ),
        figures=() if figure is None else (figure,),
        values=values,
        version=__version__,
    )
