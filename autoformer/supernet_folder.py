"""A supernet on disk: `model.safetensors`, and `supernet.json` with its space and where it came from."""

from __future__ import annotations

from pathlib import Path

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from autoformer.checkpoint import (
    check_weights,
    load_weights,
    read_json,
    read_tensors,
    tensors_digest,
    write_folder,
    write_json,
    write_tensors,
)
from autoformer.errors import ArchitectureError, CheckpointError
from autoformer.preprocessing import Preprocessing
from autoformer.space import SearchSpace
from autoformer.supernet import Supernet


def save_supernet(supernet: Supernet, out: Path, *, source: str) -> None:
    """Writes a supernet trained elsewhere as a folder that `load_supernet` reads; whole or not at all.

    The record says ImageNet's preprocessing as the official evaluation does it, and class numbers for names.
    Raises `OutputExistsError` when `out` holds something.
    """
    space = supernet.space
    preprocessing = Preprocessing(
        image_size=space.image_size,
        in_chans=space.in_chans,
        mean=IMAGENET_DEFAULT_MEAN if space.in_chans == 3 else (0.5,) * space.in_chans,
        std=IMAGENET_DEFAULT_STD if space.in_chans == 3 else (0.5,) * space.in_chans,
        crop_pct=224 / 256,
    )
    record = {
        "format": "autoformer/supernet/1",
        "space": space.to_dict(),
        "data": {
            "source": source,
            "config": None,
            "layout": "trained elsewhere",
            "classes": [str(number) for number in range(space.num_classes)],
            "parts": {},
            "preprocessing": preprocessing.to_dict(),
        },
        "weights_digest": tensors_digest(supernet.state_dict()),
        "history": [],
    }
    with write_folder(out) as folder:
        write_tensors(supernet.state_dict(), folder / "model.safetensors")
        write_json(record, folder / "supernet.json")


def load_supernet(folder: Path) -> Supernet:
    """The supernet of a folder, in evaluation mode. Raises `CheckpointError` when it is unfinished or damaged."""
    if not (folder / "supernet.json").exists():
        what = "an unfinished training; run it again to finish" if (folder / "checkpoints").exists() else "no supernet"
        raise CheckpointError(f"{folder} holds {what}; expected the folder that `autoformer train` writes")
    path = folder / "model.safetensors"
    try:
        space = SearchSpace.from_dict(read_json(folder / "supernet.json", "space", "weights_digest", "data")["space"])
    except ArchitectureError as error:
        raise CheckpointError(f"{folder / 'supernet.json'} is damaged: {error}") from error
    tensors = read_tensors(path)
    with torch.device("meta"):  # shapes alone, so that a wrong space cannot take memory
        check_weights(Supernet(space), tensors, path)
    supernet = Supernet(space)
    load_weights(supernet, tensors, path)
    return supernet.eval()
