"""`autoformer check`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoformer.cli.options import Json

if TYPE_CHECKING:
    from autoformer.export.engines.trial import Trial


class Target(StrEnum):
    """What a file can be checked for."""

    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"


def check(
    file: Annotated[Path, typer.Argument(help="Any ONNX file.")],
    target: Annotated[
        Target, typer.Option("--target", help="Runtime to check for: tensorrt, or tensorrt-rtx for RTX GPUs of PCs.")
    ] = Target.tensorrt,
    version: Annotated[
        list[str] | None,
        typer.Option("--version", help="Version of TensorRT, like 10.3; repeat for several. Default: all known."),
    ] = None,
    build: Annotated[
        bool,
        typer.Option(
            "--build", help="Let the runtime's own parser and builder judge: tensorrt on its GPU, tensorrt-rtx on any machine."
        ),
    ] = False,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu", metavar="NAME", help="With --target tensorrt-rtx --build: GPUs to build for, like sm89 or 'RTX 4090'."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show what TensorRT would refuse, compute in another type or not fuse in an ONNX file, without TensorRT.

    With --build its own parser and builder say so, in a process of their own: whether there is an engine, which attention they
    recognise, what became one kernel, and the memory it takes.

    Exit code 3 when none of the versions would read it, or the builder refuses it.

    Examples:

      autoformer check runs/export/model.int8.onnx --target tensorrt --version 10.3

      autoformer check runs/export/model.fp16.onnx --target tensorrt-rtx --build --gpu sm89
    """
    from autoformer.parsing import refuse_missing

    if file.is_dir():
        raise typer.BadParameter(f"{file} is a folder; give one of its ONNX files")
    refuse_missing(file, "an ONNX file")

    from autoformer.cli.console import note, print_json, print_table, say
    from autoformer.errors import ExportError
    from autoformer.export.engines.target_gpus import read_gpus
    from autoformer.export.graphs.tensorrt_rules import TARGETS, check_tensorrt, grouped, parsed, to_dict

    rtx = target is Target.tensorrt_rtx
    if rtx and version:
        raise typer.BadParameter("--version is of TensorRT; TensorRT-RTX has versions of its own, and the one installed is asked")
    if gpu and not (rtx and build):
        raise typer.BadParameter("--gpu is of --target tensorrt-rtx --build; TensorRT builds for the GPU that is here")
    versions = TARGETS[-1:] if rtx else tuple(version or TARGETS)
    try:
        [parsed(one) for one in versions]
        gpus = read_gpus(gpu or ())
    except ExportError as error:  # a typo says nothing about the file
        raise typer.BadParameter(str(error)) from error
    findings = check_tensorrt(file, versions)
    tried = _tried(file, target, gpus) if build else None
    answer = to_dict(findings, versions)
    if tried is not None:
        answer["built"] = {**tried[0].to_dict(), "facts": tried[0].facts(file, tried[1])}
    if json:
        print_json(answer)
    else:
        rows = [
            (
                found.level,
                " ".join(found.versions),
                found.where + (f" and {count - 1} more" if count > 1 else ""),
                found.why,
                found.source,
            )
            for found, count in grouped(findings)
        ]
        print_table(f"{file}, TensorRT {', '.join(versions)}", ("level", "versions", "where", "why", "source"), rows)
        if tried is not None:
            _show(*tried, file)
        elif rtx:
            note(
                f"rules of TensorRT {versions[0]}, whose parser TensorRT-RTX shares; with --build its own parser and builder say"
            )
        if tried is None or not tried[0].error:
            by = "by the rules of TensorRT" if rtx else "for:"
            readable = ", ".join(answer["readable"])
            say(f"nothing fails {by} {readable}" if readable else "none of the versions would read it")
    if tried[0].error is not None if tried is not None else not answer["readable"]:
        raise typer.Exit(3)


def _tried(file: Path, target: Target, gpus: tuple[str, ...]) -> tuple[Trial, list[str]]:
    """What the real parser and builder make of a file, and its attention blocks by their Softmax nodes."""
    from autoformer.errors import MissingPackageError
    from autoformer.export.engines.tensorrt_versions import PRODUCTS
    from autoformer.export.engines.trial import TrialProcess
    from autoformer.export.graphs.attention_pattern import attentions
    from autoformer.export.graphs.graph_view import GraphView
    from autoformer.export.graphs.onnx_reading import read_model

    blocks = [found.name for view in GraphView.of(read_model(file, weights_beside=True)).every() for found in attentions(view)]
    try:
        with TrialProcess(PRODUCTS[target.value]) as attempt:
            return attempt(file, build=True, gpus=gpus), blocks
    except MissingPackageError as error:
        if target is Target.tensorrt:
            raise MissingPackageError(f"{error}; --target tensorrt-rtx --build needs no GPU") from error
        raise


def _show(tried: Trial, blocks: Sequence[str], file: Path) -> None:
    from autoformer.cli.console import print_table

    where = f" for {tried.gpus}" if tried.gpus else ""
    print_table(f"{file}, tried by {tried.product}{where}", ("question", "answer"), list(tried.facts(file, blocks).items()))
