"""Refit: the weights of a finetuned network go into an engine that was built for its architecture, in seconds.

The engine must have been built refittable, from the file of a network of the same architecture; the new weights come from the
ONNX file of the finetuned one, exported the same way, so that their names are the same. A refit that fails halfway leaves an
engine of mixed weights: it is dropped, and nothing is written. What is written is a new engine: compare it with its network
again before it counts. Runs on boards.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoformer.errors import ExportError
from autoformer.export.engines.plans import deserialized, read_plan
from autoformer.export.engines.tensorrt_versions import Here, created, parser_errors
from autoformer.export.graphs.external_data import check_external_data
from autoformer.export.graphs.onnx_file import FLOAT, FLOAT16, INT8, OnnxFile
from autoformer.export.manifest import check_described, sha256_of
from autoformer.files import replacing

TYPE_NAMES = {FLOAT: "FLOAT", FLOAT16: "HALF", INT8: "INT8"}  # of TensorRT's DataType
SHOWN = 3  # names in a message


@dataclass(frozen=True, kw_only=True)
class RefittedEngine:
    """What one refit gave."""

    path: Path
    sha256: str
    source_sha256: str  # of the plan that was refitted
    graph_sha256: str  # of the ONNX file that the weights came from
    num_weights: int
    is_refittable: bool  # whether the written plan can be refitted again: from TensorRT 10.14 on
    here: Mapping[str, str]  # TensorRT and the device, as `Here.made` names them
    refit_s: float

    def made(self) -> dict[str, Any]:
        """The record for `Artefact.made`, as JSON."""
        names = ("source_sha256", "graph_sha256", "num_weights", "is_refittable")
        return {**self.here, **{name: getattr(self, name) for name in names}, "refit_seconds": round(self.refit_s, 2)}


def refit_engine(plan: Path, graph: Path, out: Path, *, sha256: str | None = None) -> RefittedEngine:
    """Writes `plan` with the weights of `graph` to `out`, whole or not at all.

    The plan is checked as `Engine.load` does. Raises `ExportError` when it is not refittable, or the weights do not fit it.
    """
    here = Here.begin()
    trt, logger, started = here.trt, here.logger, time.monotonic()
    content = read_plan(plan, sha256)
    check_described(graph)
    check_external_data(graph)
    file = OnnxFile.read(graph)
    engine = deserialized(trt, created(trt, "Runtime", logger), content, plan)
    if not engine.refittable:
        raise ExportError(f"{plan} was not built to be refitted; build it refittable, or build a new engine from {graph}")
    refitter = created(trt, "Refitter", engine, logger)
    wanted = list(refitter.get_all_weights())
    if wrong := list(_misfits(trt, refitter, wanted, file)):
        raise ExportError(f"weights of {graph} do not fit {plan}: {_some(wrong)}")
    kept = _give(here, refitter, wanted, file)
    if missing := sorted(refitter.get_missing_weights()):
        raise ExportError(f"{graph} has no weights for {_some(missing)} of {plan}; export the same architecture the same way")
    if not refitter.refit_cuda_engine():
        raise ExportError(f"TensorRT {trt.__version__} cannot refit {plan}: {logger.take()}; nothing was written")
    del kept  # the engine has the weights now
    serialized, is_refittable = _serialise(trt, engine)
    if serialized is None:
        raise ExportError(f"TensorRT {trt.__version__} cannot write the refitted {plan}: {logger.take()}")
    with replacing(out) as beside:
        beside.write_bytes(serialized)
    return RefittedEngine(
        path=out,
        sha256=sha256_of(out),
        source_sha256=sha256_of(plan) if sha256 is None else sha256,
        graph_sha256=sha256_of(graph),
        num_weights=len(wanted),
        is_refittable=is_refittable,
        here=here.made(),
        refit_s=time.monotonic() - started,
    )


def _misfits(trt: Any, refitter: Any, wanted: list[str], file: OnnxFile) -> Iterator[str]:
    """Weights of another size or type than the engine's; 8.6 does not tell what it expects, and checks when it is given them."""
    if not hasattr(refitter, "get_weights_prototype"):
        return
    for name in wanted:
        weight = file.weights.get(name)
        if weight is None:
            continue  # the parser derives some from others; what remains missing is seen afterwards
        expected = refitter.get_weights_prototype(name)
        if expected.size >= 0 and expected.size != weight.size:
            yield f"{name} has {weight.size} values, the engine's {expected.size}"
        elif weight.data_type in TYPE_NAMES and expected.dtype != getattr(trt.DataType, TYPE_NAMES[weight.data_type]):
            yield f"{name} is {TYPE_NAMES[weight.data_type]}, the engine's {expected.dtype}"


def _give(here: Here, refitter: Any, wanted: list[str], file: OnnxFile) -> Any:
    """Hands the weights over; returns what must live until the refit. Raises `ExportError` for what TensorRT does not take."""
    import numpy as np

    trt, logger = here.trt, here.logger
    if hasattr(trt, "OnnxParserRefitter"):
        parser = trt.OnnxParserRefitter(refitter, logger)
        if not parser.refit_from_bytes(file.path.read_bytes(), str(file.path)):
            said = parser_errors(parser, file) or logger.take()
            raise ExportError(f"TensorRT {trt.__version__} cannot refit with {file.path}: {said}; nothing was written")
        return parser
    kept = []
    for name in wanted:
        if name not in file.weights:
            continue
        values = file.weights[name].values()
        kind = {"int64": "int32", "float64": "float32"}.get(str(values.dtype), values.dtype)  # as the parser of 8.6 keeps them
        if kind == "int32":  # it clamps: torch slices to the end, wherever that is, with the largest int64
            values = np.asarray(values.clip(-(2**31), 2**31 - 1))
        values = values.astype(kind)  # a copy: the binding wants memory that may be written
        kept.append(values)
        if not refitter.set_named_weights(name, trt.Weights(values)):
            raise ExportError(f"weights of {file.path} do not fit the engine: {name} is refused ({logger.take()})")
    return kept


def _serialise(trt: Any, engine: Any) -> tuple[Any, bool]:
    """The plan, and whether it can be refitted again."""
    if hasattr(trt, "SerializationFlag") and hasattr(trt.SerializationFlag, "INCLUDE_REFIT"):
        config = engine.create_serialization_config()
        if config.set_flag(trt.SerializationFlag.INCLUDE_REFIT):
            return engine.serialize_with_config(config), True
    return engine.serialize(), False


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
