"""Small graphs for engine tests, and fixtures that put a stand-in for TensorRT and CUDA in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autoformer.architecture import Architecture
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from tests.support import tensorrt_bindings
from tests.support.fake_tensorrt import FakeCuda, make_tensorrt

VERSIONS = tensorrt_bindings.LISTED  # 8.6, 10.3 and 11.4
RTX = tensorrt_bindings.RTX  # of TensorRT-RTX
WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
IMAGES = np.random.default_rng(1).standard_normal((8, 1, 2, 2)).astype(np.float32)
EXPECTED = IMAGES.reshape(8, 4) @ WEIGHT

SPACE = SearchSpace(
    name="nano", embed_dims=(32, 48), depths=(1, 2, 3), num_heads=(1, 2), mlp_ratios=(1.0, 1.5), head_dim=16,
    image_sizes=(6, 8), patch_size=2, in_chans=3, num_classes=5, max_relative_position=2,
)  # fmt: skip
ARCHITECTURE = Architecture(embed_dim=48, num_heads=(2,), mlp_ratio=(1.5,), image_size=8)  # one block

Install = Callable[..., FakeCuda]


def small_subnet(seed: int = 0) -> Subnet:
    """A network of one block, with weights that have something to get wrong."""
    subnet = Subnet.from_space(SPACE, ARCHITECTURE).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in subnet.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return subnet


def write_graph(
    path: Path, batch: int | str = "batch", *, weight: NDArray[np.float32] = WEIGHT, nodes: tuple[NodeProto, ...] = (),
    stored: tuple[TensorProto, ...] = (),
) -> Path:  # fmt: skip
    """logits = flattened images times `weight`, unless `nodes` say otherwise."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 1, 2, 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, weight.shape[1]])
    plain = (
        helper.make_node("Flatten", ["images"], ["x"], name="Flatten_0"),
        helper.make_node("MatMul", ["x", "w"], ["logits"], name="MatMul_1"),
    )
    stored = (numpy_helper.from_array(weight, "w"), *stored)
    body = helper.make_graph(list(nodes or plain), "g", [images], [logits], stored)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "model.onnx")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a fake TensorRT of some version and a fake CUDA in place; at the end nothing may be left on the device."""
    cudas: list[FakeCuda] = []

    def put(version: str = "10.3.0", *, fail: str = "", **options: object) -> FakeCuda:
        cuda = FakeCuda(**options)  # type: ignore[arg-type]
        bindings = ModuleType("cuda.bindings")
        bindings.runtime = cuda  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
        trt = make_tensorrt(version, cuda, fail=fail)
        monkeypatch.setitem(sys.modules, trt.__name__, trt)
        cudas.append(cuda)
        return cuda

    yield put
    left = [(cuda.memory, cuda.handles, cuda.graphs, cuda.capturing, cuda.last_error) for cuda in cudas]
    assert left == [({}, set(), {}, {}, 0)] * len(cudas)
