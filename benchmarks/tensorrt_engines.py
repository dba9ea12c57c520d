"""What TensorRT engines of the published networks cost: build time, parity, latency, and whether attention was fused.

Two steps, because a device with TensorRT often has no torch:

    python benchmarks/tensorrt_engines.py graphs graphs --opset 17      with torch: ONNX files in fp32 and fp16, images, logits
    python benchmarks/tensorrt_engines.py run graphs --out engines.json with TensorRT and a GPU; Python 3.10 is enough

Networks T, S and B, each with relative position in both exported forms and without it, with random weights: latency does not
depend on their values. Each engine is built with an empty timing cache and again with the one that left, compared with torch's
logits, and timed with and without a CUDA graph, in turns. A detailed twin says what became of attention. Where torch sees the
GPU, the same networks run there too, compiled and as a CUDA graph. Opset 17 is read by every TensorRT from 8.6 on. Rows are
written as they come; a second start with the same files goes on after the last.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoformer import __version__
from autoformer.errors import AutoformerError, MeasurementError
from autoformer.export.engines.builder import EngineBuilder, EngineConfig
from autoformer.export.engines.engine import Engine
from autoformer.export.engines.layers import inspect_engine
from autoformer.export.parity import TOLERANCES, compare, run_in_batches
from autoformer.files import read_json, write_json
from autoformer.profiling.backends.tensorrt_backend import TensorRTBackend
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure
from autoformer.records import fields_to_json

NETWORKS = ("AutoFormer-T", "AutoFormer-S", "AutoFormer-B")
FORMS = ("bias", "fused", "without")  # of relative position
IMAGES = 8


def make_network(name: str, form: str, *, small: bool = False) -> Any:
    """A published network with random weights; `small` shrinks its images to 64 px, to try this program out."""
    import torch

    from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
    from autoformer.networks.block import Attention
    from autoformer.networks.subnet import Subnet
    from autoformer.space import SearchSpace

    space = replace(SearchSpace.preset(PUBLISHED_SPACES[name]), relative_position=form != "without")
    if small:
        space = replace(space, image_sizes=(64,))
    torch.manual_seed(0)
    network = Subnet.from_space(space, PUBLISHED[name]).eval()
    for module in network.modules():
        if isinstance(module, Attention) and form != "without":
            module.form = form  # type: ignore[assignment]
    return network


def half(network: Any) -> Any:
    """The network in half precision, with its relative position in the form it had."""
    from autoformer.export.networks.half_precision import HalfPrecision
    from autoformer.networks.block import Attention

    form = next(module.form for module in network.modules() if isinstance(module, Attention))
    found = HalfPrecision(network)
    for module in found.modules():
        if isinstance(module, Attention):
            module.form = form
    return found


def write_graphs(words: argparse.Namespace) -> None:
    """The ONNX files, with images and torch's logits beside them."""
    import numpy as np
    import torch

    from autoformer.export.graphs.onnx_graph import OnnxGraph, image_shape_of

    words.folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name in words.networks:
        for form in FORMS:
            network = make_network(name, form, small=words.small)
            shape = image_shape_of(network)
            images = torch.from_numpy(np.random.default_rng(0).standard_normal((IMAGES, *shape), dtype=np.float32))
            with torch.inference_mode():
                logits = network(images).numpy()
            np.savez(words.folder / f"{name}.{form}.npz", images=images.numpy(), logits=logits)
            for precision in words.precisions:
                path = words.folder / f"{name}.{form}.{precision}.onnx"
                exported = network if precision == "fp32" else half(network)
                OnnxGraph.from_network(exported, path, opset=words.opset, image_shape=shape, as_it_is=precision != "fp32")
                entries.append({"network": name, "form": form, "precision": precision, "file": path.name})
                print(path)
    write_json(
        {"graphs": entries, "opset": words.opset, "version": __version__, "small": words.small}, words.folder / "graphs.json"
    )


def engine_row(entry: dict[str, Any], folder: Path, words: argparse.Namespace, stack: ExitStack) -> tuple[dict[str, Any], Any]:
    """Builds one file's engine with a cold and a warm cache, and compares it; and its backends to be timed."""
    import numpy as np

    graph = folder / entry["file"]
    temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    batches = tuple(sorted({words.batch, 1, 2}))
    config = EngineConfig(
        precision=entry["precision"], profiles=((1, words.batch, max(batches)),), timing_cache=temporary / "cache"
    )  # fmt: skip
    cold = EngineBuilder(config).build(graph, temporary / "cold.plan")
    warm = EngineBuilder(config).build(graph, temporary / "warm.plan")
    with np.load(folder / f"{entry['network']}.{entry['form']}.npz", allow_pickle=False) as stored:
        images, expected = stored["images"], stored["logits"]
    with Engine.load(warm.path, sha256=warm.sha256) as engine:
        given, sizes = run_in_batches(engine, images, batches)
    parity = compare(expected, given, precision=entry["precision"], batches=sizes, tolerance=TOLERANCES[entry["precision"]])
    twin = EngineBuilder(replace(config, detailed=True)).build(graph, temporary / "detailed.plan")
    layers = inspect_engine(twin.path, graph, sha256=twin.sha256)
    row = {
        **entry, "build_cold_s": cold.build_s, "build_warm_s": warm.build_s, "plan_bytes": warm.path.stat().st_size,
        "parity": fields_to_json(parity), "made": warm.made(),
        "layers": {"attention": str(layers.attention), "layer_norm": str(layers.layer_norm), "reformats": len(layers.reformats)},
    }  # fmt: skip
    backends: dict[str, Any] = {}
    for name, captured in (("plain", False), ("CUDA graph", True)):
        try:
            backends[name] = stack.enter_context(
                TensorRTBackend(
                    warm.path, batch=words.batch, precision=entry["precision"], sha256=warm.sha256, cuda_graph=captured
                )
            )
        except MeasurementError as error:
            row[f"{name} refused"] = str(error)
    return row, backends


def torch_backends(entry: dict[str, Any], words: argparse.Namespace, stack: ExitStack, small: bool) -> dict[str, Any]:
    """The same network through torch, where torch is and sees the GPU."""
    try:
        import torch

        from autoformer.profiling.backends.torch_backend import TorchBackend
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    network = make_network(entry["network"], entry["form"], small=small)
    network = network if entry["precision"] == "fp32" else half(network)
    shape = (3, *[64 if small else 224] * 2)
    modes = {"torch compiled": "compiled", "torch CUDA graph": "graph"}
    return {
        name: stack.enter_context(TorchBackend(network, shape, batch=words.batch, device="cuda", mode=mode))
        for name, mode in modes.items()
    }


def times(one: Measurement) -> dict[str, Any]:
    """The figures of one measurement, by the device's clock where it has one and by the wall."""
    found = {"backend": one.backend, "verdict": str(one.verdict), "runs": one.stats.n}
    for name, stats in (("wall", one.stats), ("device", one.device_stats)):
        if stats is not None:
            found |= {f"{name}_p50_ms": stats.p50_ms, f"{name}_p99_ms": stats.p99_ms}
    return found


def run(words: argparse.Namespace) -> None:
    """Builds, compares and times every file; adds a row per file to --out."""
    index = read_json(words.folder / "graphs.json", "graphs", "small", "opset")
    done = read_json(words.out)["rows"] if words.out.is_file() else []
    names = {row["file"] for row in done}
    device = DeviceFacts.collect()
    config = MeasureConfig(min_s=words.seconds, max_s=4 * words.seconds, min_runs=words.min_runs)
    for entry in index["graphs"]:
        if entry["file"] in names:
            continue
        with ExitStack() as stack:
            try:
                row, backends = engine_row(entry, words.folder, words, stack)
            except AutoformerError as error:  # one file that this TensorRT refuses says so, and the others go on
                row, backends = {**entry, "failed": str(error)}, {}
            backends |= torch_backends(entry, words, stack, index["small"])
            row["times"] = {
                name: times(one) for name, one in (measure(backends, config, device=device) if backends else {}).items()
            }
        done.append(row)
        header = {"version": __version__, "batch": words.batch, "opset": index["opset"], "device": device.to_dict()}
        write_json({**header, "rows": done}, words.out)
        shown = {name: f"{found.get('device_p50_ms') or found['wall_p50_ms']:.3f} ms" for name, found in row["times"].items()}
        print(entry["file"], row.get("failed") or json.dumps({**row["layers"], **shown}), flush=True)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    graphs, runs = commands.add_parser("graphs"), commands.add_parser("run")
    for one in (graphs, runs):
        one.add_argument("folder", type=Path)
    graphs.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    graphs.add_argument("--precisions", nargs="+", default=("fp32", "fp16"), choices=("fp32", "fp16"))
    graphs.add_argument("--opset", type=int, default=17)
    graphs.add_argument("--small", action="store_true", help="images of 64 px, to try this program out")
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--batch", type=int, default=1)
    runs.add_argument("--seconds", type=float, default=5.0, help="of timing per engine")
    runs.add_argument("--min-runs", type=int, default=700, help="per engine; the 99th percentile needs 662")
    words = parser.parse_args()
    write_graphs(words) if words.command == "graphs" else run(words)


if __name__ == "__main__":
    main()
