"""`autoformer extract`."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoformer.cli.options import Json, Out

if TYPE_CHECKING:
    from autoformer.architecture import Architecture


def extract(
    supernet: Annotated[Path, typer.Option("--supernet", help="Folder written by `autoformer train`.")],
    out: Out,
    search: Annotated[
        Path | None, typer.Option("--search", help="Folder of a search; its choice (after measuring, if it did) is cut out.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="smallest, middle, largest, a JSON file, or JSON.")
    ] = None,
    json: Json = False,
) -> None:
    """Cut a network out of a supernet with its inherited weights.

    Example: autoformer extract --supernet runs/super --search runs/s1 --out runs/subnet
    """
    from autoformer.errors import ArchitectureError
    from autoformer.files import refuse_existing
    from autoformer.parsing import refuse_missing

    if (search is None) == (architecture is None):
        raise ArchitectureError("say which network to cut out: either --search FOLDER or --architecture NAME")
    refuse_missing(supernet, "the folder of a supernet, which autoformer train writes")
    refuse_existing(out)

    from autoformer.cli.console import print_facts, print_json
    from autoformer.cost import show
    from autoformer.networks.folders import extract as extract_network
    from autoformer.networks.folders import load_supernet
    from autoformer.profiling.tables.limit import finally_chosen
    from autoformer.search.record import SearchRecord

    if search is not None:
        chosen = finally_chosen(SearchRecord.load(search).result, search).chosen.architecture
    else:
        assert architecture is not None
        chosen = read_architecture(architecture, load_supernet(supernet).space.anchors)
    subnet = extract_network(supernet, chosen, out)
    cost = subnet.cost
    if json:
        print_json({"folder": str(out), "architecture": chosen.to_dict(), "params": cost.params, "flops": cost.flops})
        return
    facts = {"folder": out, "architecture": chosen, "params": show("params", cost.params), "FLOPs": show("flops", cost.flops)}
    print_facts(f"network {chosen.slug}", facts)


def read_architecture(text: str, named: dict[str, Architecture]) -> Architecture:
    """An architecture by name, from a JSON file, or from JSON. Raises `ArchitectureError` listing the names."""
    from autoformer.architecture import PUBLISHED, Architecture
    from autoformer.errors import ArchitectureError
    from autoformer.files import read_json

    known = {**PUBLISHED, **named}
    if text in known:
        return known[text]
    path = Path(text)
    if path.is_dir():
        return Architecture.from_dict(read_json(path / "architecture.json"))
    if path.is_file():
        return Architecture.from_dict(read_json(path))
    try:
        return Architecture.from_dict(jsons.loads(text))
    except (jsons.JSONDecodeError, TypeError) as error:
        raise ArchitectureError(f"no architecture {text!r}; known are {', '.join(known)}, a JSON file, or JSON") from error
