"""Cuts a network out of a trained supernet's folder into a folder of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autoformer.architecture import Architecture
from autoformer.checkpoint import read_json, tensors_digest
from autoformer.errors import CheckpointError
from autoformer.preprocessing import Preprocessing
from autoformer.subnet import Subnet
from autoformer.subnet_folder import save_subnet
from autoformer.supernet_folder import load_supernet


def extract(supernet_folder: Path, architecture: Architecture, out: Path) -> Subnet:
    """The network of `architecture` with its inherited weights, written to the folder `out` that `load_subnet` reads.

    Raises `ArchitectureError` when the space does not contain it, `OutputExistsError` when `out` holds something.
    """
    supernet = load_supernet(supernet_folder)
    path = supernet_folder / "supernet.json"
    record = read_json(path, "data", "weights_digest")
    subnet = Subnet.from_supernet(supernet, architecture)
    try:
        preprocessing = Preprocessing.from_dict(record["data"]["preprocessing"])
        if architecture.image_size not in (None, preprocessing.image_size):
            preprocessing = replace(preprocessing, network_size=architecture.image_size)
        classes = record["data"]["classes"]
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}; expected a folder `autoformer train` wrote") from error
    except (TypeError, CheckpointError) as error:
        raise CheckpointError(f"{path} does not describe its images ({error}); it was edited or damaged") from error
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{path} holds no list of class names; it was edited or damaged")
    made = {
        "format": "autoformer/subnet/1",
        "made_by": "extract",
        "supernet": record["weights_digest"],
        "data": record["data"],
        "metric": record.get("metric", "top1"),
        "weights_digest": tensors_digest(subnet.state_dict()),
    }
    save_subnet(subnet, out, preprocessing=preprocessing, classes=classes, record=made)
    return subnet
