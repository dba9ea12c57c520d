"""`autoformer export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoformer.cli.options import Classes, Data, Json, Out, Quiet

if TYPE_CHECKING:
    from autoformer.export.manifest import Manifest

OTHER_WORDS = {"engine": "tensorrt", "trt": "tensorrt", "rtx": "tensorrt-rtx"}  # as other programs call formats


def export(
    network: Annotated[str, typer.Argument(help="Folder of a network, ours or timm's, or timm:NAME[@FILE].")],
    out: Out,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            help="fp32, fp16, int8, and tf32 of engines; repeat for several. fp32 is always written. Default: all but tf32.",
        ),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="onnx, tensorrt or tensorrt-rtx; repeat for several. onnx is always written. Default: onnx, and tensorrt where "
            "it is installed.",
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            help="GPUs that engines of tensorrt-rtx are for, like sm89,sm120 or 'RTX 4090'; they need not be here. Default: all "
            "from compute capability 8.0 on.",
        ),
    ] = None,
    input: Annotated[
        str, typer.Option("--input", help="float32 (normalised), or uint8: pixels, with the normalisation folded into the files.")
    ] = "float32",
    calibration_images: Annotated[int, typer.Option(help="Images of the search part that int8 is calibrated on.")] = 128,
    max_disagreement: Annotated[float, typer.Option(help="Share of images that int8 may give another class than fp32.")] = 0.01,
    max_class_loss: Annotated[float, typer.Option(help="Share of a class's images that int8 may lose against fp32.")] = 0.05,
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Time int8 against fp32 here, about 10 seconds, and note if it is slower."),
    ] = True,
    opset: Annotated[int, typer.Option(help="Operator set of the ONNX files; 17 for old runtimes.")] = 20,
    batch: Annotated[
        str, typer.Option(help="Images in each call: dynamic (any number), or a number that it is fixed to.")
    ] = "dynamic",
    engine_batch: Annotated[
        list[str] | None,
        typer.Option(
            "--engine-batch",
            metavar="N|MIN:TUNED:MAX",
            help="A profile of batches that engines take: 8, or 1:8:32; repeat for several. Default 1:1:8.",
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option("--workspace", metavar="MIB", help="Scratch memory of engines, at most. Default: all memory of the device."),
    ] = None,
    builder_level: Annotated[
        int | None, typer.Option("--builder-level", help="0 to 5; higher builds engines longer. Default 3.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", help="Folder that builds of engines share; much faster for similar networks.")
    ] = None,
    refittable: Annotated[
        bool, typer.Option("--refittable", help="Engines whose weights `autoformer refit` can replace; may run slower.")
    ] = False,
    data: Data = None,
    classes: Classes = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write ONNX files and TensorRT engines, each compared with the network on real images.

    Engines of TensorRT-RTX are built ahead of time, for GPUs that are not here; `verify` compares them on their device.

    A file that does not pass is left out and named; the exit code is 3 where --precision or --format asked for it.

    Examples:

      autoformer export runs/finetuned --out runs/export --precision fp32 --precision int8

      autoformer export runs/finetuned --out runs/export --format tensorrt --engine-batch 1 --engine-batch 1:8:32

      autoformer export runs/finetuned --out runs/export --format tensorrt-rtx --gpu sm89,sm120

      autoformer export timm:deit_tiny_patch16_224@deit.pth --data photos --out runs/deit
    """
    from autoformer.cli.chain.recipe import checked
    from autoformer.cli.console import note, print_json, print_table, progress_bar
    from autoformer.cli.networks import export_source
    from autoformer.errors import ExportError
    from autoformer.export.artefacts import export_network
    from autoformer.export.config import ExportConfig
    from autoformer.export.engines.artefact import how_to_build
    from autoformer.export.engines.tensorrt_versions import PRODUCTS
    from autoformer.export.manifest import FILE_NAME
    from autoformer.files import refuse_existing
    from autoformer.profiling.measuring.measure import MeasureConfig
    from autoformer.profiling.profiles.int8_speed import note_int8_speed
    from autoformer.profiling.profiles.latency import profile_until_valid

    formats = [OTHER_WORDS.get(word, word) for word in format or ()]
    wanted = {
        "input": input,
        "calibration_images": calibration_images,
        "max_disagreement": max_disagreement,
        "max_class_loss": max_class_loss,
        "opset": opset,
        "batch": batch,
        "refittable": refittable,
        **({"engine_batches": engine_batch} if engine_batch else {}),
        **({"gpus": gpu} if gpu else {}),
        **({"workspace_mib": workspace} if workspace is not None else {}),
        **({"builder_level": builder_level} if builder_level is not None else {}),
        **({"timing_cache": timing_cache} if timing_cache is not None else {}),
        **({"precisions": ["fp32", *(word for word in precision if word != "fp32")]} if precision else {}),
        **({"formats": ["onnx", *(word for word in formats if word != "onnx")]} if formats else {}),
    }
    config = checked(ExportConfig, wanted, "export")
    for product in (PRODUCTS[name] for name in formats if name in PRODUCTS):
        how_to_build(product)  # raises where it is missing: asked for by name; by default it is skipped with this as its reason
    refuse_existing(out)
    exported, source = export_source(network, data, config.input, classes)
    with progress_bar(quiet) as progress:
        manifest = export_network(exported, out, source, config, lambda message: progress("export", 0, 1, message))
        progress("export", 1, 1)
        files = [out / a.file for a in manifest.artefacts if a.format == "onnx" and a.precision in ("fp32", "int8") and a.file]
        if measure and len(files) == 2:
            profile = profile_until_valid(
                files,
                attempts=3,
                config=MeasureConfig(min_s=1.0, max_s=4.0),
                batch=config.batch or 1,
                threads=1,
                progress=progress,
            )
            manifest = note_int8_speed(out, profile.measurements)
    if json:
        print_json(manifest.to_dict())
    else:
        rows = [(a.name, a.status, a.file or "", "; ".join(filter(None, (a.reason, a.advice)))) for a in manifest.artefacts]
        print_table(f"exported to {out}", ("artefact", "status", "file", "why"), rows)
    if missing := not_delivered(manifest, precision or (), formats):
        note(f"not delivered: {', '.join(missing)}; {out / FILE_NAME} says why, and the other files are good")
        raise typer.Exit(ExportError.exit_code)


def not_delivered(manifest: Manifest, precisions: Sequence[str], formats: Sequence[str]) -> list[str]:
    """The precisions and formats, asked for by name, of which the export has no file that counts."""
    counts = [(artefact.format, artefact.precision) for artefact in manifest.artefacts if artefact.file is not None]
    found = [name for name in formats if all(format != name for format, _ in counts)]
    for name in precisions:
        if all(precision != name or (formats and format not in formats) for format, precision in counts):
            found.append(name)
    return list(dict.fromkeys(found))
