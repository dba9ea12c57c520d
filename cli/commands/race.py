"""`autoformer race`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoformer.cli.chain.helpers import check_workers, helpers
from autoformer.cli.options import (
    Data,
    Json,
    LatencyTable,
    Log,
    MaxFlops,
    MaxLatency,
    MaxParams,
    Out,
    Quiet,
    Seed,
    Set,
)  # fmt: skip

if TYPE_CHECKING:
    from autoformer.cost import Budget
    from autoformer.parsing import BudgetConfig
    from autoformer.profiling.tables.table import LatencyTable as Table
    from autoformer.search.record import SearchRecord


def race(
    supernet: Annotated[Path, typer.Option("--supernet", help="Folder written by `autoformer train`.")],
    search: Annotated[Path, typer.Option("--search", help="Folder of a finished search; its finalists take part.")],
    out: Out,
    rival: Annotated[
        list[str] | None,
        typer.Option(
            "--rival",
            help="Network out of timm that takes part: timm:NAME, timm:NAME@FILE, or timm:NAME@scratch for fresh weights; may be "
            "repeated; none: no rival. Default: a short list by the size of the images.",
        ),
    ] = None,
    max_params: MaxParams = None,
    max_flops: MaxFlops = None,
    max_latency: MaxLatency = None,
    latency_table: LatencyTable = None,
    data: Data = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", help="YAML file; its sections finetune, race and profile, its seed and threads are used."),
    ] = None,
    seed: Seed = None,
    settings: Set = None,
    workers: Annotated[
        str, typer.Option("--workers", help="Processes that share the race on this machine; auto: one per GPU.")
    ] = "1",
    log: Log = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Finetune a few finalists and rivals side by side inside the limits, drop the weaker half again and again, deliver the best.

    Finalists of the search, the most expensive network in the budget, homogeneous ones and small networks out of timm are
    exported and measured first; who breaks a limit does not start. The limits are those of the search; one given here replaces
    it. All are trained as the recipe's section `finetune` says, and compared on search images; the winner lies in OUT/winner.

    Run it again after an interruption and it goes on where it stopped.

    Examples:

      autoformer race --supernet runs/super --search runs/s1 --out runs/race --set finetune.epochs=40

      autoformer race --supernet runs/super --search runs/s2 --latency-table pc.json --rival timm:resnet18@scratch --out runs/r2

      autoformer export runs/race/winner --out runs/export
    """
    from autoformer.parsing import refuse_missing
    from autoformer.training.trackers import trackers_of

    check_workers(workers)  # a mistake in it should not end the race after its measurements
    trackers = trackers_of(log or ())
    refuse_missing(supernet, "the folder of a supernet, which autoformer train writes")
    refuse_missing(search, "the folder of a search, which autoformer search writes")

    from functools import partial

    import torch

    from autoformer.cli.chain.legs import Question
    from autoformer.cli.chain.race import deliver, run_race
    from autoformer.cli.chain.recipe import recipe_of
    from autoformer.cli.commands.describe import print_race
    from autoformer.cli.console import note, print_json, progress_bar
    from autoformer.data.loading import parts_of_record
    from autoformer.files import read_json
    from autoformer.parsing import BudgetConfig
    from autoformer.profiling.race.config import RaceConfig
    from autoformer.profiling.tables.table import LatencyTable as Table
    from autoformer.search.record import SearchRecord
    from autoformer.training.cached_teacher import size_line
    from autoformer.training.trainer import Surroundings, plan_for, takes_unlabelled

    chosen = recipe_of(recipe, "race", settings, seed)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    if rival is not None and "none" in rival and len(rival) > 1:
        raise typer.BadParameter("--rival none goes with no other --rival")
    rivals = None if rival is None else () if rival == ["none"] else tuple(rival)
    config = (chosen.race or RaceConfig()).model_copy(update={} if rivals is None else {"rivals": rivals})
    record, trained = SearchRecord.load(search), read_json(supernet / "supernet.json", "data")
    table = None if latency_table is None else Table.load(latency_table)
    given = BudgetConfig(max_params=max_params, max_flops=max_flops, max_latency=max_latency)
    parts = parts_of_record(trained["data"], data, unlabelled=takes_unlabelled(chosen.finetune))
    question = Question(
        supernet=supernet, search=search, parts=parts, race=config, finetune=chosen.finetune,
        limits=limits_of(record, given, table), profile=chosen.profile, table=table, metric=record.result.metric,
        seed=chosen.seed,
    )  # fmt: skip
    if not quiet:
        for line in size_line(plan_for(question.parts, chosen.finetune, chosen.seed), len(question.parts.classes)):
            note(line)
    with progress_bar(quiet) as progress:
        around = Surroundings(progress=progress, trackers=trackers)
        say = (lambda line: None) if quiet or json else note
        found = run_race(question, out, around, say, partial(helpers, workers))
        deliver(found, out, out / "winner")
    if json:
        print_json(found.to_dict() | {"folder": str(out / "winner")})
        return
    print_race(found)
    note(f"the winner: {out / 'winner'}")


def limits_of(record: SearchRecord, given: BudgetConfig, table: Table | None) -> Budget:
    """The limits of the search as they were stated, each replaced where one is given.

    Raises `BudgetError` for a limit on latency that nothing here can measure as the search meant it.
    """
    from dataclasses import replace

    from autoformer.cost import ExactCosts
    from autoformer.errors import BudgetError
    from autoformer.parsing import read_budget
    from autoformer.profiling.tables.costs import TableCosts

    costs = ExactCosts(record.space) if table is None else TableCosts(record.space, table)
    limits = replace(record.stated, **read_budget(record.space, costs, given).to_dict())
    if limits.max_latency_ms is None:
        return limits
    if table is None:
        raise BudgetError("the search was under a latency limit; give its --latency-table, so that the same is measured")
    if given.max_latency is None and table.measurement_conditions != record.measurement_conditions:
        raise BudgetError(
            f"the search's limit is of {record.measurement_conditions}, the latency table of {table.measurement_conditions}; "
            "give the table of the search, or --max-latency"
        )
    return limits
