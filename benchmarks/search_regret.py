"""What a search finds against the best there is: every method at equal images, the cheap baselines, halving.

    python benchmarks/search_regret_truth.py --data cifar10/ --seeds 0 1 2 3 --out benchmarks/results/search_regret
    python benchmarks/search_regret.py --truth benchmarks/results/search_regret --out benchmarks/results/search_regret.json

The first program scores all 1,008 networks of a space with the weights of several supernets, on search images and on truth images
that no search sees. The second replays searches from those tables: `search()` as it is, for every supernet, three budgets and 20
seeds. A method evaluates 50 networks, 5 % of the space, and its pick is made among those alone; baselines are judged alone too.
The same with successive halving, which sees the same number of networks on fewer images, or more networks on as many.
Regret is the truth's best accuracy inside the budget minus the pick's, in points. Finished searches lie in the folder `--rows`,
so the program can be stopped and started again. Writes a table (.md) and a figure (.svg) beside the JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from regret_report import figure, markdown
from search_regret_truth import SPACE, Truth

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.cost import Budget, ExactCosts, count_flops
from autoformer.drawing.budgeted import Candidates
from autoformer.files import json_digest, read_json, write_json
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.search.baselines import baselines, is_homogeneous
from autoformer.search.config import SearchConfig
from autoformer.search.database import Study
from autoformer.search.loop import search
from autoformer.search.result import conclude
from autoformer.search.rungs import balanced_order

SHARES = (0.2, 0.4, 0.6)  # of the way from the smallest to the largest network's FLOPs; what lies inside is in the table
SEEDS = 20
NAMES = ("supernet", "share", "arm", "seed")  # of a row; the rest are numbers

# 50 networks, each on all search images; none is held out, since the truth images are.
BASE = {
    "population": 10, "generations": 5, "parents": 5, "mutated": 5, "crossed": 5, "rungs": (1.0,), "confirmation": 0.0,
}  # fmt: skip
RUNGS = (0.0625, 0.25, 1.0)
# What each arm sets otherwise. That of equal images proposes 320 networks: 64 of a generation on 125 images, 16 on 500, 4 on all.
ARMS: dict[str, dict[str, Any]] = {
    "evolution": {"method": "evolution"},
    "pareto": {"method": "pareto"},
    "predictor": {"method": "predictor"},
    "random": {"method": "random"},
    "evolution, halving": {"method": "evolution", "rungs": RUNGS},
    "predictor, halving": {"method": "predictor", "rungs": RUNGS},
    "random, halving": {"method": "random", "rungs": RUNGS},
    "evolution, default rungs": {"method": "evolution", "rungs": None},
    "predictor, default rungs": {"method": "predictor", "rungs": None},
    "evolution, halving, equal images": {
        "method": "evolution", "rungs": RUNGS, "population": 64, "mutated": 32, "crossed": 32,
    },
}  # fmt: skip
HALVED = {  # against what each is held
    "evolution, halving": "evolution", "predictor, halving": "predictor", "random, halving": "random",
    "evolution, default rungs": "evolution", "predictor, default rungs": "predictor",
    "evolution, halving, equal images": "evolution",
}  # fmt: skip


def limit_of(share: float) -> float:
    """The budget in FLOPs."""
    least, most = count_flops(SPACE.smallest, SPACE), count_flops(SPACE.largest, SPACE)
    return least + share * (most - least)


class Table:
    """The search images of one supernet as `search` asks for them, and the truth about what it picks."""

    def __init__(self, truth: Truth, limit: float) -> None:
        self.truth = truth
        self.order = balanced_order(truth.search_labels)  # that `search_supernet` has its images in
        self.labels = truth.search_labels[self.order]
        self.row = {architecture: row for row, architecture in enumerate(truth.networks)}
        self.inside = [a for a in truth.networks if count_flops(a, SPACE) <= limit]
        self.best = max(self.accuracy(architecture) for architecture in self.inside)

    def predictions(self, architecture: Architecture, which: slice) -> NDArray[np.int64]:
        """Right where the network was; elsewhere the next class, since only right and wrong are kept."""
        right, labels = self.truth.search_right[self.row[architecture]][self.order[which]], self.labels[which]
        return np.where(right, labels, (labels + 1) % SPACE.num_classes)

    def seen(self, architecture: Architecture) -> float:
        """Accuracy on the search images."""
        return float(self.truth.search_right[self.row[architecture]].mean())

    def accuracy(self, architecture: Architecture) -> float:
        """On the truth images."""
        return float(self.truth.accuracy[self.row[architecture]])

    def regret(self, architecture: Architecture) -> float:
        """In points."""
        return 100 * (self.best - self.accuracy(architecture))


def searched(table: Table, candidates: Candidates, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """One search, and the regret of three picks: the best seen, the cheapest tied with it, the best with the baselines beside."""
    config = SearchConfig.model_validate({**BASE, **settings})
    asked: list[tuple[Architecture, int]] = []  # images, in the order they were asked for

    def evaluate(architecture: Architecture, which: slice) -> NDArray[np.int64]:
        found = table.predictions(architecture, which)
        asked.append((architecture, len(found)))
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = Study(None, "search")
    result = search(candidates, evaluate, table.labels, config, study, seed=seed)
    images = result.history[-1].images  # of the method; the baselines come after it
    known: Counter[Architecture] = Counter()
    for architecture, count in asked:
        if known.total() < images:
            known[architecture] += count
    assert known.total() == images
    own = [candidate for candidate in result.candidates if known[candidate.architecture] == len(table.labels)]
    limit = candidates.budget.max_flops
    assert limit is not None
    assert all(candidate.cost.flops <= limit for candidate in result.candidates)
    picks = {choose: conclude(own, table.labels, choose).chosen.architecture for choose in ("best", "cheapest")}  # type: ignore[arg-type]
    return {
        "networks": len(known), "images": images,
        **{name: table.regret(architecture) for name, architecture in picks.items()},
        **{f"{name} flops": count_flops(architecture, SPACE) / limit for name, architecture in picks.items()},
        "with baselines": table.regret(result.best.architecture),
    }  # fmt: skip


def compared(table: Table, candidates: Candidates, seed: int) -> dict[str, dict[str, Any]]:
    """What needs no method: the baselines, all of the budget evaluated, and one network drawn from it."""
    shapes = baselines(candidates, 4, seed)
    homogeneous = [architecture for architecture in shapes if is_homogeneous(architecture)]
    drawn, _ = candidates.draw(random.Random(f"{seed}/one"))
    picks = {
        "most expensive in the budget": (shapes[:1], shapes[0]),
        "homogeneous baseline": (homogeneous, max(homogeneous, key=table.seen)),
        "all inside": (table.inside, max(table.inside, key=table.seen)),
        "one drawn": ([], drawn),
    }
    images = len(table.truth.search_labels)
    return {
        name: {"networks": len(of), "images": len(of) * images, "best": table.regret(pick)} for name, (of, pick) in picks.items()
    }


def replay(truth: Truth, share: float, arm: str | None, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of one arm, or of everything that is no search, for one supernet and budget."""
    limit = limit_of(share)
    table, candidates = Table(truth, limit), Candidates(SPACE, ExactCosts(SPACE), Budget(max_flops=limit))
    rows = []
    for seed in seeds:
        found = compared(table, candidates, seed) if arm is None else {arm: searched(table, candidates, ARMS[arm], seed)}
        rows += [{"arm": name, "share": share, "seed": seed, **row} for name, row in found.items()]
    return rows


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows averaged over seeds: what is kept in the JSON. The others follow from the tables of truth, in minutes."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["supernet"], row["share"], row["arm"]), []).append(row)
    found = []
    for (supernet, share, arm), group in groups.items():
        numbers = {name: round(statistics.mean(row[name] for row in group), 4) for name in group[0] if name not in NAMES}
        found.append({"supernet": supernet, "share": share, "arm": arm, "seeds": len(group), **numbers})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, required=True, help="folder that search_regret_truth.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=Path("runs/search_regret/rows"), help="folder of finished searches")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    words = parser.parse_args()
    facts, rows = {}, []
    for path in sorted(words.truth.glob("supernet*.npz")):
        truth, facts[path.stem] = Truth.load(path), read_json(path.with_suffix(".json"))
        for share in SHARES:
            for arm in (None, *ARMS):
                how = json_digest({**BASE, **(ARMS[arm] if arm else {}), "seeds": words.seeds, "version": __version__})[:8]
                name = f"{path.stem}-{facts[path.stem]['weights_digest'][:8]}-{100 * share:g}-{arm or 'baselines'}-{how}"
                file = words.rows / f"{name.replace(' ', '_')}.json"
                if not file.exists():
                    began = time.perf_counter()
                    write_json({"rows": replay(truth, share, arm, range(words.seeds))}, file)
                    print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
                rows += [{"supernet": path.stem, **row} for row in json.loads(file.read_text())["rows"]]
    inside = {f"{share:g}": sum(count_flops(a, SPACE) <= limit_of(share) for a in truth.networks) for share in SHARES}
    record = {
        "command": "python benchmarks/search_regret.py --truth benchmarks/results/search_regret --out "
        "benchmarks/results/search_regret.json",
        "version": __version__, "device": DeviceFacts.collect().to_dict(), "networks": SPACE.size, "inside": inside,
        "settings": BASE, "arms": ARMS, "halved": HALVED, "supernets": facts, "rows": rows,
    }  # fmt: skip
    text = markdown(record)
    words.out.with_suffix(".md").write_text(text, encoding="utf-8")
    words.out.with_suffix(".svg").write_text(figure(record), encoding="utf-8")
    write_json({**record, "rows": means(rows)}, words.out)
    print(text)


if __name__ == "__main__":
    main()
