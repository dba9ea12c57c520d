"""Does a supernet that was trained elsewhere beat one trained on the spot, in equal time? Its best subnet in a budget decides.

    python benchmarks/adaptation.py --pretrain tiny_imagenet_sub/ --data flowers102_64/ caltech101_96/ --seeds 0 1 2 \
        --out benchmarks/results/adaptation.json

Trains one supernet on the images of `--pretrain`. Then, for each data set and seed, one supernet starts from its weights and
one from nothing; both get the same recipe and the same number of epochs. Each is searched under 60 % of the largest network's
FLOPs on the search part, and the network found is scored on the test part with inherited weights. A finished run is a row in a
folder beside the output, so the program can be stopped and started again; with `--share I/N` it does every N-th run, for N
processes at once.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from sampling_strategies import interval

from autoformer import __version__
from autoformer.cost import Budget, ExactCosts
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.files import write_json
from autoformer.metric import score
from autoformer.pretrained.adapt import Wanted
from autoformer.pretrained.start import start_from
from autoformer.search.config import Goal, SearchConfig
from autoformer.search.loop import search_supernet
from autoformer.space import SearchSpace
from autoformer.training.config import SupernetConfig
from autoformer.training.runs import train_supernet

SIZE = 64  # pixels
BUDGET = 0.6  # of the largest network's FLOPs
EPOCHS = {"flowers102_64": 24, "caltech101_96": 12}


def space(classes: int) -> SearchSpace:
    """A space for 64 px on a CPU: a grid of 4 × 4 patches."""
    return SearchSpace(
        name="64 px", embed_dims=(96, 128, 160), depths=(4, 5, 6), num_heads=(2, 3, 4, 5), mlp_ratios=(1.0, 2.0, 3.0),
        head_dim=32, image_sizes=(SIZE,), patch_size=16, in_chans=3, num_classes=classes, max_relative_position=3,
    )  # fmt: skip


def config(epochs: int, rate: float) -> SupernetConfig:
    """One recipe for all: photographs, cropped and flipped."""
    return SupernetConfig.model_validate(
        {
            "epochs": epochs, "batch_size": 128, "learning_rate": rate, "warmup_epochs": min(5, epochs / 10), "init_std": 0.05,
            "evaluate_every": 1000, "save_minutes": 5,
            "augment": {
                "crop": "random_resized", "crop_scale": (0.35, 1.0), "rotate_degrees": 0, "translate": 0, "scale": (1, 1),
                "flip": 0.5, "color_jitter": 0.3,
            },
        }
    )  # fmt: skip


def parts_of(folder: Path) -> DataParts:
    return load_parts(DataConfig(source=str(folder), image_size=SIZE))


def run(folder: Path, seed: int, start: Path | None, rate: float, work: Path) -> dict[str, Any]:
    """Trains, searches and scores one supernet."""
    parts = parts_of(folder)
    of = space(len(parts.classes))
    wanted = Wanted(num_classes=len(parts.classes), normalisation=parts.preprocessing.normalisation)
    begun = None if start is None else start_from(str(start), wanted, space=of)
    epochs, out = EPOCHS[folder.name], work / f"{folder.name}-{'adapted' if start else 'fresh'}-{seed}"
    started = time.perf_counter()
    supernet = train_supernet(of, parts, config(epochs, rate), out / "supernet", start=begun, seed=seed)
    seconds = time.perf_counter() - started
    costs = ExactCosts(of)
    budget = Budget(max_flops=int(BUDGET * costs(of.largest).flops))
    sought = SearchConfig(population=24, generations=5, parents=6, mutated=12, crossed=12, choose="best")
    goal = Goal(costs=costs, budget=budget, seed=seed)
    found = search_supernet(supernet, parts.search, parts.preprocessing, goal, sought, out / "search")
    images = EvaluationSet.of(parts.test.read(out.name), parts.preprocessing)
    right = score(predictions(predict_with(supernet, found.chosen.architecture), images), images.labels)
    largest = score(predictions(predict_with(supernet, of.largest), images), images.labels)
    return {
        "data": folder.name, "start": "adapted" if start else "from scratch", "seed": seed, "rate": rate, "epochs": epochs,
        "seconds": seconds, "train_images": len(parts.train), "test_images": len(images),
        "network": found.chosen.architecture.slug,
        "found": right.to_dict(), "largest": largest.to_dict(),
    }  # fmt: skip


def markdown(rows: list[dict[str, Any]]) -> str:
    """Test accuracy by data set and start, and the difference seed by seed."""
    lines = ["| data | train images | from scratch | adapted | difference |", "|---" * 5 + "|"]
    for name in sorted({row["data"] for row in rows}):
        by = {
            start: {row["seed"]: row for row in rows if (row["data"], row["start"]) == (name, start)}
            for start in ("from scratch", "adapted")
        }
        seeds = sorted(set(by["from scratch"]) & set(by["adapted"]))
        if not seeds:
            continue
        values = {start: [100 * own[seed]["found"]["value"] for seed in seeds] for start, own in by.items()}
        cells = ["{:.1f} ± {:.1f} %".format(*interval(values[start])) for start in ("from scratch", "adapted")]
        gain = interval([after - before for before, after in zip(values["from scratch"], values["adapted"], strict=True)])
        images = by["adapted"][seeds[0]]["train_images"]
        lines.append(f"| {name} | {images} | {cells[0]} | {cells[1]} | {gain[0]:+.1f} ± {gain[1]:.1f} points |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrain", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pretrain-epochs", type=int, default=36)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate of the runs that are compared")
    parser.add_argument("--share", default="0/1")
    parser.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    index, count = map(int, words.share.split("/"))
    parts = parts_of(words.pretrain)
    begun = words.work / "pretrained"
    train_supernet(space(len(parts.classes)), parts, config(words.pretrain_epochs, 2e-3), begun)
    jobs = [(folder, seed, start) for seed in words.seeds for folder in words.data for start in (begun, None)]
    folder_of_rows = words.out.with_name(f"{words.out.stem}.rows")
    for folder, seed, start in jobs[index::count]:
        path = folder_of_rows / f"{folder.name}-{'adapted' if start else 'fresh'}-{seed}.json"
        if not path.exists():
            write_json(run(folder, seed, start, words.rate, words.work), path)
            print(path.read_text(), flush=True)
    rows = [json.loads(path.read_text()) for path in sorted(folder_of_rows.glob("*.json"))]
    facts = {"version": __version__, "torch": torch.__version__, "pretrain_epochs": words.pretrain_epochs}
    write_json({**facts, "rows": rows}, words.out)
    print(markdown(rows))


if __name__ == "__main__":
    main()
