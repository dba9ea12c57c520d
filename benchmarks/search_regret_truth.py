"""Every network of a small space, scored: the truth that benchmarks/search_regret.py holds searches against.

    python benchmarks/search_regret_truth.py --data cifar10/ --seeds 0 1 2 3 --out benchmarks/results/search_regret

Trains a supernet per seed. All 1,008 networks of the space classify the search images (2,000, out of the data's search part)
and the truth images (3,000, cut out of its train part; the supernet trains on 10,000 others). The test part is not opened. A
seed's file keeps a bit per network and search image, right or wrong, and per network how many truth images are right: all that a
search by accuracy can ask. Stopped and started again, it goes on; a finished seed is not repeated.

Networks that begin with the same blocks share the work of those: the whole space costs the blocks of a tree.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts, Part
from autoformer.data.splits import stratified
from autoformer.evaluate import EvaluationSet, predict_with
from autoformer.files import read_json, replacing, write_json
from autoformer.networks.supernet import Supernet
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.space import SearchSpace
from autoformer.tensors import tensors_digest
from autoformer.training.config import SupernetConfig
from autoformer.training.runs import train_supernet

TRAIN, SEARCH, TRUTH = 10_000, 2_000, 3_000  # images
BATCH = 250  # images whose blocks are remembered at once

SPACE = SearchSpace(
    name="1,008 networks", embed_dims=(24, 48, 96), depths=(2, 3, 4), num_heads=(1, 4), mlp_ratios=(0.25, 3.0), head_dim=24,
    image_sizes=(32,), patch_size=8, in_chans=3, num_classes=10, max_relative_position=3,
)  # fmt: skip


def every_network(space: SearchSpace) -> list[Architecture]:
    """All networks of a space of one image size; those with the same first blocks follow each other."""
    blocks = list(itertools.product(space.num_heads, space.mlp_ratios))
    choices = [
        (width, *chosen)
        for width, depth in itertools.product(space.embed_dims, space.depths)
        for chosen in itertools.product(blocks, repeat=depth)
    ]
    return [
        Architecture(embed_dim=width, num_heads=tuple(h for h, _ in chosen), mlp_ratio=tuple(r for _, r in chosen))
        for width, *chosen in sorted(choices)
    ]


@dataclass(frozen=True)
class Truth:
    """What every network of `SPACE` knows of the images, in the order of `every_network`; A networks."""

    search_right: NDArray[np.bool_]  # [A, search images]
    search_labels: NDArray[np.int64]  # [search images]
    truth_right: NDArray[np.int64]  # right of the truth images, [A]
    truth_images: int
    networks: tuple[Architecture, ...]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """On the truth images, 0..1, [A]."""
        return self.truth_right / self.truth_images

    def save(self, path: Path) -> None:
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez_compressed(
                file, search_right=np.packbits(self.search_right, axis=1), search_labels=self.search_labels.astype(np.uint8),
                truth_right=self.truth_right.astype(np.uint16), truth_images=np.asarray(self.truth_images),
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Truth:
        with np.load(path, allow_pickle=False) as file:
            labels = file["search_labels"].astype(np.int64)
            return cls(
                np.unpackbits(file["search_right"], axis=1, count=len(labels)).astype(bool), labels,
                file["truth_right"].astype(np.int64), int(file["truth_images"]), tuple(every_network(SPACE)),
            )  # fmt: skip


# --- predictions -------------------------------------------------------------------------------------------------


@contextmanager
def shared_beginnings(supernet: Supernet) -> Iterator[Callable[[Architecture], None]]:
    """While the block runs, the patch embedding and each depth remember their last output for networks that begin alike.

    The value is told each architecture before it runs. Images must stay the same; networks in the order of `every_network`
    find what they need.
    """
    now: list[Architecture] = []
    kept: dict[int, tuple[tuple[Any, ...], torch.Tensor]] = {}

    def remembering(blocks: int, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """`forward`, whose output is decided by the width and the first so many blocks."""

        def call(*arguments: Any) -> torch.Tensor:
            beginning = (now[-1].embed_dim, now[-1].num_heads[:blocks], now[-1].mlp_ratio[:blocks])
            if blocks not in kept or kept[blocks][0] != beginning:
                kept[blocks] = beginning, forward(*arguments)
            return kept[blocks][1]

        return call

    layers = [supernet.patch_embed, *supernet.blocks]
    for blocks, layer in enumerate(layers):
        layer.forward = remembering(blocks, layer.forward)
    try:
        yield lambda architecture: now.__setitem__(slice(None), [architecture])
    finally:
        for layer in layers:
            del layer.forward  # the class's own again


def predictions_of_all(supernet: Supernet, networks: Sequence[Architecture], images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The class each network gives each of these normalised images [n, C, H, W]: [networks, n]."""
    with shared_beginnings(supernet) as announce:
        found = np.empty((len(networks), len(images)), np.uint8)
        for row, architecture in zip(found, networks, strict=True):
            announce(architecture)
            row[:] = predict_with(supernet, architecture)(images).argmax(-1)
    return found


# --- a supernet and its truth ------------------------------------------------------------------------------------


def cut(part: Part, counts: dict[str, int]) -> dict[str, Part]:
    """Disjoint parts of `part` with so many images, equally many of equally large classes; the same at every call."""
    indices = stratified(part.labels.tolist(), {name: count / len(part) for name, count in counts.items()}, 0)
    return {name: Part(part.name, part.images, tuple(part.indices[place] for place in indices[name])) for name in counts}


def config(epochs: int) -> SupernetConfig:
    """The paper's sampling, one network a step, with the augmentation that suits 32 px photographs."""
    return SupernetConfig.model_validate(
        {
            "epochs": epochs, "batch_size": 128, "learning_rate": 2e-3, "warmup_epochs": 2, "init_std": 0.05,
            "evaluate_every": 1000,
            "augment": {"crop": "padded", "rotate_degrees": 0, "translate": 0, "scale": (1, 1), "flip": 0.5},
        }
    )  # fmt: skip


def make(seed: int, parts: DataParts, truth: Part, epochs: int, work: Path) -> tuple[Truth, dict[str, Any]]:
    """Trains a supernet and asks all its networks; parts of the answers are kept in `work` until all are there."""
    supernet = train_supernet(SPACE, parts, config(epochs), work / f"supernet{seed}", seed=seed)
    networks = every_network(SPACE)
    digest = tensors_digest(supernet.state_dict())
    predictions: dict[str, NDArray[np.uint8]] = {}
    sets = {name: EvaluationSet.of(part, parts.preprocessing) for name, part in (("search", parts.search), ("truth", truth))}
    for name, images in sets.items():
        rows = []
        for start, batch in zip(range(0, len(images), BATCH), images.batches(BATCH), strict=True):
            path = work / f"predictions{seed}" / f"{digest[:12]}-{name}-{start}.npy"
            if not path.exists():
                found = predictions_of_all(supernet, networks, batch)
                with replacing(path) as beside, beside.open("wb") as file:
                    np.save(file, found, allow_pickle=False)
            rows.append(np.load(path, allow_pickle=False))
        predictions[name] = np.concatenate(rows, axis=1)
    right = {name: predictions[name] == images.labels for name, images in sets.items()}
    answer = Truth(right["search"], sets["search"].labels, right["truth"].sum(1), len(truth), tuple(networks))
    facts = {
        "seed": seed, "weights_digest": digest, "epochs": epochs,
        "training_s": training_s(work / f"supernet{seed}" / "log.jsonl"),
        "images": {"train": len(parts.train), "search": len(parts.search), "truth": len(truth)},
        "digests": {"train": parts.train.digest, "search": parts.search.digest, "truth": truth.digest},
        "accuracy": spread(answer.accuracy), "space": SPACE.to_dict(), "version": __version__,
        "device": DeviceFacts.collect().to_dict(),
    }  # fmt: skip
    return answer, facts


def training_s(log: Path) -> float:
    """Time spent in epochs, those of an interrupted training that were done again counted."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return sum(float(line["seconds"]) for line in lines if line["event"] == "epoch")


def spread(accuracy: NDArray[np.float64]) -> dict[str, float]:
    """How far the networks lie apart, in percent."""
    low, quarter, median, threequarters, high = (100 * float(value) for value in np.quantile(accuracy, (0, 0.25, 0.5, 0.75, 1)))
    return {"lowest": low, "quarter": quarter, "median": median, "three quarters": threequarters, "highest": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with train and test, e.g. CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder for a file per seed")
    parser.add_argument("--work", type=Path, default=Path("runs/search_regret"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    whole = load_parts(DataConfig(source=words.data))
    held = cut(whole.train, {"train": TRAIN, "truth": TRUTH})
    parts = replace(whole, train=held["train"], search=cut(whole.search, {"search": SEARCH})["search"])
    for seed in words.seeds:
        path = words.out / f"supernet{seed}.npz"
        if not path.exists() or not path.with_suffix(".json").exists():
            truth, facts = make(seed, parts, held["truth"], words.epochs, words.work)
            truth.save(path)
            write_json(facts, path.with_suffix(".json"))
        facts = read_json(path.with_suffix(".json"))
        print(seed, facts["accuracy"], f"trained in {facts['training_s']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
