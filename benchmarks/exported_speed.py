"""What the exported files cost on a CPU: relative position against none and against the naive form, and int8 against fp32.

    python benchmarks/exported_speed.py --out benchmarks/results/exported_speed.json

Exports the published AutoFormer-T at 224 px with random weights four times: as the product does, without relative position, with
pair by pair embeddings as the paper writes them, and in int8 through the product's own quantisation. All files are then timed in
turns in one process through ONNX Runtime (one thread, batch 1). What counts is the process's CPU time, which other programs on
the machine change less than the wall clock; both are printed. Latency does not depend on the values of weights or images, so
the images are random too.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from naive_relative_position import pair_embedding
from torch import Tensor

from autoformer import __version__
from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.quantization import quantize_int8
from autoformer.files import write_json
from autoformer.networks.block import Attention, Block
from autoformer.networks.relative_position import Geometry, Tables
from autoformer.networks.subnet import Subnet
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, measure
from autoformer.space import SearchSpace

CALIBRATION_IMAGES = 16
BARS = {  # what is divided by what, and the bar of the issue
    "fp32 / without relative position": ("fp32", "plain fp32", "at most 1.35, goal 1.25"),
    "fp32 / naive form": ("fp32", "naive fp32", "at most 0.6"),
    "int8 speed-up": ("fp32", "int8", "at least 1.3"),
    "int8 speed-up without relative position": ("plain fp32", "plain int8", "at least 1.5"),
}


class NaiveAttention(Attention):
    """The exported block's attention with the same weights and result, every pair's embedding gathered in the graph."""

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, N, K]
        tables = Tables(*(getattr(self, name) for name in Tables._fields))
        key_pairs = pair_embedding(tables.key_rows, tables.key_columns, tokens)
        relative = (query.permute(2, 0, 1, 3).flatten(1, 2) @ key_pairs.transpose(1, 2)).transpose(0, 1)
        logits = query @ key.transpose(-2, -1) + relative.unflatten(0, (batch, self.num_heads))
        attention = (logits * self.scale).softmax(-1)
        value_pairs = pair_embedding(tables.value_rows, tables.value_columns, tokens)
        relative = (attention.permute(2, 0, 1, 3).flatten(1, 2) @ value_pairs).transpose(0, 1)
        out = attention @ value + relative.unflatten(0, (batch, self.num_heads))
        return cast(Tensor, self.proj(out.transpose(1, 2).flatten(2)))


def make_naive(network: Subnet) -> Subnet:
    """The same network, its attention computed pair by pair; changed in place and returned."""
    for block in network.blocks:
        assert isinstance(block, Block)
        block.attn.__class__ = NaiveAttention
    return network


def write_naive(network: Subnet, path: Path) -> Path:
    """The naive form's file, by torch's exporter alone: our own export refuses what outweighs its weights."""
    side = network.patch_embed.img_size[0]
    program = torch.onnx.export(
        network, (torch.zeros(2, 3, side, side),), opset_version=20, dynamo=True, verbose=False, input_names=["images"],
        output_names=["logits"], dynamic_shapes=({0: "batch"},),
    )  # fmt: skip
    assert program is not None
    program.save(path, external_data=False)
    return path


def files_in(folder: Path, name: str) -> dict[str, Path]:
    """Exports the five files into `folder`. Raises `AssertionError` when the naive form computes another function."""
    space = SearchSpace.preset(PUBLISHED_SPACES[name])

    def network(of: SearchSpace) -> Subnet:
        torch.manual_seed(0)
        return Subnet.from_space(of, PUBLISHED[name]).eval()

    ours, plain = network(space), network(replace(space, relative_position=False))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((CALIBRATION_IMAGES, 3, space.image_size, space.image_size), dtype=np.float32)
    graphs = {
        "fp32": OnnxGraph.from_network(ours, folder / "fp32.onnx"),
        "plain fp32": OnnxGraph.from_network(plain, folder / "plain_fp32.onnx"),
    }
    expected = OnnxModel(graphs["fp32"].path)(images[:2])
    naive = write_naive(make_naive(ours), folder / "naive_fp32.onnx")
    difference = float(np.abs(OnnxModel(naive)(images[:2]) - expected).max())
    assert difference < 1e-4, f"the naive form's logits differ by {difference}"
    found = {**{key: graph.path for key, graph in graphs.items()}, "naive fp32": naive}
    for key, graph in graphs.items():
        int8 = key.replace("fp32", "int8")
        found[int8] = quantize_int8(graph, images, folder / f"{int8.replace(' ', '_')}.onnx")[0].path
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="AutoFormer-T", choices=sorted(PUBLISHED))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=12.0, help="of timing per file")
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files = files_in(Path(folder), words.network)
        space = SearchSpace.preset(PUBLISHED_SPACES[words.network])
        weights = sum(p.numel() * p.element_size() for p in Subnet.from_space(space, PUBLISHED[words.network]).parameters())
        sizes = {name: path.stat().st_size for name, path in files.items()}
        backends = {name: stack.enter_context(OnnxRuntimeBackend(path, threads=1)) for name, path in files.items()}
        config = MeasureConfig(rounds=words.rounds, min_runs=5 * words.rounds, min_s=words.seconds, max_s=2 * words.seconds)
        taken = measure(backends, config, device=DeviceFacts.collect())
    rows = {}
    for name, one in taken.items():
        assert one.cpu_stats is not None
        cpu_ms, wall_ms = one.cpu_stats.p50_ms, one.stats.p50_ms
        rows[name] = {
            "bytes": sizes[name], "wall_p50_ms": wall_ms, "cpu_p50_ms": cpu_ms, "runs": one.stats.n, "verdict": str(one.verdict),
        }  # fmt: skip
        print(f"{name:<12} {sizes[name] / 1e6:6.1f} MB   CPU p50 {cpu_ms:7.2f} ms   wall p50 {wall_ms:7.2f} ms   {one.verdict}")
    ratios = {
        name: {**{f"by_{key}": rows[over][key] / rows[under][key] for key in ("cpu_p50_ms", "wall_p50_ms")}, "bar": bar}
        for name, (over, under, bar) in BARS.items()
    }
    ratios["file / weights"] = {"by_bytes": sizes["fp32"] / weights, "bar": "at most 1.12"}
    for name, found in ratios.items():
        print(f"{name}: {', '.join(f'{key} {value:.3f}' for key, value in found.items() if key != 'bar')} ({found['bar']})")
    write_json(
        {
            "version": __version__, "network": words.network, "threads": 1, "batch": 1, "device": DeviceFacts.collect().to_dict(),
            "rounds": words.rounds, "seconds": words.seconds, "weight_bytes": weights, "files": rows, "ratios": ratios,
        },
        words.out,
    )  # fmt: skip


if __name__ == "__main__":
    main()
