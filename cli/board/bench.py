"""`board.pyz bench`: latency of every file of a bundle on this device, by the protocol of the toolchain.

TensorRT engines are measured with and without a CUDA graph, two rows each. Where only trtexec can run them, it measures them
after the others, on its own, and its version and conditions stand in the row.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from autoformer.cli.board.bundle import Bundle
from autoformer.cli.board.program import Answer
from autoformer.errors import CheckpointError, MeasurementError, MissingPackageError
from autoformer.export.engines.artefact import checked_trtexec, trtexec_of
from autoformer.export.engines.tensorrt_versions import product_named
from autoformer.export.engines.trtexec import Listener, PlanInput, Timing, Trtexec, TrtexecTimes
from autoformer.export.expected import RESULT_FORMAT
from autoformer.export.manifest import Artefact
from autoformer.files import refuse_existing_file, write_json
from autoformer.profiling.measuring.backend import LatencyBackend
from autoformer.profiling.measuring.clock_lock import NOT_HERE, locked_clocks
from autoformer.profiling.measuring.device import DeviceFacts, GpuFacts
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure
from autoformer.profiling.measuring.sensors import MachineSensors, Reading, Sensors
from autoformer.profiling.measuring.trtexec_runs import trtexec_measurement, watched

WITH_GRAPH = "CUDA graph"  # added to the name of the second row of an engine


def bench(arguments: argparse.Namespace) -> Answer:
    """Latency of every file that runs here, measured in turn by the protocol of the toolchain."""
    if arguments.out is not None:
        refuse_existing_file(arguments.out)
    bundle = Bundle.open(arguments.bundle)
    with ExitStack() as stack:
        device = DeviceFacts.collect()
        if arguments.lock_clocks:
            if not any(artefact.is_engine for _, artefact in bundle.artefacts()):
                raise MeasurementError(NOT_HERE)
            device = stack.enter_context(locked_clocks(device))
        taken, missing = measured(bundle, arguments, device=device)
    answer: dict[str, Any] = {"measurements": {name: entry.to_dict() for name, entry in taken.items()}, "not measured": missing}
    if clocks := {name: entry.gpu_clock for name, entry in taken.items() if entry.gpu_clock is not None}:
        answer["GPU clock"] = clocks
    if arguments.out is not None:
        write_json(result_of("bench", bundle, answer), arguments.out)
    return answer, bool(taken)


def result_of(command: str, bundle: Bundle, answer: dict[str, Any]) -> dict[str, Any]:
    """A result file: what a command found on this device, for `autoformer report import`."""
    return {
        "format": RESULT_FORMAT,
        "command": command,
        "bundle": bundle.expected.name,
        "model": None if (model := bundle.manifest.find("onnx", "fp32")) is None else model.sha256,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 - Python 3.10 has no UTC
        "device": _device(bundle).to_dict(),
        "versions": runtime_versions(bundle),
        "answer": answer,
    }


def _device(bundle: Bundle) -> DeviceFacts:
    """This machine; where nothing else names its GPU, as what built the engines called it."""
    facts = DeviceFacts.collect()
    names = [str(artefact.made["gpu"]) for _, artefact in bundle.artefacts() if artefact.made.get("gpu")]
    if names and not facts.has_gpu:
        facts = replace(facts, gpus=(GpuFacts(names[0], "unknown", "unknown", None),))
    return facts


def runtime_versions(bundle: Bundle) -> dict[str, str]:
    """The versions of the runtimes that the bundle's files run on here: ONNX Runtime's, and what its engines were built with."""
    found = {}
    try:
        import onnxruntime

        found["onnxruntime"] = str(onnxruntime.__version__)
    except ImportError:  # engines need none
        pass
    for _, artefact in bundle.artefacts():
        if artefact.is_engine:
            name = artefact.format if trtexec_of(artefact) is None else "trtexec"
            found[name] = str(artefact.made.get(artefact.format))
    return found


def measured(
    bundle: Bundle, arguments: argparse.Namespace, only: str | None = None, device: DeviceFacts | None = None
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Measurements by name, of the files of precision `only` where it is given, and why others are missing.

    `device` None collects the facts of this machine.
    """
    missing: dict[str, str] = {}
    facts, sensors = device or DeviceFacts.collect(), MachineSensors()
    at_rest = sensors.read(0.0)
    visits: dict[str, Callable[[], Measurement]] = {}  # by trtexec
    with ExitStack() as stack:
        backends: dict[str, LatencyBackend] = {}
        for folder, artefact in bundle.artefacts():
            if only not in (None, artefact.precision):
                continue
            name, batch = f"{artefact.format} {artefact.precision}", artefact.batch or arguments.batch or 1
            try:
                path = bundle.manifest.verified_file(folder, artefact)
            except CheckpointError as error:  # the others are measured all the same
                missing[name] = str(error)
                continue
            if arguments.batch not in (None, batch):
                missing[name] = f"it takes exactly {artefact.batch} images, asked for {arguments.batch}"
                continue
            for row, cuda_graph in ((name, False), (f"{name} {WITH_GRAPH}", True)):
                try:
                    if artefact.is_engine and trtexec_of(artefact) is not None:
                        program = checked_trtexec(path, artefact)
                        timed = _by_trtexec(program, path, artefact, batch, cuda_graph, arguments.seconds)
                        visits[row] = partial(_visit, row, artefact.precision, timed, facts, sensors, at_rest)
                    elif artefact.is_engine or not cuda_graph:
                        backend = stack.enter_context(_opened(path, artefact, batch, cuda_graph, arguments.threads))
                        backend.run()  # one that fails must not end the others' rounds
                        backends[row] = backend
                except (MissingPackageError, MeasurementError, CheckpointError) as error:
                    missing[row] = str(error)
        config = MeasureConfig(min_s=arguments.seconds, max_s=4 * arguments.seconds)
        taken = measure(backends, config, device=facts, sensors=sensors) if backends else {}
    for row, visit in visits.items():  # after the others are closed: trtexec wants the device for itself
        try:
            taken[row] = visit()
        except (MeasurementError, CheckpointError) as error:
            missing[row] = str(error)
    return taken, missing


def _opened(path: Path, artefact: Artefact, batch: int, cuda_graph: bool, threads: int) -> LatencyBackend:
    if artefact.is_engine:
        from autoformer.profiling.backends.tensorrt_backend import TensorRTBackend

        return TensorRTBackend(
            path, batch=batch, precision=artefact.precision, sha256=artefact.sha256, cuda_graph=cuda_graph,
            product=product_named(artefact.format),
        )  # fmt: skip
    from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, batch=batch, threads=threads, precision=artefact.precision)


def _by_trtexec(
    program: Trtexec, path: Path, artefact: Artefact, batch: int, cuda_graph: bool, seconds: float
) -> Callable[[Listener], TrtexecTimes]:
    how = Timing(batch=batch, cuda_graph=cuda_graph, seconds=seconds)
    return lambda listener: program.time(path, PlanInput.of(artefact), how, listener)


def _visit(
    row: str,
    precision: str,
    timed: Callable[[Listener], TrtexecTimes],
    device: DeviceFacts,
    sensors: Sensors,
    at_rest: Reading,
) -> Measurement:
    times, conditions = watched(timed, sensors, device, at_rest)
    return trtexec_measurement(row, times, precision=precision, device=device, conditions=conditions)
