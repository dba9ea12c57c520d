"""Engines under the stand-in for TensorRT: layers with known times, copies and the time of handing work over."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoformer.errors import MeasurementError
from autoformer.export.engines.builder import BuiltEngine, EngineBuilder, EngineConfig
from autoformer.files import write_json
from autoformer.profiling.backends.tensorrt_backend import TensorRTBackend
from autoformer.profiling.insides.tensorrt_layers import layers_of_engine
from autoformer.profiling.measuring.backend import CopiesImages, Enqueues
from tests.support.engines import VERSIONS, Install


def built(graph: Path) -> BuiltEngine:
    write_json({"Flatten_0": "blocks.0.attn", "MatMul_1": "head"}, graph.with_suffix(".scopes.json"))
    return EngineBuilder(EngineConfig(detailed=True)).build(graph, graph.with_name("model.plan"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_layers_of_an_engine_are_joined_and_stand_beside_a_run_without_the_profiler(
    version: str, graph: Path, install: Install
) -> None:
    install(version)
    engine = built(graph)
    found = layers_of_engine(engine.path, graph=graph, batch=2, runs=4, sha256=engine.sha256)
    # the stand-in reports 0.25 ms and 0.5 ms
    assert [(layer.name, layer.average_ms, layer.total_ms) for layer in found.layers] == [
        ("Flatten_0", 0.25, 1.0), ("MatMul_1", 0.5, 2.0),
    ]  # fmt: skip
    assert found.by("kind") == {"head": 0.5, "attention": 0.25}
    assert (found.sum_ms, found.runs, found.batch, found.joined) == (0.75, 4, 2, 1.0)
    assert found.end_to_end_ms is not None
    assert found.ratio == 0.75 / found.end_to_end_ms
    with pytest.raises(MeasurementError, match="runs is 0"):
        layers_of_engine(engine.path, runs=0, sha256=engine.sha256)


def test_an_engine_runs_with_copies_and_tells_what_handing_work_over_took(graph: Path, install: Install) -> None:
    install()
    engine = built(graph)
    for cuda_graph in (False, True):
        with TensorRTBackend(engine.path, batch=2, sha256=engine.sha256, cuda_graph=cuda_graph) as backend:
            assert isinstance(backend, Enqueues)
            assert isinstance(backend, CopiesImages)
            before, gpu_ms, after = backend.enqueue_ms, backend.run(), backend.enqueue_ms
            assert (before, gpu_ms is None) == (None, False)
            assert after is not None
            assert after > 0
            backend.run_with_copies()
