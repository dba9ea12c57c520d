"""`autoformer import-official`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Json, Out


def import_official(
    file: Annotated[Path, typer.Argument(help="supernet-tiny.pth, supernet-small.pth or supernet-base.pth.")],
    out: Out,
    space: Annotated[str, typer.Option("--space", help="tiny, small, base, or a YAML file of the space it was trained in.")],
    json: Json = False,
) -> None:
    """Turn a released AutoFormer supernet into a folder that the other commands take.

    Nothing from the file is executed. The published networks are then cut out by name.

    Examples:

      autoformer import-official supernet-tiny.pth --space tiny --out runs/official-t

      autoformer extract --supernet runs/official-t --architecture AutoFormer-T --out runs/autoformer-t
    """
    from autoformer.cli.console import print_facts, print_json
    from autoformer.files import read_json, refuse_existing
    from autoformer.networks.folders import save_supernet
    from autoformer.parsing import read_space
    from autoformer.pretrained.official import import_official as read

    refuse_existing(out)
    supernet = read(file, read_space(space))
    save_supernet(supernet, out, source=str(file.name))
    record = read_json(out / "supernet.json")
    facts = {
        "folder": str(out),
        "space": supernet.space.name,
        "networks": supernet.space.size,
        "num_classes": supernet.space.num_classes,
        "weights_digest": record["weights_digest"],
    }
    if json:
        print_json(facts)
    else:
        print_facts(f"supernet of {file.name}", facts)
