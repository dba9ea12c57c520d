"""Weights that other programs wrote: safetensors, or a checkpoint of torch that is loaded without running anything in it."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import clean_state_dict
from torch import Tensor

from autoformer.errors import CheckpointError
from autoformer.files import refuse_stand_in
from autoformer.tensors import is_safetensors, read_tensors

# Where training scripts put the weights. Averaged ones come first, since those are what the scripts report the accuracy of.
PLACES = ("state_dict_ema", "model_ema", "state_dict", "model")
KEYS_SHOWN = 12  # in an error


def read_foreign_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file by name, without the prefixes that wrappers like DistributedDataParallel put before them.

    What the file is decides, not its name. A checkpoint of torch may hold the weights alone or a training state with the weights
    at one of `PLACES` (an empty one is passed over), and beside plain values numpy's numbers and an `argparse.Namespace`. Raises
    `CheckpointError` when the file is missing, damaged, of another kind, holds other objects or no weights.
    """
    refuse_stand_in(path)
    if is_safetensors(path) or (path.suffix == ".safetensors" and not _is_of_torch(path)):
        return dict(clean_state_dict(read_tensors(path)))
    try:
        with path.open("rb") as file, torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notes on foreign pickles; what is wrong becomes the error below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; expected weights, as .safetensors or as a checkpoint of torch") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is a folder; expected a file of weights in it, .safetensors or .pth") from error
    except Exception as error:  # whatever a damaged file makes the zip reader or the unpickler raise
        if (kind := _other_kind(path)) is not None:
            raise CheckpointError(f"{path} {kind}; expected weights, as .safetensors or as a checkpoint of torch") from error
        if isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(f"{path} was not loaded and nothing in it was run: {_reason(error)}") from error
        raise CheckpointError(f"{path} is truncated or not a checkpoint of torch: {_reason(error)}; copy it again") from error
    place = None
    if isinstance(content, Mapping):
        place = next((name for name in PLACES if isinstance(content.get(name), Mapping) and content[name]), None)
    found = content if place is None else content[place]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(
            f"{path} holds no weights: {_held(found, place)}; expected names and tensors, at the top or under {', '.join(PLACES)}"
        )
    return dict(clean_state_dict({str(name): tensor for name, tensor in found.items()}))


def _held(found: object, place: str | None) -> str:
    """What stands where weights should, in words."""
    where = "at the top" if place is None else f"under {place!r}"
    if not isinstance(found, Mapping):
        return f"{where} is a {type(found).__name__}"
    if not found:
        return f"{where} is nothing"
    names = list(found)
    more = f" and {len(names) - KEYS_SHOWN} more" if len(names) > KEYS_SHOWN else ""
    words = f"{where} {'are' if len(names) > 1 else 'is'} {', '.join(repr(name)[:60] for name in names[:KEYS_SHOWN])}{more}"
    odd = next(name for name, value in found.items() if not isinstance(value, Tensor))
    tensors = sum(isinstance(value, Tensor) for value in found.values())
    return f"{words} ({tensors} tensors, and {odd!r} is a {type(found[odd]).__name__})" if tensors else words


def _is_of_torch(path: Path) -> bool:
    """Whether a file begins as torch's do: a zip archive, or a pickle."""
    try:
        with path.open("rb") as file:
            return file.read(2) in (b"PK", b"\x80\x02")
    except OSError:
        return False


def _other_kind(path: Path) -> str | None:
    """Which other format a file is that was given for a checkpoint of torch, to stand after its name; None: none is known."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(b"\x89HDF"):
            return "is an HDF5 file, as of Keras"
        if head.startswith(b"\x93NUMPY"):
            return "is an array of numpy"
        if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")):
            return "is an image"
        if not head.startswith(b"PK") or not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # of a damaged archive: the reason of the caller says more
        return None
    if any(name.endswith("/constants.pkl") for name in names):
        return "is a TorchScript program, not weights; save the state_dict of the network"
    if any(name.endswith("data.pkl") for name in names):
        return None
    return "is a zip archive of other files; unpack it first" if names else "is an empty zip archive"


def _reason(error: Exception) -> str:
    """The part of torch's message that says what was wrong, on one line."""
    text = " ".join(str(error).split())
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it holds {found[1]}, which is neither a tensor nor a plain value"
    if "Weights only load failed" in text:
        return "it holds more than tensors and plain values"
    return text.split(". ")[0][:160] or "it ends too early"


# --- numpy's numbers, as training scripts keep their best accuracy --------------------------------------------------


class _NumberType:
    """Stands for numpy's `dtype` in a pickle: the type of one number, without any code of numpy."""

    def __init__(self, name: object, *_: object) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: object) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "=") else "="


_FORMATS = {"f2": "e", "f4": "f", "f8": "d", "b1": "?"} | {
    f"{kind}{size}": letter if kind == "i" else letter.upper()
    for kind in "iu"
    for size, letter in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
}


def _number(kind: object, content: object) -> Any:
    """One of numpy's numbers as Python's."""
    if not isinstance(kind, _NumberType) or kind.name not in _FORMATS or not isinstance(content, bytes):
        raise pickle.UnpicklingError("it holds an array or object of numpy, which is neither a tensor nor a plain value")
    (value,) = struct.unpack(kind.order + _FORMATS[str(kind.name)], content)
    return value


HARMLESS: list[Any] = [
    argparse.Namespace,
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]
