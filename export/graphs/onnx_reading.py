"""`read_model`: an ONNX file as a checked protobuf, of anyone and of any size.

Weights may lie beside the file, and be larger than the 2 GB that protobuf can hold: their shapes are read, and the values only of
small ones, which scales, axes and sizes are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from autoformer.errors import CheckpointError, short
from autoformer.export.graphs.external_data import check_external_data, external_locations
from autoformer.export.graphs.refusals import ONE_FILE_BYTES, refusal
from autoformer.export.manifest import check_described

VALUES_BYTES = 1 << 20  # of a tensor beside the file whose values are read
BITS: dict[int, int] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}  # of an element, if no byte


def read_model(path: Path, *, weights_beside: bool = False) -> onnx.ModelProto:
    """The file as a checked protobuf; with `weights_beside` it may keep weights in other files of its folder.

    Of those, the values of tensors up to 1 MiB are read; larger ones stay where they are, their sizes checked.

    Raises `CheckpointError` when it is missing, truncated, newer than the package onnx, or not ONNX, or keeps weights where they
    are not read.
    """
    try:
        if path.stat().st_size > ONE_FILE_BYTES:
            raise ValueError("error parsing message: too large")
        content = path.read_bytes()
        check_described(path)
        model = onnx.load_model_from_string(content)
        elsewhere = any(True for _ in external_locations(content))
        if elsewhere and not weights_beside:
            raise CheckpointError(f"{path} keeps weights in other files, which is not supported; store them inside the file")
        if elsewhere:
            check_external_data(path)
            onnx.checker.check_model(str(path))  # in the form that may be larger than 2 GB
            for tensor in tensors_of(model):
                if uses_external_data(tensor):
                    _read_beside(tensor, path)
        else:
            onnx.checker.check_model(model)
        for tensor in model.graph.initializer:
            if not uses_external_data(tensor):
                onnx.numpy_helper.to_array(tensor)  # which the checker leaves out: as many values as the shape says
        words = [word for entry in model.metadata_props for word in (entry.key, entry.value)]
        words += [value.name for value in (*model.graph.input, *model.graph.output)]
        if not all(isinstance(word, str) for word in words):  # protobuf gives bytes where it finds no text
            raise ValueError("names that are not text")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; expected an ONNX file") from error
    except CheckpointError:
        raise
    except Exception as error:  # protobuf's DecodeError, onnx's ValidationError and whatever mangled bytes provoke
        raise refusal(path, error, f"onnx {onnx.__version__}", otherwise="is not a valid ONNX file") from error
    return model


def tensors_of(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor: of the graph, of attributes, of graphs inside nodes, of functions."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            yield from (*((attribute.t,) if attribute.HasField("t") else ()), *attribute.tensors)
            graphs += [*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs]


def _read_beside(tensor: TensorProto, path: Path) -> None:
    """Reads the values of a small tensor. Raises `CheckpointError` where the file beside holds less than the shape says."""
    held = ExternalDataInfo(tensor)
    kind = tensor.data_type
    bits = BITS.get(kind) or 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    wanted = math.prod(tensor.dims) * bits // 8
    beside = path.parent / held.location
    rest = beside.stat().st_size - (held.offset or 0)
    given = rest if held.length is None else held.length
    if not 0 <= wanted <= given <= rest:
        raise CheckpointError(
            f"{path} keeps weight {short(repr(tensor.name), 60)} of {wanted} bytes in {short(held.location, 60)}, which holds "
            f"{max(0, min(given, rest))} of it; copy both files again"
        )
    if wanted <= VALUES_BYTES:
        load_external_data_for_tensor(tensor, str(path.parent))
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
