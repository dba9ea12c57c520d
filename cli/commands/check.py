"""`autoformer check`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Json


class Target(StrEnum):
    """What a file can be checked for."""

    tensorrt = "tensorrt"


def check(
    file: Annotated[Path, typer.Argument(help="Any ONNX file.")],
    target: Annotated[Target, typer.Option("--target", help="Runtime to check for.")] = Target.tensorrt,
    version: Annotated[
        list[str] | None,
        typer.Option("--version", help="Version of TensorRT, like 10.3; repeat for several. Default: all known."),
    ] = None,
    json: Json = False,
) -> None:
    """Show what TensorRT would refuse, compute in another type or not fuse in an ONNX file, without TensorRT.

    Exit code 3 when none of the versions would read it.

    Example: autoformer check runs/export/model.int8.onnx --target tensorrt --version 10.3
    """
    from autoformer.cli.console import print_json, print_table, say
    from autoformer.errors import ExportError
    from autoformer.export.graphs.tensorrt_rules import TARGETS, check_tensorrt, grouped, parsed, to_dict

    versions = tuple(version or TARGETS)
    try:
        [parsed(one) for one in versions]
    except ExportError as error:  # a typo says nothing about the file
        raise typer.BadParameter(str(error)) from error
    if file.is_dir():
        raise typer.BadParameter(f"{file} is a folder; give one of its ONNX files")
    findings = check_tensorrt(file, versions)
    answer = to_dict(findings, versions)
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
        say(f"nothing fails for: {', '.join(answer['readable']) or 'none of them'}")
    if not answer["readable"]:
        raise typer.Exit(3)
