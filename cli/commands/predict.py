"""`autoformer predict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoformer.cli.options import Json, Quiet

if TYPE_CHECKING:
    from autoformer.data.images import FileImages
    from autoformer.export.predictor import Predictor

SUFFIXES = (".csv", ".json")
MOST_ROWS = 100  # shown of the answers


def predict(
    artefact: Annotated[
        str, typer.Argument(help="A run, the folder of a network, an export or a bundle, a .zip bundle, an ONNX file, an engine.")
    ],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders, of which every image is taken.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes shown per image.")] = 3,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes", metavar="FILE", help="Class map of a network that names no classes: a file with a name per line."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Images that a bare ONNX file was made for, for how they are prepared and named."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write, .csv or .json, with the answers to all images.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Name the most probable classes of images.

    Images in folders that cannot be read are passed over, with a line; a file that was named must be readable.

    Examples:

      autoformer predict runs/quickstart/export photo.png other.jpg

      autoformer predict runs/photos new_photos/ --out answers.csv
    """
    from autoformer.cli.console import note, print_json, print_table, progress_bar
    from autoformer.errors import DataError
    from autoformer.escaping import json_text
    from autoformer.export.judging.tables import write_csv
    from autoformer.export.predictor import open_predictor, shipped_in
    from autoformer.files import refuse_existing_file, replacing
    from autoformer.parsing import refuse_missing

    for path in images:
        refuse_missing(path, "an image file, or a folder of images")
    if out is not None:
        if out.suffix not in SUFFIXES:
            raise DataError(f"{out} ends in {out.suffix!r}; expected one of {', '.join(SUFFIXES)}")
        refuse_existing_file(out)
    predictor = _ready(open_predictor(artefact), artefact, classes, data)
    answers: list[dict[str, Any]] = []
    sources = list(_sources(images))
    total = sum(len(source.files) for source, _ in sources)
    with progress_bar(quiet or total == 1) as progress:
        for source, is_folder in sources:
            for answer in _answers(predictor, source, top, skip_unreadable=is_folder):
                answers.append(answer)
                progress("predict", len(answers), total)
    lost = [answer for answer in answers if "error" in answer]
    for answer in lost[:5]:
        note(f"not asked about: {answer['error']}")
    if len(lost) > 5:
        note(f"not asked about: {len(lost) - 5} more images")
    if len(lost) == len(answers):
        raise DataError(f"{', '.join(map(str, images))}: no image can be read")
    if (file := str(predictor.path)) != artefact:
        why = ", the file to ship" if shipped_in(Path(artefact)) == predictor.path.name else ""
        note(f"answered by {file}{why}")
    if out is not None and out.suffix == ".csv":
        columns = ("image", *(name for place in range(1, top + 1) for name in (f"class {place}", f"probability {place}")))
        with replacing(out) as beside:
            write_csv(columns, map(_csv_row, answers), beside)
    elif out is not None:
        with replacing(out) as beside:
            beside.write_text(json_text(answers) + "\n", encoding="utf-8")
    if json:
        print_json(answers)
        return
    named = [answer for answer in answers if "error" not in answer]
    rows = [(answer["image"], _words(answer["classes"])) for answer in named[:MOST_ROWS]]
    print_table(f"{artefact}", ("image", "classes by probability"), rows)
    if len(named) > MOST_ROWS:
        where = "--out FILE.csv writes them all" if out is None else f"{out} holds them all"
        note(f"{len(named) - MOST_ROWS} more images are not shown; {where}")
    elif out is not None:
        note(f"written: {out}")


def _ready(predictor: Predictor, artefact: str, classes: Path | None, data: str | None) -> Predictor:
    """The predictor with classes and a preparation. Raises `DataError` where nothing says them."""
    from dataclasses import replace

    from autoformer.data.classes import read_class_map
    from autoformer.data.loading import load_parts
    from autoformer.data.parts import DataConfig
    from autoformer.errors import DataError

    if classes is not None:
        if predictor.classes is not None:
            raise DataError(f"--classes has no effect on {artefact}, which names its classes; leave it out")
        predictor = predictor.knowing(read_class_map(classes))
    if data is not None:
        if predictor.preprocessing is not None and predictor.classes is not None:
            raise DataError(f"--data has no effect on {artefact}, which says how images are prepared and named; leave it out")
        parts = load_parts(DataConfig(source=data))
        predictor = replace(predictor, preprocessing=predictor.preparation(parts.preprocessing))
        if predictor.classes is None:
            predictor = predictor.knowing(parts.classes)
    if predictor.preprocessing is None:
        raise DataError(f"{artefact} holds no preprocessing; export it with this tool, name its folder, or give --data")
    if predictor.classes is None:
        raise DataError(f"{artefact} does not name its classes; give --classes FILE, a class map with a name per line")
    return predictor


def _sources(paths: Sequence[Path]) -> Iterator[tuple[FileImages, bool]]:
    """The images of the paths in their order, and whether they lie in a folder; says what else lies there."""
    from itertools import groupby

    from autoformer.cli.console import note
    from autoformer.data.folders import every_image
    from autoformer.data.images import FileImages, printable
    from autoformer.data.remarks import by_ending, remedies
    from autoformer.errors import DataError

    for is_folder, group in groupby(paths, Path.is_dir):
        together = tuple(group)
        if not is_folder:
            if strange := [path for path in together if not path.is_file()]:
                what = "is no file" if strange[0].exists() else "does not exist"
                raise DataError(f"{strange[0]} {what}; expected an image file, or a folder of images")
            yield FileImages(Path(), together, (0,) * len(together)), False
            continue
        for folder in together:
            images, remarks = every_image(folder)
            if not images.files:
                endings = f", only files of other endings ({by_ending(remarks.others)})" if remarks.others else ""
                raise DataError(f"{printable(folder)} holds no images{endings}{remedies(remarks.others)}")
            if said := remarks.words():
                note(f"{folder}{said}")
            yield images, True


def _answers(predictor: Predictor, images: FileImages, top: int, *, skip_unreadable: bool) -> Iterator[dict[str, Any]]:
    """An answer for each image in order: its path with `classes`, or with the `error` of one that is skipped as unreadable."""
    import numpy as np

    from autoformer.data.parts import Part
    from autoformer.errors import DataError
    from autoformer.export.judging.answers import prepared_batches, probabilities

    preparation, names = predictor.preprocessing, predictor.classes
    assert preparation is not None
    assert names is not None
    part = Part("", images, tuple(range(len(images.files))))
    for batch in prepared_batches(part, preparation, 64):
        read = [pixels for _, pixels in batch if not isinstance(pixels, DataError)]
        shares = iter([*probabilities(predictor(preparation.prepare(np.stack(read))))] if read else [])
        for index, pixels in batch:
            image = str(images.root / images.files[index])
            if isinstance(pixels, DataError):
                if not skip_unreadable:
                    raise pixels
                yield {"image": image, "error": str(pixels)}
                continue
            own = next(shares)
            best = [{"name": names[place], "probability": float(own[place])} for place in np.argsort(-own)[:top]]
            yield {"image": image, "file": str(predictor.path), "classes": best}


def _words(best: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{one['name']} {100 * one['probability']:.1f} %" for one in best)


def _csv_row(answer: dict[str, Any]) -> tuple[str, ...]:
    """The cells of one answer; of an image that cannot be read the path alone."""
    cells = (cell for one in answer.get("classes", ()) for cell in (one["name"], f"{one['probability']:.6f}"))
    return (answer["image"], *cells)
