"""Networks of a space, opened to be timed together: exported first, then each opened several times, in a new order every time.

The same file opened twice in one process differs by 2 to 4 per cent for as long as it stays open, because its pages lie elsewhere
in the caches, and what a process opens first tends to be the slowest. So every network is opened once for nothing (those stay,
so that their pages are taken), then several times in random orders, and the openings are averaged (`drift.as_one`). Networks
that outweigh the caches many times do not need it, and their memory is not there.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from autoformer.architecture import Architecture
from autoformer.checkpoint import json_digest
from autoformer.cost import count_params
from autoformer.profiling.backend import LatencyBackend
from autoformer.profiling.measure import Progress
from autoformer.space import SearchSpace

if TYPE_CHECKING:
    from autoformer.subnet import Subnet

BACKENDS = ("onnxruntime-cpu", "onnxruntime-cuda", "torch-cpu", "torch-cuda", "tensorrt", "tensorrt-graph")
INSTANCES = 8  # openings of each network that is timed
INSTANCES_MIB = 1024  # of weights: no more openings than fit, beside the first

Exporter = Callable[["Subnet", Path], object]  # writes an ONNX file


@contextmanager
def opened_networks(
    space: SearchSpace, architectures: Sequence[Architecture], backend: str, batch: int, threads: int | None, *,
    instances: int, folder: Path | None = None, seed: int = 0, exporter: Exporter | None = None, progress: Progress | None = None,
) -> Iterator[dict[Architecture, list[LatencyBackend]]]:  # fmt: skip
    """Every network with as many openings as `instances` says, or fewer where their weights would come to 1 GiB.

    `folder` keeps the exported graphs for another time; None puts them into a temporary one. Weights are fresh.
    """
    weights_mib = sum(4 * count_params(architecture, space) for architecture in architectures) / 2**20
    fitting = max(1, min(instances, int(INSTANCES_MIB / weights_mib)))
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoformer-networks-")))
        for index, architecture in enumerate(architectures):
            if progress:
                progress("export networks", index + 1, len(architectures))
            export_for(space, architecture, backend, place, exporter)
        opened: dict[Architecture, list[LatencyBackend]] = {architecture: [] for architecture in architectures}
        rng = random.Random(seed)
        for kept in [False] * (fitting > 1) + [True] * fitting:
            for architecture in rng.sample(architectures, len(architectures)):
                one = stack.enter_context(open_network(space, architecture, backend, batch, threads, seed, place))
                if kept:
                    opened[architecture].append(one)
        yield opened


def export_for(
    space: SearchSpace, architecture: Architecture, backend: str, folder: Path, exporter: Exporter | None = None
) -> Path | None:
    """The ONNX file of a network of `space` in `folder`, written where it is not there; None for torch, which needs none."""
    if backend.startswith("torch-"):
        return None
    identity = {"space": space.to_dict(), "architecture": architecture.to_dict()}
    path = folder / f"{architecture.slug}-{json_digest(identity)[:12]}.onnx"
    if not path.exists():
        (exporter or _export)(fresh_network(space, architecture), path)
    return path


def open_network(
    space: SearchSpace, architecture: Architecture, backend: str, batch: int, threads: int | None, seed: int, folder: Path
) -> LatencyBackend:
    """A network of `space` with fresh weights on one of `BACKENDS`, ready to be timed; exported into `folder` where needed."""
    device = backend.rsplit("-", 1)[-1]
    path = export_for(space, architecture, backend, folder)
    if path is not None and backend in ("tensorrt", "tensorrt-graph"):
        from autoformer.profiling.network_engines import engine_of

        return engine_of(path, batch=batch, backend=backend)
    if path is None:
        from autoformer.profiling.torch_backend import TorchBackend

        size = space.image_size_of(architecture)
        shape = (space.in_chans, size, size)
        return TorchBackend(fresh_network(space, architecture), shape, batch=batch, device=device, threads=threads, seed=seed)
    from autoformer.profiling.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, batch=batch, provider=device, threads=threads, seed=seed)


def fresh_network(space: SearchSpace, architecture: Architecture) -> Subnet:
    """A network of `space` with random weights, the same ones every time."""
    import torch

    from autoformer.subnet import Subnet

    with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as if nothing had been made
        torch.manual_seed(0)
        return Subnet.from_space(space, architecture).eval()


def _export(network: Subnet, path: Path) -> None:
    from autoformer.export.onnx_graph import OnnxGraph

    OnnxGraph.from_network(network, path)
