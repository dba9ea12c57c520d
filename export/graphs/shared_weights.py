"""Graphs of many networks over one file of weights, for measuring latency, which does not depend on the values.

A device kit holds dozens of networks; with their own weights they would be hundreds of megabytes. Here every weight of every
graph refers to a stretch of one file of random values. Within a graph the stretches begin at different places, so no two
weights hold the same bytes and no runtime takes one for another. What a graph needs the values of stays as it is: scales and zero
points of quantisation and small tensors inside the graph, large whole numbers (indices of relative position) in the shared
file, once for all graphs that hold the same.

The values are normal with a standard deviation of 0.02, as networks are initialised, and none is so small that half precision
would lose digits of it: zeros and subnormal numbers change power and time on some devices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from autoformer.files import replacing

WEIGHTS_NAME = "weights.bin"
INSIDE_BYTES = 1024  # tensors below stay in their graph
PAGE = 4096  # bytes; runtimes map files page by page
STARTS = 512  # different places where a weight may begin, a page apart
SCALE, LEAST = 0.02, 0.001  # of the random values: standard deviation, smallest magnitude
KINDS: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.INT8: "int8"}
CONSTANT = "constant-"  # begins the names of tensors that keep their values


def give_up_weights(model: onnx.ModelProto, constants: Path) -> None:
    """Replaces the stored tensors of `model` by references to stretches of the shared file, in place.

    Until `write_graphs` they name a kind of number ("fp32") instead of a file, or a file in the folder `constants`, where the
    tensors are put that keep their values.
    """
    exact = {
        name for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input[1:]
    }
    taken = dict.fromkeys(KINDS.values(), 0)
    for tensor in model.graph.initializer:
        content = numpy_helper.to_array(tensor).tobytes()
        if len(content) < INSIDE_BYTES or tensor.name in exact:
            continue
        kind = KINDS.get(tensor.data_type)
        if kind is not None:
            _refer(tensor, kind, taken[kind] % STARTS * PAGE, len(content))
            taken[kind] += 1
            continue
        name = CONSTANT + hashlib.sha256(content).hexdigest()[:16]
        if not (constants / name).exists():
            with replacing(constants / name) as beside:
                beside.write_bytes(content)
        _refer(tensor, name, 0, len(content))


def write_graphs(graphs: Mapping[str, Path], constants: Path, out: Path) -> None:
    """Writes the graphs, by file name in `out`, and the file of weights that they share.

    `graphs` are files that `give_up_weights` has emptied, `constants` the folder it was given.
    """
    models = {name: onnx.load(path, load_external_data=False) for name, path in graphs.items()}
    sizes: dict[str, int] = {}
    for model in models.values():
        for tensor in _elsewhere(model):
            entry = _entry(tensor)
            sizes[entry["location"]] = max(sizes.get(entry["location"], 0), int(entry["offset"]) + int(entry["length"]))
    starts: dict[str, int] = {}
    with replacing(out / WEIGHTS_NAME) as beside, beside.open("wb") as file:
        for place in sorted(sizes):
            starts[place] = file.tell()
            content = (constants / place).read_bytes() if place.startswith(CONSTANT) else _values(place, sizes[place]).tobytes()
            file.write(content)
            file.write(bytes(-file.tell() % PAGE))
    for name, model in models.items():
        for tensor in _elsewhere(model):
            entry = _entry(tensor)
            _refer(tensor, WEIGHTS_NAME, starts[entry["location"]] + int(entry["offset"]), int(entry["length"]))
        with replacing(out / name) as beside:
            beside.write_bytes(model.SerializeToString())


def _values(kind: str, size: int) -> NDArray[Any]:
    """Random values that take `size` bytes."""
    generator = np.random.default_rng(0)
    if kind == "int8":
        return generator.integers(-127, 128, size, np.int8)
    dtype = {"fp32": np.float32, "fp16": np.float16}[kind]
    values = generator.standard_normal(size // np.dtype(dtype).itemsize, np.float32) * SCALE
    return np.where(np.abs(values) < LEAST, LEAST, values).astype(dtype)


def _refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _elsewhere(model: onnx.ModelProto) -> list[TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]


def _entry(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}
