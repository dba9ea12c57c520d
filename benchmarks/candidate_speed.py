"""How many architectures a second are made inside a budget that one in a thousand of the space keeps, costs included.

    python benchmarks/candidate_speed.py --spaces tiny small base edge --out benchmarks/results/candidate_speed.json

Per space four budgets (FLOPs from above, params from above, both FLOPs and params from both sides, and latency by a made-up table
that counts blocks and FLOPs) and three ways to make an architecture: drawn, mutated, crossed (of ten parents inside). Every one
counts until its params and FLOPs are known and inside.
Single-threaded; medians over rounds, all rounds in the file. `reject` is the plain way: uniform draws until one fits.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Any

from autoformer import __version__
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, Cost, CostModel, ExactCosts, count_flops
from autoformer.drawing.budgeted import Candidates, Draw
from autoformer.drawing.region import Region, Shapes
from autoformer.files import write_json
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.tables.costs import TableCosts
from autoformer.profiling.tables.design import designed_architectures
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import PRESETS, SearchSpace

SHARE = 1e-3


def upper_limit(space: SearchSpace, measure: str, share: float = SHARE) -> float:
    """The largest limit on "params" or "flops" that at most `share` of the space keeps."""
    shapes, costs = Shapes(space), ExactCosts(space)
    low, high = getattr(costs(space.smallest), measure), getattr(costs(space.largest), measure)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if Region(shapes, Budget(**{f"max_{measure}": middle})).share > share else (middle, high)
    return float(low)


def window(space: SearchSpace) -> Budget:
    """The narrowest limits from both sides around the middle of the space that at least a thousandth of it keeps."""
    shapes = Shapes(space)
    middle = {measure: upper_limit(space, measure, 0.5) for measure in ("params", "flops")}

    def limits(width: float) -> dict[str, float]:
        found = {f"max_{measure}": value * (1 + width) for measure, value in middle.items()}
        return found | {f"min_{measure}": value * (1 - width) for measure, value in middle.items()}

    low, high = 0.0, 0.9
    for _ in range(40):
        width = (low + high) / 2
        low, high = (low, width) if Region(shapes, Budget(**limits(width))).share >= SHARE else (width, high)
    return Budget(**limits(high))


def made_up_table(space: SearchSpace) -> TableCosts:
    """0.5 ms, 0.1 ms a block and 5 ms per GFLOP: nothing is measured, the speed of drawing does not depend on the numbers."""
    networks = designed_architectures(space, 12)
    measured = [(network, 0.5 + 0.1 * network.depth + 5 * count_flops(network, space) / 1e9) for network in networks]
    meaning = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="none", device="a formula")
    return TableCosts(space, LatencyTable.fit(space, meaning, measured, device=DeviceFacts.collect()))


def latency_limit(space: SearchSpace, costs: TableCosts) -> float:
    """The largest latency limit, to a part in a million, that at most `SHARE` of the space keeps."""
    shapes = Shapes(space)
    low, high = (costs(end).latency_ms or 0.0 for end in (space.smallest, space.largest))
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if Region(shapes, Budget(max_latency_ms=middle), costs).share > SHARE else (middle, high)
    return low


def rates(candidates: Candidates, propose: Draw | None, count: int, rounds: int) -> list[float]:
    """Architectures per second in each round."""
    found, rng = [], random.Random(0)
    candidates.draw(rng, propose)  # fills what is kept between draws
    for _ in range(rounds):
        started = time.perf_counter()
        made = [candidates.draw(rng, propose) for _ in range(count)]
        found.append(count / (time.perf_counter() - started))
        assert all(candidates.budget.allows(cost) for _, cost in made)
    return found


def rejection_rate(space: SearchSpace, costs: CostModel, budget: Budget, share: float, draws: int) -> float:
    """Architectures per second that drawing until one fits would find, from the time of a draw and the share that fits."""
    rng = random.Random(0)
    started = time.perf_counter()
    for _ in range(draws):
        cost: Cost = costs(space.sample(rng))
        budget.allows(cost)
    return share * draws / (time.perf_counter() - started)


def measure(name: str, count: int, rounds: int) -> list[dict[str, Any]]:
    """All rows of one space."""
    space, rows = PRESETS[name], []
    table = made_up_table(space)
    budgets = {
        "FLOPs from above": Budget(max_flops=upper_limit(space, "flops")),
        "params from above": Budget(max_params=upper_limit(space, "params")),
        "both from both sides": window(space),
        "latency by a table": Budget(max_latency_ms=latency_limit(space, table)),
    }
    for limits, budget in budgets.items():
        started = time.perf_counter()
        costs: CostModel = ExactCosts(space) if budget.max_latency_ms is None else table
        candidates = Candidates(space, costs, budget)
        preparation_s = time.perf_counter() - started
        rng = random.Random(1)
        parents = [candidates.draw(rng)[0] for _ in range(10)]

        def mutated(rng: random.Random, space: SearchSpace = space, parents: list[Any] = parents) -> Any:
            return space.mutate(rng.choice(parents), rng)

        def crossed(rng: random.Random, space: SearchSpace = space, parents: list[Any] = parents) -> Any:
            return space.crossover(rng.choice(parents), rng.choice(parents), rng)

        ways: dict[str, Draw | None] = {"drawn": None, "mutated": mutated, "crossed": crossed}
        row: dict[str, Any] = {
            "space": name, "limits": limits, "budget": budget.to_dict(), "share_of_space": candidates.region.share,
            "preparation_s": preparation_s, "reject_per_s": rejection_rate(space, costs, budget, candidates.region.share, count),
        }  # fmt: skip
        for way, propose in ways.items():
            samples = rates(candidates, propose, count, rounds)
            row[way] = {"per_s": statistics.median(samples), "samples_per_s": samples}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["tiny", "small", "base", "edge"])
    parser.add_argument("--count", type=int, default=2000, help="architectures in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the rows")
    options = parser.parse_args()
    rows = [row for name in options.spaces for row in measure(name, options.count, options.rounds)]
    print("architectures a second inside the budget (medians)")
    for row in rows:
        print(
            f"{row['space']:<6} {row['limits']:<21} share {row['share_of_space']:.2e}  drawn {row['drawn']['per_s']:8.0f}  "
            f"mutated {row['mutated']['per_s']:8.0f}  crossed {row['crossed']['per_s']:8.0f}  reject {row['reject_per_s']:6.0f}  "
            f"once {1e3 * row['preparation_s']:.0f} ms"
        )
    if options.out is not None:
        facts = {"version": __version__, "device": DeviceFacts.collect().to_dict(), "threads": 1}
        write_json({**facts, "count": options.count, "rounds": options.rounds, "rows": rows}, options.out)


if __name__ == "__main__":
    main()
