"""Weights that other programs wrote: safetensors, or a checkpoint of torch that is loaded without running anything in it."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from timm.models import clean_state_dict
from torch import Tensor

from autoformer.errors import CheckpointError
from autoformer.tensors import read_tensors

# Where training scripts put the weights. Averaged ones come first, since those are what the scripts report the accuracy of.
PLACES = ("state_dict_ema", "model_ema", "state_dict", "model")


def read_foreign_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file by name, without the prefixes that wrappers like DistributedDataParallel put before them.

    A checkpoint of torch may hold the weights alone or a training state with the weights at one of `PLACES`, and beside plain
    values an `argparse.Namespace`. Raises `CheckpointError` when the file is missing, damaged, holds other objects or no
    weights.
    """
    if path.suffix == ".safetensors":
        return dict(clean_state_dict(read_tensors(path)))
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notes on foreign pickles; what is wrong becomes the error below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; expected weights, as .safetensors or as a checkpoint of torch") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} was not loaded and nothing in it was run: {_reason(error)}") from error
    except Exception as error:  # whatever a damaged file makes the zip reader or the unpickler raise
        raise CheckpointError(f"{path} is truncated or not a checkpoint of torch: {_reason(error)}; copy it again") from error
    if isinstance(content, Mapping):
        content = next((content[place] for place in PLACES if isinstance(content.get(place), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds no weights; expected names and tensors, at the top or under {', '.join(PLACES)}")
    return dict(clean_state_dict({str(name): tensor for name, tensor in content.items()}))


def _reason(error: Exception) -> str:
    """The part of torch's message that says what was wrong, on one line."""
    text = " ".join(str(error).split())
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it holds {found[1]}, which is neither a tensor nor a plain value"
    if "Weights only load failed" in text:
        return "it holds more than tensors and plain values"
    return text.split(". ")[0][:160] or "it ends too early"
