"""Answers as CSV, for spreadsheets and programs: a line per image, per class, and per pair of classes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from autoformer.export.judging.answers import Answers
from autoformer.export.judging.per_class import class_counts, matrix_of

IMAGE_COLUMNS = ("image", "class", "named", "probability", "right")
CLASS_COLUMNS = ("class", "images", "right", "named", "recall", "low", "high", "precision", "f1")
FILES = ("images.csv", "classes.csv", "confusion.csv")


def write_tables(answers: Answers, classes: Sequence[str], folder: Path) -> None:
    """Writes `images.csv`, `classes.csv` and `confusion.csv`, which is the matrix of the classes in `classes.csv`."""
    labels, predicted = answers.labels, answers.predicted
    counts = class_counts(labels, predicted, classes)
    answered = zip(answers.names, labels, predicted, answers.probability, answers.is_right, strict=True)
    lines = ((name, classes[label], classes[named], f"{share:.6f}", int(ok)) for name, label, named, share, ok in answered)
    write_csv(IMAGE_COLUMNS, lines, folder / "images.csv")
    shown = ((one.name, one.images, one.right, one.named, *map(_share, (one.recall, one.low, one.high, one.precision, one.f1)))
             for one in counts)  # fmt: skip
    write_csv(CLASS_COLUMNS, shown, folder / "classes.csv")
    names = [one.name for one in counts]
    places = [place for place, name in enumerate(classes) if name in set(names)]
    matrix = matrix_of(labels, predicted, len(classes))[places][:, places]
    rows = ((name, *row.tolist()) for name, row in zip(names, matrix, strict=True))
    write_csv(("class", *names), rows, folder / "confusion.csv")


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[object]], path: Path) -> None:
    """A CSV file in UTF-8 with a line of names first (RFC 4180, lines end as on Unix)."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
