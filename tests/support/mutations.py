"""Damage to files, drawn by a seeded generator: bytes, lengths, fields of messages, values of JSON, entries of archives."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx.defs
from google.protobuf.message import Message  # type: ignore[import-untyped]

VARINTS = (b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x07", b"\x80\x80\x80\x80\x10", b"\x00", b"\x80")
WHOLE = (0, 1, -1, 2, 3, 7, 255, 2**16, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
TEXTS = (
    "",
    "..",
    "../../outside",
    "/etc/passwd",
    "C:\\x",
    "a\nb",
    "\x00",
    "é" * 3,
    "x" * 5000,
    "images",
    "logits",
    "Loop",
    "com.microsoft",
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 8, 1e308, float("nan"), float("inf"), 10**18, 10**400, "", "..", "../x", "/etc/passwd",
    "x" * 4000, [], {}, [1], [[]], {"a": 1}, ["a"], "exported", "onnx", "fp32", "é\n",
)  # fmt: skip
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})


def damaged_bytes(whole: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes overwritten, lengths made absurd, pieces cut out, repeated or exchanged, or the end missing."""
    held = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, length = rng.randrange(len(held)), rng.choice((1, 2, 4, 16, 200))
        match rng.randrange(8):
            case 0:
                held[at] ^= 1 << rng.randrange(8)
            case 1:
                held[at : at + length] = rng.randbytes(length)
            case 2:
                held[at : at + 1] = rng.choice(VARINTS)
            case 3:
                held[at:at] = rng.choice(VARINTS)
            case 4:
                del held[at : at + length]
            case 5:
                held[at:at] = held[at : at + length]
            case 6:
                other = rng.randrange(len(held))
                held[at : at + length], held[other : other + length] = held[other : other + length], held[at : at + length]
            case _:
                del held[rng.randrange(len(held)) :]
        if not held:
            return b""
    return bytes(held)


def damaged_onnx(whole: bytes, rng: random.Random) -> bytes:
    """As bytes, or as a message of which fields are changed, so that the rest still parses."""
    if rng.random() < 0.35:
        return damaged_bytes(whole, rng)
    model = onnx.load_model_from_string(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _damage_model(model, rng)
    return bytes(model.SerializeToString())


def _damage_model(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = model.graph
    kind = rng.randrange(8)
    if kind == 0 and graph.node:
        rng.choice(graph.node).op_type = rng.choice(OPERATORS)
    elif kind == 1 and graph.node:
        node, other = rng.choice(graph.node), rng.choice(graph.node)
        names = [name for entry in graph.node for name in (*entry.input, *entry.output)] or ["x"]
        if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        if other.output and rng.random() < 0.3:
            other.output[rng.randrange(len(other.output))] = rng.choice(names)
    elif kind == 2 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        tensor.data_type = rng.choice((*range(24), 99, -1))
    elif kind == 3 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        tensor.dims[:] = [rng.choice((*WHOLE, 3, 8, 64)) for _ in range(rng.randrange(5))]
    elif kind == 4 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", rng.choice((*TEXTS, "model.onnx"))), ("offset", "0"), ("length", str(rng.choice(WHOLE)))):
            tensor.external_data.add(key=key, value=value)
        if rng.random() < 0.7:
            tensor.ClearField("raw_data")
    elif kind == 5 and model.metadata_props:
        entry = rng.choice(model.metadata_props)
        try:
            entry.value = json.dumps(damaged_json(json.loads(entry.value), rng))
        except (ValueError, UnicodeError):
            entry.value = rng.choice(TEXTS)
    else:
        _damage_message(model, rng)


def _damage_message(message: Message, rng: random.Random) -> None:
    """Walks down to a field drawn by chance and changes it."""
    while True:
        fields = message.ListFields()
        if not fields:
            return
        field, value = rng.choice(fields)
        if not isinstance(value, (Message, int, float, str, bytes)):  # a repeated field
            if rng.random() < 0.3 or not len(value):
                _damage_repeated(value, rng)
                return
            if not isinstance(value[0], Message):
                value[rng.randrange(len(value))] = _other(value[0], rng)
                return
            value = rng.choice(list(value))
        if isinstance(value, Message):
            if rng.random() < 0.1:
                value.Clear()
                return
            message = value
            continue
        if rng.random() < 0.2:
            message.ClearField(field.name)
        else:
            try:
                setattr(message, field.name, _other(value, rng))
            except ValueError:  # an enumeration without this number, or 64 bits into 32
                message.ClearField(field.name)
        return


def _damage_repeated(values: Any, rng: random.Random) -> None:
    held = list(values)
    match rng.randrange(3):
        case 0:
            rng.shuffle(held)
        case 1 if held:
            del held[rng.randrange(len(held))]
        case _ if held:
            held.append(rng.choice(held))
    copies = [type(entry).FromString(entry.SerializeToString()) if isinstance(entry, Message) else entry for entry in held]
    del values[:]
    values.extend(copies)


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, int):
        return rng.choice((*WHOLE[:10], value + 1, value - 1, rng.randrange(100)))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    if isinstance(value, bytes):
        return damaged_bytes(value, rng) if value else b"\x00"
    return rng.choice(TEXTS)


def damaged_json(value: Any, rng: random.Random) -> Any:
    """The value with one place in it changed, removed, doubled or replaced by something of another kind."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        changed = dict(value)
        match rng.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(TEXTS)] = changed[key]
            case _:
                changed[key] = damaged_json(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], *([] if rng.random() < 0.2 else [damaged_json(value[at], rng)]), *value[at + 1 :]]
    return rng.choice(VALUES)


def damaged_files(files: Mapping[str, bytes], rng: random.Random, likely: Sequence[str]) -> dict[str, bytes]:
    """A folder with one or two of its files changed, missing or exchanged; those of `likely` more often."""
    changed = dict(files)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(likely) if rng.random() < 0.8 else rng.choice(sorted(changed))
        if name not in changed:
            continue
        kind = rng.random()
        if name.endswith(".json") and kind < 0.75:
            try:
                changed[name] = json.dumps(damaged_json(json.loads(changed[name]), rng)).encode("utf-8", "replace")
            except ValueError:  # already damaged
                changed[name] = b"[" * 5000
        elif kind < 0.85:
            changed[name] = damaged_bytes(changed[name], rng) if changed[name] else b"?"
        elif kind < 0.92:
            del changed[name]
        else:
            changed[name] = changed[rng.choice(sorted(changed))]
    return changed


def damaged_archive(files: Mapping[str, bytes], rng: random.Random, likely: Sequence[str]) -> bytes:
    """A zip file of damaged files, of files under other names, of links, or damaged itself."""
    held = files if rng.random() < 0.3 else damaged_files(files, rng, likely)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in held.items():
            entry = zipfile.ZipInfo(
                name if rng.random() > 0.02 else rng.choice(("../" + name, "/" + name, name + "/x", "a/../" + name, ""))
            )
            if rng.random() < 0.01:
                entry.external_attr = 0o120777 << 16
            archive.writestr(entry, content)
    whole = packed.getvalue()
    return damaged_bytes(whole, rng) if rng.random() < 0.5 else whole
