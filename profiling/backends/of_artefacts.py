"""Which backends an artefact can run on here, and how each is opened: ONNX files, engines, networks of ours and of timm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from autoformer.errors import CheckpointError, MeasurementError
from autoformer.export.engines.plans import product_of_plan
from autoformer.export.graphs.refusals import refusal
from autoformer.export.manifest import FILE_NAME as MANIFEST
from autoformer.export.manifest import Manifest
from autoformer.export.predictor import refuse_no_network
from autoformer.files import TIMM
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend
from autoformer.profiling.backends.tensorrt_backend import WITH_GRAPH
from autoformer.profiling.measuring.backend import LatencyBackend

if TYPE_CHECKING:
    import onnx

PLAN_SUFFIXES = (".plan", ".engine")


@dataclass(frozen=True)
class Job:
    """One artefact on one backend."""

    words: str  # that name it on the command line
    name: str  # in tables and files
    backend: str  # of `BACKENDS`
    open: Callable[[], LatencyBackend]


def fixed_batch(words: str) -> int | None:
    """How many images each call of an ONNX file takes exactly; None: any number, or it is not an ONNX file."""
    if not words.endswith(".onnx") or not Path(words).is_file():
        return None
    graph = _onnx(Path(words)).graph
    stored = {tensor.name for tensor in graph.initializer}
    shapes = [value.type.tensor_type.shape.dim for value in graph.input if value.name not in stored]
    first = shapes[0][0].dim_value if shapes and shapes[0] else 0
    return int(first) or None


def open_artefact(words: str, backend: str, *, batch: int, threads: int | None, spinning: bool = False) -> LatencyBackend:
    """One artefact on one backend of `BACKENDS`. Raises `MeasurementError` where it does not run on that."""
    jobs = jobs_of(words, words, batch, threads, spinning)
    job = next((job for job in jobs if job.backend == backend), None)
    if job is None:
        raise MeasurementError(f"{words} runs on {', '.join(job.backend for job in jobs)}, not on {backend}")
    return job.open()


def prepare_imports(backend: str) -> None:
    """Imports what a backend needs, so that loading a network afterwards is that alone."""
    kind = backend.split("-")[0]
    if kind == "torch":
        from autoformer.pretrained import named_network  # noqa: F401
        from autoformer.profiling.backends import torch_backend  # noqa: F401
    elif kind == "onnxruntime":
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    else:
        from autoformer.export.engines import engine  # noqa: F401
        from autoformer.profiling.backends import tensorrt_backend  # noqa: F401


def jobs_of(words: str, label: str, batch: int, threads: int | None, spinning: bool) -> list[Job]:
    """Every backend that the artefact `words` could run on, under the name `label`.

    Raises `CheckpointError` where `words` name none.
    """
    path = Path(words)
    if path.suffix == ".onnx" and path.is_file():
        precision = onnx_precision(path)

        def open_onnx(provider: str) -> LatencyBackend:
            return OnnxRuntimeBackend(
                path, batch=batch, provider=provider, threads=threads, precision=precision, spinning=spinning
            )

        return [
            Job(words, label, "onnxruntime-cpu", lambda: open_onnx("cpu")),
            Job(words, label, "onnxruntime-cuda", lambda: open_onnx("cuda")),
            Job(words, label, "onnxruntime-tensorrt", lambda: open_onnx("tensorrt")),
            Job(words, label, "onnxruntime-tensorrt-rtx", lambda: open_onnx("tensorrt-rtx")),
        ]
    if path.suffix in PLAN_SUFFIXES and path.is_file():
        format = product_of_plan(path).format
        return [
            Job(words, label, format, lambda: _open_plan(path, batch, cuda_graph=False)),
            Job(words, label, f"{format}{WITH_GRAPH}", lambda: _open_plan(path, batch, cuda_graph=True)),
        ]
    if words.startswith(TIMM) or (path / "config.json").is_file():
        return [
            Job(words, label, f"{begin}-{device}", partial(_open_network, words, device, mode, batch, threads))
            for device in ("cpu", "cuda")
            for mode, begin in (("eager", "torch"), ("compiled", "torch-compiled"), ("graph", "torch-graph"))
        ]
    refuse_no_network(path)
    plans = ", ".join(PLAN_SUFFIXES)
    kinds = f"an .onnx file, a TensorRT plan ({plans}), the folder of a network, timm:NAME[@FILE] or an export folder"
    raise CheckpointError(f"{path} {'is none of these' if path.exists() else 'does not exist'}; expected {kinds}")


def _open_network(words: str, device: str, mode: str, batch: int, threads: int | None) -> LatencyBackend:
    from autoformer.pretrained.named_network import open_network
    from autoformer.profiling.backends.torch_backend import TorchBackend

    named = open_network(words)
    shape = (named.preprocessing.in_chans, named.preprocessing.input_size, named.preprocessing.input_size)
    return TorchBackend(named.network, shape, batch=batch, device=device, mode=mode, threads=threads)


def _open_plan(plan: Path, batch: int, *, cuda_graph: bool) -> LatencyBackend:
    from autoformer.profiling.backends.tensorrt_backend import TensorRTBackend

    artefact = Manifest.load(plan.parent).find_file(plan.name) if (plan.parent / MANIFEST).is_file() else None
    if artefact is None:
        raise MeasurementError(f"{plan} has no entry in a {MANIFEST} beside it, so its precision is not known")
    return TensorRTBackend(plan, batch=batch, precision=artefact.precision, cuda_graph=cuda_graph)


def _onnx(path: Path) -> onnx.ModelProto:
    """The file, without weights that lie beside it. Raises `CheckpointError` when it cannot be read."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError, ValueError) as error:
        raise refusal(path, error, f"onnx {onnx.__version__}", otherwise="cannot be read") from error
    return model


def onnx_precision(path: Path) -> str:
    """What an ONNX file computes in: as it says itself, else judged by its operators and weights.

    Raises `CheckpointError` when it cannot be read.
    """
    import onnx

    model = _onnx(path)
    for entry in model.metadata_props:
        if entry.key == "autoformer.precision":
            return str(entry.value)
    if any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in model.graph.node):
        return "int8"
    kinds = [weight.data_type for weight in model.graph.initializer]
    return "fp16" if onnx.TensorProto.FLOAT16 in kinds else "fp32"
