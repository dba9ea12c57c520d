"""`autoformer train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoformer.cli.options import Data, Epochs, GroupBy, Json, Log, Metric, Quiet, Seed, Set, Unlabelled

if TYPE_CHECKING:
    from autoformer.cli.chain.recipe import Recipe
    from autoformer.data.parts import DataParts
    from autoformer.networks.supernet import Supernet
    from autoformer.space import SearchSpace
    from autoformer.training.distributed import World
    from autoformer.training.runs import Rehearsal


def train(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or a name (autoformer recipe list); the sections data, space and train are used.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; refused if it holds something else. Not for --dry-run.")
    ] = None,
    data: Data = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Weights to start from: timm:NAME[@FILE], official:FILE, or the folder of a supernet, run or plain network.",
        ),
    ] = None,
    group_by: GroupBy = None,
    unlabelled: Unlabelled = None,
    epochs: Epochs = None,
    metric: Metric = None,
    seed: Seed = None,
    settings: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the parts, and the measured time and disk it will take; train nothing.")
    ] = False,
    log: Log = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a supernet: every network of the space at once, in shared weights.

    Run it again after an interruption and it goes on where it stopped. On several GPUs, one process each:
    torchrun --nproc-per-node=8 -m autoformer.cli train RECIPE --out DIR

    Example: autoformer train quickstart --out runs/super --set train.epochs=50
    """
    from autoformer.cli.chain.asked import refuse_twice
    from autoformer.cli.chain.begun_from import recipe_from
    from autoformer.training.trackers import trackers_of

    if out is None and not dry_run:
        raise typer.BadParameter("give --out, the folder of the supernet; only --dry-run writes nothing")
    place = out or Path(f"supernet-of-{os.getpid()}")  # which a dry run does not make
    trackers = trackers_of(log or ())
    if epochs is not None:
        refuse_twice("--epochs", "train.epochs", settings or ())
    given = {
        "data.source": data, "data.group_by": group_by, "data.unlabelled": unlabelled, "metric": metric and metric.value,
        "seed": seed, "train.epochs": epochs,
    }  # fmt: skip
    chosen, lines = recipe_from(recipe, start, settings or [], given)  # a mistake in it is said before torch is imported
    import torch

    from autoformer.cli.chain.starting import beginning, readable, with_fitting_batch, with_usual
    from autoformer.cli.class_order import teacher_line
    from autoformer.cli.console import note, progress_bar
    from autoformer.data.loading import load_parts
    from autoformer.data.parts import describe_parts
    from autoformer.training.cached_teacher import size_line
    from autoformer.training.distributed import joined
    from autoformer.training.runs import train_supernet
    from autoformer.training.trainer import Surroundings, plan_for

    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    with joined() as world, progress_bar(quiet or not world.leads) as progress:
        parts = readable(load_parts(chosen.data), place, world, progress)
        smaller: list[str] = []
        if not any(setting.startswith("train.batch_size") for setting in settings or ()):  # what is asked for is not changed
            fitting, smaller = with_fitting_batch(chosen.train, len(parts.trained_on), "train")
            chosen = chosen.model_copy(update={"train": fitting})
        kept = size_line(plan_for(parts, chosen.train, chosen.seed), len(parts.classes))
        if not quiet and world.leads:
            for line in (*lines, *describe_parts(parts), *smaller, *teacher_line(chosen.train.teacher, parts), *kept):
                note(line)
        chosen = chosen.model_copy(update={"train": with_usual(chosen.train, place)})
        space, begun, new_head = beginning(chosen, parts)
        if new_head and not quiet and world.leads:
            note(f"a new head for {len(parts.classes)} classes")
        if dry_run:
            _show_price(chosen, parts, space, begun, place, world, json)
            return
        train_supernet(
            space, parts, chosen.train, place, start=begun, seed=chosen.seed, metric=chosen.metric,
            around=Surroundings(world, progress, trackers=trackers),
        )  # fmt: skip
        if world.leads:
            _show_result(place, chosen.metric, json)


def _show_price(
    recipe: Recipe, parts: DataParts, space: SearchSpace, start: Supernet | None, out: Path, world: World, json: bool
) -> None:
    from autoformer.cli.chain.price import OtherPrograms
    from autoformer.cli.console import note, print_facts, print_json
    from autoformer.profiling.reports.wording import duration
    from autoformer.training.curriculum import chooser_over
    from autoformer.training.runs import fresh_supernet, rehearse
    from autoformer.training.trainer import Surroundings, Trainer, plan_for

    supernet = (start or fresh_supernet(space, recipe.train, recipe.seed)).to(world.device)
    choose = chooser_over(recipe.train.subnets, space, recipe.seed, plan_for(parts, recipe.train, recipe.seed).steps)
    around = Surroundings(world)
    trainer = Trainer(supernet, parts, recipe.train, out, choose, dict(space.anchors), parts.preprocessing, around=around)
    others = OtherPrograms()
    price = rehearse(trainer, out)
    if not world.leads:
        return
    if line := others.line(others.cores()):
        note(line)
    if json:
        print_json({"parts": parts.record["parts"], "space": space.to_dict(), "price": price.to_dict()})
        return
    facts = {
        "images": ", ".join(f"{name} {part['images']}" for name, part in parts.record["parts"].items()),
        "classes": str(len(parts.classes)),
        "networks in the space": f"{space.size:.3g}",
        "steps": f"{price.steps} of {recipe.train.batch_size} images",
        "time per step": f"{1000 * price.seconds_per_step:.3g} ms (median of {price.steps_measured})",
        "waiting for images": f"{100 * price.wait_share:.2g} % of it",
        "in all": f"{duration(3600 * price.hours)}, on {world.size} process{'es' if world.size > 1 else ''} like this one",
        **_price_of_teacher(price),
        "disk": f"{price.disk_bytes / 2**20:.0f} MiB of {price.free_bytes / 2**20:.0f} MiB free",
    }
    print_facts("a rehearsal; nothing was written", facts)


def _price_of_teacher(price: Rehearsal) -> dict[str, str]:
    if not price.logits_bytes:
        return {}
    from autoformer.profiling.reports.wording import duration

    size = price.logits_bytes / 2**20
    return {
        "teacher, before them": f"{duration(3600 * price.teacher_hours)} of those; its logits take {size:.1f} MiB of the disk"
    }


def _show_result(out: Path, metric: str, json: bool) -> None:
    from autoformer.cli.console import print_json, print_table
    from autoformer.cli.words import score_cells
    from autoformer.files import read_json
    from autoformer.metric import WORDS

    record = read_json(out / "supernet.json", "history", "weights_digest")
    last = record["history"][-1]
    if json:
        print_json({"folder": str(out), "weights_digest": record["weights_digest"], "last_epoch": last})
        return
    words = WORDS[metric]  # type: ignore[index]
    rows = [(name, *score_cells(value)) for name, value in last["scores"].items()]
    print_table(f"supernet in {out}: {words} on the search part", ("network", words, "95 % interval", "images"), rows)
