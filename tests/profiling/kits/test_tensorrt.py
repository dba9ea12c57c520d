"""A kit through TensorRT's Python bindings, on the fake made from NVIDIA's listings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoformer.errors import CheckpointError
from autoformer.profiling.kits.kit import Kit
from autoformer.profiling.kits.runtimes import TensorRTRuntime, runtime_here
from tests.support.engines import Install
from tests.support.kits import FACTS, RULE, small_kit


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_an_engine_is_built_once_and_loaded_at_every_visit(tmp_path: Path, install: Install, cuda_graph: bool) -> None:
    cuda = install()
    small_kit(tmp_path / "kit")
    network = Kit.load(tmp_path / "kit").networks[0]
    name = "tensorrt-graph" if cuda_graph else "tensorrt"
    runtime = runtime_here(name, tmp_path / "kit", tmp_path / "engines", threads=1, device=FACTS)
    assert isinstance(runtime, TensorRTRuntime)
    made = runtime.prepare(network, "fp32", 4, 0)
    assert runtime.prepare(network, "fp32", 4, 0) == {}
    (plan,) = (tmp_path / "engines").glob("*.plan")
    assert json.loads(plan.with_suffix(".json").read_text())["plan"] == made["sha256"]
    taken = runtime.visit(network, "fp32", 4, 0, RULE)
    assert (taken.backend, taken.batch, taken.precision) == (name, 4, "fp32")
    assert len(taken.samples_ms) >= RULE.min_runs
    assert not cuda.memory  # nothing is left open between visits


def test_a_plan_that_was_exchanged_is_not_loaded(tmp_path: Path, install: Install) -> None:
    install()
    small_kit(tmp_path / "kit")
    network = Kit.load(tmp_path / "kit").networks[0]
    runtime = runtime_here("tensorrt", tmp_path / "kit", tmp_path / "engines", threads=1, device=FACTS)
    runtime.prepare(network, "fp32", 1, 0)
    (plan,) = (tmp_path / "engines").glob("*.plan")
    plan.write_bytes(plan.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="SHA-256"):
        runtime.visit(network, "fp32", 1, 0, RULE)
