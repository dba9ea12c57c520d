"""Where the time of a training step goes: forward, backward and optimiser, or everything else (images, mostly).

    python benchmarks/training_throughput.py --data cifar10/ --threads 1 --workers 0 1 \
        --out benchmarks/results/training_throughput.json

Runs the trainer itself, loader included, on two supernets: a small one on 32 px images kept in memory, and the paper's space
`tiny` on the same images enlarged to 224 px with the augmentation of the published recipe. Also prints images and FLOPs per
second (multiply-adds, canonical form, three times the forward count for a step), and what the 500 epochs of the published
recipe would take here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sampling_strategies import some, space

from autoformer import __version__
from autoformer.cost import count_flops
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.files import write_json
from autoformer.networks.supernet import Supernet
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.space import SearchSpace
from autoformer.training.choosing import chooser
from autoformer.training.config import SupernetConfig
from autoformer.training.distributed import best_device
from autoformer.training.trainer import Trainer

PUBLISHED = {
    "crop": "random_resized", "crop_scale": (0.08, 1.0), "rotate_degrees": 0, "translate": 0, "scale": (1, 1), "flip": 0.5,
    "rand_augment": "rand-m9-mstd0.5-inc1", "erase": 0.25,
}  # fmt: skip
IMAGENET = 1_281_167


class Clock:
    """Adds up the time spent in calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any, **names: Any) -> Any:
            started = time.perf_counter()
            answer = work(*values, **names)
            self.seconds += time.perf_counter() - started
            return answer

        return timed


def measure(name: str, supernet: Supernet, parts: DataParts, config: SupernetConfig, steps: int) -> dict[str, Any]:
    """Trains for `steps` steps after ten to warm up, and says where the time went."""
    of = supernet.space
    choose = chooser(config.subnets, of, 0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(supernet, parts, config, Path(folder), choose, {}, parts.preprocessing)
        whole, preparing = Clock(), Clock()
        trainer.steps.prepare = preparing.around(trainer.steps.prepare)  # type: ignore[method-assign]
        run = whole.around(trainer.steps.run)
        supernet.train()
        loader, began, losses = trainer.loader(0), 0.0, []
        for step in range(steps + 10):
            if step == 10:
                sum(float(loss) for loss in losses)  # waits for the device
                whole.seconds = preparing.seconds = 0.0
                began = time.perf_counter()
            losses.append(run(supernet, *next(loader), step))
        float(losses[-1])
        seconds = time.perf_counter() - began
    flops = sum(3 * count_flops(network, of) for step in range(10, steps + 10) for network in choose(step) if network is not None)
    images_per_s = steps * config.batch_size / seconds
    return {
        "name": name, "workers": config.workers, "batch_size": config.batch_size, "steps": steps, "images_per_s": images_per_s,
        "gflops_per_s": flops * config.batch_size / seconds / 1e9,
        "other_share": 1 - (whole.seconds - preparing.seconds) / seconds,
        "days_of_500_imagenet_epochs": 500 * IMAGENET / images_per_s / 86400,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with train and test, e.g. CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=60)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    device, rows = best_device(), []
    for workers in words.workers:
        small = load_parts(DataConfig(source=words.data))
        small = replace(small, train=some(small.train, 8000))
        plain = {"crop": "padded", "rotate_degrees": 0, "translate": 0, "scale": (1, 1), "flip": 0.5}
        config = SupernetConfig.model_validate({"batch_size": 128, "workers": workers, "augment": plain})
        supernet = Supernet(space(small.preprocessing.image_size, len(small.classes))).to(device)
        rows.append(measure("small images, 32 px", supernet, small, config, words.steps))
        large = load_parts(DataConfig(source=words.data, image_size=224))
        config = SupernetConfig.model_validate(
            {"batch_size": 32, "workers": workers, "augment": PUBLISHED, "mixup": 0.8, "cutmix": 1.0}
        )
        supernet = Supernet(SearchSpace.preset("tiny", num_classes=len(large.classes))).to(device)
        rows.append(measure("tiny, 224 px", supernet, large, config, max(6, words.steps // 8)))
    for row in rows:
        print(
            f"{row['name']:<19} workers {row['workers']} {row['images_per_s']:7.1f} images/s  {row['gflops_per_s']:6.1f} GFLOP/s "
            f"outside compute {100 * row['other_share']:.1f} %"
        )
    facts = {
        "version": __version__,
        "torch": torch.__version__,
        "threads": words.threads,
        "device": DeviceFacts.collect().to_dict(),
    }
    write_json({**facts, "rows": rows}, words.out)


if __name__ == "__main__":
    main()
