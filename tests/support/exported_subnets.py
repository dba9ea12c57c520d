"""A small network of several image sizes, its ONNX graph and its int8 form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.data.preprocessing import Preprocessing
from autoformer.export.graphs.onnx_graph import OnnxGraph, describe
from autoformer.export.graphs.quantization import quantize_int8
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace

SPACE = SearchSpace(
    name="nano", embed_dims=(32, 48), depths=(1, 2, 3), num_heads=(1, 2), mlp_ratios=(1.0, 1.5), head_dim=16,
    image_sizes=(6, 8), patch_size=2, in_chans=3, num_classes=5, max_relative_position=2,
)  # fmt: skip
ARCHITECTURE = Architecture(embed_dim=48, num_heads=(2,), mlp_ratio=(1.5,), image_size=8)
PREPROCESSING = Preprocessing(image_size=8, in_chans=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
CLASSES = ("ash", "beech", "elm", "lime", "oak")


def network(architecture: Architecture = ARCHITECTURE) -> Subnet:
    torch.manual_seed(0)
    subnet = Subnet.from_space(SPACE, architecture).eval()
    for name, parameter in subnet.named_parameters():  # fresh networks are near zero; these have something to get wrong
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3)
    return subnet


def noise(count: int, side: int = 8, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, side, side), dtype=np.float32)


@pytest.fixture(scope="module")
def subnet() -> Subnet:
    return network()


@pytest.fixture(scope="module")
def graph(subnet: Subnet, tmp_path_factory: pytest.TempPathFactory) -> OnnxGraph:
    metadata = describe(subnet, preprocessing=PREPROCESSING, classes=CLASSES).to_properties()
    return OnnxGraph.from_network(subnet, tmp_path_factory.mktemp("onnx") / "model.onnx", metadata=metadata)


# --- int8 ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8(graph: OnnxGraph) -> OnnxGraph:
    quantised, trials = quantize_int8(graph, noise(48), graph.path.with_name("int8.onnx"))
    assert [trial.disagreement for trial in trials] == sorted(trial.disagreement for trial in trials)
    assert len(trials) == 4
    return quantised
