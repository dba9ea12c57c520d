"""Which other files an ONNX file keeps weights in, read from its bytes before any runtime opens it.

An ONNX file may name files to read weights from. Runtimes follow such names, older ones wherever they lead; so they are looked
at first: inside the file's own folder, and there, or refused. Reads the wire form of the protobuf messages (a key of field
number and kind, then the value, lengths before what has one) and of them only where tensors can be. Runs on boards: standard
library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autoformer.errors import CheckpointError, short
from autoformer.export.manifest import leads_outside
from autoformer.file_kinds import stand_in

# Message by message, the numbers of fields that hold further messages with tensors in them (onnx.proto3).
HOLDS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
EXTERNAL_DATA, DATA_LOCATION, EXTERNAL = 13, 14, 1  # of a tensor
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5


def check_external_data(path: Path) -> None:
    """Raises `CheckpointError` when `path` is cut off or keeps weights in a file that is missing or outside its folder."""
    try:
        locations = set(external_locations(path.read_bytes()))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if (kind := stand_in(path)) is not None:
            raise CheckpointError(f"{path} {kind}; expected an ONNX file") from error
        raise CheckpointError(f"{path} is truncated or not an ONNX file ({error}); export it again") from error
    for location in sorted(locations):
        beside = path.parent / location
        named = short(repr(location), 80)
        try:
            outside = leads_outside(location) or not beside.resolve().is_relative_to(path.parent.resolve())
            found = not outside and beside.is_file()
        except (OSError, ValueError, RuntimeError):  # a name no system takes, or a ring of links
            outside, found = True, False
        if outside:
            raise CheckpointError(f"{path} keeps weights in {named}, which is not inside its folder; refused")
        if not found:
            raise CheckpointError(f"{path} keeps weights in {named}, which is missing beside it; copy both files")


def external_locations(content: bytes) -> Iterator[str]:
    """The names of files that tensors of a serialised model are kept in. Raises `ValueError` where the bytes are not messages."""
    view = memoryview(content)
    waiting = [("model", view)]
    while waiting:
        kind, message = waiting.pop()
        if kind == "tensor":
            yield from _location(message)
            continue
        inner = HOLDS[kind]
        for number, value in fields_of(message):
            if number in inner and isinstance(value, memoryview):
                waiting.append((inner[number], value))


def _location(tensor: memoryview) -> Iterator[str]:
    """Where a tensor is kept, if elsewhere; without a name, an empty one."""
    found, is_external = "", False
    for number, value in fields_of(tensor):
        if number == DATA_LOCATION:
            is_external = value == EXTERNAL
        elif number == EXTERNAL_DATA and isinstance(value, memoryview):
            entry = {key: bytes(word) for key, word in fields_of(value) if isinstance(word, memoryview)}
            if entry.get(1) == b"location":
                found = entry.get(2, b"").decode("utf-8")
    if is_external:
        yield found


def fields_of(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and value of each field; of numbers of fixed size the value is left out as 0."""
    at, end = 0, len(message)
    while at < end:
        key, at = varint_at(message, at)
        kind, value = key & 7, 0
        if kind == VARINT:
            value, at = varint_at(message, at)
            yield key >> 3, value
            continue
        if kind == LENGTH:
            length, at = varint_at(message, at)
            if length > end - at:
                raise ValueError(f"a field of {length} bytes where {end - at} are left")
            yield key >> 3, message[at : at + length]
            at += length
        elif kind in (FOUR_BYTES, EIGHT_BYTES):
            at += 4 if kind == FOUR_BYTES else 8
            if at > end:
                raise ValueError("a number is cut off")
        else:
            raise ValueError(f"a field of kind {kind}, which ONNX does not use")


def varint_at(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
