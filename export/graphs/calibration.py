"""What values the layers of an ONNX graph are given on some images, in memory that does not grow with the images.

Two passes: the first notes the least and the greatest of each tensor inside the graph, so that nothing else leaves it; the second
counts magnitudes in equal bins between the limits that the first found, batch by batch, for as many tensors at a time as
`GROUP_BYTES` hold. Counts of fixed bins add up, so the result is that of all values at once. One measurement serves every
calibration that is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from autoformer.errors import ExportError, short
from autoformer.export.graphs.onnx_model import import_onnxruntime

BINS = 2048
GROUP_BYTES = 1 << 28  # of one batch, that leave the graph at once
LOWEST, HIGHEST, LEAST, SIZE = range(4)  # what the first pass notes; LEAST: the smallest magnitude


@dataclass(frozen=True, eq=False)
class ValueRange:
    """The values of one tensor on all images; `counts` [BINS] and `edges` [BINS + 1] of magnitudes, where they were asked for."""

    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]
    counts: NDArray[np.int64] | None = None
    edges: NDArray[np.float32] | None = None

    def all(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """From the least to the greatest."""
        return self.lowest, self.highest

    def percentile(self, percentile: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The symmetric range that holds `percentile` of all values, no wider than they reach."""
        assert self.counts is not None
        assert self.edges is not None
        share = np.cumsum(self.counts / self.counts.sum())
        limit = self.edges[np.searchsorted(share, percentile / 100)]
        return np.maximum(-limit, self.lowest), np.minimum(limit, self.highest)


def measure_ranges(
    path: Path, names: Sequence[str], images: NDArray[Any], batch: int, *, histograms: bool
) -> dict[str, ValueRange]:
    """The range of each tensor in `names` of the graph at `path`; `images` [n, C, H, W] are taken `batch` by `batch`.

    Works in the folder of `path`. Raises `ExportError` when ONNX Runtime cannot run the graph, or values are not finite.
    """
    model = onnx.load(path)
    noted = np.stack(list(_runs(_noting(model, names), path, images, batch)))  # [batches, tensors * 4]
    noted = noted.reshape(len(noted), len(names), 4)
    lowest, highest, least = noted[..., LOWEST].min(0), noted[..., HIGHEST].max(0), noted[..., LEAST].min(0)
    for name, ends in zip(names, np.stack([lowest, highest], 1), strict=True):
        if not np.isfinite(ends).all():
            raise ExportError(f"values of {short(name, 80)} are not finite on the calibration images; there is no range for int8")
    found = {name: ValueRange(low, high) for name, low, high in zip(names, lowest, highest, strict=True)}
    if not histograms:
        return found
    most = np.maximum(np.abs(lowest), np.abs(highest))
    for group in _groups(noted[0, :, SIZE] * 4):
        counts = np.zeros((len(group), BINS), np.int64)
        edges = [np.zeros(0, np.float32)] * len(group)
        for values in _runs(_giving(model, [names[index] for index in group]), path, images, batch):
            for place, index in enumerate(group):
                new, edges[place] = np.histogram(np.abs(values[place]), bins=BINS, range=(least[index], most[index]))
                counts[place] += new
        for place, index in enumerate(group):
            found[names[index]] = replace(found[names[index]], counts=counts[place], edges=edges[place].astype(np.float32))
    return found


def _noting(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives four numbers of each tensor, and nothing else."""
    nodes, outputs = [], []
    for index, name in enumerate(names):
        made = [f"noted.{index}.{part}" for part in range(4)]
        nodes += [
            helper.make_node("ReduceMin", [name], [made[LOWEST]], keepdims=0),
            helper.make_node("ReduceMax", [name], [made[HIGHEST]], keepdims=0),
            helper.make_node("Abs", [name], [f"noted.{index}.magnitude"]),
            helper.make_node("ReduceMin", [f"noted.{index}.magnitude"], [made[LEAST]], keepdims=0),
            helper.make_node("Size", [name], [f"noted.{index}.size"]),
            helper.make_node("Cast", [f"noted.{index}.size"], [made[SIZE]], to=TensorProto.FLOAT),
        ]
        outputs += made
    noting = _giving(model, outputs)
    noting.graph.node.extend(nodes)
    return noting


def _giving(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """A copy with other outputs."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    del copied.graph.output[:]
    copied.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    return copied


def _runs(model: onnx.ModelProto, path: Path, images: NDArray[Any], batch: int) -> Iterator[list[NDArray[Any]]]:
    """The outputs for each batch, from a graph that computes node by node, as it is written."""
    ort = import_onnxruntime()
    written = path.with_suffix(".measured.onnx")
    onnx.save(model, written)
    (name,) = [value.name for value in model.graph.input if value.name not in {stored.name for stored in model.graph.initializer}]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(written), options, providers=["CPUExecutionProvider"])
        for start in range(0, len(images), batch):
            yield session.run(None, {name: images[start : start + batch]})
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        reason = short(" ".join(str(error).split()), 200)
        raise ExportError(f"ONNX Runtime cannot run the graph on the calibration images: {reason}") from error


def _groups(sizes: NDArray[np.float32]) -> Iterator[list[int]]:
    """Indices of tensors that together take at most `GROUP_BYTES`; a larger one is alone."""
    group: list[int] = []
    for index in range(len(sizes)):
        if group and sizes[[*group, index]].sum() > GROUP_BYTES:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
