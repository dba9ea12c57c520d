"""Is what a race delivers better than what would have been delivered without it, and than anything that it raced?

    python benchmarks/race.py --data cifar10/ caltech101_96/ --seeds 0 1 2 --out benchmarks/results/race.json [--share I/N]

For each data set and seed: a supernet from nothing, a latency table (one per data set), a search under 50 % of the largest
network's ONNX Runtime latency (one thread), the latency loop, and a race, all as the product does them. Then every entrant is
finetuned to the end with the learning rate that its first rung found better, and reads the test part once: the truth.

Arms, fixed before the first run: `raced` (what the race delivers); `searched` (what the search alone would deliver: the best
inherited score whose latency was measured inside the limit, finetuned; with the race's better learning rate); `homogeneous` and
`rival` (of either kind the one with the best score on the images that decide, after its whole finetune). Metric: test accuracy in
points; differences paired by image, with the 95 % interval of one seed (Newcombe) and of the seeds (Student). Regret: the best
test accuracy of all entrants of a seed less that of the delivered one.

All of CIFAR-10's classes with 1,000 train images each (half of them the search part), all 10,000 test images; Caltech-101 as it
is, at 32 px.
A finished data set and seed is a row in a folder beside the output, so the program can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sampling_strategies import interval

from autoformer import __version__
from autoformer.cli.chain.entrants import Field, Networks
from autoformer.cli.chain.legs import Images, Legs, Question, leg_folder
from autoformer.cli.chain.race import run_race
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.files import write_json
from autoformer.metric import newcombe, score
from autoformer.parsing import BudgetConfig, read_budget
from autoformer.pretrained.named_network import open_network
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig
from autoformer.profiling.profiles.config import ProfileConfig
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.halving import Leg
from autoformer.profiling.race.record import RaceRecord
from autoformer.profiling.tables.costs import TableCosts, searched_with
from autoformer.profiling.tables.loop import LatencyQuestion, answer_latency
from autoformer.profiling.tables.measuring import TableConfig, measure_table
from autoformer.profiling.tables.table import LatencyTable
from autoformer.progress import Progress
from autoformer.search.answer import StoredSearch
from autoformer.search.config import Goal, SearchConfig
from autoformer.search.loop import search_supernet
from autoformer.space import SearchSpace
from autoformer.training.config import FinetuneConfig, SupernetConfig
from autoformer.training.runs import train_supernet
from autoformer.training.trainer import Surroundings

SIZE, LIMIT, PER_CLASS, SECONDS = 32, "50%", 1000, 1.0


@dataclass(frozen=True)
class Plan:
    """Epochs by data set; what fits into hours of one core."""

    supernet: int
    finetune: int
    search_fraction: float


PLANS = {"cifar10": Plan(20, 16, 0.5), "caltech101_96": Plan(40, 24, 0.4)}


def space(classes: int) -> SearchSpace:
    """4 × 4 patches, so that a core trains hundreds of images a second; its largest network takes as long as a small CNN."""
    return SearchSpace(
        name="race", embed_dims=(128, 160, 192, 224, 256), depths=(5, 6, 7, 8), num_heads=(4, 6, 8),
        mlp_ratios=(1.0, 2.0, 3.0, 4.0), head_dim=32, image_sizes=(SIZE,), patch_size=8, in_chans=3, num_classes=classes,
        max_relative_position=3,
    )  # fmt: skip


AUGMENT = {
    "crop": "padded", "rotate_degrees": 0, "translate": 0, "scale": (1, 1), "flip": 0.5, "color_jitter": 0.2,
}  # fmt: skip


def fewer(folder: Path, per_class: int, work: Path) -> Path:
    """A folder of the first `per_class` train images of each class, which are a random sample, and all test images."""
    small = work / f"{folder.name}-{per_class}"
    if not small.exists():
        beside = small.with_name(f"{small.name}.{os.getpid()}")
        for part, most in (("train", per_class), ("test", None)):
            for kind in sorted(path for path in (folder / part).iterdir() if path.is_dir()):
                (beside / part / kind.name).mkdir(parents=True)
                for path in sorted(kind.iterdir())[:most]:
                    os.link(path, beside / part / kind.name / path.name)
        try:
            beside.rename(small)
        except OSError:  # another process was faster
            if not small.exists():
                raise
            shutil.rmtree(beside)
    return small


def parts_of(folder: Path, plan: Plan, work: Path) -> DataParts:
    """The images; of CIFAR-10 1,000 of each class."""
    if folder.name == "cifar10":
        folder = fewer(folder, PER_CLASS, work)
    return load_parts(DataConfig(source=str(folder), image_size=SIZE, search_fraction=plan.search_fraction))


def table_of(of: SearchSpace, place: Path, progress: Progress) -> LatencyTable:
    """The latency table of a data set, measured once."""
    if not place.exists():
        work = place.with_suffix(".work")
        work.mkdir(parents=True, exist_ok=True)
        measure_table(of, TableConfig(networks=8, config=MeasureConfig.lasting(SECONDS)), folder=work, progress=progress).save(
            place
        )
    return LatencyTable.load(place)


def run(folder: Path, seed: int, work: Path, progress: Progress) -> dict[str, Any]:
    """One data set and seed, from the supernet to the truth."""
    plan, out = PLANS[folder.name], work / f"{folder.name}-{seed}"
    parts = parts_of(folder, plan, work)
    of = space(len(parts.classes))
    around, started = Surroundings(progress=progress), time.perf_counter()
    common = {"batch_size": 64, "augment": AUGMENT, "evaluate_every": 1000, "save_minutes": 5}
    supernet = train_supernet(
        of, parts,
        SupernetConfig.model_validate(
            {**common, "epochs": plan.supernet, "learning_rate": 1e-3, "warmup_epochs": 2, "init_std": 0.05}
        ),
        out / "supernet", seed=seed, around=around,
    )  # fmt: skip
    table = table_of(of, work / f"{folder.name}.table.json", progress)
    costs = TableCosts(of, table)
    stated = read_budget(of, costs, BudgetConfig(max_latency=LIMIT))
    goal = Goal(costs=costs, budget=searched_with(stated, of, costs), seed=seed, latency_margin=table.margin)
    config = SearchConfig(population=16, generations=4, parents=6, mutated=8, crossed=8, choose="best")
    result = search_supernet(supernet, parts.search, parts.preprocessing, goal, config, out / "search", progress=progress)
    ask = LatencyQuestion(
        stated=stated, first=result.chosen.architecture, choose="best", config=MeasureConfig.lasting(SECONDS), finalists=3
    )  # fmt: skip
    answer_latency(StoredSearch(out / "search"), table, ask, out / "search", progress=progress)
    question = Question(
        supernet=out / "supernet", search=out / "search", parts=parts, limits=stated, race=RaceConfig(),
        finetune=FinetuneConfig.model_validate(
            {**common, "epochs": plan.finetune, "learning_rate": 5e-4, "warmup_epochs": 1, "ema_decay": 0.99}
        ),
        profile=ProfileConfig(seconds=SECONDS), table=table, seed=seed,
    )  # fmt: skip
    record = run_race(question, out / "race", around, lambda line: print(f"{folder.name} {seed}: {line}", flush=True))
    seconds = time.perf_counter() - started
    rows = truth(question, record, out / "race", around)
    return {
        "data": folder.name, "seed": seed, "limit_ms": stated.max_latency_ms, "winner": record.winner,
        "runner_up": record.runner_up, "tied": record.tied, "cost": record.cost,
        "cost_seconds": record.extra_seconds / record.own_seconds,
        "agreement": None if record.agreement is None else str(record.agreement), "sentence": record.sentence(),
        "refused": {one.name: one.reason for one in record.refused}, "entrants": rows, "seconds_to_the_choice": seconds,
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


def truth(question: Question, record: RaceRecord, out: Path, around: Surroundings) -> list[dict[str, Any]]:
    """Every entrant after its whole finetune, on the test part."""
    images = Images.of(question.parts, StoredSearch(question.search).result)
    field = Field(entrants=tuple(one.entrant for one in record.entrants), refused=())
    networks = Networks(supernet=question.supernet, parts=question.parts, seed=question.seed)
    apart = out.with_name("truth")  # the race keeps no checkpoints: who did not finish there starts anew, with the same schedule
    legs = Legs(question=question, networks=networks, field=field, images=images, out=apart, around=around)
    found = []
    for one in record.entrants:
        rate = one.rate or 1.0
        leg = Leg(one.entrant.name, rate, record.schedule.epochs)
        place = out if one.last is not None and one.last.epochs == record.schedule.epochs else apart
        if place == apart and (failed := legs([leg])[leg].failed) is not None:
            found.append({"name": one.entrant.name, "kind": one.entrant.kind, "failed": failed})
            continue
        named = open_network(str(leg_folder(place, leg) / "network"))
        search = EvaluationSet.of(question.parts.search, named.preprocessing).chosen(images.order[: images.deciding])
        test = EvaluationSet.of(question.parts.test.read(one.entrant.name), named.preprocessing)
        predict = predict_with(named.network)
        predicted = predictions(predict, test)
        found.append(
            {
                "name": one.entrant.name, "kind": one.entrant.kind, "network": one.entrant.network,
                "image_size": one.entrant.image_size,
                "measured_ms": one.entrant.latency_ms, "params": one.entrant.params, "flops": one.entrant.flops, "rate": rate,
                "inherited": None if one.entrant.inherited is None else one.entrant.inherited.value,
                "raced": [(part.epochs, part.score and part.score.value) for part in one.curve()],
                "deciding": score(predictions(predict, search), search.labels).value,
                "test": score(predicted, test.labels).value,
                "right": np.packbits(predicted == test.labels).tobytes().hex(), "images": len(test.labels),
            }
        )  # fmt: skip
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The differences by data set: paired intervals of each seed, and the mean over seeds."""
    found: dict[str, Any] = {}
    for data in sorted({row["data"] for row in rows}):
        own = [row for row in rows if row["data"] == data]
        against: dict[str, list[dict[str, float]]] = {"searched": [], "homogeneous": [], "rival": []}
        regrets = []
        for row in own:
            entrants = {one["name"]: one for one in row["entrants"] if "failed" not in one}
            raced = entrants[row["winner"]]
            regrets.append(100 * (max(one["test"] for one in entrants.values()) - raced["test"]))
            for arm, members in (
                ("searched", [one for one in entrants.values() if one["name"] == "finalist-1"]),
                ("homogeneous", [one for one in entrants.values() if one["kind"] == "homogeneous"]),
                ("rival", [one for one in entrants.values() if one["kind"] == "rival"]),
            ):
                if members:
                    other = max(members, key=lambda one: one["deciding"])
                    value, low, high = newcombe(right(other), right(raced))
                    against[arm].append({"value": 100 * value, "low": 100 * low, "high": 100 * high, "seed": row["seed"]})
        found[data] = {
            "raced minus": {
                arm: {"seeds": each, **({"mean": interval([one["value"] for one in each])} if len(each) > 1 else {})}
                for arm, each in against.items()
            },
            "regret": {"seeds": regrets, "mean": sum(regrets) / len(regrets)},
        }
    return found


def right(entrant: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(entrant["right"]), np.uint8))
    return bits[: entrant["images"]].astype(bool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=None, help="folder of the runs; default: beside the output")
    parser.add_argument("--share", default="0/1", help="I/N: every N-th run from the I-th on")
    given = parser.parse_args()
    torch.set_num_threads(1)
    index, count = map(int, given.share.split("/"))
    rows_folder, work = given.out.with_suffix(".rows"), given.work or given.out.with_suffix(".work")
    rows_folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    tasks = [(folder, seed) for seed in given.seeds for folder in given.data]
    for folder, seed in tasks[index::count]:
        path = rows_folder / f"{folder.name}-{seed}.json"
        if not path.exists():
            write_json(run(folder, seed, work, lambda *_: None), path)
            print(json.dumps({"done": path.name}), flush=True)
    rows = [json.loads(path.read_text()) for path in sorted(rows_folder.glob("*.json"))]
    if rows:
        record = {
            "version": __version__,
            "device": DeviceFacts.collect().to_dict(),
            "plans": {k: vars(v) for k, v in PLANS.items()},
        }
        write_json({**record, "summary": summary(rows), "rows": rows}, given.out)
        print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
