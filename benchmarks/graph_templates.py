"""How long the ONNX file of a network takes: its graph out of a template, and by torch's exporter beside it in the same run.

    python benchmarks/graph_templates.py --out benchmarks/results/graph_templates.json [--spaces edge base] [--networks 100]

Per space: a template is learned (one trace of a probe), then random networks of the space are written one after the other; among
them every so often one is exported by torch as well. The weights are there before, and no file is written: what is timed is the
graph with its weights in memory. Then the chain that uses it: a kit of 36 networks of `edge`, and a latency table of `edge` with
the share of its time that was spent measuring. One thread; medians and all samples in the file.

    python benchmarks/graph_templates.py --published --out benchmarks/results/published_graphs.json

writes the files of T, S and B with random weights instead, fp32 and fp16, opset 17 and 20, and asks all that is asked of a
delivered file: torch's logits on images, the rules of every version of TensorRT that reads the opset, and the real parser and
builder of TensorRT-RTX where that is installed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoformer import __version__
from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
from autoformer.export.engines.tensorrt_versions import TENSORRT_RTX
from autoformer.export.engines.trial import TrialProcess
from autoformer.export.graphs.onnx_graph import OnnxGraph, Way, image_shape_of
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.templates import Templates
from autoformer.export.graphs.tensorrt_rules import TARGETS, check_tensorrt, to_dict
from autoformer.export.networks.half_precision import HalfPrecision
from autoformer.export.networks.known import KnownNetwork
from autoformer.export.parity import compare, run_in_batches
from autoformer.export.predictor import torch_model
from autoformer.export.program import board_program
from autoformer.files import write_json
from autoformer.profiling.backends.of_spaces import fresh_network
from autoformer.profiling.kits.writing import KitConfig, write_kit
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.tables.measuring import TableConfig, measure_table
from autoformer.space import SearchSpace
from autoformer.temporary import temporary_folder

KIT_NETWORKS, TABLE_NETWORKS = 36, 24


def timed(work: Callable[..., object], *given: object) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    work(*given)
    return time.perf_counter() - began


def graphs(name: str, count: int, traced: int) -> dict[str, Any]:
    """Milliseconds of `count` graphs out of a template, and of `traced` by torch among them."""
    space, rng, templates = SearchSpace.preset(name), random.Random(0), Templates()
    space = SearchSpace.from_dict({**space.to_dict(), "image_sizes": [space.image_sizes[-1]]})
    samples: dict[str, list[float]] = {"template": [], "torch": []}
    learned = 0.0
    for index in range(count):
        network = fresh_network(space, space.sample(rng))
        known = KnownNetwork.of(network)
        assert known is not None
        way = Way(batch=None, opset=20, input_type="float32", image_shape=image_shape_of(network), as_it_is=False)
        of_probe = way.of_probe(known)
        if not templates.knows(known, of_probe):
            learned += timed(templates.graph_of, known, of_probe, of_probe.traced)
        samples["template"].append(1000 * timed(templates.graph_of, known, of_probe, of_probe.traced))
        if index % (count // traced) == 0:
            samples["torch"].append(1000 * timed(way.traced, network))
    medians = {kind: statistics.median(each) for kind, each in samples.items()}
    return {"learned_s": learned, "median_ms": medians, "ratio": medians["torch"] / medians["template"], "samples_ms": samples}


def kit_s() -> float:
    """Seconds to write a kit of `edge`."""
    program = board_program("autoformer.cli.board.kit_program")
    with temporary_folder("kit") as folder:
        return timed(
            lambda: write_kit(SearchSpace.preset("edge"), folder / "kit", KitConfig(networks=KIT_NETWORKS), program=program)
        )


def table() -> dict[str, float]:
    """Seconds of a latency table of `edge`, and the share of them spent measuring."""
    spent: dict[str, float] = {}
    last = time.perf_counter()

    def tell(work: str, done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.perf_counter()
        kind = "measure" if work.startswith("measure latency") else work
        spent[kind] = spent.get(kind, 0.0) + now - last
        last = now

    with temporary_folder("table") as folder:
        config = TableConfig(networks=TABLE_NETWORKS)
        whole = timed(lambda: measure_table(SearchSpace.preset("edge"), config, folder=folder, progress=tell))
    return {"seconds": whole, "share measuring": spent["measure"] / whole, **{f"{kind}, s": each for kind, each in spent.items()}}


def published() -> Iterator[dict[str, Any]]:
    """A row for each file of a published network."""
    images = np.random.default_rng(0).standard_normal((4, 3, 224, 224), np.float32)
    with temporary_folder("published") as folder, TrialProcess(TENSORRT_RTX) as attempt:
        for name, space in PUBLISHED_SPACES.items():
            network = fresh_network(SearchSpace.preset(space), PUBLISHED[name])
            expected = run_in_batches(torch_model(network), images, (4,))[0]
            for precision, opset in product(("fp32", "fp16"), (17, 20)):
                exported = network if precision == "fp32" else HalfPrecision(network)
                graph = OnnxGraph.from_network(
                    exported, folder / "model.onnx", opset=opset, image_shape=(3, 224, 224), as_it_is=precision != "fp32"
                )
                parity = compare(
                    expected, run_in_batches(OnnxModel(graph.path), images, (1, 3))[0], precision=precision, batches=(1, 3)
                )
                answer = to_dict(check_tensorrt(graph.path), TARGETS)
                tried = attempt(graph.path, build=True, gpus=("8.9",))
                yield {
                    "network": name, "precision": precision, "opset": opset, "passed": parity.passed, "logits": parity.reason,
                    "read by TensorRT": answer["readable"], "TensorRT-RTX": tried.error or f"built in {tried.seconds:.1f} s",
                }  # fmt: skip
                graph.path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="*", default=["edge", "base"])
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--traced", type=int, default=5, help="of them by torch as well")
    parser.add_argument("--chain", action=argparse.BooleanOptionalAction, default=True, help="a kit and a table as well")
    parser.add_argument("--published", action="store_true", help="the files of T, S and B, and nothing else")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.published:
        rows = []
        for row in published():
            rows.append(row)
            print(row, flush=True)
            write_json({"version": __version__, "rows": rows}, given.out)
        return
    record: dict[str, Any] = {"version": __version__, "device": DeviceFacts.collect().to_dict(), "spaces": {}}
    for name in given.spaces:
        record["spaces"][name] = found = graphs(name, given.networks, given.traced)
        print(name, {key: value for key, value in found.items() if key != "samples_ms"}, flush=True)
    if given.chain:
        record["kit"] = {"networks": KIT_NETWORKS, "seconds": kit_s()}
        print("kit", record["kit"], flush=True)
        record["table"] = table()
        print("table", record["table"], flush=True)
    write_json(record, given.out)


if __name__ == "__main__":
    main()
