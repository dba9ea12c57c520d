"""What a convolutional stem, kernels in the MLPs, a halved grid and several patch sizes are worth at equal measured latency.

    python benchmarks/tokens_and_stem.py --data cifar10/ cifar100/ --seeds 0 1 2 --out benchmarks/results/tokens_and_stem.json
        [--spaces plain all …] [--limits 30% 60% 100%] [--images 10000] [--share I/N] [--together]

For each data set, seed and space: a supernet from nothing (equal images × networks), and for each limit a search, the latency
loop and a race among its finalists, homogeneous networks and the most expensive one (equal epochs), all as the product does
them; what the race delivers reads the test part once. Limits are shares of the ONNX Runtime latency (one thread) of the largest
`plain` network, so that all spaces answer the same milliseconds. `plain+rivals` is the plain space with the default rivals
(small CNNs and hybrids, same training) in its race.

Trainings are short (12 epochs of the supernet, 8 of a network that inherits from it) so that all arms and seeds fit into hours
on two cores; every arm gets the same. Processes that share the work (`--share`) disturb one another's measurements: entrants
are held against the limit through networks of the table that run in the same rounds, and in the end, on an idle machine,
`--together` measures all that was delivered for one data set in common rounds.

Arms, fixed before the first run (the channels of the stem by a trial on train images alone): `plain` (what there was before),
`stem`, `kernels`, `pool`, `patches` (one choice added each), `all` (all four, without class token). Metric: test accuracy in
points of an arm minus `plain`, per limit, paired by image for one seed (Newcombe) and over seeds (Student). `compact` came later,
from single networks on train images, after one row of `all` (CIFAR-10, seed 0, 30 %) had shown half a point: a stem, a kernel
and a halving in every network, few choices, more width.

A finished data set, seed, space and limit is a row in a folder beside the output: the program can be stopped and started again.
Rows of an output that exists are taken over, so that it goes on where another machine stopped; a data set's seed belongs onto one
machine, since its arms are compared. `--together` measures what lies here.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from race import AUGMENT, SECONDS, fewer, right
from sampling_strategies import interval

from autoformer import __version__
from autoformer.cli.chain.legs import Question, leg_folder
from autoformer.cli.chain.race import run_race
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.export.graphs.onnx_graph import image_shape_of
from autoformer.files import write_json
from autoformer.metric import newcombe, score
from autoformer.parsing import BudgetConfig, read_budget
from autoformer.pretrained.named_network import open_network
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, device_name
from autoformer.profiling.profiles.config import ProfileConfig
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.halving import Leg
from autoformer.profiling.race.record import RaceRecord
from autoformer.profiling.race.timing import Timekeeper
from autoformer.profiling.tables.costs import TableCosts, searched_with
from autoformer.profiling.tables.loop import LatencyQuestion, answer_latency, measure_networks
from autoformer.profiling.tables.measuring import TableConfig, measure_table
from autoformer.profiling.tables.table import LatencyTable
from autoformer.progress import Progress, silent
from autoformer.search.answer import StoredSearch
from autoformer.search.config import Goal, SearchConfig
from autoformer.search.loop import search_supernet
from autoformer.space import SearchSpace
from autoformer.training.config import FinetuneConfig, SupernetConfig
from autoformer.training.runs import train_supernet
from autoformer.training.trainer import Surroundings

EPOCHS, FINETUNE = 12, 8
WITH_RIVALS = "plain+rivals"
ADDED: dict[str, dict[str, Any]] = {
    "plain": {},
    "stem": {"stem": "conv", "stem_dim": 64, "stem_depths": (0, 1)},
    "kernels": {"mlp_kernels": (0, 3, 5)},
    "pool": {"pool_after": (0, 1, 2)},
    "patches": {"patch_sizes": (4, 8)},
}
COMPACT: dict[str, Any] = {
    "stem": "conv", "stem_dim": 64, "stem_depths": (1,), "mlp_kernels": (3,), "pool_after": (1, 2), "class_token": False,
    "embed_dims": (48, 64, 96, 128, 160), "num_heads": (1, 2, 3, 4),
}  # fmt: skip
ADDED["all"] = {name: value for added in ADDED.values() for name, value in added.items()} | {"class_token": False}
ADDED["compact"] = COMPACT


def space_of(name: str, classes: int, size: int) -> SearchSpace:
    """The plain space of small networks, in a grid of 8 × 8 patches, with what the arm adds to it."""
    plain = SearchSpace(
        name=name, embed_dims=(48, 64, 80, 96), depths=(3, 4, 5, 6), num_heads=(1, 2, 3), mlp_ratios=(1.0, 2.0, 3.0), head_dim=32,
        image_sizes=(size,), patch_size=size // 8, in_chans=3, num_classes=classes, max_relative_position=7,
    )  # fmt: skip
    added = dict(ADDED[name.removesuffix("+rivals")])
    if "patch_sizes" in added:
        added["patch_sizes"] = (size // 8, size // 4)
    return replace(plain, **added)


def parts_of(folder: Path, images: int, size: int, work: Path) -> DataParts:
    """The images, `images` of the train part at most, as many of each class."""
    classes = sum(path.is_dir() for path in (folder / "train").iterdir())
    small = fewer(folder, max(1, images // classes), work)
    return load_parts(DataConfig(source=str(small), image_size=size, search_fraction=0.2))


def table_of(space: SearchSpace, place: Path, progress: Progress) -> LatencyTable:
    """The latency table of a space, measured once; more networks where more is chosen."""
    if not place.exists():
        work = place.with_suffix(".work")
        work.mkdir(parents=True, exist_ok=True)
        config = TableConfig(networks=12 if space.is_plain else 20, config=MeasureConfig.lasting(SECONDS))
        measure_table(space, config, folder=work, progress=progress).save(place)
    return LatencyTable.load(place)


def limits_of(words: list[str], classes: int, size: int, work: Path, progress: Progress) -> dict[str, Budget]:
    """Each limit in milliseconds: a share of the largest plain network's latency."""
    plain = space_of("plain", classes, size)
    costs = TableCosts(plain, table_of(plain, work / f"plain-{classes}-{size}.table.json", progress))
    return {share: read_budget(plain, costs, BudgetConfig(max_latency=share)) for share in words}


class Arm:
    """One space on one data set and seed."""

    def __init__(self, name: str, parts: DataParts, seed: int, out: Path, graphs: Path) -> None:
        self.name, self.parts, self.seed, self.out, self.graphs = name, parts, seed, out, graphs
        self.progress: Progress = silent
        self.space = space_of(name, len(parts.classes), parts.preprocessing.image_size)
        self.around = Surroundings(progress=self.progress)
        self.common = {"batch_size": 64, "augment": AUGMENT, "evaluate_every": 1000, "save_minutes": 5}

    def supernet(self) -> Any:
        """The supernet, trained once for all limits; with rivals it is the plain one."""
        config = {**self.common, "epochs": EPOCHS, "learning_rate": 1e-3, "warmup_epochs": 2, "init_std": 0.05}
        folder = self.out / self.name.removesuffix("+rivals") / "supernet"
        space = replace(self.space, name=self.name.removesuffix("+rivals"))
        return train_supernet(
            space, self.parts, SupernetConfig.model_validate(config), folder, seed=self.seed, around=self.around
        ), folder  # fmt: skip

    def answer(self, share: str, limit: Budget, table: LatencyTable) -> dict[str, Any]:
        """What the space's race delivers inside a limit."""
        supernet, folder = self.supernet()
        started, costs = time.perf_counter(), TableCosts(table.space, table)
        place = self.out / self.name / share.strip("%")
        goal = Goal(
            costs=costs, budget=searched_with(limit, table.space, costs), seed=self.seed, latency_margin=table.margin
        )  # fmt: skip
        config = SearchConfig(population=16, generations=4, parents=6, mutated=8, crossed=8, choose="best")
        progress = self.progress
        result = search_supernet(
            supernet, self.parts.search, self.parts.preprocessing, goal, config, place / "search", progress=progress
        )  # fmt: skip
        ask = LatencyQuestion(
            stated=limit, first=result.chosen.architecture, choose="best", config=MeasureConfig.lasting(SECONDS), finalists=3
        )  # fmt: skip
        measurer = partial(measure_networks, table, config=ask.config, folder=self.graphs, progress=progress)
        answer_latency(StoredSearch(place / "search"), table, ask, place / "search", measurer=measurer)
        finetune = {**self.common, "epochs": FINETUNE, "learning_rate": 5e-4, "warmup_epochs": 1, "ema_decay": 0.99}
        rivals = None if self.name == WITH_RIVALS else ()
        question = Question(
            supernet=folder, search=place / "search", parts=self.parts, limits=limit, race=RaceConfig(rivals=rivals),
            finetune=FinetuneConfig.model_validate(finetune), profile=ProfileConfig(seconds=SECONDS), table=table, seed=self.seed,
            graphs=self.graphs,
        )  # fmt: skip
        record = run_race(question, place / "race", self.around, lambda line: print(f"{self.name} {share}: {line}", flush=True))
        return {**self.delivered(record, place / "race"), "seconds": time.perf_counter() - started}

    def delivered(self, record: RaceRecord, out: Path) -> dict[str, Any]:
        """The winner on the test part."""
        leg = Leg(record.winner, record.delivered.rate or 1.0, record.schedule.epochs)
        named = open_network(str(leg_folder(out, leg) / "network"))
        test = EvaluationSet.of(self.parts.test.read(record.winner), named.preprocessing)
        predicted = predictions(predict_with(named.network), test)
        one = record.delivered.entrant
        return {
            "folder": str(leg_folder(out, leg) / "network"), "winner": record.winner, "kind": one.kind,
            "network": one.network, "image_size": one.image_size,
            "architecture": None if one.architecture is None else str(one.architecture), "measured_ms": one.latency_ms,
            "params": one.params, "flops": one.flops, "test": score(predicted, test.labels).value,
            "right": np.packbits(predicted == test.labels).tobytes().hex(), "images": len(test.labels),
        }  # fmt: skip


def together(rows: list[dict[str, Any]], work: Path) -> dict[str, float]:
    """Milliseconds of all that was delivered for a data set, by the row's name: ONNX Runtime, one thread, common rounds."""
    device = device_name(DeviceFacts.collect(), "onnxruntime-cpu", 1)
    meaning = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device=device)
    work.mkdir(parents=True, exist_ok=True)
    keeper = Timekeeper(meaning=meaning, config=MeasureConfig.lasting(SECONDS), folder=work)
    ready = {}
    for row in rows:
        named = open_network(row["folder"])
        ready[name_of(row)] = keeper.of_network(name_of(row), named.network, image_shape_of(named.network))
    return {name: timing.measured_ms for name, timing in keeper.together(ready).items()}


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """All rows, sorted by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def name_of(row: dict[str, Any]) -> str:
    """The name of a row's file."""
    share = row["limit"].strip("%")
    return "-".join(map(str, (row["data"], row["train_images"], row["size"], row["seed"], row["space"], share)))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By data set, images and limit: every arm's accuracy, and its difference to `plain`, paired by image and over seeds."""
    found: dict[str, Any] = {}
    for data, images, share in sorted({(row["data"], row["train_images"], row["limit"]) for row in rows}):
        own = [row for row in rows if (row["data"], row["train_images"], row["limit"]) == (data, images, share)]
        plain = {row["seed"]: row for row in own if row["space"] == "plain"}
        arms: dict[str, Any] = {}
        for name in dict.fromkeys(row["space"] for row in own):
            arm = [row for row in own if row["space"] == name]
            against = []
            for row in arm:
                if name != "plain" and row["seed"] in plain:
                    value, low, high = newcombe(right(plain[row["seed"]]), right(row))
                    against.append({"seed": row["seed"], "value": 100 * value, "low": 100 * low, "high": 100 * high})
            arms[name] = {
                "test": {row["seed"]: 100 * row["test"] for row in arm},
                "measured_ms": {row["seed"]: row.get("together_ms", row["measured_ms"]) for row in arm},
                "minus plain": against,
            }
            if len(against) > 1:
                arms[name]["mean minus plain"] = interval([each["value"] for each in against])
        found[f"{data}, {images} images, {share}"] = arms
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--spaces", nargs="+", default=["plain", "all"], choices=[*ADDED, WITH_RIVALS])
    parser.add_argument("--limits", nargs="+", default=["30%", "60%", "100%"])
    parser.add_argument("--images", type=int, default=10_000, help="of the train part")
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=None, help="folder of the runs; default: beside the output")
    parser.add_argument("--together", action="store_true", help="measure what was delivered in common rounds, and train nothing")
    parser.add_argument("--share", default="0/1", help="I/N: every N-th data set, seed and space from the I-th on")
    given = parser.parse_args()
    torch.set_num_threads(1)
    index, count = map(int, given.share.split("/"))
    rows_folder, work = given.out.with_suffix(".rows"), given.work or given.out.with_suffix(".work")
    rows_folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    for row in json.loads(given.out.read_text())["rows"] if given.out.exists() else ():
        if not (path := rows_folder / f"{name_of(row)}.json").exists():
            write_json(row, path)
    tasks = [(folder, seed, name) for seed in given.seeds for folder in given.data for name in given.spaces]
    for folder, seed, name in () if given.together else tasks[index::count]:
        parts = parts_of(folder, given.images, given.size, work)
        classes, place = len(parts.classes), work / f"{folder.name}-{given.images}-{given.size}-{seed}"
        known = f"{name.removesuffix('+rivals')}-{classes}-{given.size}"
        arm = Arm(name, parts, seed, place, work / f"{known}.table.work")  # where the table's networks are exported already
        table = table_of(
            replace(arm.space, name=name.removesuffix("+rivals")), work / f"{known}.table.json", arm.progress
        )  # fmt: skip
        for share, limit in limits_of(given.limits, classes, given.size, work, arm.progress).items():
            row: dict[str, Any] = {
                "data": folder.name, "train_images": given.images, "size": given.size, "seed": seed, "space": name,
                "limit": share, "limit_ms": limit.max_latency_ms,
            }  # fmt: skip
            path = rows_folder / f"{name_of(row)}.json"
            if not path.exists():
                row |= arm.answer(share, limit, table)
                write_json(row, path)
                print(json.dumps({"done": path.name, "test": row["test"], "ms": row["measured_ms"]}), flush=True)
    here = [row for row in rows_in(rows_folder) if Path(row["folder"]).exists()] if given.together else []
    for data in sorted({row["data"] for row in here}):
        own = {name_of(row): row for row in here if row["data"] == data}
        for name, latency in together(list(own.values()), work / f"together-{data}").items():
            write_json({**own[name], "together_ms": latency}, rows_folder / f"{name}.json")
    rows = rows_in(rows_folder)
    if rows:
        record = {"version": __version__, "device": DeviceFacts.collect().to_dict(), "epochs": [EPOCHS, FINETUNE]}
        write_json(
            {**record, "spaces": {name: repr(ADDED[name]) for name in ADDED}, "summary": summary(rows), "rows": rows}, given.out
        )
        print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
