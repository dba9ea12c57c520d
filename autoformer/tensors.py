"""Tensors in files (safetensors): written complete or not at all, read with every name and shape checked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoformer.errors import CheckpointError
from autoformer.files import SEAL, file_state, refuse_stand_in, replacing

if TYPE_CHECKING:
    from torch import Tensor, nn

METADATA = "autoformer"  # the entry of a header that holds our JSON


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """A safetensors file with `metadata` as JSON and the digest of it all in its header, whole or not at all.

    Raises `OSError` when it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {} if metadata is None else {METADATA: json.dumps(metadata, sort_keys=True)}
    header[SEAL] = _seal(tensors_digest(tensors), header)
    with replacing(path) as beside:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, beside, header)
        except SafetensorError as error:  # a full disk, mostly; the system's number stands in the text
            number = int(found[1]) if (found := re.search(r"(?:os error|code:) (\d+)", str(error))) else None
            reason = " ".join(str(error).split()) if number is None else os.strerror(number)
            raise OSError(number or errno.EIO, reason, str(path)) from error
        mask = os.umask(0)
        os.umask(mask)
        beside.chmod(0o666 & ~mask)  # as any other file: safetensors lets only its owner read it


def read_tensors(path: Path, weights_digest: object = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whose `tensors_digest` is `weights_digest` where the record beside it names one.

    Raises `CheckpointError` when it is missing, unreadable, truncated, foreign or not what was written. Its digest is computed
    once per process; a file of an earlier version has none in its header.
    """
    from safetensors import SafetensorError, safe_open

    _check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError) as error:
        refuse_stand_in(path)
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({error}); copy it again or make it anew"
        ) from error
    if SEAL in header or weights_digest is not None:
        digest = _digest_of_file(path, tensors)
        if header.get(SEAL, _seal(digest, header)) != _seal(digest, header) or weights_digest not in (None, digest):
            raise CheckpointError(f"{path} is damaged or holds other weights than were written; copy it again or make it anew")
    return tensors


def _seal(digest: str, header: Mapping[str, str]) -> str:
    """The digest of a file whose tensors have this one."""
    return hashlib.sha256(f"{digest}\n{header.get(METADATA, '')}".encode()).hexdigest()


def _digest_of_file(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """`tensors_digest`, once per process for a file that stays as it is."""
    state = file_state(path)
    if state not in _digests:
        _digests[state] = tensors_digest(tensors)
    return _digests[state]


_digests: dict[tuple[str | int, ...], str] = {}


def load_weights(network: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Loads every weight. Raises `CheckpointError` naming what is missing, unexpected or of another shape."""
    check_weights(network, tensors, source)
    network.load_state_dict(tensors)


def check_weights(network: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raises `CheckpointError` naming what is missing, unexpected or of another shape; `network` may hold shapes alone."""
    expected = network.state_dict()
    missing = sorted(set(expected) - set(tensors))
    unexpected = sorted(set(tensors) - set(expected))
    misshapen = [
        f"{name} is {list(tensors[name].shape)}, expected {list(expected[name].shape)}"
        for name in sorted(set(expected) & set(tensors))
        if tensors[name].shape != expected[name].shape
    ]
    for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{source} does not fit the network: {kind} {names[0]}{more}")


def read_metadata(path: Path) -> dict[str, Any]:
    """The JSON that `write_tensors` put into the header of a file; raises as `read_tensors` does."""
    from safetensors import SafetensorError, safe_open

    _check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            value = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        refuse_stand_in(path)
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} carries a {type(value).__name__} in its header, expected a JSON object")
    return value


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON object, which begins then."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
        return len(head) == 9 and head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size - 8
    except OSError:
        return False


def _check_readable(path: Path) -> None:
    """Raises `CheckpointError`; safetensors itself reports every file it cannot open as missing."""
    try:
        path.open("rb").close()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; expected a file of weights, .safetensors") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and values; equal for equal weights wherever they are stored."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()
