"""`autoformer train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Data, Json, Out, Quiet, Set


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; the sections data, space and train are used.")],
    out: Out,
    data: Data = None,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a supernet: every network of the space at once, in shared weights.

    Run it again after an interruption and it goes on where it stopped.

    Example: autoformer train recipes/quickstart.yaml --out runs/super --set train.epochs=50
    """
    import torch

    from autoformer.checkpoint import read_json
    from autoformer.cli.console import note, print_json, print_table, progress_bar
    from autoformer.cli.recipe import load_recipe
    from autoformer.data import describe_parts, load_parts
    from autoformer.train import train_supernet

    chosen = load_recipe(recipe, settings or [], data)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    parts = load_parts(chosen.data)
    if not quiet:
        for line in describe_parts(parts):
            note(line)
    space = chosen.space.make(parts)
    with progress_bar(quiet) as progress:
        train_supernet(space, parts, chosen.train, out, seed=chosen.seed, progress=progress)
    record = read_json(out / "supernet.json")
    last = record["history"][-1]
    if json:
        print_json({"folder": str(out), "weights_digest": record["weights_digest"], "last_epoch": last})
        return
    rows = [
        (name, f"{100 * value['accuracy']:.2f} %", f"{100 * value['low']:.2f}–{100 * value['high']:.2f} %")
        for name, value in last["accuracy"].items()
    ]
    print_table(f"supernet in {out}: accuracy on the search part", ("network", "accuracy", "95 % interval"), rows)
