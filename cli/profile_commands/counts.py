"""`autoformer profile counts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Json


def counts(
    network: Annotated[str, typer.Argument(help="Folder of a network, or timm:NAME[@FILE].")],
    depth: Annotated[int, typer.Option("--depth", min=0, help="Depth of the modules shown: blocks.3.attn has depth 3.")] = 2,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write.")] = None,
    json: Json = False,
) -> None:
    """Count params and FLOPs (multiply-adds) by module and by operator, and list what was not counted.

    Examples:

      autoformer profile counts runs/quickstart/finetuned

      autoformer profile counts timm:deit_tiny_patch16_224 --depth 1
    """
    from autoformer.cli.console import note, print_json, print_table
    from autoformer.files import refuse_existing_file, write_json
    from autoformer.profiling.insides.fvcore_counts import report_of

    if out is not None:
        refuse_existing_file(out)
    found = report_of(network)
    if out is not None:
        write_json(found.to_dict(), out)
    if json:
        print_json(found.to_dict())
        return
    total = max(1, found.flops)
    rows = [
        (name or "whole network", f"{found.params_by_module.get(name, 0):,}", f"{flops:,}", f"{100 * flops / total:.1f} %")
        for name, flops in found.flops_by_module.items()
        if not name or len(name.split(".")) <= depth
    ]
    print_table(f"{network}: by module, one image", ("module", "params", "FLOPs (multiply-adds)", "share"), rows)
    by_operator = sorted(found.flops_by_operator.items(), key=lambda item: -item[1])
    operators = [(name, f"{flops:,}", f"{100 * flops / total:.1f} %") for name, flops in by_operator]
    print_table("by operator", ("operator", "FLOPs (multiply-adds)", "share"), operators)
    left_out = [(name.removeprefix("aten::"), str(times), found.why_uncounted(name)) for name, times in found.uncounted.items()]
    print_table("not counted", ("operator", "times", "why"), left_out)
    if found.doubtful:
        note(f"the count leaves out operators that may multiply: {', '.join(found.doubtful)}")
