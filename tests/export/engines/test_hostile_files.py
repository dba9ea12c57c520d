"""Hundreds of damaged files in NVIDIA's real parser and builder: it may say what it likes, or die; we answer in one line."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from autoformer.errors import CheckpointError
from autoformer.export.engines.tensorrt_versions import TENSORRT_RTX
from autoformer.export.engines.trial import Limits, TrialProcess
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.quantization import quantize_for_timing
from tests.support.engines import small_subnet
from tests.support.mutations import damaged_onnx
from tests.support.real_tensorrt import needs_real_tensorrt

MUTATIONS = 600
LIMITS = Limits(seconds=60, memory_mib=4096)


@pytest.mark.slow
def test_damaged_files_are_refused_built_or_the_end_of_their_own_process(tmp_path: Path) -> None:
    needs_real_tensorrt()
    graph = OnnxGraph.from_network(small_subnet(), tmp_path / "fp32.onnx")
    whole = [graph.path.read_bytes(), quantize_for_timing(graph, tmp_path / "int8.onnx").path.read_bytes()]
    file, outcomes = tmp_path / "damaged.onnx", Counter[str]()
    with TrialProcess(TENSORRT_RTX, LIMITS) as attempt:
        for number in range(MUTATIONS):
            file.write_bytes(damaged_onnx(whole[number % 2], random.Random(number)))
            try:
                found = attempt(file, build=number % 3 == 0, gpus=("8.9",))
            except CheckpointError as error:
                outcomes["not read by us" if "\n" not in str(error) else "said in several lines"] += 1
                continue
            outcomes["crashed" if found.crashed else found.step or ("read", "built")[number % 3 == 0]] += 1
            assert "\n" not in (found.error or "")
            assert len(found.error or "") < 3000
        assert attempt(graph.path, build=True, gpus=("8.9",)).error is None
    assert set(outcomes) <= {"not read by us", "parsing", "read", "building", "built", "crashed"}
    assert sum(outcomes.values()) == MUTATIONS
    assert min(outcomes["built"], outcomes["read"], outcomes["parsing"], outcomes["not read by us"]) > 20, outcomes


def test_a_graph_that_leads_into_itself_ends_the_library_and_not_us(tmp_path: Path) -> None:
    """Seen in TensorRT-RTX 1.7.1: its parser says that there is a cycle, and falls."""
    needs_real_tensorrt()
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Identity", ["a"], ["y"], name="third"),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, tmp_path / "cycle.onnx")
    with TrialProcess(TENSORRT_RTX, LIMITS) as attempt:
        found = attempt(tmp_path / "cycle.onnx", build=True)
    assert found.error is not None
    assert "cycle" in found.error
    assert "\n" not in found.error
