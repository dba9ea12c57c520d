"""A kit whose graphs are small, and a runtime whose times are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autoformer.architecture import Architecture
from autoformer.profiling.kits import writing as kit_writing
from autoformer.profiling.kits.kit import Kit, KitNetwork, StoppingRule
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import Measurement, Warmup
from autoformer.profiling.measuring.order_statistics import LatencyStats
from autoformer.profiling.measuring.verdict import Gates, judge
from autoformer.space import SearchSpace

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
RULE = StoppingRule(min_rounds=6, max_rounds=8, max_interval=0.02, seconds=0.01, min_runs=3)
FACTS = DeviceFacts(
    cpu="Test CPU", cores=1, governor=None, load_average=None, isa=(), memory_mib=None, operating_system="test", python="3.10",
)  # fmt: skip


def small_graph(network: nn.Module, precision: str, opset: int) -> onnx.ModelProto:
    """Instead of the export: 64 pixels times a stored matrix, of another size for every architecture."""
    wide = int(network.architecture.embed_dim) * 8  # type: ignore[union-attr, arg-type]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", wide])
    weight = numpy_helper.from_array(np.ones((64, wide), np.float32), "weight")
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["logits"])]
    graph = helper.make_graph(nodes, precision, [images], [logits], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def small_kit(out: Path, count: int = 4, precisions: tuple[str, ...] = ("fp32",), rule: StoppingRule = RULE, **more: Any) -> Kit:
    """Writes a kit of small graphs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit_writing, "_graph_of", small_graph)
        config = kit_writing.KitConfig(networks=count, precisions=precisions, rule=rule, **more)
        return kit_writing.write_kit(SPACE, out, config, program=b"a program")


@dataclass
class ScriptedRuntime:
    """`time_ms(architecture, build, visit)` per network, the visits of one instance counted from 0; `fails` breaks a visit."""

    time_ms: Callable[[Architecture, int, int], float]
    name: str = "tensorrt"
    facts: Mapping[str, str] = field(default_factory=lambda: {"tensorrt": "10.3.0"})
    visited: list[tuple[str, int]] = field(default_factory=list)
    prepared: list[tuple[str, int]] = field(default_factory=list)
    fails_at: int | None = None  # the visit that is interrupted, counted over all

    def prepare(self, network: KitNetwork, precision: str, batch: int, build: int) -> Mapping[str, Any]:
        self.prepared.append((network.name, build))
        return {"seconds": 1.5, "gpu": "Orin"}

    def visit(self, network: KitNetwork, precision: str, batch: int, build: int, rule: StoppingRule) -> Measurement:
        if len(self.visited) == self.fails_at:
            raise KeyboardInterrupt
        before = sum(one == (network.name, build) for one in self.visited)
        self.visited.append((network.name, build))
        samples = (self.time_ms(network.architecture, build, before),) * 5
        stats = LatencyStats.from_samples(samples)
        return Measurement(
            name=network.name, backend=self.name, precision=precision, batch=batch, threads=None, settings={"graph": "on"},
            device=FACTS, warmup=Warmup(3, 0.1, True), stats=stats, cpu_stats=None, device_stats=None,
            verdict=judge(stats, Gates.for_backend(self.name)), samples_ms=samples, cpu_samples_ms=(), device_samples_ms=(),
            round_runs=(5,),
        )  # fmt: skip


def load_graph(path: Path) -> onnx.ModelProto:
    """The graph with its weights."""
    return onnx.load(path)
