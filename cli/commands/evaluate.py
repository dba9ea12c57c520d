"""`autoformer evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from autoformer.cli.options import Classes, Data, Json, Metric, Quiet

ALL_CLASSES = 20  # up to which all are shown
FEW_CLASSES = 10  # shown of more, those with the lowest recall
MATRIX_CLASSES = 12  # up to which the confusion matrix is shown
CONFUSIONS = 8  # shown of more


class JudgedPart(StrEnum):
    search = "search"
    test = "test"
    all = "all"


def evaluate(
    artefact: Annotated[
        str,
        typer.Argument(help="A run, the folder of a network or an export, timm:NAME[@FILE], an ONNX file, a bundle, an engine."),
    ],
    part: Annotated[
        JudgedPart | None,
        typer.Option(
            "--part",
            help="all: every image, as the folders lie; usual for --data of others, else search. Reading test is counted in "
            "test_ledger.json.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    classes: Classes = None,
    metric: Metric = None,
    ledger: Annotated[Path | None, typer.Option(help="Ledger of test readings; default beside the artefact.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write: a page with the worst mistakes as pictures, and every answer as CSV and JSON."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score an artefact on images, in all and class by class, with the preprocessing stored in it.

    Examples:

      autoformer evaluate runs/finetuned

      autoformer evaluate runs/photos --data new_photos --out judged

      autoformer evaluate runs/export/model.int8.onnx --part test

      autoformer evaluate timm:deit_tiny_patch16_224@deit.pth --data photos --classes natural
    """
    from autoformer.cli.class_order import better_order
    from autoformer.cli.console import note, print_json, progress_bar
    from autoformer.cli.judged_images import Request, judged_images, record_of
    from autoformer.cli.words import metric_of
    from autoformer.export.judging.answers import ask
    from autoformer.export.judging.mistakes import worst_mistakes
    from autoformer.export.judging.per_class import counted
    from autoformer.export.predictor import open_predictor
    from autoformer.files import refuse_existing
    from autoformer.metric import score

    if out is not None:
        refuse_existing(out)
    opened = open_predictor(artefact)
    advice = "give" if opened.classes is None else "its names are wrong: export its weights again with"
    request = Request(artefact=artefact, part=None if part is None else part.value, data=data, classes=classes, ledger=ledger)
    judged = judged_images(request, opened)
    for line in judged.notes:
        note(line)
    with progress_bar(quiet) as progress:
        answers = ask(
            judged.predictor, judged.parts, judged.preparation, skip_unreadable=judged.skip_unreadable, progress=progress
        )
    said = list(judged.notes)
    if lost := answers.unreadable:
        names = f"{', '.join(lost[:3])}{' ...' if len(lost) > 3 else ''}"
        said.append(f"{len(lost)} of {len(lost) + len(answers)} images cannot be read and are not scored: {names}")
    if hint := better_order(answers.predicted, answers.labels, judged.classes, judged.classes, advice):
        said.append(hint)
    for line in said[len(judged.notes) :]:
        note(line)
    measure = metric_of(metric, None, record_of(artefact, "metric") or record_of(artefact, "recipe"))
    values: dict[str, Any] = {
        "artefact": artefact,
        "file": str(opened.path),
        "source": judged.source,
        "part": judged.part,
        "images_of": judged.words,
        "split": judged.digest,
        "classes": list(judged.classes),
        "notes": said,
        "unreadable": list(answers.unreadable),
        **score(answers.predicted, answers.labels, measure).to_dict(),
        **counted(answers.labels, answers.predicted, judged.classes),
    }
    if out is not None:
        worst = worst_mistakes(answers, judged.parts, judged.preparation.value_range)
        _write(values, worst, answers, out)
    if json:
        print_json(values)
        return
    _show(values, values["file"])
    if out is not None:
        note(f"page: {out / 'evaluation.html'}")


def _write(values: dict[str, Any], worst: Sequence[Any], answers: Any, out: Path) -> None:
    """Fills the folder `out`, whole or not at all."""
    from autoformer.export.judging.tables import write_tables
    from autoformer.files import write_folder
    from autoformer.profiling.reports import judged, page

    classes = values["classes"]
    whole = judged.judged_page(
        {"format": judged.FORMAT, **values, "mistakes": judged.mistake_values(worst, classes)}, judged.pictures_of(worst, classes)
    )
    with write_folder(out) as folder:
        page.save(whole, folder / "evaluation.html")
        page.save(whole, folder / "evaluation.json")
        write_tables(answers, classes, folder)


def _show(values: Mapping[str, Any], artefact: str) -> None:
    """The score, the classes, and what they are taken for."""
    from autoformer.cli.console import print_table, say
    from autoformer.cli.words import score_cells
    from autoformer.export.judging.per_class import ClassCount, Confusion, worst_first
    from autoformer.metric import WORDS, metric_from
    from autoformer.profiling.reports.judged import CLASS_COLUMNS, CONFUSION_COLUMNS, class_cells, confusion_rows

    words = WORDS[metric_from(values["metric"])]
    print_table(
        f"{words} on {values['images_of']}", ("artefact", words, "95 % interval", "images"), [(artefact, *score_cells(values))]
    )
    counts = [ClassCount(**one) for one in values["per_class"]]
    confused = [Confusion(**one) for one in values["confusions"]]
    ordered = worst_first(counts)
    shown = ordered if len(ordered) <= ALL_CLASSES else ordered[:FEW_CLASSES]
    rows = [class_cells(one) for one in shown]
    if left := len(ordered) - len(shown):
        rows.append((f"... {left} with a higher recall", *([""] * (len(CLASS_COLUMNS) - 1))))
    say()
    print_table("classes, the lowest recall first", CLASS_COLUMNS, rows)
    if confused and len(counts) <= MATRIX_CLASSES:
        say()
        _show_matrix(counts, confused)
    elif confused:
        say()
        print_table("most often taken for another class", CONFUSION_COLUMNS, confusion_rows(confused, counts, CONFUSIONS))


def _show_matrix(counts: Sequence[Any], confused: Sequence[Any]) -> None:
    """The confusion matrix: a row per class, a column per class that was named."""
    from autoformer.cli.console import print_table

    cells = {(one.name, one.taken_for): str(one.images) for one in confused}
    cells |= {(one.name, one.name): str(one.right) for one in counts}
    names = [one.name for one in counts]
    rows = [(name, *(cells.get((name, other), "·") for other in names)) for name in names]
    print_table("called (columns), by class (rows)", ("class", *names), rows)
