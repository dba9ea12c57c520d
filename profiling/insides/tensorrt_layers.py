"""The times of an engine's layers from TensorRT's profiler, joined to torch modules, beside a run without it.

The modules come from the ONNX nodes that a layer was made of, as the inspector records them, where the ONNX file that the engine
was built from is given; else from the names of the layers.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from autoformer.errors import MeasurementError
from autoformer.export.engines.engine import Engine
from autoformer.export.engines.layers import inspect_engine
from autoformer.export.graphs.onnx_file import module_scopes
from autoformer.profiling.insides.layers import REFORMAT, LayerProfile, LayerTime, common_scope, scope_of_engine_layer

WARMUP_RUNS = 3


def layers_of_engine(
    plan: Path, *, graph: Path | None = None, batch: int = 1, runs: int = 50, sha256: str | None = None
) -> LayerProfile:
    """Runs a plan `runs` times without TensorRT's profiler and as often with it. `graph` is the ONNX file that it was built from.

    Raises what `Engine.load` raises, and `MeasurementError` without runs or where the engine reports no times.
    """
    if runs < 1:
        raise MeasurementError(f"runs is {runs}, expected 1 or more")
    scopes = {} if graph is None else module_scopes(graph)
    with Engine.load(plan, sha256=sha256) as engine:
        described = inspect_engine(engine, graph)
        engine.prepare(batch)
        whole = [engine.infer_timed() for _ in range(WARMUP_RUNS + runs)][WARMUP_RUNS:]
        profiled = engine.time_layers(WARMUP_RUNS + runs)[WARMUP_RUNS:]
    modules = {layer.name: layer.modules for layer in described.layers}
    operators = {layer.name: REFORMAT if layer.is_reformat else layer.type for layer in described.layers}
    taken: dict[str, list[float]] = {}
    for run in profiled:
        once: dict[str, float] = {}
        for name, ms in run:  # layers in several pieces have equal names
            once[name] = once.get(name, 0.0) + ms
        for name, ms in once.items():
            taken.setdefault(name, []).append(ms)
    if not taken:
        raise MeasurementError(f"{plan} reports no layer times")

    def scope(name: str) -> str:
        return common_scope(modules.get(name, ())) or scope_of_engine_layer(name, scopes)

    layers = tuple(LayerTime.of(name, operators.get(name, ""), scope(name), times) for name, times in taken.items())
    return LayerProfile(
        name=plan.name, backend="tensorrt", precision=None, batch=batch, threads=None, runs=runs, layers=layers,
        end_to_end_ms=median(whole),
    )  # fmt: skip
