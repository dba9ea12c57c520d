"""`autoformer finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Data, Json, Out, Quiet, Recipe, Seed, Set


def finetune(
    subnet: Annotated[Path, typer.Argument(help="Folder of a network, as `autoformer extract` writes it.")],
    out: Out,
    recipe: Recipe = None,
    data: Data = None,
    seed: Seed = None,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one network further, with the trainer of the supernet.

    Run it again after an interruption and it goes on where it stopped.

    Example: autoformer finetune runs/subnet --out runs/finetuned --set epochs=20
    """
    import torch

    from autoformer.checkpoint import read_json
    from autoformer.cli.console import print_json, print_table, progress_bar
    from autoformer.cli.recipe import recipe_of
    from autoformer.data import parts_of_record
    from autoformer.subnet_folder import load_subnet
    from autoformer.train import finetune as finetune_network

    chosen = recipe_of(recipe, "finetune", settings, seed)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    network, _, _ = load_subnet(subnet)
    parts = parts_of_record(read_json(subnet / "subnet.json", "data")["data"], data)
    with progress_bar(quiet) as progress:
        finetune_network(network, parts, chosen.finetune, out, seed=chosen.seed, progress=progress)
    last = read_json(out / "subnet.json")["history"][-1]
    if json:
        print_json({"folder": str(out), "last_epoch": last})
        return
    rows = [
        (f"{100 * value['accuracy']:.2f} %", f"{100 * value['low']:.2f}–{100 * value['high']:.2f} %", str(value["images"]))
        for value in last["accuracy"].values()
    ]
    print_table(f"finetuned network in {out}: search part", ("accuracy", "95 % interval", "images"), rows)
