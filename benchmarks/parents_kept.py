"""How much a pretrained network keeps when it is cut and not trained: ordered by its weights alone, and by images.

    python benchmarks/parents_kept.py --parent timm:vit_small_patch14_dinov2.lvd142m@FILE --data caltech101_96/ flowers102_64/ \
        --out benchmarks/results/parents_kept.json [--size 98] [--epochs 4] [--test 2000]

For each data set the parent is finetuned on the train part (whole, and once). Then its weights are made into a supernet in two
ways: `weights`, heads and hidden channels ordered by their own importance (`order_by_importance`, as `train --from` did before),
and `images`, turned and ordered by 1,024 images of the train part, with means left behind (`cut_by_images`). Every network below
is scored as it is on the same images of the test part, at most `--test`, evenly spaced.

Fixed before the first run. Cuts: three quarters, half and a quarter of the MLP width, of the heads, of the width of each head
(`weights` takes its prefix, in no order), of MLP width and heads at once, and of MLP width and head width at once; heads are
rounded up. Metric: test accuracy; and `images` minus `weights` in points, paired by image (Newcombe). The line that counts: half
of MLP width and heads.

A finished data set is a row in a folder beside the output: the program can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.cli.chain.starting import network_for
from autoformer.cost import ExactCosts
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.files import write_json
from autoformer.metric import newcombe
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.adapt import Wanted
from autoformer.pretrained.cutting import cut_by_images
from autoformer.pretrained.start import start_from
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.space import SearchSpace
from autoformer.training.config import FinetuneConfig
from autoformer.training.runs import finetune

IMAGES = 1024  # of the train part, that the weights are cut by
SHARES = (0.75, 0.5, 0.25)
AUGMENT = {
    "crop": "random_resized", "crop_scale": (0.35, 1.0), "rotate_degrees": 0, "translate": 0, "scale": (1, 1), "flip": 0.5,
    "color_jitter": 0.3,
}  # fmt: skip


def space_of(parent: SearchSpace) -> SearchSpace:
    """Every cut of the table, without means left behind."""
    heads, ratio, channels = parent.num_heads[-1], parent.mlp_ratios[-1], parent.head_dim
    return replace(
        parent,
        name="kept",
        num_heads=(*{math.ceil(heads * share) for share in SHARES}, heads),
        mlp_ratios=(*(ratio * share for share in SHARES), ratio),
        head_dims=(*(int(channels * share) for share in SHARES), channels),
    )


def cuts_of(space: SearchSpace) -> dict[str, Architecture]:
    """The networks by their names in the table."""
    whole = space.largest
    found = {"whole": whole}
    for share in SHARES:
        mlp = {"mlp_ratio": tuple(ratio * share for ratio in whole.mlp_ratio)}
        heads = {"num_heads": tuple(math.ceil(count * share) for count in whole.num_heads)}
        narrow = {"head_dim": int(space.head_dim * share)}
        of = f"{100 * share:g} % of"
        for name, changes in (
            ("MLP width", mlp), ("heads", heads), ("head width", narrow), ("MLP width and heads", mlp | heads),
            ("MLP width and head width", mlp | narrow),
        ):  # fmt: skip
            found[f"{of} {name}"] = replace(whole, **changes)
    return found


def right(supernet: Supernet, architecture: Architecture, test: EvaluationSet) -> NDArray[np.bool_]:
    """Which images the network classifies rightly, [n]."""
    return predictions(predict_with(supernet, architecture), test, batch_size=64) == test.labels


def cut(parent: Path, parts: DataParts, by_images: bool) -> tuple[Supernet, float]:
    """The supernet out of the finetuned parent, and the seconds that took."""
    began = time.perf_counter()
    own = start_from(str(parent), Wanted.by(parts)).space
    whole = {name: getattr(own, name)[-1:] for name in ("embed_dims", "depths")}
    space = replace(space_of(replace(own, **whole)), mean_shift=by_images)
    supernet = start_from(str(parent), Wanted.by(parts), space=space)
    if by_images:
        ready = EvaluationSet.of(parts.train.spaced(IMAGES), parts.preprocessing)
        cut_by_images(supernet, map(torch.from_numpy, ready.batches(64)))
    return supernet.eval(), time.perf_counter() - began


def row_of(words: str, folder: Path, given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything of one data set."""
    parts = load_parts(DataConfig(source=str(folder), image_size=given.size))
    network, own, _ = network_for(words, parts)
    config = FinetuneConfig.model_validate(
        {
            "epochs": given.epochs, "batch_size": 32, "learning_rate": 1e-4, "warmup_epochs": 0.5, "layer_decay": 0.75,
            "fold_search": True, "augment": AUGMENT, "save_minutes": 3, "label_smoothing": 0.1,
        }
    )  # fmt: skip
    parent = work / folder.name
    finetune(network, own, config, parent)
    test = EvaluationSet.of(parts.test.read("parents_kept").spaced(given.test), parts.preprocessing)
    found: dict[str, dict[str, NDArray[np.bool_]]] = {}
    seconds, costs = {}, {}
    for name in ("weights", "images"):
        supernet, seconds[name] = cut(parent, parts, name == "images")
        cuts = cuts_of(supernet.space)
        costs = {label: ExactCosts(supernet.space)(each) for label, each in cuts.items()}
        found[name] = {label: right(supernet, each, test) for label, each in cuts.items()}
    table = {}
    for label, cost in costs.items():
        weights, images = (found[name][label] for name in ("weights", "images"))
        value, low, high = newcombe(weights, images)
        table[label] = {
            "params": cost.params, "flops": cost.flops, "weights": 100 * weights.mean(), "images": 100 * images.mean(),
            "images minus weights": {"value": 100 * value, "low": 100 * low, "high": 100 * high},
        }  # fmt: skip
    return {
        "data": folder.name, "parent": words.partition("@")[0], "size": given.size, "epochs": given.epochs,
        "test_images": len(test), "seconds_to_cut": seconds, "table": table,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--size", type=int, default=98, help="pixels")
    parser.add_argument("--epochs", type=int, default=4, help="of the parent's finetune")
    parser.add_argument("--test", type=int, default=2000, help="images of the test part, at most")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows_folder, work = given.out.with_suffix(".rows"), given.out.with_suffix(".work")
    rows_folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    for folder in given.data:
        path = rows_folder / f"{folder.name}-{given.size}.json"
        if not path.exists():
            write_json(row_of(given.parent, folder, given, work), path)
    rows = [json.loads(path.read_text()) for path in sorted(rows_folder.glob("*.json"))]
    write_json({"version": __version__, "device": DeviceFacts.collect().to_dict(), "rows": rows}, given.out)
    for row in rows:
        print(f"\n{row['data']}, {row['test_images']} test images")
        for label, cell in row["table"].items():
            print(f"{label:40} {cell['weights']:6.1f} {cell['images']:6.1f} {cell['images minus weights']['value']:+6.1f}")


if __name__ == "__main__":
    main()
