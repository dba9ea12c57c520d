"""`autoformer evaluate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from autoformer.cli.options import Classes, Data, Json, Metric, Quiet
from autoformer.files import TIMM


class PartName(StrEnum):
    search = "search"
    test = "test"


def evaluate(
    artefact: Annotated[
        str, typer.Argument(help="Folder of a network or an export, timm:NAME[@FILE], an ONNX file, a bundle or an engine.")
    ],
    part: Annotated[PartName, typer.Option("--part", help="Reading test is counted in test_ledger.json.")] = PartName.search,
    data: Data = None,
    classes: Classes = None,
    metric: Metric = None,
    ledger: Annotated[Path | None, typer.Option(help="Ledger of test readings; default beside the artefact.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score an artefact on images, with the preprocessing stored in it.

    Examples:

      autoformer evaluate runs/finetuned

      autoformer evaluate runs/export/model.int8.onnx --part test

      autoformer evaluate timm:deit_tiny_patch16_224@deit.pth --data photos --classes natural
    """
    from autoformer.cli.class_order import better_order, order_of
    from autoformer.cli.console import note, print_json, print_table, progress_bar
    from autoformer.cli.words import metric_of, score_cells
    from autoformer.data.loading import load_parts, parts_of_record
    from autoformer.data.parts import DataConfig
    from autoformer.errors import DataError
    from autoformer.evaluate import EvaluationSet, predictions
    from autoformer.export.predictor import open_predictor
    from autoformer.metric import score

    predictor = open_predictor(artefact)
    record = record_of(artefact, "data")
    if record is not None:
        parts = parts_of_record(record["data"], data)
    elif data is not None:
        parts = load_parts(DataConfig(source=data))
    else:
        raise DataError(f"{artefact} does not say which images it was made for; give --data")
    advice = "give" if predictor.classes is None else "its names are wrong: export its weights again with"
    order, guessed = order_of(parts, predictor.classes, classes, artefact)
    if guessed is not None:
        note(guessed)
    predictor = predictor.knowing(parts.classes, order)
    preparation = predictor.preparation(parts.preprocessing)
    if predictor.preprocessing is None:
        note(f"{artefact} does not say how images are prepared; taken is what fits the images: {preparation}")
    chosen = parts.search
    if part is PartName.test:
        chosen = parts.test.read(artefact, ledger or ledger_of(artefact))
    images = EvaluationSet.of(chosen, preparation)
    with progress_bar(quiet) as progress:
        found = predictions(predictor, images, progress=progress)
    if hint := better_order(found, images.labels, parts.classes, order, advice):
        note(hint)
    scored = score(found, images.labels, metric_of(metric, None, record_of(artefact, "metric") or record_of(artefact, "recipe")))
    if json:
        print_json({"artefact": artefact, "part": part.value, "split": chosen.digest, **scored.to_dict()})
        return
    words = scored.words
    print_table(
        f"{words} on the {part.value} part", ("artefact", words, "95 % interval", "images"),
        [(artefact, *score_cells(scored.to_dict()))],
    )  # fmt: skip


def ledger_of(words: str) -> Path:
    """The ledger of the run that an artefact belongs to; without a run, one beside it. Of timm's networks: one right here."""
    from autoformer.data.ledger import LEDGER

    artefact = Path("." if words.startswith(TIMM) else words)
    place = artefact if artefact.is_dir() else artefact.parent
    run = next((folder for folder in (place, *place.resolve().parents) if (folder / "run.json").is_file()), place)
    return run / LEDGER


def record_of(words: str, key: str) -> dict[str, Any] | None:
    """The nearest record with an object or a name under `key` in an artefact's folder or the two above (a run's), or None."""

    from autoformer.export.bundle import unpack_bundle
    from autoformer.files import read_json
    from autoformer.temporary import temporary_folder

    if words.startswith(TIMM):
        return None
    artefact = Path(words)
    if artefact.suffix == ".zip" and artefact.is_file():
        with temporary_folder("bundle") as temporary:
            return record_of(str(unpack_bundle(artefact, temporary / "bundle")), key)
    for folder in (artefact, artefact.parent, artefact.parent.parent):
        for name in ("subnet.json", "network.json", "manifest.json", "supernet.json", "run.json"):
            if (folder / name).is_file():
                record = read_json(folder / name)
                if isinstance(record.get(key), dict | str):
                    return record
    return None
