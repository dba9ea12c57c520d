"""What is inside an engine that was built ahead of time and that no GPU here runs: its builder is asked, not the engine."""

from __future__ import annotations

from pathlib import Path

from autoformer.errors import CheckpointError, ExportError
from autoformer.export.engines.artefact import profiles_of, runs_here, settings_of
from autoformer.export.engines.trial import TrialProcess
from autoformer.export.manifest import Artefact
from autoformer.profiling.insides.engine_insides import RUNS, EngineInsides, look_inside


def look_inside_any(plan: Path, artefact: Artefact, graph: Path | None, *, twin: bool = False, runs: int = RUNS) -> EngineInsides:
    """As `look_inside`; where no GPU here runs the engine, what the builder says of a twin, without times.

    The twin is built in a process of its own with the same settings. Raises `CheckpointError` without the ONNX file, and
    `ExportError` with what the builder has against it.
    """
    if artefact.status != "built" or runs_here(settings_of(artefact)):
        return look_inside(plan, artefact, graph, twin=twin, runs=runs)
    if graph is None:
        raise CheckpointError(f"the ONNX file that {plan} was built from is not beside it, and no GPU here runs it")
    settings = settings_of(artefact)
    with TrialProcess(settings.product) as attempt:
        trial = attempt.of(graph, settings)
    if trial.error is not None:
        raise ExportError(trial.error)
    return EngineInsides(plan, artefact.precision, True, profiles_of(artefact)[0][1], trial.layers(graph), ())
