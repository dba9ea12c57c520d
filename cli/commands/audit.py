"""`autoformer audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import Data, Json, Metric, Quiet


def audit(
    supernet: Annotated[Path, typer.Argument(help="Folder of a supernet, as `autoformer train` writes it.")],
    data: Data = None,
    networks: Annotated[int, typer.Option("--networks", min=4, help="Random networks scored beside the anchors.")] = 32,
    images: Annotated[int, typer.Option("--images", min=100, help="At most so many images of the search part.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random networks.")] = 0,
    metric: Metric = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell whether a supernet is worth searching: its anchors and random networks, with inherited weights.

    Exit code 1 when it is not.

    Example: autoformer audit runs/super --networks 64
    """
    from autoformer.parsing import refuse_missing

    refuse_missing(supernet, "the folder of a supernet, which autoformer train writes")

    from autoformer.cli.console import print_json, print_table, progress_bar, say
    from autoformer.cli.words import metric_of, score_cells
    from autoformer.data.loading import parts_of_record
    from autoformer.data.parts import Part
    from autoformer.errors import DataError
    from autoformer.evaluate import EvaluationSet
    from autoformer.files import read_json
    from autoformer.metric import WORDS
    from autoformer.networks.folders import load_supernet
    from autoformer.search.audit import audit as audit_supernet
    from autoformer.training.distributed import best_device
    from autoformer.training.subjects import check_images

    record = read_json(supernet / "supernet.json", "data")
    sought = metric_of(metric, None, record)
    network = load_supernet(supernet).to(best_device())
    parts = parts_of_record(record["data"], data)
    space = network.space
    check_images(space.image_size, space.in_chans, space.num_classes, parts)
    if list(parts.classes) != record["data"].get("classes"):
        raise DataError(
            f"{parts.source} has other classes than the supernet was trained for; audit it on images of its own classes"
        )
    step = max(1, -(-len(parts.search) // images))
    some = Part("search", parts.search.images, parts.search.indices[::step])
    with progress_bar(quiet) as progress:
        found = audit_supernet(
            network, EvaluationSet.of(some, parts.preprocessing), count=networks, seed=seed, metric=sought, progress=progress
        )
    if json:
        print_json(found.to_dict())
    else:
        shown = sorted(found.networks, key=lambda entry: entry.flops)
        rows = [
            (entry.name, f"{entry.params / 1e6:.3g} M", f"{entry.flops / 1e6:.4g} M", *score_cells(entry.score.to_dict()))
            for entry in shown
        ]
        columns = ("network", "params", "FLOPs (multiply-adds)", WORDS[sought], "95 % interval", "images")
        print_table(f"{supernet}: inherited weights on the search part", columns, rows)
        for reason in found.reasons:
            say(f"- {reason}")
        if not found.searchable:
            say("- train the supernet longer (train.epochs), or let a race decide, which does not rest on inherited scores")
        say("searchable" if found.searchable else "not searchable")
    if not found.searchable:
        raise typer.Exit(1)
