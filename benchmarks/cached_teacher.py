"""Milliseconds of a training step of a supernet with its teacher asked at every step, and with its logits read from files.

    python benchmarks/cached_teacher.py --out cached_teacher.json
    python benchmarks/cached_teacher.py --device cuda --space small --teacher vit_base_patch16_224 --batch 128 --rounds 30

Three trainers of the same supernet on random images take one step each in turn, in one process, many rounds: `asked`, `read` and
`untaught`, which has no teacher. The networks of a step are the same in all three. A step is what `TrainStep.run` does, from
pixels to moved weights; loading images is left out. What counts is the ratios, medians over the rounds. Beside them stands what
filling the files takes, once for each view.

Needs torch, timm and the autoformer package. The teacher has random weights: its logits do not matter here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from relative_position_speed import describe_machine

from autoformer import __version__
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.networks.supernet import Supernet
from autoformer.progress import silent
from autoformer.space import PRESETS, SearchSpace
from autoformer.training.choosing import chooser
from autoformer.training.config import SupernetConfig
from autoformer.training.distributed import World
from autoformer.training.trainer import Surroundings, Trainer

ARMS = ("asked", "read", "untaught")
CLASSES = 4


def draw_images(folder: Path, count: int, size: int) -> DataParts:
    """Noise, as a data set: about `count` images in the train part."""
    random, each = np.random.default_rng(0), -(-count * 2 // CLASSES)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number:04d}.png")
    return load_parts(DataConfig(source=str(folder), image_size=size))


def save_teacher(name: str, size: int, place: Path) -> str:
    """The words for a network of timm with random weights."""
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=CLASSES, img_size=size)
    torch.save(network.state_dict(), place / "teacher.pth")
    return f"timm:{name}@{place / 'teacher.pth'}"


class Arm:
    """A trainer that takes its steps on one batch."""

    def __init__(
        self, name: str, space: SearchSpace, parts: DataParts, teacher: str, place: Path, given: argparse.Namespace
    ) -> None:
        told = None if name == "untaught" else {"network": teacher, "views": 1}
        config = SupernetConfig.model_validate({"batch_size": given.batch, "amp": given.amp, "epochs": 1000, "teacher": told})
        torch.manual_seed(0)
        supernet = Supernet(space).to(given.device).train()
        around = Surroundings(World(device=torch.device(given.device)))
        choose = chooser(config.subnets, space, 0)
        self.trainer = Trainer(supernet, parts, config, place / "run", choose, {}, parts.preprocessing, around=around)
        self.fill_s = 0.0
        if name == "asked":
            self.trainer.steps.known = None
        if name == "read" and self.trainer.cached is not None:
            began = time.perf_counter()
            self.trainer.cached.fill(0, around.world, silent, lambda: False)
            self.fill_s = time.perf_counter() - began
        self.batch = next(self.trainer.loader(0))

    def step_ms(self, number: int) -> float:
        """How long one step takes, the device waited for. The images are those of the first, the networks those of the number."""
        steps, (pixels, facts) = self.trainer.steps, self.batch
        networks = steps.choose
        steps.choose = lambda step: networks(number)
        began = time.perf_counter()
        float(steps.run(self.trainer.network, pixels, facts, 0))
        spent = time.perf_counter() - began
        steps.choose = networks
        return 1e3 * spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=sorted(PRESETS), default="micro")
    parser.add_argument("--teacher", default="vit_small_patch16_224", help="a vision transformer of timm")
    parser.add_argument("--size", type=int, default=32, help="pixels of the images, for both")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--amp", choices=("auto", "off", "bfloat16"), default="auto")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file for the result with all samples")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    samples: dict[str, list[float]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        parts = draw_images(place / "images", max(2 * given.batch, 256), given.size)
        space = SearchSpace.preset(given.space, image_size=given.size, in_chans=3, num_classes=CLASSES)
        teacher = save_teacher(given.teacher, given.size, place)
        arms = {name: Arm(name, space, parts, teacher, place, given) for name in ARMS}
        for number in range(given.warmup + given.rounds):
            for name, arm in arms.items():
                spent = arm.step_ms(number)
                if number >= given.warmup:
                    samples[name].append(spent)
        images, fill_s = len(parts.train), arms["read"].fill_s

    def ratio(other: str) -> float:
        return statistics.median(a / b for a, b in zip(samples["asked"], samples[other], strict=True))

    report: dict[str, Any] = {
        "format": "autoformer/benchmark/1",
        "version": __version__,
        "timm": timm.__version__,
        "machine": describe_machine(given.device),
        **{key: getattr(given, key) for key in ("space", "teacher", "size", "batch", "rounds", "amp", "device")},
        "median_ms": {name: statistics.median(values) for name, values in samples.items()},
        "asked_to_read": ratio("read"),
        "asked_to_untaught": ratio("untaught"),
        "fill_ms_per_image": 1e3 * fill_s / images,
        "samples_ms": samples,
    }
    print(", ".join(f"{name} {value:.1f} ms" for name, value in report["median_ms"].items()))
    print(f"asked / read ×{report['asked_to_read']:.2f}, asked / untaught ×{report['asked_to_untaught']:.2f}")
    print(f"filling takes {report['fill_ms_per_image']:.2f} ms for each image and view, once")
    if given.out:
        given.out.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
