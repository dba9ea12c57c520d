"""Ten limits on latency over a table's range: is the network that a search chooses inside its limit when it is measured?

    python benchmarks/latency_budgets.py --data photos/ --out benchmarks/results/latency_budgets.json

Trains a small supernet for a few epochs (or takes `--supernet`; latency does not depend on the weights), measures one latency
table, searches every limit (with `--near 0.97` only networks that are predicted to use that share of it), and lets
`answer_latency` measure, correct and choose again; all at the table's machine speed, some of its own networks beside. Per limit:
what was predicted, the first measurement of the winner, whether that keeps the limit, the share of the limit it uses, and the
answer in the end; with `choose=best`, the default, and with `choose=cheapest`, the cheapest of the tied, beside it. Finished
steps stay in a work folder beside the output: the program can be stopped and started again.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from autoformer import __version__
from autoformer.cost import Budget
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts, Part
from autoformer.files import write_json
from autoformer.networks.folders import load_supernet
from autoformer.networks.supernet import Supernet
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.drift import ROUNDS
from autoformer.profiling.measuring.measure import MeasureConfig
from autoformer.profiling.measuring.verdict import WITHIN_BUDGET
from autoformer.profiling.tables.costs import TableCosts, within_margin
from autoformer.profiling.tables.limit import LatencyAnswer
from autoformer.profiling.tables.loop import LatencyQuestion, answer_latency, measure_networks
from autoformer.profiling.tables.measuring import TableConfig, measure_table
from autoformer.profiling.tables.table import LatencyTable
from autoformer.search.answer import StoredSearch
from autoformer.search.config import Goal, SearchConfig
from autoformer.search.loop import search_supernet
from autoformer.space import SearchSpace
from autoformer.training.config import SupernetConfig
from autoformer.training.runs import train_supernet

Choose = Literal["best", "cheapest"]


def space_for(parts: DataParts) -> SearchSpace:
    """A space whose latencies reach from a few tenths of a millisecond to a few milliseconds on a CPU core, at 32 px."""
    return SearchSpace(
        name="latency budgets", embed_dims=(64, 96, 128, 160), depths=(4, 5, 6, 7, 8), num_heads=(2, 3, 4),
        mlp_ratios=(2.0, 3.0, 4.0), head_dim=32, image_sizes=(parts.preprocessing.image_size,),
        patch_size=max(1, parts.preprocessing.image_size // 8), in_chans=parts.preprocessing.in_chans,
        num_classes=len(parts.classes), max_relative_position=7,
    )  # fmt: skip


def trained(work: Path, parts: DataParts, epochs: int) -> Supernet:
    """The supernet in `work`, trained there if it is not."""
    config = SupernetConfig(epochs=epochs, batch_size=64, learning_rate=1e-3, warmup_epochs=1, workers=0)
    return train_supernet(space_for(parts), parts, config, work / "supernet")


def near_the_limit(budget: Budget, share: float) -> Budget:
    """The budget with a lower limit on latency: this share of the upper one."""
    assert budget.max_latency_ms is not None
    return replace(budget, min_latency_ms=share * budget.max_latency_ms) if share else budget


def answered(
    folder: Path, table: LatencyTable, limit_ms: float, choose: Choose, config: MeasureConfig, finalists: int, graphs: Path
) -> LatencyAnswer:
    """The loop's answer to one limit, from a finished search."""
    stored, stated = StoredSearch(folder), Budget(max_latency_ms=limit_ms)
    first = stored.answer(within_margin(stated, table.margin), TableCosts(stored.space, table), choose).result.chosen
    out = folder / choose
    out.mkdir(exist_ok=True)
    question = LatencyQuestion(stated=stated, first=first.architecture, choose=choose, config=config, finalists=finalists)
    measurer = lambda wanted: measure_networks(table, wanted, config, folder=graphs)  # noqa: E731
    return answer_latency(stored, table, question, out, measurer=measurer)


def row(answer: LatencyAnswer) -> dict[str, Any]:
    """What one answer says of the first winner and of the last."""
    first, last = answer.rounds[0].chosen, answer.chosen
    assert last is not None
    found: dict[str, Any] = {"limit_ms": answer.limit_ms, "rounds": len(answer.rounds), "answer": answer.status}
    for name, network in (("first", first), ("last", last)):
        found[name] = {
            **network.to_dict(),
            "status": network.timing.status(answer.limit_ms),
            "slug": network.architecture.slug,
            "used": network.timing.measured_ms / answer.limit_ms,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="a folder of images, or digits")
    parser.add_argument("--supernet", type=Path, default=None, help="a trained one; its space is searched")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--budgets", type=int, default=10)
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--images", type=int, default=120, help="of the search part that candidates are scored on, at most")
    parser.add_argument(
        "--near", type=float, default=0.0, help="lower limit on the predicted latency as a share of the upper one; 0: none"
    )
    parser.add_argument("--networks", type=int, default=12, help="measured for the table")
    parser.add_argument("--seconds", type=float, default=1.5, help="of measuring per network")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write; the work folder stands beside it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = options.out.with_suffix(".work")
    parts = load_parts(DataConfig(source=options.data, image_size=None if options.data == "digits" else 32))
    step = max(1, len(parts.search) // options.images)
    images = Part(parts.search.name, parts.search.images, parts.search.indices[::step][: options.images])
    network = load_supernet(options.supernet) if options.supernet is not None else trained(work, parts, options.epochs)
    # The processor is warm from searching.
    config = MeasureConfig(min_s=options.seconds, max_s=4 * options.seconds, warmup_max_s=1.0)
    table_file, graphs = work / "table.json", work / "graphs"
    graphs.mkdir(parents=True, exist_ok=True)
    if not table_file.exists():
        timing = MeasureConfig(min_s=options.seconds, max_s=4 * options.seconds, rounds=ROUNDS)
        how = TableConfig(networks=options.networks, threads=1, config=timing, attempts=6)
        measure_table(network.space, how, folder=graphs).save(table_file)
    table, half = LatencyTable.load(table_file), options.population // 2
    print(table, flush=True)
    ends = [table.predict(end) for end in (network.space.smallest, network.space.largest)]
    search = SearchConfig(
        population=options.population, generations=options.generations, parents=max(2, half // 2), mutated=half,
        crossed=options.population - half, choose="best",
    )  # fmt: skip
    rows: dict[Choose, list[dict[str, Any]]] = {"best": [], "cheapest": []}
    finalists: dict[Choose, int] = {"best": 5, "cheapest": 1}
    for index in range(1, options.budgets + 1):
        limit = ends[0] + (ends[1] - ends[0]) * index / (options.budgets + 1)
        folder = work / f"limit-{index}"
        budget = near_the_limit(within_margin(Budget(max_latency_ms=limit), table.margin), options.near)
        goal = Goal(costs=TableCosts(network.space, table), budget=budget, latency_margin=table.margin)
        search_supernet(network, images, parts.preprocessing, goal, search, folder, memory=work / "evaluations.db")
        for choose, found in rows.items():
            found.append(row(answered(folder, table, limit, choose, config, finalists[choose], graphs)))
            show(choose, found[-1])
    summaries = {choose: summary(found) for choose, found in rows.items()}
    record = {
        "version": __version__,
        "device": DeviceFacts.collect().to_dict(),
        "images": {"source": "digits" if options.data == "digits" else "a folder", "search": len(images)},
        "near": options.near,
        "space": network.space.to_dict(),
        "search": search.model_dump(mode="json"),
        "table": {name: value for name, value in table.to_dict().items() if name not in ("space", "device")},
        "summary": summaries,
        "budgets": rows,
    }
    write_json(record, options.out)
    for choose, words in summaries.items():
        print(choose, words)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many were within budget at the first measurement and in the end, and the median share of the limit."""
    return {
        "met_at_first_measurement": sum(found["first"]["status"] == WITHIN_BUDGET for found in rows),
        "met_after_the_loop": sum(found["answer"] == WITHIN_BUDGET for found in rows),
        "budgets": len(rows),
        "median_used_at_first": statistics.median(found["first"]["used"] for found in rows),
        "median_used_after_the_loop": statistics.median(found["last"]["used"] for found in rows),
        "mean_absolute_error_at_first": statistics.mean(abs(found["first"]["error"]) for found in rows),
    }


def show(choose: str, found: dict[str, Any]) -> None:
    """One line of the table."""
    first, last = found["first"], found["last"]
    interval = f"[{first['low_ms']:.3f}, {first['high_ms']:.3f}]"
    print(
        f"{choose:<8} at most {found['limit_ms']:.3f} ms: predicted {first['predicted_ms']:.3f}, measured "
        f"{first['measured_ms']:.3f} {interval} at machine speed factor {first['pace']:.3f} "
        f"({first['verdict']['level']}), {first['status']}, "
        f"uses {first['used']:.1%}; in the end {found['answer']} with {last['used']:.1%} after {found['rounds']} round(s)",
        flush=True,
    )


if __name__ == "__main__":
    main()
