"""`autoformer finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autoformer.cli.options import Data, Epochs, GroupBy, Json, Log, Metric, Out, Quiet, Recipe, Seed, Set, Unlabelled


def finetune(
    subnet: Annotated[
        str,
        typer.Argument(help="Folder of a network (ours or timm's), timm:NAME[@FILE], or timm:NAME@scratch for fresh weights."),
    ],
    out: Out,
    recipe: Recipe = None,
    data: Data = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=4, help="Pixels. Default: the size the network takes.")
    ] = None,
    group_by: GroupBy = None,
    unlabelled: Unlabelled = None,
    epochs: Epochs = None,
    metric: Metric = None,
    seed: Seed = None,
    settings: Set = None,
    log: Log = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one network further, with the trainer of the supernet; on images of other classes it gets a new head.

    Run it again after an interruption and it goes on where it stopped. On several GPUs: torchrun, as for `train`.

    Examples:

      autoformer finetune runs/subnet --out runs/finetuned --set epochs=20

      autoformer finetune runs/subnet --data flowers/ --out runs/flowers --set patience=5 --set layer_decay=0.75

      autoformer finetune timm:mobilenetv3_small_100@weights.pth --data flowers/ --image-size 96 --out runs/mobile
    """
    from autoformer.cli.chain.asked import refuse_twice
    from autoformer.cli.chain.recipe import recipe_of
    from autoformer.files import IDENTITY, TIMM, read_json
    from autoformer.parsing import refuse_missing
    from autoformer.training.trackers import trackers_of

    trackers = trackers_of(log or ())
    if epochs is not None:
        for key in ("epochs", "finetune.epochs"):
            refuse_twice("--epochs", key, settings or ())
        settings = [*(settings or ()), f"epochs={epochs}"]
    chosen = recipe_of(recipe, "finetune", settings, seed)
    if not subnet.startswith(TIMM):
        refuse_missing(Path(subnet), "the folder of a network, timm:NAME, timm:NAME@FILE or timm:NAME@scratch")

    import torch

    from autoformer.cli.chain.starting import network_and_parts, readable, with_fitting_batch
    from autoformer.cli.class_order import teacher_line
    from autoformer.cli.console import note, print_json, print_table, progress_bar
    from autoformer.cli.words import metric_of, score_cells
    from autoformer.data.parts import describe_parts
    from autoformer.metric import WORDS
    from autoformer.networks.folders import record_of_network
    from autoformer.pretrained.classifier import Classifier
    from autoformer.training.cached_teacher import size_line
    from autoformer.training.distributed import joined
    from autoformer.training.runs import finetune as finetune_network
    from autoformer.training.runs import folded
    from autoformer.training.trainer import Surroundings, plan_for

    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    with joined() as world, progress_bar(quiet or not world.leads) as progress:
        about = {name: getattr(chosen.data, name) for name in chosen.data.model_fields_set} if data or not recipe else {}
        options = {"source": data, "group_by": group_by, "unlabelled": unlabelled}
        about |= {key: value for key, value in options.items() if value is not None}
        network, parts, new_head = network_and_parts(subnet, about, image_size, chosen.seed)
        parts = readable(parts, out, world, progress)
        sought = metric_of(metric, chosen.metric if recipe is not None else None, record_of_network(Path(subnet)))
        shown = folded(parts) if chosen.finetune.fold_search else parts
        smaller: list[str] = []
        begun = read_json(out / IDENTITY).get("train") if (out / IDENTITY).exists() else {}
        is_as_begun = isinstance(begun, dict) and begun.get("batch_size") == chosen.finetune.batch_size
        if not is_as_begun and not any(setting.partition("=")[0].strip().endswith("batch_size") for setting in settings or ()):
            images, has_recipe = len(shown.trained_on), recipe is not None
            fitting, smaller = with_fitting_batch(chosen.finetune, images, "finetune", has_recipe=has_recipe)
            chosen = chosen.model_copy(update={"finetune": fitting})
        size = size_line(plan_for(shown, chosen.finetune, chosen.seed), len(parts.classes))
        if world.leads and not quiet:
            for line in (*describe_parts(parts), *smaller, *teacher_line(chosen.finetune.teacher, parts), *size):
                note(line)
            if new_head:
                note(f"a new head for {len(parts.classes)} classes")
            if isinstance(network, Classifier) and chosen.finetune.drop_path_rate and not network.has_drop_path:
                note(f"timm's {network.name} has no stochastic depth; drop_path_rate is left out")
        around = Surroundings(world, progress, trackers=trackers)
        finetune_network(network, parts, chosen.finetune, out, metric=sought, seed=chosen.seed, around=around)
        if not world.leads:
            return
    record = record_of_network(out)
    assert record is not None, "a finished finetune has a record"
    kept = kept_epoch(record)
    if json:
        print_json({"folder": str(out), "last_epoch": record["history"][-1], "kept_epoch": kept})
        return
    rows = [score_cells(value) for value in kept.get("scores", {}).values()]
    told = "trained on the search part too" if record.get("folded") else f"epoch {kept['epoch']} on the search part"
    print_table(f"finetuned network in {out}: {told}", (WORDS[sought], "95 % interval", "images"), rows)


def kept_epoch(record: dict[str, Any]) -> dict[str, Any]:
    """The record of the epoch whose weights were kept: the best one where `patience` was set, else the last."""
    best = record.get("best") if (record.get("train") or {}).get("patience") is not None else None
    history: list[dict[str, Any]] = record["history"]
    return history[best["epoch"] - 1] if best is not None else history[-1]
