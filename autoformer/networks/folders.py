"""Networks on disk: folders of subnets and of supernets, written whole, and read with nothing of them trusted.

A subnet's folder holds `model.safetensors`, timm's `config.json`, `architecture.json` (the value that travels), `class_map.txt`
(for timm's reader of images), `README.md` (for the Hub, see `card`) and `subnet.json` (where the network came from). It opens
with either of::

    subnet, preprocessing, classes = load_subnet("runs/best/subnet")
    model = timm.create_model("local-dir:runs/best/subnet", pretrained=True)  # after import autoformer.networks

A supernet's folder holds `model.safetensors` and `supernet.json`: its space, its images and how it was trained. `extract` cuts a
subnet out of it into a folder of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from autoformer.architecture import OPTIONS, Architecture, SubnetGeometry
from autoformer.data.classes import write_class_map
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import ArchitectureError, CheckpointError, short
from autoformer.files import read_json, write_folder, write_json
from autoformer.networks.card import Card
from autoformer.networks.subnet import TIMM_NAME, Subnet
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace
from autoformer.tensors import check_weights, load_weights, read_tensors, tensors_digest, write_tensors

RECORDS = ("subnet.json", "network.json")  # where a network came from: one of ours, one of timm's that was finetuned

# --- subnets -----------------------------------------------------------------------------------------------------


def save_subnet(
    subnet: Subnet, folder: Path, *, preprocessing: Preprocessing, classes: Iterable[str], record: dict[str, Any]
) -> None:
    """Writes the folder whole or not at all. `record` says where the network came from; stored in `subnet.json`.

    Raises `OutputExistsError` when the folder exists with other content.
    """
    with write_folder(folder) as target:
        fill_folder(subnet, target, preprocessing=preprocessing, classes=classes, record=record)


def fill_folder(
    subnet: Subnet, folder: Path, *, preprocessing: Preprocessing, classes: Iterable[str], record: dict[str, Any]
) -> None:
    """Writes the files of a saved subnet into `folder`, `subnet.json` last, so that its presence says they are all there."""
    names = list(classes)
    _check_images(subnet, preprocessing, names)
    own = {"fixed_input_size": True, "first_conv": subnet.first_conv, "classifier": "head"}
    config = {
        "architecture": TIMM_NAME,
        "num_classes": subnet.num_classes,
        "num_features": subnet.embed_dim,
        "label_names": names,
        "model_args": subnet.model_args,
        "pretrained_cfg": own | told_to_timm(preprocessing, names),  # what timm reads; a searched resolution needs ours
        "preprocessing": preprocessing.to_dict(),
    }
    write_tensors(subnet.state_dict(), folder / "model.safetensors")
    write_json(config, folder / "config.json")
    write_json(subnet.architecture.to_dict(), folder / "architecture.json")
    write_class_map(names, folder)
    card = Card(
        name=subnet.architecture.slug,
        kind=f"A vision transformer: {subnet.architecture}",
        is_ours=True,
        params=sum(weight.numel() for weight in subnet.parameters()),
        image_size=preprocessing.input_size,
        classes=tuple(names),
        licence=None,
    )
    card.write(folder, record)
    write_json(record, folder / "subnet.json")


def told_to_timm(preprocessing: Preprocessing, classes: Sequence[str]) -> dict[str, Any]:
    """What timm's `pretrained_cfg` says of the images and classes of a network; JSON."""
    return {
        "input_size": [preprocessing.in_chans, preprocessing.input_size, preprocessing.input_size],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": "center",
        "num_classes": len(classes),
    }


def load_subnet(folder: Path) -> tuple[Subnet, Preprocessing, tuple[str, ...]]:
    """The network of a saved folder, in evaluation mode, with its preprocessing and class names.

    What `config.json` says reaches the constructor of `Subnet` alone, never timm's own loading, and the weights are those that
    `subnet.json` names. Raises `CheckpointError` naming what is missing, truncated, misshapen or contradicts the rest.
    """
    path, weights = folder / "config.json", folder / "model.safetensors"
    config = read_json(path)
    if config.get("architecture") != TIMM_NAME:
        found = short(repr(config.get("architecture")), 60)
        raise CheckpointError(f"{folder} holds a {found}, expected a folder of {TIMM_NAME!r}")
    record = folder / "subnet.json"
    tensors = read_tensors(weights, read_json(record).get("weights_digest") if record.exists() else None)
    try:
        if missing := [key for key in ("model_args", "preprocessing", "label_names") if key not in config]:
            raise CheckpointError(f"it lacks {missing[0]!r}")
        arguments = config["model_args"]
        architecture, geometry = SubnetGeometry.of_file(arguments)
        preprocessing = Preprocessing.from_dict(config["preprocessing"])
        classes = _names(config["label_names"], "label_names")
        if architecture.depth > len(tensors):  # before a thousand blocks are made
            raise CheckpointError(f"{architecture.depth} blocks, but {weights.name} holds {len(tensors)} tensors")
        with torch.device("meta"):  # shapes without memory: sizes in a damaged file may exceed the machine
            sketch = Subnet(architecture, geometry, **{name: arguments[name] for name in OPTIONS if name in arguments})
        _check_images(sketch, preprocessing, classes)
    except (CheckpointError, ArchitectureError, AssertionError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} does not describe a subnet: {reason}") from error
    check_weights(sketch, tensors, weights)
    subnet = cast(Subnet, timm.create_model(TIMM_NAME, **arguments))
    subnet.load_state_dict(tensors)
    return subnet.eval(), preprocessing, classes


def record_of_network(folder: Path) -> dict[str, Any] | None:
    """What a folder says of where its network came from, with its images under "data"; None where it says nothing, as timm's."""
    found = next((folder / name for name in RECORDS if (folder / name).is_file()), None)
    return None if found is None else read_json(found, "data")


def _check_images(subnet: Subnet, preprocessing: Preprocessing, classes: Iterable[str]) -> None:
    """Raises `CheckpointError` unless the network takes what the preprocessing gives, and has these classes."""
    given, taken, names = preprocessing.input_size, subnet.geometry.img_size, list(classes)
    if preprocessing.input_type != "float32":
        raise CheckpointError(f"the preprocessing gives {preprocessing.input_type} images, a torch network takes float32")
    if taken != (given, given):
        raise CheckpointError(f"the preprocessing gives images of {given} px, the network takes {taken}")
    if preprocessing.in_chans != subnet.in_chans:
        raise CheckpointError(f"the preprocessing gives {preprocessing.in_chans} channels, the network takes {subnet.in_chans}")
    if len(names) != subnet.num_classes:
        raise CheckpointError(f"label_names: {len(names)} class names for a network of {subnet.num_classes} classes")


def _names(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{key} is not a list of names")
    return tuple(value)


# --- supernets ---------------------------------------------------------------------------------------------------


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
    record: dict[str, Any] = {
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
        write_class_map(record["data"]["classes"], folder)
        write_json(record, folder / "supernet.json")


def load_supernet(folder: Path) -> Supernet:
    """The supernet of a folder, in evaluation mode. Raises `CheckpointError` when it is unfinished or damaged."""
    if not (folder / "supernet.json").exists():
        what = "an unfinished training; run it again to finish" if (folder / "checkpoints").exists() else "no supernet"
        raise CheckpointError(f"{folder} holds {what}; expected the folder that `autoformer train` writes")
    path = folder / "model.safetensors"
    try:
        record = read_json(folder / "supernet.json", "space", "weights_digest", "data")
        space = SearchSpace.from_dict(record["space"])
    except ArchitectureError as error:
        raise CheckpointError(f"{folder / 'supernet.json'} is damaged: {error}") from error
    tensors = read_tensors(path, record["weights_digest"])
    with torch.device("meta"):  # shapes alone, so that a wrong space cannot take memory
        check_weights(Supernet(space), tensors, path)
    supernet = Supernet(space)
    load_weights(supernet, tensors, path)
    return supernet.eval()


def images_of_supernet(folder: Path) -> tuple[Preprocessing, tuple[str, ...]]:
    """What the supernet of a folder was trained on: the preprocessing of its images and its classes. Raises `CheckpointError`."""
    path = folder / "supernet.json"
    data = read_json(path, "data")["data"]
    try:
        return Preprocessing.from_dict(data["preprocessing"]), _names(data["classes"], "classes")
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}; expected a folder `autoformer train` wrote") from error
    except (TypeError, CheckpointError) as error:
        raise CheckpointError(f"{path} does not describe its images ({error}); it was edited or damaged") from error


def extract(supernet_folder: Path, architecture: Architecture, out: Path) -> Subnet:
    """The network of `architecture` with its inherited weights, written to the folder `out` that `load_subnet` reads.

    Raises `ArchitectureError` when the space does not contain it, `OutputExistsError` when `out` holds something.
    """
    supernet = load_supernet(supernet_folder)
    record = read_json(supernet_folder / "supernet.json", "data", "weights_digest")
    subnet = Subnet.from_supernet(supernet, architecture)
    preprocessing, classes = images_of_supernet(supernet_folder)
    if architecture.image_size not in (None, preprocessing.image_size):
        preprocessing = replace(preprocessing, network_size=architecture.image_size)
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
