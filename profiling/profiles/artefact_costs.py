"""How large an artefact is: parameters, multiply-adds of one image, and bytes of its file."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from autoformer.errors import CheckpointError
from autoformer.export.graphs.onnx_reading import read_model
from autoformer.export.manifest import FILE_NAME, Manifest, sha256_of
from autoformer.export.predictor import refuse_no_network
from autoformer.networks.subnet import Subnet
from autoformer.pretrained.named_network import NamedNetwork, is_network, open_network


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What is known of an artefact; None where it is unknown."""

    params: int | None = None
    flops: int | None = None  # multiply-adds of one image
    bytes: int | None = None  # of the file that holds the weights


def costs_of(words: str) -> Costs:
    """The costs of an ONNX file, an engine, or a network by its folder or name.

    A manifest beside a file says them of the network it was made from. Of an ONNX file alone the stored numbers are counted, the
    few constants of its graph with them, and its multiply-adds are not known. Raises `CheckpointError` for what is none of these.
    """
    path = Path(words)
    if is_network(words):
        named = open_network(words)
        params = sum(weight.numel() for weight in named.network.parameters())
        return Costs(params=params, flops=counted_flops(named), bytes=_size(named.weights))
    if (path.parent / FILE_NAME).is_file():
        manifest = Manifest.load(path.parent)
        described = manifest.find_file(path.name)
        if described is not None and described.sha256 == sha256_of(path):
            return Costs(params=manifest.params, flops=manifest.flops, bytes=_size(path))
    refuse_no_network(path)
    if path.suffix != ".onnx":
        return Costs(bytes=_size(path))
    weights = [math.prod(tensor.dims) for tensor in read_model(path, weights_beside=True).graph.initializer]
    return Costs(params=sum(weights), bytes=_size(path))


def counted_flops(named: NamedNetwork) -> int | None:
    """Multiply-adds of one image: in closed form of a network of ours, else as fvcore counts them; None where it cannot."""
    size = named.preprocessing.input_size
    return flops_of(named.network, (named.preprocessing.in_chans, size, size))


def flops_of(network: nn.Module, image_shape: tuple[int, int, int]) -> int | None:
    """The same of a network and the shape [C, H, W] of its images."""
    if isinstance(network, Subnet):
        return network.cost.flops
    from autoformer.profiling.insides.fvcore_counts import count_by_operator

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # it left out something that may multiply
            return count_by_operator(copy.deepcopy(network), image_shape).flops
    except (UserWarning, RuntimeError, NotImplementedError, AssertionError, KeyError):
        return None


def _size(path: Path | None) -> int | None:
    if path is None:
        return None
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a file")
    return path.stat().st_size
