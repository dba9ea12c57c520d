"""Networks of a space, opened to be timed together: exported first, then each opened several times, in a new order every time.

The same file opened twice in one process differs by 2 to 4 per cent for as long as it stays open, because its pages lie elsewhere
in the caches, and what a process opens first tends to be the slowest. So every network has one session that is not timed (it
stays open, so that its pages are taken), then several in random orders, whose times are averaged (`drift.as_one`). Networks
that outweigh the caches many times do not need it, and there is no memory for it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from autoformer.architecture import Architecture
from autoformer.cost import count_params
from autoformer.errors import CheckpointError, MeasurementError
from autoformer.export.engines.builder import EngineBuilder, EngineConfig
from autoformer.export.engines.cuda_runtime import Cuda
from autoformer.export.engines.tensorrt_versions import PRODUCTS, TENSORRT, import_tensorrt
from autoformer.export.manifest import sha256_of
from autoformer.files import json_digest, read_json, write_json
from autoformer.profiling.backends.tensorrt_backend import WITH_GRAPH, TensorRTBackend
from autoformer.profiling.measuring.backend import USUAL_BACKENDS, LatencyBackend
from autoformer.progress import Progress, silent
from autoformer.space import SearchSpace
from autoformer.temporary import temporary_folder

if TYPE_CHECKING:
    from torch import nn

    from autoformer.networks.subnet import Subnet

INSTANCES = 8  # timed sessions of each network
INSTANCES_MIB = 1024  # of weights: no more sessions than fit, beside the first
STRETCH, WEIGHT_STD = 1_048_573, 0.02  # of the random numbers that weights are made of: how many (a prime), how wide

Exporter = Callable[["Subnet", Path], object]  # writes an ONNX file
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What networks of a space run on. Raises `MeasurementError` for an unknown backend, or a precision that a kit measures."""

    backend: str = "onnxruntime-cpu"  # of `USUAL_BACKENDS`
    precision: str = "fp32"
    batch: int = 1  # images in one call
    threads: int | None = None  # of a CPU; None: the cores this process may use
    seed: int = 0  # of the images, and of the order of sessions

    def __post_init__(self) -> None:
        if self.backend not in USUAL_BACKENDS:
            raise MeasurementError(f"no table for backend {self.backend!r}; known are {', '.join(USUAL_BACKENDS)}")
        if self.precision != "fp32":
            raise MeasurementError(
                f"tables are measured here in fp32, asked for {self.precision!r}; others come from a kit (`profile kit`)"
            )


@contextmanager
def opened_networks(
    space: SearchSpace,
    architectures: Sequence[Architecture],
    setup: Setup,
    *,
    instances: int = INSTANCES,
    folder: Path | None = None,
    exporter: Exporter | None = None,
    progress: Progress | None = None,
) -> Iterator[dict[Architecture, list[LatencyBackend]]]:
    """Every network in as many sessions as `instances` says, or fewer where their weights would come to 1 GiB.

    `folder` keeps the exported graphs for another time; None puts them into a temporary one. Weights are fresh.
    """
    params = sum(count_params(architecture, space) for architecture in architectures)
    with ExitStack() as stack:
        place = folder or stack.enter_context(temporary_folder("networks"))
        tell = progress or silent
        missing = [network for network in architectures if not is_exported(space, network, setup.backend, place)]
        for index, network in enumerate(missing):
            tell("export networks", index, len(missing))
            export_for(space, network, setup.backend, place, exporter)
            tell("export networks", index + 1, len(missing))
        openers = {network: partial(open_network, space, network, setup, place) for network in architectures}
        yield stack.enter_context(opened_in_turn(openers, params, seed=setup.seed, instances=instances, progress=tell))


@contextmanager
def opened_in_turn(
    openers: Mapping[Name, Callable[[], LatencyBackend]],
    params: int,
    *,
    seed: int = 0,
    instances: int = INSTANCES,
    progress: Progress = silent,
) -> Iterator[dict[Name, list[LatencyBackend]]]:
    """What the `openers` open, each in as many sessions as `instances` says, or fewer where weights would come to 1 GiB.

    `params` are those of all networks together; `seed` draws the order of the sessions.
    """
    fitting = max(1, min(instances, int(INSTANCES_MIB * 2**20 / (4 * params))))
    opened: dict[Name, list[LatencyBackend]] = {name: [] for name in openers}
    rng, names = random.Random(seed), list(openers)
    with ExitStack() as stack:
        turns = [False] * (fitting > 1) + [True] * fitting
        for turn, kept in enumerate(turns):
            for place, name in enumerate(rng.sample(names, len(names)), 1):
                one = stack.enter_context(openers[name]())
                if kept:
                    opened[name].append(one)
                progress("open networks", turn * len(names) + place, len(turns) * len(names))
        yield opened


def open_network(space: SearchSpace, architecture: Architecture, setup: Setup, folder: Path) -> LatencyBackend:
    """A network of `space` with fresh weights, ready to be timed; exported into `folder` where needed."""
    path = export_for(space, architecture, setup.backend, folder)
    if path is not None:
        return open_graph(path, setup)
    size = space.image_size_of(architecture)
    return open_in_torch(fresh_network(space, architecture), (space.in_chans, size, size), setup)


def open_graph(path: Path, setup: Setup) -> LatencyBackend:
    """An ONNX file, ready to be timed; its engine is built where the backend is TensorRT or TensorRT-RTX."""
    if setup.backend.removesuffix(WITH_GRAPH) in PRODUCTS:
        return engine_of(path, batch=setup.batch, backend=setup.backend)
    from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend

    provider = setup.backend.rsplit("-", 1)[-1]
    return OnnxRuntimeBackend(path, batch=setup.batch, provider=provider, threads=setup.threads, seed=setup.seed)


def open_in_torch(network: nn.Module, image_shape: tuple[int, int, int], setup: Setup) -> LatencyBackend:
    """A torch network, ready to be timed."""
    from autoformer.profiling.backends.torch_backend import TorchBackend

    device = setup.backend.rsplit("-", 1)[-1]
    return TorchBackend(network, image_shape, batch=setup.batch, device=device, threads=setup.threads, seed=setup.seed)


def export_for(
    space: SearchSpace, architecture: Architecture, backend: str, folder: Path, exporter: Exporter | None = None
) -> Path | None:
    """The ONNX file of a network of `space` in `folder`, written where it is not there; None for torch, which needs none."""
    if backend.startswith("torch-"):
        return None
    path = _graph_path(space, architecture, folder)
    if not path.exists():
        (exporter or _export)(fresh_network(space, architecture), path)
    return path


def is_exported(space: SearchSpace, architecture: Architecture, backend: str, folder: Path) -> bool:
    """Whether `export_for` has nothing to do."""
    return backend.startswith("torch-") or _graph_path(space, architecture, folder).exists()


def _graph_path(space: SearchSpace, architecture: Architecture, folder: Path) -> Path:
    identity = {"space": space.to_dict(), "architecture": architecture.to_dict()}
    return folder / f"{architecture.slug}-{json_digest(identity)[:12]}.onnx"


def _export(network: Subnet, path: Path) -> None:
    from autoformer.export.graphs.onnx_graph import OnnxGraph

    OnnxGraph.from_network(network, path)


def fresh_network(space: SearchSpace, architecture: Architecture) -> Subnet:
    """A network of `space` with random weights, the same ones every time.

    They come from a stretch of random numbers that repeats, which is made in no time for any number of weights.
    """
    import torch

    from autoformer.networks.subnet import Subnet
    from autoformer.networks.unfilled import Unfilled

    with torch.device("meta"), Unfilled():
        network = Subnet.from_space(space, architecture)
    network = network.to_empty(device="cpu").eval()
    numbers = torch.randn(STRETCH, generator=torch.Generator().manual_seed(0)) * WEIGHT_STD
    start = 0
    with torch.no_grad():
        for name, weights in network.state_dict().items():
            flat, filled = weights.view(-1), 0
            while filled < len(flat):
                piece = numbers[start : start + len(flat) - filled]
                flat[filled : filled + len(piece)] = piece
                filled, start = filled + len(piece), (start + len(piece)) % STRETCH
            if "norm" in name and name.endswith("weight"):
                weights += 1
    return network


def engine_of(graph: Path, *, batch: int, backend: str) -> TensorRTBackend:
    """The engine of an ONNX file for exactly `batch` images, built where it is not beside the file.

    One that another TensorRT, another GPU or another file left there is built anew. Raises what building and loading raise.
    """
    product = PRODUCTS[backend.removesuffix(WITH_GRAPH)]
    plan = graph.with_suffix(f".b{batch}.{'' if product is TENSORRT else 'rtx.'}plan")
    record, version, gpu = plan.with_suffix(".json"), import_tensorrt(product).__version__, Cuda().gpu()
    here = {"graph": sha256_of(graph), product.format: version, "gpu": gpu.name}
    if not _is_of(record, plan, here):
        config = EngineConfig(format=product.format, profiles=((batch, batch, batch),))
        timed = {"gpus": (gpu.compute_capability,)} if product.ahead_of_time else {"timing_cache": timing_folder()}
        built = EngineBuilder(replace(config, **timed)).build(graph, plan)
        write_json({"sha256": built.sha256, **here}, record)
    digest = read_json(record, "sha256")["sha256"]
    return TensorRTBackend(plan, batch=batch, sha256=digest, cuda_graph=backend.endswith(WITH_GRAPH), product=product)


def timing_folder() -> Path:
    """The timing caches of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoformer" / "timing"


def _is_of(record: Path, plan: Path, here: dict[str, str]) -> bool:
    if not record.is_file() or not plan.is_file():
        return False
    try:
        found = read_json(record, "sha256", *here)
    except CheckpointError:
        return False
    return all(found[key] == value for key, value in here.items())
