"""`autoformer finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Data, Json, Out, Quiet, Seed, Set


def finetune(
    subnet: Annotated[Path, typer.Argument(help="Folder of a network, as `autoformer extract` writes it.")],
    out: Out,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A YAML file; its section finetune is used.")] = None,
    data: Data = None,
    seed: Seed = 0,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one network further, with the trainer of the supernet.

    Run it again after an interruption and it goes on where it stopped.

    Example: autoformer finetune runs/subnet --out runs/finetuned --set epochs=20
    """
    from autoformer.checkpoint import read_json
    from autoformer.cli.console import print_json, print_table, progress_bar
    from autoformer.cli.recipe import Recipe, load_recipe, parse_recipe
    from autoformer.data import parts_of_record
    from autoformer.subnet import load_subnet
    from autoformer.train import finetune as finetune_network

    overrides = [f"finetune.{setting.removeprefix('finetune.')}" for setting in settings or []]
    chosen: Recipe = parse_recipe({}, overrides) if recipe is None else load_recipe(recipe, overrides)
    network, _, _ = load_subnet(subnet)
    parts = parts_of_record(read_json(subnet / "subnet.json")["data"], data)
    with progress_bar(quiet) as progress:
        finetune_network(network, parts, chosen.finetune, out, seed=seed, progress=progress)
    last = read_json(out / "subnet.json")["history"][-1]
    if json:
        print_json({"folder": str(out), "last_epoch": last})
        return
    rows = [
        (f"{100 * value['accuracy']:.2f} %", f"{100 * value['low']:.2f}–{100 * value['high']:.2f} %", str(value["images"]))
        for value in last["accuracy"].values()
    ]
    print_table(f"finetuned network in {out}: search part", ("accuracy", "95 % interval", "images"), rows)
