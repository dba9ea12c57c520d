"""The compiled training step of the largest network of a space against timm's compiled DeiT, scaled by FLOPs.

Both take AdamW steps on random images under the same autocast, in turn, in one process. The scaled ratio is (our time / our
FLOPs) / (DeiT's time / DeiT's FLOPs), FLOPs being multiply-adds in closed form. Then random architectures are trained and
the compiled graphs counted: they must not exceed the distinct block shapes (one more set for masks of stochastic depth).

    python benchmarks/compiled_training_step.py --device cuda --batch 256 --out compiled_training_step.json
    python benchmarks/compiled_training_step.py --device cpu --space tiny --batch 4 --rounds 3

Needs torch, timm and the autoformer package.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from relative_position_speed import describe_machine
from torch import Tensor, nn
from torch._dynamo.utils import counters

from autoformer.architecture import Architecture
from autoformer.cost import count_flops
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace

DEIT = {"tiny": ("deit_tiny_patch16_224", 192, 3), "small": ("deit_small_patch16_224", 384, 6)}  # name, width, heads


def deit_flops(space: SearchSpace, width: int, heads: int) -> int:
    """Multiply-adds of DeiT: twelve blocks of MLP ratio 4 without relative position, in our closed form."""
    shape = SearchSpace(
        name="deit", embed_dims=(width,), depths=(12,), num_heads=(heads,), mlp_ratios=(4.0,), relative_position=False,
        image_sizes=space.image_sizes, patch_size=space.patch_size, num_classes=space.num_classes,
    )  # fmt: skip
    return count_flops(shape.largest, shape)


def make_step(
    network: nn.Module, forward: Callable[[Tensor], Tensor], arguments: argparse.Namespace
) -> Callable[[Tensor, Tensor], None]:
    """One training step: forward, cross-entropy, backward, AdamW."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.autocast):
            loss = F.cross_entropy(forward(images).float(), labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if arguments.device == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=tuple(DEIT), default="small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--architectures", type=int, default=30, help="random architectures trained while graphs are counted")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--autocast", action=argparse.BooleanOptionalAction, default=True, help="bf16 autocast")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--out", type=Path, help="JSON file for the result with all samples")
    arguments = parser.parse_args()
    torch.manual_seed(0)

    space = SearchSpace.preset(arguments.space)
    supernet = Supernet(space, drop_path_rate=0.1).to(arguments.device).train()
    supernet.compile_blocks(backend=arguments.backend)
    name, width, heads = DEIT[arguments.space]
    deit = timm.create_model(name, drop_path_rate=0.1).to(arguments.device).train()
    chosen: list[Architecture] = [space.largest]
    steps = {
        "supernet": make_step(supernet, lambda images: supernet(images, chosen[0]), arguments),
        "deit": make_step(deit, torch.compile(deit, backend=arguments.backend), arguments),
    }
    images = torch.randn(arguments.batch, 3, space.image_size, space.image_size, device=arguments.device)
    labels = torch.randint(1000, (arguments.batch,), device=arguments.device)
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.warmup + arguments.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step(images, labels)
            if turn >= arguments.warmup:
                samples[name].append(1e3 * (time.perf_counter() - start))

    flops = {"supernet": count_flops(space.largest, space), "deit": deit_flops(space, width, heads)}
    ratio = statistics.median(ours / theirs for ours, theirs in zip(samples["supernet"], samples["deit"], strict=True))
    scaled = ratio * flops["deit"] / flops["supernet"]

    # A graph per (shape, with or without a mask); the deit model is compiled already and adds none.
    before = counters["stats"]["unique_graphs"]
    shapes = {(space.largest.embed_dim, *block) for block in zip(space.largest.num_heads, space.largest.hidden_dims, strict=True)}
    rng = random.Random(0)
    for _ in range(arguments.architectures):
        chosen[0] = space.sample(rng)
        shapes |= {(chosen[0].embed_dim, *block) for block in zip(chosen[0].num_heads, chosen[0].hidden_dims, strict=True)}
        steps["supernet"](images, labels)
    graphs = counters["stats"]["unique_graphs"] - before

    report: dict[str, Any] = {
        "format": "autoformer/benchmark/1",
        **{key: getattr(arguments, key) for key in ("space", "batch", "device", "autocast", "backend", "architectures")},
        "machine": describe_machine(arguments.device),
        "timm": timm.__version__,
        "median_ms": {name: statistics.median(values) for name, values in samples.items()},
        "samples_ms": samples,
        "flops": flops,
        "time_ratio": ratio,
        "time_ratio_scaled_by_flops": scaled,
        "block_shapes": len(shapes),
        "graphs_of_random_architectures": graphs,
    }
    print(f"supernet {report['median_ms']['supernet']:.1f} ms, {name} {report['median_ms']['deit']:.1f} ms")
    print(f"ratio ×{ratio:.3f}, scaled by FLOPs ×{scaled:.3f}")
    print(f"{graphs} graphs compiled for {arguments.architectures} random architectures with {len(shapes)} block shapes")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
