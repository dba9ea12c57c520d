"""What an ONNX file holds, read from its bytes without the package `onnx`: nodes, weights, properties. For boards.

Only what engines are built, refitted and explained with: the names of nodes, the type each computes in, and stored values.
Graphs inside nodes (If, Loop) and sparse weights are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoformer.errors import CheckpointError
from autoformer.export.graphs.external_data import fields_of, varint_at
from autoformer.files import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOAT, UINT8, INT8, INT64, BOOL, FLOAT16 = 1, 2, 3, 7, 9, 10  # TensorProto.DataType
NUMPY_TYPES = {1: "<f4", 2: "|u1", 3: "|i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "|b1", 10: "<f2", 11: "<f8"}
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "IsNaN", "Less", "LessOrEqual", "Not", "And", "Or")


@dataclass(frozen=True)
class Node:
    """One operation."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    to: int | None = None  # data type that a Cast gives


@dataclass(frozen=True)
class Weight:
    """One stored tensor; its values stay bytes until they are asked for."""

    name: str
    shape: tuple[int, ...]
    data_type: int
    fields: tuple[tuple[int, int | memoryview], ...]

    @property
    def size(self) -> int:
        """Number of values."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    def values(self) -> NDArray[Any]:
        """The values. Raises `CheckpointError` when they lie in another file or are of a type that numpy has not."""
        import numpy as np

        if self.data_type not in NUMPY_TYPES:
            raise CheckpointError(f"weight {self.name!r} is of ONNX data type {self.data_type}, which cannot be read here")
        if any(number == 14 and value == 1 for number, value in self.fields):
            raise CheckpointError(f"weight {self.name!r} lies in another file; export to one file")
        kind = np.dtype(NUMPY_TYPES[self.data_type])
        found = [array for number, value in self.fields if (array := _values(number, value, kind)) is not None]
        flat: NDArray[np.generic] = np.concatenate(found) if found else np.empty(0, kind)
        if len(flat) != self.size:
            raise CheckpointError(f"weight {self.name!r} has {len(flat)} values for shape {list(self.shape)}; export it again")
        return flat.reshape(self.shape)


def _values(number: int, value: int | memoryview, kind: np.dtype[Any]) -> NDArray[Any] | None:
    """The values in one field of a tensor; None where it holds none."""
    import numpy as np

    if number == 9 and isinstance(value, memoryview):  # raw_data
        return np.frombuffer(value, kind)
    if number in (4, 10) and isinstance(value, memoryview):  # float_data, double_data: packed
        return np.frombuffer(value, "<f4" if number == 4 else "<f8").astype(kind)
    if number in (5, 7):  # int32_data, int64_data: packed or one by one; fp16 is kept as its bits
        whole = np.array(list(_packed(value)) if isinstance(value, memoryview) else [value], np.uint64).astype(np.int64)
        return whole.astype(np.uint16).view(kind) if kind == np.float16 else whole.astype(kind)
    return None


@dataclass(frozen=True)
class OnnxFile:
    """The contents of one file."""

    path: Path
    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight]
    input_types: Mapping[str, int]
    properties: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> OnnxFile:
        """Raises `CheckpointError` when `path` cannot be read or is not an ONNX file."""
        try:
            content = memoryview(path.read_bytes())
            graphs = [value for number, value in fields_of(content) if number == 7 and isinstance(value, memoryview)]
            if not graphs:
                raise ValueError("it holds no graph")
            parts = [(number, value) for number, value in fields_of(graphs[0]) if isinstance(value, memoryview)]
            nodes = tuple(_node(value) for number, value in parts if number == 1)
            weights = [_weight(value) for number, value in parts if number == 5]
            inputs = dict(_input(value) for number, value in parts if number == 11)
            properties = dict(
                _entry(value) for number, value in fields_of(content) if number == 14 and isinstance(value, memoryview)
            )
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:  # UnicodeDecodeError among them
            raise CheckpointError(f"{path} is truncated or not an ONNX file ({error}); export it again") from error
        return cls(path, nodes, {weight.name: weight for weight in weights}, inputs, properties)

    @cached_property
    def types(self) -> dict[str, int]:
        """The data type of each value, as far as it follows from the types of what it is made from."""
        found = {**self.input_types, **{name: weight.data_type for name, weight in self.weights.items()}}
        for node in self.nodes:
            given = [found[name] for name in node.inputs if name in found]
            kind: int | None = given[0] if given else None
            if node.operator == "Cast":
                kind = node.to
            elif node.operator in ("Shape", "Size"):
                kind = INT64
            elif node.operator in COMPARISONS:
                kind = BOOL
            elif node.operator == "Where":
                kind = found.get(node.inputs[1])
            elif node.operator in ("QuantizeLinear", "DequantizeLinear"):
                of = node.inputs[2:3] if node.operator == "QuantizeLinear" else node.inputs[1:2]  # zero point, scale
                kind = found.get(of[0], UINT8) if of else UINT8
            elif node.operator == "Constant":
                kind = node.to
            if kind is not None:
                found.update((name, kind) for name in node.outputs)
        return found

    @property
    def precision(self) -> str:
        """ "int8" where something is quantised, "fp16" where something is half precision, else "fp32"."""
        if any(node.operator == "QuantizeLinear" for node in self.nodes):
            return "int8"
        return "fp16" if FLOAT16 in self.types.values() else "fp32"

    def computed_in_float32(self) -> set[str]:
        """Names of the nodes that give float32."""
        return {node.name for node in self.nodes if any(self.types.get(name) == FLOAT for name in node.outputs)}


def module_scopes(graph: Path) -> dict[str, str]:
    """The torch module of each node, from the side file of an exported graph; empty where there is none.

    Raises `CheckpointError` when it is damaged.
    """
    path = graph.with_suffix(".scopes.json")
    if not path.is_file():
        return {}
    return {name: scope for name, scope in read_json(path).items() if isinstance(scope, str)}


def _node(message: memoryview) -> Node:
    inputs, outputs, name, operator, to = [], [], "", "", None
    for number, value in fields_of(message):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 3:
            name = _text(value)
        elif number == 4:
            operator = _text(value)
        elif number == 5:
            to = _type_given(value) or to
    return Node(name, operator, tuple(inputs), tuple(outputs), to)


def _type_given(attribute: memoryview) -> int | None:
    """The data type that an attribute decides: `to` of a Cast, `value` of a Constant; None of others."""
    name, number_given, tensor = "", None, None
    for number, value in fields_of(attribute):
        if number == 1 and isinstance(value, memoryview):
            name = _text(value)
        elif number == 3 and isinstance(value, int):
            number_given = value
        elif number == 5 and isinstance(value, memoryview):
            tensor = value
    if name == "to":
        return number_given
    return _weight(tensor).data_type if name == "value" and tensor is not None else None


def _weight(message: memoryview) -> Weight:
    shape: list[int] = []
    kind, name, kept = 0, "", []
    for number, value in fields_of(message):
        if number == 1:
            shape += list(_packed(value)) if isinstance(value, memoryview) else [value]
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, memoryview):
            name = _text(value)
        else:
            kept.append((number, value))
    return Weight(name, tuple(shape), kind, tuple(kept))


def _input(message: memoryview) -> tuple[str, int]:
    """The name and data type of a graph's input: field 1, and of field 2 (type) field 1 (tensor) field 1."""
    name, kind = "", 0
    for number, value in fields_of(message):
        if number == 1 and isinstance(value, memoryview):
            name = _text(value)
        elif number == 2 and isinstance(value, memoryview):
            for tensor in _inside(value, 1):
                kind = next((given for at, given in fields_of(tensor) if at == 1 and isinstance(given, int)), 0)
    return name, kind


def _entry(message: memoryview) -> tuple[str, str]:
    found = {number: _text(value) for number, value in fields_of(message) if isinstance(value, memoryview)}
    return found.get(1, ""), found.get(2, "")


def _inside(message: memoryview, wanted: int) -> Iterator[memoryview]:
    yield from (value for number, value in fields_of(message) if number == wanted and isinstance(value, memoryview))


def _packed(message: memoryview) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = varint_at(message, at)
        yield value


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8")
