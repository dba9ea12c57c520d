"""`autoformer evaluate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from autoformer.cli.options import Data, Json, Metric, Quiet


class PartName(StrEnum):
    search = "search"
    test = "test"


def evaluate(
    artefact: Annotated[Path, typer.Argument(help="Folder of a network or of an export, an ONNX file, or an engine.")],
    part: Annotated[PartName, typer.Option("--part", help="Reading test is counted in test_ledger.json.")] = PartName.search,
    data: Data = None,
    metric: Metric = None,
    ledger: Annotated[Path | None, typer.Option(help="Ledger of test readings; default beside the artefact.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score an artefact on images, with the preprocessing stored in it.

    Examples:

      autoformer evaluate runs/finetuned

      autoformer evaluate runs/export/model.int8.onnx --part test
    """
    from autoformer.cli.console import print_json, print_table, progress_bar
    from autoformer.cli.metric import metric_of, score_cells
    from autoformer.data import DataConfig, load_parts, parts_of_record
    from autoformer.errors import DataError
    from autoformer.evaluate import EvaluationSet, guesses, score
    from autoformer.export.predictor import open_predictor

    predictor = open_predictor(artefact)
    record = record_of(artefact, "data")
    if record is not None:
        parts = parts_of_record(record["data"], data)
    elif data is not None:
        parts = load_parts(DataConfig(source=data))
    else:
        raise DataError(f"{artefact} does not say which images it was made for; give --data")
    if predictor.classes is not None and tuple(predictor.classes) != parts.classes:
        raise DataError(
            f"{artefact} knows the classes {list(predictor.classes)[:5]}, the images have {list(parts.classes)[:5]}; "
            "give the data set it was made for"
        )
    chosen = parts.search
    if part is PartName.test:
        chosen = parts.test.read(str(artefact), ledger or ledger_of(artefact))
    images = EvaluationSet.of(chosen, predictor.preprocessing or parts.preprocessing)
    with progress_bar(quiet) as progress:
        found = guesses(predictor, images, progress=progress)
    scored = score(found, images.labels, metric_of(metric, None, record_of(artefact, "metric") or record_of(artefact, "recipe")))
    if json:
        print_json({"artefact": str(artefact), "part": part.value, "split": chosen.digest, **scored.to_dict()})
        return
    words = scored.words
    print_table(
        f"{words} on the {part.value} part", ("artefact", words, "95 % interval", "images"),
        [(str(artefact), *score_cells(scored.to_dict()))],
    )  # fmt: skip


def ledger_of(artefact: Path) -> Path:
    """The ledger of the run that the artefact belongs to; without a run, one beside the artefact."""
    place = artefact if artefact.is_dir() else artefact.parent
    run = next((folder for folder in (place, *place.resolve().parents) if (folder / "run.json").is_file()), place)
    return run / "test_ledger.json"


def record_of(artefact: Path, key: str) -> dict[str, Any] | None:
    """The nearest record with an object or a name under `key` in an artefact's folder or the two above (a run's), or None."""
    from autoformer.checkpoint import read_json

    for folder in (artefact, artefact.parent, artefact.parent.parent):
        for name in ("subnet.json", "manifest.json", "supernet.json", "run.json"):
            if (folder / name).is_file():
                record = read_json(folder / name)
                if isinstance(record.get(key), dict | str):
                    return record
    return None
