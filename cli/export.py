"""`autoformer export`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoformer.cli.options import Data, Json, Out, Quiet


def export(
    network: Annotated[str, typer.Argument(help="Folder of a network, ours or timm's, or timm:NAME[@FILE].")],
    out: Out,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="fp32, fp16, int8; repeat for several; fp32 always is. Default all.")
    ] = None,
    format: Annotated[
        list[str] | None, typer.Option("--format", help="onnx or tensorrt; onnx always is. Default: what is there.")
    ] = None,
    input: Annotated[
        str, typer.Option("--input", help="float32 (normalised), or uint8: pixels, with the normalisation folded into the files.")
    ] = "float32",
    calibration_images: Annotated[int, typer.Option(help="Images of the search part that int8 is calibrated on.")] = 128,
    max_disagreement: Annotated[float, typer.Option(help="Share of images that int8 may guess otherwise.")] = 0.01,
    max_class_loss: Annotated[float, typer.Option(help="Share of a class's images that int8 may lose against fp32.")] = 0.05,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time int8 against fp32 here, about 10 seconds; slower is said.")
    ] = True,
    opset: Annotated[int, typer.Option(help="Of the ONNX files; 17 for old runtimes.")] = 20,
    batch: Annotated[
        str, typer.Option(help="Images in each call: dynamic (any number), or a number that it is fixed to.")
    ] = "dynamic",
    data: Data = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write ONNX files and TensorRT engines, each proved against the network on real images.

    Examples:

      autoformer export runs/finetuned --out runs/export --precision fp32 --precision int8

      autoformer export timm:deit_tiny_patch16_224@deit.pth --data photos --out runs/deit
    """
    from dataclasses import replace

    from autoformer.cli.console import print_json, print_table, progress_bar
    from autoformer.cli.networks import judged_part, network_and_images
    from autoformer.cli.recipe import ExportConfig, checked
    from autoformer.errors import MissingPackageError
    from autoformer.evaluate import EvaluationSet
    from autoformer.export.artefacts import export_network
    from autoformer.export.tensorrt_versions import tensorrt_missing
    from autoformer.profiling.artefact_costs import counted_flops
    from autoformer.profiling.int8_speed import note_int8_speed
    from autoformer.profiling.latency import profile_until_valid
    from autoformer.profiling.measure import MeasureConfig

    wanted = {
        "input": input,
        "calibration_images": calibration_images,
        "max_disagreement": max_disagreement,
        "max_class_loss": max_class_loss,
        "opset": opset,
        "batch": batch,
        **({"precisions": ["fp32", *(word for word in precision if word != "fp32")]} if precision else {}),
        **({"formats": ["onnx", *(word for word in format if word != "onnx")]} if format else {}),
    }
    config = checked(ExportConfig, wanted, "export")
    if format and "tensorrt" in format and (missing := tensorrt_missing()):
        raise MissingPackageError(missing)  # asked for by name; by default it is skipped with this as its reason
    named, classes, parts = network_and_images(network, data)
    record, preprocessing = parts.record, replace(named.preprocessing, input_type=config.input)
    images = EvaluationSet.of(judged_part(parts.search, preprocessing), preprocessing)
    with progress_bar(quiet) as progress:
        manifest = export_network(
            named.network, out, images=images.images(), labels=images.labels, preprocessing=preprocessing, classes=classes,
            precisions=config.precisions, formats=config.formats, calibration_images=config.calibration_images,
            max_disagreement=config.max_disagreement, max_class_loss=config.max_class_loss, opset=config.opset,
            batch=config.batch, flops=counted_flops(named), name=named.name, data=record,
            on_progress=lambda message: progress("export", 0, 1, message),
        )  # fmt: skip
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
        return
    rows = [
        (f"{a.format} {a.precision}", a.status, a.file or "", "; ".join(filter(None, (a.reason, a.advice))))
        for a in manifest.artefacts
    ]
    print_table(f"exported to {out}", ("artefact", "status", "file", "why"), rows)
