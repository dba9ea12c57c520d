"""The published AutoFormer-T as real engines, wherever a GPU and a TensorRT are: built, run, refitted, compared, looked into.

pytest -m tensorrt tests/export/engines/test_tensorrt_device.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
from autoformer.export.engines.builder import EngineBuilder, EngineConfig
from autoformer.export.engines.engine import Engine
from autoformer.export.engines.layers import inspect_engine, layer_times
from autoformer.export.engines.refit import refit_engine
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.networks.half_precision import HalfPrecision
from autoformer.export.parity import TOLERANCES, compare, run_in_batches
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace

pytestmark = [pytest.mark.tensorrt, pytest.mark.gpu]
OPSET = 17  # read by every TensorRT from 8.6 on
IMAGES = np.random.default_rng(0).standard_normal((8, 3, 224, 224), dtype=np.float32)


def network(seed: int) -> Subnet:
    torch.manual_seed(seed)
    return Subnet.from_space(SearchSpace.preset(PUBLISHED_SPACES["AutoFormer-T"]), PUBLISHED["AutoFormer-T"]).eval()


def export(source: Subnet, path: Path, precision: str) -> Path:
    exported: Any = source if precision == "fp32" else HalfPrecision(source)
    shape = (3, 224, 224)
    return OnnxGraph.from_network(exported, path, opset=OPSET, image_shape=shape, as_it_is=precision == "fp16").path


def check(source: Subnet, engine: Engine, precision: str) -> None:
    with torch.inference_mode():
        expected: NDArray[np.float32] = source(torch.from_numpy(IMAGES)).numpy()
    given, sizes = run_in_batches(engine, IMAGES, (1, 2, 5))
    parity = compare(expected, given, precision=precision, batches=sizes, tolerance=TOLERANCES[precision])
    assert parity.passed, parity.reason


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_published_network_is_built_run_refitted_and_equal(precision: str, tmp_path: Path) -> None:
    first, second = network(0), network(1)
    graph = export(first, tmp_path / "first.onnx", precision)
    config = EngineConfig(
        precision=precision, profiles=((1, 1, 1), (1, 8, 8)), timing_cache=tmp_path / "cache", refittable=True, detailed=True
    )  # fmt: skip
    phases: set[str] = set()
    built = EngineBuilder(config).build(graph, tmp_path / "first.plan", on_progress=lambda phase, *_: phases.add(phase))
    assert phases or built.here["tensorrt"].startswith("8.")
    with Engine.load(built.path, sha256=built.sha256) as engine:
        check(first, engine, precision)
        plain = engine(IMAGES[:1])
        reason = engine.capture()
        assert reason is None, reason
        np.testing.assert_array_equal(engine(IMAGES[:1]), plain)
        assert 0 < engine.infer_timed() < 1000
        engine.prepare(8)
        layers = inspect_engine(engine, graph)
        assert any(layer.modules for layer in layers.layers), "layers are joined to modules"
        assert sum(time.median_ms for time in layer_times(engine, 5, layers)) > 0
    refitted = refit_engine(
        built.path, export(second, tmp_path / "second.onnx", precision), tmp_path / "second.plan", sha256=built.sha256
    )  # fmt: skip
    with Engine.load(refitted.path, sha256=refitted.sha256) as engine:
        check(second, engine, precision)
    again = EngineBuilder(config).build(graph, tmp_path / "again.plan")
    assert again.timing_cache is not None
    assert built.timing_cache is not None
    assert again.timing_cache["before"] == built.timing_cache["after"]
