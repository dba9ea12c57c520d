"""`autoformer compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from autoformer.cli.commands.evaluate import JudgedPart
from autoformer.cli.options import AnyBatch, Classes, Data, Json, Metric, Quiet, Threads


def compare(
    artefacts: Annotated[
        list[str], typer.Argument(help="Folders of networks, exports, bundles or runs, ONNX files, engines, timm:NAME[@FILE].")
    ],
    part: Annotated[
        JudgedPart,
        typer.Option("--part", help="all: every image of --data. Reading test is counted in test_ledger.json."),
    ] = JudgedPart.search,
    data: Data = None,
    classes: Classes = None,
    metric: Metric = None,
    batch: AnyBatch = None,
    threads: Threads = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="Measuring time per artefact.")] = 1.0,
    ledger: Annotated[Path | None, typer.Option(help="Ledger of test readings; default beside each artefact.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write: .html, .md, .json, or .svg.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put networks of any kind into one table of accuracy against latency; the others are compared with the first.

    Example: autoformer compare runs/export timm:deit_tiny_patch16_224@deit.pth --data photos --out compared.html
    """
    from autoformer.cli.console import note, print_json, print_table, progress_bar, say_not_measured
    from autoformer.cli.words import metric_of
    from autoformer.export.predictor import EXPECTED
    from autoformer.files import TIMM, refuse_existing_file
    from autoformer.parsing import refuse_missing

    if out is not None:
        refuse_existing_file(out)
    for words in artefacts:
        if not words.startswith(TIMM):
            refuse_missing(Path(words), EXPECTED)
    sought = metric_of(metric, None, record_in(artefacts))

    from autoformer.profiling.measuring.measure import MeasureConfig
    from autoformer.profiling.profiles.comparison import compare_artefacts
    from autoformer.profiling.reports.comparison_page import COLUMNS, check_suffix, notes, save, table

    if out is not None:
        check_suffix(out)
    for words in artefacts:
        if words.startswith(TIMM):
            check_named(words)
    readings: dict[str, str] = {}
    with progress_bar(quiet) as progress:
        compared = compare_artefacts(
            artefacts, images_for(artefacts, part, data, classes, ledger, readings), metric=sought,
            config=MeasureConfig(min_s=seconds, max_s=4 * seconds), batch=batch, threads=threads, progress=progress,
        )  # fmt: skip
    for line in readings.values():
        note(line)
    if out is not None:
        save(compared, out)
    if json:
        print_json(compared.to_dict())
        return
    print_table(compared.words, COLUMNS, table(compared))
    for text in notes(compared):
        note(text)
    say_not_measured(compared.missing)


def check_named(words: str) -> None:
    """Raises `CheckpointError` for a network of timm that nothing can be said of, before any image is read."""
    from autoformer.errors import CheckpointError
    from autoformer.pretrained.classifier import is_from_scratch
    from autoformer.pretrained.timm_models import check_obtainable, name_and_file
    from autoformer.pretrained.weight_shapes import sketch

    name, file = name_and_file(words)
    sketch(name)  # a name that timm does not know cannot be trained either
    train = f"autoformer finetune timm:{name}@scratch --data FOLDER --out NET"
    if is_from_scratch(words):
        raise CheckpointError(f"{words} has learned nothing to compare; train it first, {train}, and compare NET")
    if file is None:
        try:
            check_obtainable(name)
        except CheckpointError as error:
            raise CheckpointError(f"{error}, or train it from nothing, {train}, and compare NET") from error


def images_for(
    artefacts: list[str], part: JudgedPart, data: str | None, classes: str | None, ledger: Path | None, readings: dict[str, str]
) -> Any:
    """The images of `data`, else those that the first artefact was made for that says so; None without either.

    `classes` is `--classes`, for those artefacts that name none. `readings` gets, by ledger, how often a test part was read.
    """
    from autoformer.cli.class_order import order_of
    from autoformer.cli.console import note
    from autoformer.cli.judged_images import Request, foreign_images, ledger_of, read_test_part, record_of
    from autoformer.data.loading import fitting_preprocessing, load_parts, parts_of_record, without_unreadable
    from autoformer.data.parts import DataConfig, DataParts, EveryImage, Part
    from autoformer.errors import DataError
    from autoformer.profiling.profiles.comparison import Images

    named = next(((words, found) for words in artefacts if (found := record_of(words, "data")) is not None), None)
    own = None if named is None else named[1]["data"]
    if own is None and data is None:
        return None
    of = DataConfig(source=data or "")
    parts: DataParts | EveryImage
    if part is JudgedPart.all:
        if data is None:
            raise DataError("--part all is every image of --data; give the folder of images that the networks have not seen")
        parts = foreign_images(Request(artefact=named[0] if named else artefacts[0], part="all", data=data, classes=classes), own)
        every, broken = without_unreadable(parts.as_one)
        if broken:
            note(f"{len(broken)} of {len(parts.as_one)} images cannot be read and are not scored: {', '.join(broken[:3])}")
        preprocessing = fitting_preprocessing(parts, of)
    else:
        parts = parts_of_record(own, data) if own is not None else load_parts(of)
        every, preprocessing = parts.search, parts.preprocessing

    def read(words: str) -> Part:
        if part is JudgedPart.test and isinstance(parts, DataParts):
            found, readings[str(ledger or ledger_of(words))] = read_test_part(parts.test, words, ledger)
            return found
        return every

    def order(words: str, known: Sequence[str] | None) -> tuple[str, ...]:
        found, guessed = order_of(parts, known, None if known is not None else classes, words)
        if guessed is not None:
            note(guessed)
        return found

    return Images(read=read, part=part.value, classes=parts.classes, preprocessing=preprocessing, order=order)


def record_in(artefacts: list[str]) -> dict[str, Any] | None:
    """The first record of a training among the artefacts' folders."""
    from autoformer.cli.judged_images import record_of

    found = (record_of(words, key) for words in artefacts for key in ("metric", "recipe"))
    return next((record for record in found if record is not None), None)
