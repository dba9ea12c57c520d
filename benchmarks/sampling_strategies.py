"""Which networks a step should train: four strategies at equal images × networks, scored on the same unseen images.

    python benchmarks/sampling_strategies.py --data cifar10/ --seeds 0 1 2 --out benchmarks/results/sampling_strategies.json

Trains a supernet per strategy and seed on a part of the train images and scores, with inherited weights, the anchors and 24
random networks on test images. A step of the sandwich trains several networks, so it gets as many fewer steps: all runs see the
same number of images × networks. A finished run is a row in a folder beside the output, so the program can be stopped and started
again; with `--share I/N` it does every N-th run, for N processes at once.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

from autoformer import __version__
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts, Part, TestPart
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.files import write_json
from autoformer.metric import score
from autoformer.space import SearchSpace
from autoformer.training.config import SupernetConfig
from autoformer.training.runs import train_supernet

STRATEGIES: dict[str, dict[str, Any]] = {
    "uniform": {"strategy": "uniform"},
    "stratified": {"strategy": "stratified"},
    "sandwich": {"strategy": "sandwich", "between": 2},
    "sandwich + distillation": {"strategy": "sandwich", "between": 2, "distill": True},
}
NETWORKS_PER_STEP = {"sandwich": 4, "sandwich + distillation": 4}


def space(size: int, classes: int) -> SearchSpace:
    """A space for small colour images on a CPU: widths 64 to 128, 3 to 6 blocks; FLOPs from smallest to largest about 1 : 8."""
    return SearchSpace(
        name="small images", embed_dims=(64, 96, 128), depths=(3, 4, 5, 6), num_heads=(2, 3, 4), mlp_ratios=(1.0, 2.0, 3.0),
        head_dim=32, image_sizes=(size,), patch_size=size // 4, in_chans=3, num_classes=classes, max_relative_position=3,
    )  # fmt: skip


def some(part: Part, count: int) -> Part:
    """Every k-th image, about `count` of them: of the sorted folders of classes as many from each."""
    step = max(1, len(part) // count)
    return Part(part.name, part.images, part.indices[::step][:count])


def fewer(parts: DataParts, train: int, test: int) -> DataParts:
    """The same data with fewer images; the search part is not used here but by the anchors' scores while training."""
    return replace(
        parts, train=some(parts.train, train), search=some(parts.search, 1000), test=TestPart(some(parts.test.sealed, test))
    )


def config(strategy: str, epochs: int) -> SupernetConfig:
    """The recipe for small photographs; only the strategy and, for equal work, the number of epochs differ."""
    return SupernetConfig.model_validate(
        {
            "epochs": max(1, epochs // NETWORKS_PER_STEP.get(strategy, 1)),
            "batch_size": 128,
            "learning_rate": 2e-3,
            "warmup_epochs": 2 / NETWORKS_PER_STEP.get(strategy, 1),
            "weight_decay": 0.05,
            "init_std": 0.05,
            "label_smoothing": 0.1,
            "evaluate_every": 1000,
            "augment": {"crop": "padded", "rotate_degrees": 0, "translate": 0, "scale": (1, 1), "flip": 0.5},
            "subnets": STRATEGIES[strategy],
        }
    )


def run(strategy: str, seed: int, parts: DataParts, epochs: int) -> dict[str, Any]:
    """Trains and scores one supernet."""
    size = parts.preprocessing.image_size
    of = space(size, len(parts.classes))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        supernet = train_supernet(of, parts, config(strategy, epochs), Path(folder) / "supernet", seed=seed)
    seconds = time.perf_counter() - started
    images = EvaluationSet.of(parts.test.sealed, parts.preprocessing)
    rng = random.Random("benchmark")
    networks = {**of.anchors, **{f"random {number}": of.sample(rng) for number in range(24)}}
    scores = {
        name: score(predictions(predict_with(supernet, architecture), images), images.labels).value
        for name, architecture in networks.items()
    }
    drawn = [value for name, value in scores.items() if name.startswith("random")]
    anchors = {name: scores[name] for name in of.anchors}
    return {
        "strategy": strategy, "seed": seed, "epochs": epochs, "train_images": len(parts.train), "test_images": len(images),
        "seconds": seconds, **anchors, "random mean": statistics.mean(drawn), "best of random": max(drawn),
    }  # fmt: skip


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of Student's 95 % interval."""
    if len(values) < 2:
        return values[0], float("nan")
    width = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / sqrt(len(values))
    return statistics.mean(values), width


def markdown(rows: list[dict[str, Any]]) -> str:
    """Accuracies by strategy, and the difference to uniform sampling seed by seed."""
    columns = ("smallest", "middle", "largest", "random mean", "best of random")
    lines = ["| strategy | " + " | ".join(columns) + " | mean of all against uniform |", "|---" * (len(columns) + 2) + "|"]
    uniform = {row["seed"]: row for row in rows if row["strategy"] == "uniform"}
    for strategy in STRATEGIES:
        own = [row for row in rows if row["strategy"] == strategy]
        if not own:
            continue
        cells = []
        for column in columns:
            mean, width = interval([100 * row[column] for row in own])
            cells.append(f"{mean:.1f} ± {width:.1f}")
        differences = [
            100 * statistics.mean(row[column] - uniform[row["seed"]][column] for column in columns[:4])
            for row in own
            if row["seed"] in uniform
        ]
        mean, width = interval(differences) if differences else (0.0, 0.0)
        lines.append(f"| {strategy} | " + " | ".join(cells) + f" | {mean:+.1f} ± {width:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with train and test, e.g. CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=24, help="of uniform sampling; the sandwich gets a quarter")
    parser.add_argument("--train-images", type=int, default=10_000)
    parser.add_argument("--test-images", type=int, default=4_000)
    parser.add_argument("--share", default="0/1")
    parser.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    index, count = map(int, words.share.split("/"))
    parts = fewer(load_parts(DataConfig(source=words.data)), words.train_images, words.test_images)
    jobs = [(strategy, seed) for seed in words.seeds for strategy in STRATEGIES]
    for strategy, seed in jobs[index::count]:
        path = words.out.with_name(f"{words.out.stem}.rows") / f"{strategy.replace(' ', '')}-{seed}-{words.epochs}.json"
        if not path.exists():
            write_json(run(strategy, seed, parts, words.epochs), path)
            print(path.read_text(), flush=True)
    rows = [json.loads(path.read_text()) for path in sorted(words.out.with_name(f"{words.out.stem}.rows").glob("*.json"))]
    facts = {"version": __version__, "torch": torch.__version__}
    write_json({**facts, "rows": rows}, words.out)
    print(markdown(rows))


if __name__ == "__main__":
    main()
