"""`autoformer search`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoformer.cli.chain.helpers import helpers
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
    Quiet,
    Recipe,
    Seed,
    Set,
)  # fmt: skip

if TYPE_CHECKING:
    from autoformer.cost import Budget
    from autoformer.search.result import SearchResult
    from autoformer.search.space_table import SpaceTable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoformer.profiling.tables.limit import LatencyAnswer


def search(
    supernet: Annotated[Path | None, typer.Option("--supernet", help="Folder written by `autoformer train`.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of a finished search; its evaluations answer this budget, nothing is evaluated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; refused if it holds something else. --from can do without.")
    ] = None,
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
    workers: Annotated[
        str, typer.Option("--workers", help="Processes that share the search on this machine; auto: one per GPU.")
    ] = "1",
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Database for workers on several hosts, an Optuna URL; evaluations are kept there as well. Default: a file in "
            "--out, and evaluations beside the supernet.",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            " /--no-measure", show_default=False, help="Do not measure the best few after a search under --max-latency."
        ),
    ] = True,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.01, help="Measuring time per network after the search. Default 3.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the best architecture of a supernet within a budget, on images the supernet was not trained on.

    FLOPs are multiply-adds. A latency is what the table qualifies: statistic, batch, precision, backend, device.
    --set method=random, pareto or predictor searches otherwise than by evolution.

    Under --max-latency, with a table of this machine, the chosen network and the next few are exported and measured, the table
    is corrected and the choice repeated; the answer is met, not met or not shown.

    Examples:

      autoformer search --supernet runs/super --max-params 60% --out runs/s1

      autoformer search --supernet runs/super --max-flops 1.3G --max-latency 2.5ms --latency-table orin.json --out runs/s2 \
--set population=50

      autoformer search --from runs/s2 --max-latency 2ms --out runs/s3
    """
    limits = {
        "max_params": max_params, "min_params": min_params, "max_flops": max_flops, "min_flops": min_flops,
        "max_latency": max_latency,
    }  # fmt: skip
    if max_latency is None and (not measure or seconds is not None):
        raise typer.BadParameter(f"{'--seconds' if measure else '--no-measure'} has no effect without --max-latency")
    if (supernet is None) == (source is None):
        raise typer.BadParameter("give one of --supernet (to search) and --from (to answer from a finished search)")
    if source is not None:
        idle = {
            "--data": data, "--metric": metric, "--seed": seed, "--recipe": recipe, "--storage": storage,
            "--workers": None if workers == "1" else workers,
        }  # fmt: skip
        if given := [option for option, value in idle.items() if value is not None]:
            raise typer.BadParameter(f"{given[0]} has no effect with --from: nothing is evaluated")
        _answer(source, out, limits, latency_table, settings, measure, seconds, json, quiet)
        return
    assert supernet is not None
    if out is None:
        raise typer.BadParameter("give --out, the folder of the search")
    with helpers(workers, *(() if max_latency is None else ("--no-measure",))):
        finish = _search(supernet, out, limits, latency_table, data, recipe, metric, seed, settings, storage, json, quiet)
    finish(measure, seconds)  # when the other processes have left the cores


def _search(
    supernet: Path,
    out: Path,
    limits: dict[str, str | None],
    latency_table: Path | None,
    data: str | None,
    recipe: Path | None,
    metric: str | None,
    seed: int | None,
    settings: list[str] | None,
    storage: str | None,
    json: bool,
    quiet: bool,
) -> Callable[[bool, float | None], None]:
    """Searches; what it gives measures (or does not) for so many seconds per network, and shows the result."""
    import torch

    from autoformer.cli.chain.recipe import recipe_of
    from autoformer.cli.console import print_json, progress_bar
    from autoformer.cli.words import metric_of
    from autoformer.cost import CostModel, ExactCosts
    from autoformer.data.loading import parts_of_record
    from autoformer.files import read_json
    from autoformer.networks.folders import load_supernet
    from autoformer.parsing import read_budget
    from autoformer.profiling.measuring.measure import MeasureConfig
    from autoformer.profiling.tables.costs import TableCosts, margin_of, searched_with
    from autoformer.profiling.tables.limit import finally_chosen
    from autoformer.profiling.tables.loop import SECONDS, LatencyQuestion, answer_latency
    from autoformer.profiling.tables.table import LatencyTable as Table
    from autoformer.search.answer import StoredSearch
    from autoformer.search.loop import search_supernet
    from autoformer.search.space_table import SpaceTable
    from autoformer.training.distributed import best_device

    chosen = recipe_of(recipe, "search", settings, seed)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    network = load_supernet(supernet).to(best_device())
    record = read_json(supernet / "supernet.json")
    table = None if latency_table is None else Table.load(latency_table)
    costs: CostModel = ExactCosts(network.space) if table is None else TableCosts(network.space, table)
    stated = read_budget(network.space, costs, **limits)
    budget = searched_with(stated, network.space, costs)
    sought = metric_of(metric, chosen.metric if recipe is not None else None, record)
    parts = parts_of_record(record["data"], data)
    if not json:
        print_space(SpaceTable.of(network.space, costs, budget), budget)
    with progress_bar(quiet) as progress:
        result = search_supernet(
            network, parts.search, parts.preprocessing, costs, budget, chosen.search, out,
            metric=sought, seed=chosen.seed, storage=storage, stored=supernet / "evaluations.db",
            latency_margin=margin_of(costs), progress=progress,
        )  # fmt: skip

    def finish(measure: bool, seconds: float | None) -> None:
        answer = None
        if measure and table is not None and stated.max_latency_ms is not None:
            with progress_bar(quiet) as progress:
                question = LatencyQuestion(
                    stated=stated,
                    first=result.chosen.architecture,
                    choose=chosen.search.choose,
                    config=MeasureConfig.lasting(seconds or SECONDS),
                )
                answer = answer_latency(StoredSearch(out), table, question, out, progress=progress)
        if json:
            print_json(read_json(out / "search.json") | ({} if answer is None else {"latency_answer": answer.to_dict()}))
            return
        print_result(finally_chosen(result, out), searched_words(result), stated)
        if answer is not None:
            print_answer(answer)

    return finish


def _answer(
    source: Path,
    out: Path | None,
    limits: dict[str, str | None],
    latency_table: Path | None,
    settings: list[str] | None,
    measure: bool,
    seconds: float | None,
    json: bool,
    quiet: bool,
) -> None:
    """Answers from the evaluations of a finished search; `--set choose=` is the one setting that matters.

    A latency is measured where `out` can keep the answer and a table can be corrected by it.
    """
    from autoformer.cli.chain.recipe import recipe_of
    from autoformer.cli.console import note, print_json, progress_bar
    from autoformer.cost import CostModel
    from autoformer.parsing import read_budget
    from autoformer.profiling.measuring.measure import MeasureConfig
    from autoformer.profiling.tables.costs import TableCosts, searched_with, within_margin
    from autoformer.profiling.tables.limit import finally_chosen
    from autoformer.profiling.tables.loop import SECONDS, LatencyQuestion, answer_latency
    from autoformer.profiling.tables.table import LatencyTable as Table
    from autoformer.search.answer import StoredSearch

    chosen = recipe_of(None, "search", settings, None).search
    if idle := [setting for setting in settings or () if setting.partition("=")[0].removeprefix("search.") != "choose"]:
        raise typer.BadParameter(f"--set {idle[0]} has no effect with --from; only choose= has")
    stored = StoredSearch(source)
    table = None if latency_table is None else Table.load(latency_table)
    costs: CostModel = stored.costs if table is None else TableCosts(stored.space, table)
    stated = read_budget(stored.space, costs, **limits)
    budget = within_margin(stated, stored.margin) if table is None else searched_with(stated, stored.space, costs)
    answer = stored.answer(budget, costs, chosen.choose if settings else None)
    answer.margin = None if table is None else table.margin
    if out is not None:
        answer.write(out)
    measured = None
    if measure and table is not None and out is not None and stated.max_latency_ms is not None:
        with progress_bar(quiet) as progress:
            question = LatencyQuestion(
                stated=stated,
                first=answer.result.chosen.architecture,
                choose=answer.choose,
                config=MeasureConfig.lasting(seconds or SECONDS),
            )
            measured = answer_latency(stored, table, question, out, progress=progress)
    if json:
        print_json(answer.record | ({} if measured is None else {"latency_answer": measured.to_dict()}))
        return
    inside, every = len(answer.result.candidates), len(stored.result.candidates)
    final = answer.result if out is None else finally_chosen(answer.result, out)
    print_result(final, f"{inside} of {every} evaluated architectures lie inside the budget", stated)
    if measured is not None:
        print_answer(measured)
    elif measure and stated.max_latency_ms is not None:
        note("latency predicted, not measured: --latency-table and --out make it measure the best few on the table's device")


def searched_words(result: SearchResult) -> str:
    """How many architectures were evaluated, on how many images."""
    images = result.images
    words = f"{len(result.candidates)} architectures on up to {images['search']} search images"
    if cut := 1 - images["evaluated"] / (len(result.candidates) * images["search"]):
        words += f", {100 * cut:.0f} % of them cut by halving"
    asked = images["evaluated"] + images["confirming"]
    words += f", {100 * images['reused'] / asked:.0f} % known from earlier searches" if images["reused"] else ""
    return f"{words}; confirmed on {images['confirmation']} others"


def print_space(table: SpaceTable, budget: Budget) -> None:
    """The space before a search, a row per cost."""
    from autoformer.cli.console import print_table
    from autoformer.cost import show

    names = {"params": "params", "flops": "FLOPs", "latency_ms": "latency"}
    rows = []
    for measure, spread in table.costs.items():
        sizes = [show(measure, value) for value in (spread.smallest, spread.median, spread.largest)]
        low, high = getattr(budget, f"min_{measure}", None), getattr(budget, f"max_{measure}")
        limits = [f"{sign} {show(measure, limit)}" for sign, limit in (("≥", low), ("≤", high)) if limit is not None]
        rows.append((names[measure], *sizes, " ".join(limits)))
    print(table)
    print_table("costs of its networks (FLOPs are multiply-adds)", ("", "smallest", "median", "largest", "searched with"), rows)


def print_result(result: SearchResult, title: str, budget: Budget) -> None:
    """The chosen and the best network, and the baselines, each with whether the chosen one can be told from it.

    Beside the score that decided stands the one on the confirmation slice, where a network was a finalist.
    """
    from autoformer.cli.console import print_table
    from autoformer.cost import show
    from autoformer.metric import WORDS

    names = {"dearest": "dearest inside", "uniform": "best uniform"}
    compared = {"chosen": result.chosen, "best": result.best}
    compared |= {names[name]: candidate for name, candidate in result.baselines.items()}
    rows: list[tuple[Any, ...]] = []
    for name, candidate in compared.items():
        cost, chosen = candidate.cost, result.chosen
        latency = "not measured" if cost.latency_ms is None else show("latency_ms", cost.latency_ms)
        if candidate.number == chosen.number:
            verdict = "it is" if name != "chosen" else ""
        elif result.on_par(candidate):
            verdict = "tied"
        else:
            verdict = "worse" if candidate.score.value < chosen.score.value else "better"
        confirmed = str(result.confirmed.get(candidate.number, "not confirmed"))
        row = (str(candidate.score), confirmed, verdict, show("params", cost.params), show("flops", cost.flops), latency)
        rows.append((name, *row, str(candidate.architecture)))
    print_table(
        f"{title}; {len(result.tied)} cannot be told from the best; budget {budget}",
        ("", WORDS[result.metric], "confirmed", "against chosen", "params", "FLOPs", "latency", "architecture"),
        rows,
    )


def print_answer(answer: LatencyAnswer) -> None:
    """The answer in one line, then what was measured, a row per network."""
    from autoformer.cli.console import print_table

    print(answer)
    rows = []
    for number, taken in enumerate(answer.rounds, 1):
        for network in taken.networks:
            timing = network.timing
            interval = "too few runs" if timing.low_ms is None else f"{timing.low_ms:.4g} to {timing.high_ms:.4g}"
            marks = [
                mark
                for mark, holds in (
                    ("asked first", taken is answer.rounds[0] and network is taken.chosen),
                    ("taken", network is answer.chosen),
                )
                if holds
            ]
            rows.append(
                (
                    str(number),
                    network.architecture.slug,
                    f"{100 * network.score.value:.2f} %",
                    f"{network.predicted_ms:.4g}",
                    f"{timing.measured_ms:.4g}",
                    interval,
                    f"{100 * network.error:+.1f} %",
                    timing.verdict.level,
                    timing.status(answer.limit_ms),
                    ", ".join(marks),
                )
            )
    if rows:
        columns = (
            "round", "network", answer.rounds[0].chosen.score.words, "predicted ms", "measured ms", "95 % interval", "error",
            "verdict", f"at most {answer.limit_ms:.4g} ms", "",
        )  # fmt: skip
        print_table(f"measured here; the table is {answer.rounds[-1].model}", columns, rows)
