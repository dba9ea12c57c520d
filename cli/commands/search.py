"""`autoformer search`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
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
    from autoformer.cli.chain.recipe import Recipe as RecipeValues
    from autoformer.cost import Budget, CostModel
    from autoformer.parsing import BudgetConfig
    from autoformer.profiling.profiles.config import ProfileConfig
    from autoformer.profiling.tables.limit import LatencyAnswer
    from autoformer.profiling.tables.table import LatencyTable as Table
    from autoformer.search.answer import StoredSearch
    from autoformer.search.record import SearchRecord
    from autoformer.search.result import SearchResult
    from autoformer.search.space_table import SpaceTable
    from autoformer.space import SearchSpace


@dataclass(frozen=True)
class Request:
    """What both ways to a network are asked alike: a search, and an answer from a finished one."""

    limits: BudgetConfig
    latency_table: Path | None
    out: Path | None
    settings: list[str] | None
    measure: bool
    seconds: float | None  # of measuring per network
    json: bool
    quiet: bool
    profile: ProfileConfig | None = None  # how the best few are measured; None: as usual

    def by(self, recipe: RecipeValues, *, given: bool) -> Request:
        """With what a recipe says of measuring; and of limits and table, where it was `given` and no option names a limit."""
        asked: dict[str, Any] = {"profile": recipe.profile}
        if given and all(value is None for _, value in self.limits):
            asked |= {"limits": recipe.budget, "latency_table": self.latency_table or recipe.profile.table}
        return replace(self, **asked)


def search(
    supernet: Annotated[Path | None, typer.Option("--supernet", help="Folder written by `autoformer train`.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of a finished search; its evaluations answer this budget, nothing is evaluated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to write; not one with something else. Optional with --from."),
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

    FLOPs are multiply-adds. A latency limit holds under the measurement conditions of its table: statistic, batch, precision,
    backend, device. --set method=random, pareto or predictor replaces evolution. A search takes as many
    candidates as its images can tell apart; --set generations=20 asks for a number.

    The best score inside the budget is chosen. --set choose=cheapest takes the fewest FLOPs of those not significantly worse:
    that costs 0.6 to 1.3 points of accuracy and uses 41 to 62 % of the limit.

    Under --max-latency, with a table of this machine, the chosen network and the next few are exported and measured, the table
    is corrected and the choice repeated; the answer is within budget, over budget (exit code 1) or inconclusive.

    --recipe gives the sections search and profile, seed and threads; its limits and table too where no option names a limit. So
    the choice is that of `autoformer run` with the same recipe.

    Examples:

      autoformer search --supernet runs/super --max-params 60% --out runs/s1

      autoformer search --supernet runs/super --max-flops 1.3G --max-latency 2.5ms --latency-table orin.json --out runs/s2 \
--set population=50

      autoformer search --from runs/s2 --max-latency 2ms --out runs/s3
    """
    from autoformer.parsing import BudgetConfig, refuse_missing

    limits = BudgetConfig(
        max_params=max_params, min_params=min_params, max_flops=max_flops, min_flops=min_flops, max_latency=max_latency
    )
    request = Request(limits, latency_table, out, settings, measure, seconds, json, quiet)
    if max_latency is None and recipe is None and (not measure or seconds is not None):
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
        _answer(source, request)
        return
    assert supernet is not None
    if out is None:
        raise typer.BadParameter("give --out, the folder of the search")
    refuse_missing(supernet, "the folder of a supernet, which autoformer train writes")
    with helpers(workers, *(() if max_latency is None and recipe is None else ("--no-measure",))):
        finish = _search(supernet, out, request, data, recipe, metric, seed, storage)
    finish()  # when the other processes have left the cores


def _search(
    supernet: Path,
    out: Path,
    request: Request,
    data: str | None,
    recipe: Path | None,
    metric: str | None,
    seed: int | None,
    storage: str | None,
) -> Callable[[], None]:
    """Searches; what it gives measures the best few, where that is asked for, and shows the result."""
    import torch

    from autoformer.cli.chain.recipe import recipe_of
    from autoformer.cli.console import progress_bar, say
    from autoformer.cli.words import metric_of
    from autoformer.data.loading import parts_of_record
    from autoformer.files import read_json
    from autoformer.networks.folders import load_supernet
    from autoformer.parsing import read_budget
    from autoformer.profiling.tables.costs import margin_of, searched_with
    from autoformer.search.answer import StoredSearch
    from autoformer.search.config import Goal
    from autoformer.search.loop import search_supernet
    from autoformer.search.sizing import SearchPlan
    from autoformer.search.space_table import SpaceTable
    from autoformer.search.storage import check_storage
    from autoformer.training.distributed import best_device

    chosen = recipe_of(recipe, "search", request.settings, seed)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    request = request.by(chosen, given=recipe is not None)
    network = load_supernet(supernet).to(best_device())
    record = read_json(supernet / "supernet.json")
    table, costs = _costs(request, network.space)
    stated = read_budget(network.space, costs, request.limits)
    goal = Goal(
        costs=costs,
        budget=searched_with(stated, network.space, costs),
        metric=metric_of(metric, chosen.metric if recipe is not None else None, record),
        seed=chosen.seed,
        latency_margin=margin_of(costs),
    )
    parts = parts_of_record(record["data"], data)
    if storage is not None:
        check_storage(storage)
    if not request.json:
        print_space(SpaceTable.of(network.space, costs, goal.budget), goal.budget)
        say(f"search: {SearchPlan.of(len(parts.search), chosen.search)}")
    with progress_bar(request.quiet) as progress:
        result = search_supernet(
            network, parts.search, parts.preprocessing, goal, chosen.search, out,
            memory=storage or supernet / "evaluations.db", progress=progress,
        )  # fmt: skip

    def finish() -> None:
        stored = StoredSearch(out)
        _show(request, stored, stored.record, table, stated, searched_words(result))
        if not request.json:
            say("next:")
            for command, what in _next_commands(supernet, request).items():
                say(f"  {command}    # {what}")

    return finish


def _next_commands(supernet: Path, request: Request) -> dict[str, str]:
    """What to type after a search, with what it is for."""
    table = "" if request.latency_table is None else f" --latency-table {shlex.quote(str(request.latency_table))}"
    found = f"--supernet {shlex.quote(str(supernet))} --search {shlex.quote(str(request.out))}"
    return {
        f"autoformer race {found}{table} --out RACE": "finetunes the best few side by side, and small networks out of timm",
        f"autoformer extract {found} --out NET": "the choice alone, with the weights it inherits; then finetune NET and export",
    }


def _answer(source: Path, request: Request) -> None:
    """Answers from the evaluations of a finished search; `--set choose=` is the one setting that matters.

    A latency is measured where `out` can keep the answer and a table can be corrected by it.
    """
    from autoformer.cli.chain.recipe import recipe_of
    from autoformer.cli.console import note
    from autoformer.parsing import read_budget
    from autoformer.profiling.tables.costs import searched_with, within_margin
    from autoformer.search.answer import StoredSearch, save_answer

    chosen = recipe_of(None, "search", request.settings, None).search
    if idle := [one for one in request.settings or () if one.partition("=")[0].removeprefix("search.") != "choose"]:
        raise typer.BadParameter(f"--set {idle[0]} has no effect with --from; only choose= has")
    stored = StoredSearch(source)
    table, costs = _costs(request, stored)
    stated = read_budget(stored.space, costs, request.limits)
    margin = stored.record.latency_margin if table is None else table.margin
    budget = within_margin(stated, margin) if table is None else searched_with(stated, stored.space, costs)
    answer = stored.answer(budget, costs, chosen.choose if request.settings else None, margin)
    if request.out is not None:
        save_answer(answer, request.out)
    inside, every = len(answer.result.candidates), len(stored.result.candidates)
    title = f"{inside} of {every} evaluated architectures lie inside the budget"
    measured = _show(request, stored, answer, table, stated, title)
    if measured is None and request.measure and stated.max_latency_ms is not None and not request.json:
        note("latency predicted, not measured: --latency-table together with --out measures the best few on the table's device")


def _costs(request: Request, of: SearchSpace | StoredSearch) -> tuple[Table | None, CostModel]:
    """The latency table where one is given, and what prices architectures: the table, a stored search, or counts alone."""
    from autoformer.cost import ExactCosts
    from autoformer.profiling.tables.costs import TableCosts
    from autoformer.profiling.tables.table import LatencyTable as Table
    from autoformer.space import SearchSpace

    space = of if isinstance(of, SearchSpace) else of.space
    if request.latency_table is None:
        return None, ExactCosts(of) if isinstance(of, SearchSpace) else of.costs
    table = Table.load(request.latency_table)
    return table, TableCosts(space, table)


def _show(
    request: Request, stored: StoredSearch, record: SearchRecord, table: Table | None, stated: Budget, title: str
) -> LatencyAnswer | None:
    """Measures the best few where that is asked for and possible, then shows what was found; gives what was measured."""
    from autoformer.cli.console import print_json, progress_bar, say
    from autoformer.profiling.measuring.measure import MeasureConfig
    from autoformer.profiling.measuring.verdict import OVER_BUDGET
    from autoformer.profiling.profiles.config import ProfileConfig
    from autoformer.profiling.tables.limit import finally_chosen
    from autoformer.profiling.tables.loop import LatencyQuestion, answer_latency
    from autoformer.search.audit import searchability

    out, result, measured, how = request.out, record.result, None, request.profile or ProfileConfig()
    if request.measure and how.rounds and table is not None and out is not None and stated.max_latency_ms is not None:
        question = LatencyQuestion(
            stated=stated,
            first=result.chosen.architecture,
            choose=record.config.choose,
            config=MeasureConfig.lasting(request.seconds or how.seconds),
            rounds=how.rounds,
            finalists=how.finalists,
        )
        with progress_bar(request.quiet) as progress:
            measured = answer_latency(stored, table, question, out, progress=progress)
    final = result if out is None else finally_chosen(result, out)
    known = None if measured is None or measured.chosen is None else measured.chosen.timing.measured_ms
    cost = final.chosen.cost if known is None else replace(final.chosen.cost, latency_ms=known)
    used = stated.use_of(cost)
    if request.json:
        found = {**record.to_dict(), "limits_used": used}
        print_json(found if measured is None else {**found, "latency_answer": measured.to_dict()})
    else:
        print_result(final, title, stated)
        if (order := searchability(result)) is not None:
            say(f"search: {order}")
        if used:
            say(f"the choice uses {', '.join(used_words(used, predicted=known is None))}")
        if measured is not None:
            print_answer(measured)
    if measured is not None and measured.status == OVER_BUDGET:
        raise typer.Exit(1)
    return measured


def searched_words(result: SearchResult) -> str:
    """How many architectures were evaluated, on how many images."""
    images = result.images
    words = f"{len(result.candidates)} architectures on up to {images['search']} search images"
    if cut := 1 - images["evaluated"] / (len(result.candidates) * images["search"]):
        words += f", {100 * cut:.0f} % of them cut by halving"
    asked = images["evaluated"] + images["confirming"]
    words += f", {100 * images['reused'] / asked:.0f} % known from earlier searches" if images["reused"] else ""
    return f"{words}; scored again on {images['confirmation']} held-out images"


def used_words(used: Mapping[str, float], *, predicted: bool) -> Iterator[str]:
    """How much of each limit a network uses; whether a latency is predicted stands beside it."""
    from autoformer.cost import use_words

    for limit, share in used.items():
        yield use_words(limit, share) + (" (predicted)" if predicted and limit == "max_latency_ms" else "")


def print_space(table: SpaceTable, budget: Budget) -> None:
    """The space before a search, a row per cost."""
    from autoformer.cli.console import print_table, say
    from autoformer.cost import show

    names = {"params": "params", "flops": "FLOPs", "latency_ms": "latency"}
    rows = []
    for measure, spread in table.costs.items():
        sizes = [show(measure, value) for value in (spread.smallest, spread.median, spread.largest)]
        low, high = getattr(budget, f"min_{measure}", None), getattr(budget, f"max_{measure}")
        limits = [f"{sign} {show(measure, limit)}" for sign, limit in (("≥", low), ("≤", high)) if limit is not None]
        rows.append((names[measure], *sizes, " ".join(limits)))
    say(str(table))
    print_table("costs of its networks (FLOPs are multiply-adds)", ("", "smallest", "median", "largest", "searched with"), rows)


def print_result(result: SearchResult, title: str, budget: Budget) -> None:
    """The chosen and the best network, and the baselines, each with whether the chosen one differs from it.

    Beside the score that decided stands the one on the held-out images, where a network was a finalist.
    """
    from autoformer.cli.console import print_table
    from autoformer.cost import show
    from autoformer.metric import WORDS
    from autoformer.search.result import BASELINES

    compared = {"chosen": result.chosen, "best": result.best}
    compared |= {BASELINES.get(name, name): candidate for name, candidate in result.baselines.items()}
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
        held_out = str(result.held_out_scores.get(candidate.number, "not scored"))
        row = (str(candidate.score), held_out, verdict, show("params", cost.params), show("flops", cost.flops), latency)
        rows.append((name, *row, str(candidate.architecture)))
    print_table(
        f"{title}; {len(result.tied)} not significantly different from the best; budget {budget}",
        ("", WORDS[result.metric], "on held-out images", "against chosen", "params", "FLOPs", "latency", "architecture"),
        rows,
    )


def print_answer(answer: LatencyAnswer) -> None:
    """The answer in one line, then what was measured, a row per network."""
    from autoformer.cli.console import print_table, say

    say(str(answer))
    rows = []
    for number, taken in enumerate(answer.rounds, 1):
        for network in taken.networks:
            timing = network.timing
            interval = "too few runs" if timing.low_ms is None else f"{timing.low_ms:.4g} to {timing.high_ms:.4g}"
            asked = ["asked first"] if taken is answer.rounds[0] and network is taken.chosen else []
            marks = ", ".join([*asked, "taken"] if network is answer.chosen else asked)
            score, predicted, measured = network.score, f"{network.predicted_ms:.4g}", f"{timing.measured_ms:.4g}"
            rows.append(
                (
                    str(number), network.architecture.slug, score.rounded, predicted, measured, interval,
                    f"{100 * network.error:+.1f} %", timing.verdict.level, timing.status(answer.limit_ms),
                    f"{100 * timing.measured_ms / answer.limit_ms:.0f} %", marks,
                )
            )  # fmt: skip
    if rows:
        columns = (
            "round", "network", answer.rounds[0].chosen.score.words, "predicted ms", "measured ms", "95 % interval", "error",
            "verdict", f"at most {answer.limit_ms:.4g} ms", "of the limit", "",
        )  # fmt: skip
        print_table(f"measured here; the table is {answer.rounds[-1].model}", columns, rows)
        if answer.off_alike:
            say(answer.off_alike)
