"""`autoformer bundle`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoformer.cli.options import Classes, Data, Json, Quiet

if TYPE_CHECKING:
    from autoformer.export.expected import ExpectedResults
    from autoformer.export.manifest import Manifest


def bundle(
    source: Annotated[
        str,
        typer.Argument(help="Folder of a finished run or an export, or a network (folder, timm:NAME[@FILE]), exported first."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write, or a .zip file; refused if it exists.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the model. Default: the folder's.")] = None,
    licence: Annotated[Path | None, typer.Option("--licence", help="Text file with the licence of the model.")] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Check images, taken from the search part.")] = 64,
    data: Data = None,
    classes: Classes = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pack exported files with everything a deployment needs: preprocessing, classes, model card, check images, a program.

    The program, board.pyz, verifies, predicts, times and builds on the device with Python, numpy, Pillow and a runtime alone.

    A network is exported with the default settings; for others, run `autoformer export` and give its folder.

    Example: autoformer bundle runs/quickstart --out runs/digits-bundle
    """
    from autoformer.errors import CheckpointError, DataError
    from autoformer.files import TIMM, read_json, refuse_existing, refuse_existing_file, refuse_unfinished
    from autoformer.parsing import refuse_missing

    terms = None if licence is None else licence_text(licence)
    place = Path(source)
    if not source.startswith(TIMM):
        refuse_missing(place, "a run, an export folder, or a network")
    refuse_unfinished(place)
    (refuse_existing_file if out.suffix == ".zip" else refuse_existing)(out)

    import numpy as np

    from autoformer.cli.console import print_facts, print_json, progress_bar
    from autoformer.cli.networks import exported_network
    from autoformer.data.loading import parts_of_record
    from autoformer.export.bundle import write_bundle
    from autoformer.export.manifest import FILE_NAME, Manifest
    from autoformer.export.program import board_program
    from autoformer.pretrained.named_network import is_network
    from autoformer.pretrained.timm_models import name_and_file
    from autoformer.search.rungs import balanced_order

    run = place if (place / "run.json").is_file() else None
    if run is None and not (place / FILE_NAME).is_file() and is_network(source):
        own_name = name_and_file(source)[0] if source.startswith(TIMM) else place.resolve().name
        with progress_bar(quiet) as progress, exported_network(source, data, progress, classes) as folder:
            bundle(str(folder), out, name=name or own_name, licence=licence, images=images, json=json, quiet=quiet)
        return
    if classes is not None:
        raise DataError(f"--classes has no effect on {source}, whose manifest names its classes; leave it out")
    export = place / "export" if run is not None else place
    manifest = Manifest.load(export)
    if manifest.data is None:
        raise CheckpointError(f"{export} does not say which images it was made for; export it from a run")
    with progress_bar(quiet) as progress:
        progress("bundle", 0, 3, "reads the images that it is checked with")
        part = parts_of_record(manifest.data, data).search
        order = balanced_order(part.labels)[:images]
        if not len(order):
            raise DataError("the search part holds no image to check with")
        pixels = [part.made(int(index), manifest.preprocessing.pixels) for index in order]
        progress("bundle", 1, 3, "collects what is known of the files")
        expected = _known(run, manifest, place, name, part.labels[order].tolist())
        progress("bundle", 2, 3, "asks every file about the images")
        program = board_program("autoformer.cli.board.bundle_program")
        write_bundle(export, out, expected, pixels=np.stack(pixels), program=program, licence=terms)
        progress("bundle", 3, 3)
    if json:
        print_json(read_json(out / "bundle.json") if out.is_dir() else {"bundle": str(out), "bytes": out.stat().st_size})
        return
    exported = [artefact.file for artefact in manifest.artefacts if artefact.file]
    print_facts(
        f"bundle {out}",
        {
            "files": ", ".join(map(str, exported)),
            **({"ship": expected.ship} if expected.ship else {}),
            "check images": len(order),
            "on the device": "python3 board.pyz verify",
        },
    )


def _known(run: Path | None, manifest: Manifest, place: Path, name: str | None, labels: list[int]) -> ExpectedResults:
    """What is known of the files, under the name that the bundle goes by."""
    import re

    from autoformer.files import believing

    called = re.sub(r"[^A-Za-z0-9_.-]+", "-", name or place.resolve().name).strip("-.") or "model"
    with believing(place, "bring its files back from a copy, or make them anew", fault="was edited or damaged"):
        return expected_results(run, manifest, called, labels)


def licence_text(path: Path) -> str:
    """The text of a licence. Raises `DataError` when the file is not UTF-8 text."""
    from autoformer.errors import DataError

    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}, byte {error.start}); save the licence as such") from error


def expected_results(run: Path | None, manifest: Manifest, name: str, labels: Sequence[int]) -> ExpectedResults:
    """What a run knows about its files; of an export folder alone, how many images each file got right.

    `labels` are the classes of the check images.
    """
    from autoformer import __version__
    from autoformer.export.expected import ExpectedResults
    from autoformer.metric import WORDS, Score, wilson

    if run is None:
        accuracy = {}
        for artefact in manifest.artefacts:
            if artefact.correct is not None and artefact.parity is not None:
                images = artefact.parity.images
                share = artefact.correct / images
                found = Score("top1", share, *wilson(share, images), images, artefact.correct)
                accuracy[artefact.name] = {**found.to_dict(), "words": WORDS["top1"], "part": "search"}
        return ExpectedResults(name=name, labels=tuple(labels), accuracy=accuracy, made={"version": __version__})

    from autoformer.profiling.reports.run_folder import Run

    finished = Run.load(run)
    accuracy = {
        key: {**finished.score(key).to_dict(), "words": WORDS[finished.metric], "part": "test"} for key in finished.predictions
    }
    latency = {  # "model.fp32.onnx (onnxruntime-cpu)"; the first of several backends counts
        taken.name.partition(" (")[0]: {
            "p50_ms": taken.stats.p50_ms,
            "verdict": str(taken.verdict),
            "means": str(taken.measurement_conditions("p50")),
        }
        for taken in reversed(finished.profile.measurements)
    }
    return ExpectedResults(
        name=name,
        labels=tuple(labels),
        budget=finished.limits.to_dict(),
        latency_means=None if finished.table is None else str(finished.table.measurement_conditions),
        accuracy=accuracy,
        latency=latency,
        made={"version": __version__, "recipe": finished.recipe, "device": finished.device.to_dict()},
        **reported(run),
    )


def reported(run: Path) -> dict[str, Any]:
    """Which file the report of a run says to ship, and why, and what it cautions; nothing where it says nothing."""
    from autoformer.files import read_json
    from autoformer.profiling.reports.judged import never_right

    report = read_json(run / "report.json") if (run / "report.json").exists() else {}
    ship, caution = report.get("ship"), never_right(report["judged"]) if "judged" in report else None
    found: dict[str, Any] = {"ship": Path(ship["file"]).name, "ship_why": ship["why"]} if ship and ship["file"] else {}
    return found if caution is None else {**found, "cautions": (caution,)}
