"""The times of an ONNX file's layers from ONNX Runtime's own profile, with the torch module each came from.

ONNX Runtime fuses and adds nodes when it loads a file, so many nodes that run have no name in the file. ONNX Runtime writes the
graph that it runs. A node of that graph is found in the file by its name, by the name before a slash (fused products), or by a
value that it gives; one that is still unknown belongs to the node that takes its value, else to the one whose value it takes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from autoformer.errors import CheckpointError, MeasurementError
from autoformer.export.graphs.onnx_file import module_scopes
from autoformer.export.graphs.onnx_reading import read_model
from autoformer.files import read_json
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend
from autoformer.profiling.insides.layers import ROOT, LayerProfile, LayerTime, common_scope, scope_in_path
from autoformer.profiling.measuring.measure import MeasureConfig, measure
from autoformer.temporary import temporary_folder

EVENT = "_kernel_time"
WARMUP_RUNS = 3
SCOPES = "pkg.torch.onnx.name_scopes"  # where torch's exporter records them, in files that were not cleaned


def layers_of_onnx(
    path: Path, *, batch: int = 1, threads: int = 1, runs: int = 50, provider: str = "cpu", precision: str | None = None
) -> LayerProfile:
    """Runs the file `runs` times with ONNX Runtime's profiler, then without it. Raises what `OnnxRuntimeBackend` raises."""
    if runs < 1:
        raise MeasurementError(f"runs is {runs}, expected 1 or more")
    model = read_model(path, weights_beside=True)
    scopes = scopes_of(path, model)
    with temporary_folder("layers") as folder:
        profiled = OnnxRuntimeBackend(
            path, batch=batch, threads=threads, provider=provider, precision=precision, profile_into=folder
        )
        with profiled:
            for _ in range(WARMUP_RUNS + runs):
                profiled.run()
            events = json.loads(profiled.end_profiling().read_text(encoding="utf-8"))
        executed = onnx.load(folder / "executed.onnx", load_external_data=False)
    joined = join(executed, model, scopes)
    config = MeasureConfig(warmup_s=0.1, warmup_max_s=1, rounds=3, min_runs=30, min_s=0.3, max_s=10)
    with OnnxRuntimeBackend(path, batch=batch, threads=threads, provider=provider, precision=precision) as plain:
        taken = measure({"plain": plain}, config)["plain"]
    return LayerProfile(
        name=path.name,
        backend=taken.backend,
        precision=taken.precision,
        batch=batch,
        threads=taken.threads,
        runs=runs,
        layers=layer_times(events, joined, runs),
        end_to_end_ms=taken.stats.p50_ms,
    )


def layer_times(events: list[Mapping[str, Any]], joined: Mapping[str, str], runs: int) -> tuple[LayerTime, ...]:
    """The layers in the profile of ONNX Runtime, from their last `runs` runs; those before warmed it up."""
    durations: dict[str, list[float]] = defaultdict(list)
    operators: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith(EVENT):
            name = event["name"].removesuffix(EVENT)
            durations[name].append(event["dur"] / 1000)
            operators[name] = event.get("args", {}).get("op_name", "")
    if not durations:
        raise MeasurementError("ONNX Runtime's profile names no layer; is its version one that profiles nodes?")
    return tuple(LayerTime.of(name, operators[name], joined.get(name, ""), all_ms[-runs:]) for name, all_ms in durations.items())


def scopes_of(path: Path, model: onnx.ModelProto | None = None) -> dict[str, str]:
    """The torch module of each node of a file: from the side file, from what torch's exporter recorded, or from the names.

    Empty where nothing names a module, which is not the same as all of it being the network's own.
    """
    if beside := module_scopes(path):
        return beside
    found = {}
    for node in (model or read_model(path, weights_beside=True)).graph.node:
        recorded = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), None)
        found[node.name] = _innermost(recorded) if recorded is not None else scope_in_path(node.name)
    return found if any(found.values()) else {}


def read_scopes(path: Path) -> dict[str, str]:
    """The torch module of each node, from the side file that an export writes. Raises `CheckpointError` for another file."""
    values = read_json(path)
    if not isinstance(values, dict) or not all(isinstance(scope, str) for scope in values.values()):
        raise CheckpointError(f"{path} does not name a module for each node; export the network again")
    return values


def _innermost(recorded: str) -> str:
    """The module in torch's record, a list of names in Python's form whose last is the operation."""
    names = [word.strip("' \"") for word in recorded.strip("[] ").split(",")]
    return next((name for name in reversed(names[:-1]) if name), "")


def join(executed: onnx.ModelProto, model: onnx.ModelProto, scopes: Mapping[str, str]) -> dict[str, str]:
    """The torch module of each node of the graph that ONNX Runtime runs."""
    giver = {output: node.name for node in model.graph.node for output in node.output}
    found: dict[str, str] = {}
    for node in executed.graph.node:
        first = node.name.removeprefix("fused ").split("/")[0]
        named = next((name for name in (node.name, first) if name in scopes), None)
        if named is None:
            given = [scopes[giver[output]] or ROOT for output in node.output if giver.get(output) in scopes]
            found[node.name] = common_scope(given)
        else:
            found[node.name] = scopes[named] or ROOT
    for forward in (False, True):
        _spread(executed, found, forward)
    return found


def _spread(executed: onnx.ModelProto, found: dict[str, str], forward: bool) -> None:
    """Gives nodes without a module that of the node which takes their value, or (`forward`) whose value they take."""
    nodes = list(executed.graph.node)
    neighbours: dict[str, str] = {}
    for node in nodes if forward else reversed(nodes):
        near, far = (node.input, node.output) if forward else (node.output, node.input)
        scope = found[node.name] or next((neighbours[value] for value in near if value in neighbours), "")
        found[node.name] = scope
        if scope:
            for value in far:
                neighbours.setdefault(value, scope)
