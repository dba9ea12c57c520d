"""What a cut of a pretrained network is worth after equal adaptation, at equal measured latency, and beside a hand-picked one.

    python benchmarks/parents.py pretrain --data tiny_imagenet_sub/ --work runs/parents
    python benchmarks/parents.py adapt --parent runs/parents/parent --size 64 --data caltech101_96/ flowers102_64/ \
        --work runs/parents [--arms new old …] [--limits 60% 40%] [--seeds 0 1 2] [--share I/N]
    python benchmarks/parents.py adapt --parent timm:vit_small_patch14_dinov2.lvd142m@FILE --size 98 …
    python benchmarks/parents.py beside --network timm:tf_efficientnet_lite0.in1k@FILE --sizes 96 160 224 --data … --work …
    python benchmarks/parents.py report --work runs/parents --out benchmarks/results/parents.json

`pretrain` trains a parent of about 0.09 GFLOPs at 64 px from nothing, and a smaller sibling with the same images and epochs.
`adapt` finetunes the parent on a data set (the parent of every arm), makes it a supernet in the way of the arm, trains that,
searches it inside shares of the parent's ONNX Runtime latency (one thread), measures the finalists, finetunes the chosen network,
and reads the test part once. The sibling arm takes the sibling instead, finetuned for as many epochs as supernet and finetune
have together; give its latency to `--limits` of `new` to compare. `beside` finetunes any network of timm for a picture of
accuracy against latency.

Arms, fixed before the first run; every one but `no teacher` is taught by the parent:
    old            weights ordered by themselves, widths and depths as choices (`space_around`), curriculum
    new            turned and ordered by 1,024 images, means left behind, parts that may be absent (`space_to_cut`), curriculum
    no teacher     new without the parent as teacher
    uniform        new without the curriculum
    relative       new with relative positions, whose tables begin as zeros
    sandwich       new with the sandwich rule, its smaller networks taught by the largest in place
    sibling        the smaller network, pretrained with the same images and epochs
Metric: test accuracy, points of an arm minus another's at one limit, over seeds (Student). Main line: new minus old.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sampling_strategies import interval

from autoformer import __version__
from autoformer.cli.chain.starting import network_for, without_head
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.export.graphs.onnx_graph import image_shape_of
from autoformer.files import TIMM, write_json
from autoformer.metric import score
from autoformer.networks.folders import load_subnet, save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.parsing import BudgetConfig, read_budget
from autoformer.pretrained.adapt import Wanted, adapt_subnet
from autoformer.pretrained.named_network import open_network
from autoformer.pretrained.start import start_from
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, device_name
from autoformer.profiling.race.timing import Timekeeper
from autoformer.profiling.tables.costs import TableCosts, searched_with
from autoformer.profiling.tables.loop import LatencyQuestion, answer_latency, measure_networks
from autoformer.profiling.tables.measuring import TableConfig, measure_table
from autoformer.profiling.tables.table import LatencyTable
from autoformer.search.answer import StoredSearch
from autoformer.search.config import Goal, SearchConfig
from autoformer.search.loop import search_supernet
from autoformer.space import SearchSpace
from autoformer.training.config import FinetuneConfig, SupernetConfig, TeacherConfig
from autoformer.training.runs import finetune, train_supernet

SIZE, EPOCHS, PARENT_EPOCHS, TUNE = 64, 20, 10, 12  # pixels of the pretraining; epochs of supernet, parent and last finetune
PRETRAIN_EPOCHS = 36
WIDTHS = {"parent": (192, 6), "sibling": (128, 4)}  # width and heads
SECONDS = 1.0  # of measuring per network
AUGMENT = {
    "crop": "random_resized", "crop_scale": (0.35, 1.0), "rotate_degrees": 0, "translate": 0, "scale": (1, 1), "flip": 0.5,
    "color_jitter": 0.3,
}  # fmt: skip
USUAL = {"batch_size": 64, "augment": AUGMENT, "evaluate_every": 1000, "save_minutes": 5, "label_smoothing": 0.1}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way from a parent to a network."""

    by_images: bool = True
    teacher: bool = True
    curriculum: float = 1 / 3
    relative_position: bool = False
    sandwich: bool = False

    @property
    def kind(self) -> str:
        """What decides the space, and so the latency table."""
        return f"{'cut' if self.by_images else 'around'}{'-relative' if self.relative_position else ''}"


ARMS = {
    "old": Arm(by_images=False), "new": Arm(), "no teacher": Arm(teacher=False), "uniform": Arm(curriculum=0.0),
    "relative": Arm(relative_position=True), "sandwich": Arm(sandwich=True, curriculum=0.0),
}  # fmt: skip
SIBLING = "sibling"


# --- pretraining -------------------------------------------------------------------------------------------------


def pretrain(given: argparse.Namespace) -> None:
    """Parent and sibling from nothing, each a folder of one network."""
    parts = load_parts(DataConfig(source=str(given.data[0]), image_size=SIZE))
    for name, (width, heads) in WIDTHS.items():
        if name not in given.networks:
            continue
        space = SearchSpace(
            name=name, embed_dims=(width,), depths=(12,), num_heads=(heads,), mlp_ratios=(4.0,), head_dim=32, image_sizes=(SIZE,),
            patch_size=16, num_classes=len(parts.classes), relative_position=False, pooling="token", norm_eps=1e-6,
        )  # fmt: skip
        config = SupernetConfig.model_validate(
            {
                **USUAL,
                "batch_size": 128,
                "epochs": given.epochs,
                "learning_rate": 1e-3,
                "warmup_epochs": 3,
                "drop_path_rate": 0.05,
            }
        )
        supernet = train_supernet(space, parts, config, given.work / f"{name}.supernet")
        network = Subnet.from_supernet(supernet, space.largest)
        if not (given.work / name).exists():
            save_subnet(
                network,
                given.work / name,
                preprocessing=parts.preprocessing,
                classes=parts.classes,
                record={"data": parts.record},
            )
        print(name, sum(weight.numel() for weight in network.parameters()), flush=True)


# --- adaptation --------------------------------------------------------------------------------------------------


class Bench:
    """One data set with its finetuned parent."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        self.name, self.work = folder.name, given.work / f"{folder.name}-{given.size}-{_short(given.parent)}"
        self.given, self.parent_words = given, given.parent
        self.parts = load_parts(DataConfig(source=str(folder), image_size=given.size, search_fraction=0.2))
        self.parent = self.finetuned(given.parent, "parent", PARENT_EPOCHS, rate=2e-4)

    def finetuned(self, words: str, name: str, epochs: int, *, rate: float, teacher: Path | None = None, seed: int = 0) -> Path:
        """The folder of a pretrained network, finetuned on this data set."""
        if words.startswith(TIMM):
            network, parts, _ = network_for(words, self.parts, seed)
        else:
            subnet, preprocessing, _ = load_subnet(Path(words))
            network = without_head(adapt_subnet(subnet, Wanted.by(self.parts), preprocessing.normalisation))
            parts = self.parts
        finetune(network, parts, self.tuning(epochs, rate, teacher), self.work / name, seed=seed)
        return self.work / name

    def tuning(self, epochs: int, rate: float, teacher: Path | None) -> FinetuneConfig:
        taught = None if teacher is None else TeacherConfig(network=str(teacher))
        return FinetuneConfig.model_validate(
            {**USUAL, "batch_size": 32, "epochs": epochs, "learning_rate": rate, "warmup_epochs": 1, "teacher": taught}
        )

    def space(self, arm: Arm) -> SearchSpace:
        """The space of an arm, from the finetuned parent."""
        start = start_from(
            str(self.parent), Wanted.by(self.parts), relative_position=arm.relative_position, to_cut=arm.by_images
        )  # fmt: skip
        return replace(start.space, name=arm.kind)

    def table(self, arm: Arm) -> LatencyTable:
        """The latency table of an arm's space, measured once, on an idle machine one hopes."""
        place = self.work / f"{arm.kind}.table.json"
        if not place.exists():
            place.with_suffix(".work").mkdir(parents=True, exist_ok=True)
            config = TableConfig(networks=16, config=MeasureConfig.lasting(SECONDS))
            measure_table(self.space(arm), config, folder=place.with_suffix(".work")).save(place)
        return LatencyTable.load(place)

    def limit(self, words: str) -> Budget:
        """A share of the latency of the parent, the largest network of spaces without relative positions; or milliseconds."""
        table = self.table(ARMS["new"])
        return read_budget(table.space, TableCosts(table.space, table), BudgetConfig(max_latency=words))

    def run(self, name: str, words: str, seed: int) -> dict[str, Any]:
        """What an arm delivers inside a limit."""
        began, arm = time.perf_counter(), ARMS[name]
        table, limit = self.table(arm), self.limit(words)
        costs, place = TableCosts(table.space, table), self.work / name.replace(" ", "-") / str(seed)
        subnets = {"strategy": "sandwich", "distill": True} if arm.sandwich else {"curriculum": arm.curriculum}
        epochs = max(1, EPOCHS // 4) if arm.sandwich else EPOCHS  # four networks a step: equal images × networks
        config = SupernetConfig.model_validate(
            {
                **USUAL, "batch_size": 32, "epochs": epochs, "learning_rate": 2e-4, "warmup_epochs": 1, "subnets": subnets,
                "cut_images": 1024 if arm.by_images else 0, "start": str(self.parent),
                "teacher": {"network": str(self.parent)} if arm.teacher else None,
            }
        )  # fmt: skip
        start = start_from(str(self.parent), Wanted.by(self.parts), space=table.space)
        supernet = train_supernet(table.space, self.parts, config, place / "supernet", start=start, seed=seed)
        goal = Goal(costs=costs, budget=searched_with(limit, table.space, costs), seed=seed, latency_margin=table.margin)
        found = place / words.strip("%").replace(".", "-")
        searching = SearchConfig(population=24, generations=5, parents=8, mutated=12, crossed=12, choose="best")
        result = search_supernet(supernet, self.parts.search, self.parts.preprocessing, goal, searching, found / "search")
        ask = LatencyQuestion(
            stated=limit, first=result.chosen.architecture, choose="best", config=MeasureConfig.lasting(SECONDS), finalists=3
        )  # fmt: skip
        graphs = self.work / f"{arm.kind}.table.work"
        measurer = partial(measure_networks, table, config=ask.config, folder=graphs)
        answer = answer_latency(StoredSearch(found / "search"), table, ask, found / "search", measurer=measurer)
        network = Subnet.from_supernet(supernet, answer.architecture)
        inherited = self.scored(network, f"{name} {words} {seed} inherited")
        finetune(network, self.parts, self.tuning(TUNE, 2e-4, self.parent if arm.teacher else None), found / "network", seed=seed)
        measured = None if answer.chosen is None else answer.chosen.timing.measured_ms
        return {
            "architecture": str(answer.architecture), "measured_ms": measured, "limit_ms": limit.max_latency_ms,
            "inherited": inherited, "test": self.scored(open_network(str(found / "network")).network, f"{name} {words} {seed}"),
            "folder": str(found / "network"), "seconds": time.perf_counter() - began,
        }  # fmt: skip

    def run_sibling(self, seed: int) -> dict[str, Any]:
        """The sibling finetuned for as many epochs as an arm's supernet and network have together, with the same teacher."""
        began = time.perf_counter()
        folder = self.finetuned(
            self.given.sibling, f"{SIBLING}-{seed}", EPOCHS + TUNE, rate=2e-4, teacher=self.parent, seed=seed
        )  # fmt: skip
        return {
            "folder": str(folder), "measured_ms": self.latencies({"sibling": folder})["sibling"],
            "test": self.scored(open_network(str(folder)).network, f"sibling {seed}"), "seconds": time.perf_counter() - began,
        }  # fmt: skip

    def scored(self, network: Any, reader: str) -> float:
        """Test accuracy."""
        test = EvaluationSet.of(self.parts.test.read(reader), self.parts.preprocessing)
        return score(predictions(predict_with(network.eval()), test, batch_size=64), test.labels).value

    def latencies(self, folders: dict[str, Path]) -> dict[str, float]:
        """Milliseconds of networks in common rounds, in those of the table."""
        return latencies_of(folders, self.work / "timed", self.table(ARMS["new"]))


def latencies_of(folders: dict[str, Path], work: Path, table: LatencyTable | None = None) -> dict[str, float]:
    """Milliseconds of networks, ONNX Runtime with one thread, in common rounds."""
    work.mkdir(parents=True, exist_ok=True)
    device = device_name(DeviceFacts.collect(), "onnxruntime-cpu", 1)
    meaning = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device=device)
    keeper = Timekeeper(meaning=meaning, config=MeasureConfig.lasting(SECONDS), folder=work, table=table)
    ready = {}
    for name, folder in folders.items():
        named = open_network(str(folder))
        ready[name] = keeper.of_network(name, named.network, image_shape_of(named.network))
    return {name: timing.measured_ms for name, timing in keeper.together(ready).items()}


def adapt(given: argparse.Namespace) -> None:
    tasks = [(folder, seed, name) for seed in given.seeds for folder in given.data for name in given.arms]
    index, count = map(int, given.share.split("/"))
    benches: dict[Path, Bench] = {}
    for folder, seed, name in tasks[index::count]:
        bench = benches.setdefault(folder, Bench(folder, given))
        for words in ("its own",) if name == SIBLING else given.limits:
            key = f"{bench.work.name}-{name}-{words.strip('%')}-{seed}".replace(" ", "-")
            path = given.work / "rows" / f"{key}.json"
            if path.exists():
                continue
            found = bench.run_sibling(seed) if name == SIBLING else bench.run(name, words, seed)
            row = {
                "data": folder.name,
                "size": given.size,
                "parent": _short(given.parent),
                "arm": name,
                "limit": words,
                "seed": seed,
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json({**row, **found}, path)
            print(json.dumps({"done": key, "test": found["test"], "ms": found["measured_ms"]}), flush=True)


def beside(given: argparse.Namespace) -> None:
    """Any network of timm finetuned on the data sets at several sizes: what one would take by hand."""
    for folder in given.data:
        for size in given.sizes:
            name = f"{folder.name}-{size}-{_short(given.network)}"
            path = given.work / "rows" / f"{name}.json"
            if path.exists():
                continue
            parts = load_parts(DataConfig(source=str(folder), image_size=size, search_fraction=0.2))
            network, own, _ = network_for(given.network, parts)
            config = FinetuneConfig.model_validate(
                {**USUAL, "batch_size": 32, "epochs": EPOCHS + TUNE, "learning_rate": 5e-4, "warmup_epochs": 1}
            )
            finetune(network, own, config, given.work / name)
            named = open_network(str(given.work / name))
            test = EvaluationSet.of(own.test.read(name), named.preprocessing)
            accuracy = score(predictions(predict_with(named.network.eval()), test, batch_size=64), test.labels).value
            path.parent.mkdir(parents=True, exist_ok=True)
            latency = latencies_of({name: given.work / name}, given.work / "timed")[name]
            row = {
                "data": folder.name,
                "size": size,
                "arm": "beside",
                "network": _short(given.network),
                "limit": "none",
                "seed": 0,
            }
            write_json({**row, "test": accuracy, "measured_ms": latency, "folder": str(given.work / name)}, path)


# --- the report --------------------------------------------------------------------------------------------------


def report(given: argparse.Namespace) -> None:
    rows = [json.loads(path.read_text()) for path in sorted((given.work / "rows").glob("*.json"))]
    summary: dict[str, Any] = {}
    for key in sorted({(row["data"], row["size"], row.get("parent", ""), row["limit"]) for row in rows}):
        own = [row for row in rows if (row["data"], row["size"], row.get("parent", ""), row["limit"]) == key]
        new = {row["seed"]: row["test"] for row in own if row["arm"] == "new"}
        arms: dict[str, Any] = {}
        for name in dict.fromkeys(row["arm"] for row in own):
            tests = {row["seed"]: row["test"] for row in own if row["arm"] == name}
            arms[name] = {"test": {seed: 100 * value for seed, value in tests.items()}}
            both = [100 * (new[seed] - value) for seed, value in tests.items() if seed in new]
            if name != "new" and len(both) > 1:
                arms[name]["new minus this"] = interval(both)
        summary[", ".join(map(str, key))] = arms
    write_json(
        {"version": __version__, "device": DeviceFacts.collect().to_dict(), "summary": summary, "rows": rows}, given.out
    )  # fmt: skip
    print(json.dumps(summary, indent=1))


def _short(words: str) -> str:
    """A parent's name without the path of its weights."""
    return words.partition("@")[0].removeprefix(TIMM) if words.startswith(TIMM) else Path(words).name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("pretrain")
    one.set_defaults(do=pretrain)
    one.add_argument("--networks", nargs="+", default=list(WIDTHS), choices=list(WIDTHS))
    one.add_argument("--epochs", type=int, default=PRETRAIN_EPOCHS)
    two = commands.add_parser("adapt")
    two.set_defaults(do=adapt)
    two.add_argument("--parent", required=True, help="folder of a network, or timm:NAME@FILE")
    two.add_argument("--sibling", default=None, help="folder of the smaller network, for the arm of that name")
    two.add_argument("--size", type=int, default=SIZE, help="pixels")
    two.add_argument("--arms", nargs="+", default=["new", "old"], choices=[*ARMS, SIBLING])
    two.add_argument("--limits", nargs="+", default=["60%", "40%"])
    two.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    two.add_argument("--share", default="0/1", help="I/N: every N-th data set, seed and arm from the I-th on")
    three = commands.add_parser("beside")
    three.set_defaults(do=beside)
    three.add_argument("--network", required=True)
    three.add_argument("--sizes", type=int, nargs="+", required=True)
    four = commands.add_parser("report")
    four.set_defaults(do=report)
    four.add_argument("--out", type=Path, required=True)
    for command in (one, two, three):
        command.add_argument("--data", type=Path, nargs="+", required=True)
    for command in (one, two, three, four):
        command.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.do(given)


if __name__ == "__main__":
    main()
