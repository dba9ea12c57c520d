"""`autoformer search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.options import (
    Data,
    Json,
    LatencyTable,
    MaxFlops,
    MaxLatency,
    MaxParams,
    Metric,
    MinFlops,
    MinParams,
    Out,
    Quiet,
    Recipe,
    Seed,
    Set,
)  # fmt: skip


def search(
    supernet: Annotated[Path, typer.Option("--supernet", help="Folder written by `autoformer train`.")],
    out: Out,
    max_params: MaxParams = None,
    min_params: MinParams = None,
    max_flops: MaxFlops = None,
    min_flops: MinFlops = None,
    max_latency: MaxLatency = None,
    latency_table: LatencyTable = None,
    data: Data = None,
    recipe: Recipe = None,
    metric: Metric = None,
    seed: Seed = None,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the best architecture of a supernet within a budget, on images the supernet was not trained on.

    FLOPs are multiply-adds. A latency is what the table qualifies: statistic, batch, precision, backend, device.

    Examples:

      autoformer search --supernet runs/super --max-params 60% --out runs/s1

      autoformer search --supernet runs/super --max-flops 1.3G --max-latency 2.5ms --latency-table orin.json --out runs/s2 \
--set population=50
    """
    import torch

    from autoformer.checkpoint import read_json
    from autoformer.cli.console import print_json, print_table, progress_bar
    from autoformer.cli.metric import metric_of
    from autoformer.cli.quantities import read_budget
    from autoformer.cli.recipe import recipe_of
    from autoformer.cost import CostModel, ExactCosts, show
    from autoformer.data import parts_of_record
    from autoformer.evaluate import WORDS
    from autoformer.profiling.latency_table import LatencyTable as Table
    from autoformer.profiling.latency_table import TableCosts, within_margin
    from autoformer.search import search_supernet
    from autoformer.supernet_folder import load_supernet

    chosen = recipe_of(recipe, "search", settings, seed)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    network = load_supernet(supernet)
    record = read_json(supernet / "supernet.json")
    table = None if latency_table is None else Table.load(latency_table)
    costs: CostModel = ExactCosts(network.space) if table is None else TableCosts(network.space, table)
    budget = read_budget(
        network.space, costs, max_params=max_params, min_params=min_params, max_flops=max_flops, min_flops=min_flops,
        max_latency=max_latency,
    )  # fmt: skip
    sought = metric_of(metric, chosen.metric if recipe is not None else None, record)
    parts = parts_of_record(record["data"], data)
    with progress_bar(quiet) as progress:
        result = search_supernet(
            network, parts.search, parts.preprocessing, costs, within_margin(budget, table), chosen.search, out,
            metric=sought, seed=chosen.seed, progress=progress,
        )  # fmt: skip
    if json:
        print_json(read_json(out / "search.json"))
        return
    rows = []
    for name, candidate in (("chosen", result.chosen), ("best", result.best)):
        cost = candidate.cost
        latency = "not measured" if cost.latency_ms is None else show("latency_ms", cost.latency_ms)
        row = (str(candidate.score), show("params", cost.params), show("flops", cost.flops), latency)
        rows.append((name, *row, str(candidate.architecture)))
    print_table(
        f"{len(result.candidates)} architectures on {len(parts.search)} search images; {len(result.tied)} cannot be told from "
        f"the best; budget {budget}",
        ("", WORDS[sought], "params", "FLOPs", "latency", "architecture"),
        rows,
    )
