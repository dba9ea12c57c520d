"""A subnet on disk: written whole, and read with nothing of it trusted.

The folder holds `model.safetensors`, timm's `config.json`, `architecture.json` (the value that travels) and `subnet.json`
(where the network came from). It opens with either of::

    subnet, preprocessing, classes = load_subnet("runs/best/subnet")
    model = timm.create_model("local-dir:runs/best/subnet", pretrained=True)  # after import autoformer.networks.subnet
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from autoformer.architecture import MAX_DEPTH, MAX_IMAGE_SIZE, Architecture, is_whole
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import ArchitectureError, CheckpointError, short
from autoformer.files import read_json, write_folder, write_json
from autoformer.networks.relative_position import Form
from autoformer.networks.subnet import TIMM_NAME, Subnet
from autoformer.networks.supernet import Supernet
from autoformer.space import LARGEST_SIZES, SearchSpace
from autoformer.tensors import check_weights, load_weights, read_tensors, tensors_digest, write_tensors


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
    if preprocessing.input_type != "float32":
        raise CheckpointError(f"a torch network takes float32 images, the preprocessing gives {preprocessing.input_type}")
    if (size := subnet.patch_embed.img_size) != (preprocessing.input_size,) * 2:
        raise CheckpointError(f"preprocessing gives images of {preprocessing.input_size} px, the network takes {size}")
    if preprocessing.in_chans != subnet.in_chans:
        raise CheckpointError(
            f"preprocessing gives images of {preprocessing.in_chans} channels, the network takes {subnet.in_chans}"
        )
    if len(names) != subnet.num_classes:
        raise CheckpointError(f"{len(names)} class names for a network of {subnet.num_classes} classes")
    pretrained_cfg = {
        "input_size": [preprocessing.in_chans, preprocessing.input_size, preprocessing.input_size],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": "center",
        "fixed_input_size": True,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "num_classes": subnet.num_classes,
    }
    config = {
        "architecture": TIMM_NAME,
        "num_classes": subnet.num_classes,
        "num_features": subnet.embed_dim,
        "label_names": names,
        "model_args": subnet.model_args,
        "pretrained_cfg": pretrained_cfg,  # what timm reads; a searched resolution needs ours
        "preprocessing": preprocessing.to_dict(),
    }
    write_tensors(subnet.state_dict(), folder / "model.safetensors")
    write_json(config, folder / "config.json")
    write_json(subnet.architecture.to_dict(), folder / "architecture.json")
    write_json(record, folder / "subnet.json")


def load_subnet(folder: Path) -> tuple[Subnet, Preprocessing, tuple[str, ...]]:
    """The network of a saved folder, in evaluation mode, with its preprocessing and class names.

    Nothing but the two files is read: what `config.json` says reaches the constructor of `Subnet` alone, never timm's own
    loading. Raises `CheckpointError` naming what is missing, truncated, misshapen or contradicts the rest.
    """
    path, weights = folder / "config.json", folder / "model.safetensors"
    config = read_json(path)
    if config.get("architecture") != TIMM_NAME:
        raise CheckpointError(f"{folder} holds a {config.get('architecture')!r}, expected a folder of {TIMM_NAME!r}")
    tensors = read_tensors(weights)
    try:
        for key in ("model_args", "preprocessing", "label_names"):
            if key not in config:
                raise CheckpointError(f"it lacks {key!r}")
        arguments = _checked_arguments(config["model_args"])
        preprocessing = Preprocessing.from_dict(config["preprocessing"])
        classes = config["label_names"]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise CheckpointError("label_names is no list of names")
        depth, stored = len(arguments["num_heads"]), len(tensors)
        if depth > stored:  # before a thousand blocks are made
            raise CheckpointError(f"{depth} blocks, but {weights.name} holds {stored} tensors")
        with torch.device("meta"):
            sketch = Subnet(**arguments)  # shapes without memory: sizes in a damaged file may exceed the machine
        if preprocessing.input_type != "float32":
            raise CheckpointError(f"its preprocessing gives {preprocessing.input_type} images, a torch network takes float32")
        if (size := sketch.patch_embed.img_size) != (preprocessing.input_size,) * 2:
            raise CheckpointError(f"its preprocessing gives images of {preprocessing.input_size} px, the network takes {size}")
        if preprocessing.in_chans != sketch.in_chans:
            raise CheckpointError(
                f"its preprocessing gives {preprocessing.in_chans} channels, the network takes {sketch.in_chans}"
            )
        if len(classes) != sketch.num_classes:
            raise CheckpointError(f"{len(classes)} label_names for a network of {sketch.num_classes} classes")
    except (CheckpointError, ArchitectureError, AssertionError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} does not describe a subnet: {reason}") from error
    check_weights(sketch, tensors, weights)
    subnet = cast(Subnet, timm.create_model(TIMM_NAME, **arguments))
    subnet.load_state_dict(tensors)
    return subnet.eval(), preprocessing, tuple(classes)


def _checked_arguments(arguments: object) -> dict[str, Any]:
    """Arguments of `Subnet` from a file, fit for its constructor.

    timm takes further ones that load files or fetch addresses, so only those of the constructor pass. Raises
    `CheckpointError` or `ArchitectureError`.
    """
    if not isinstance(arguments, Mapping):
        raise CheckpointError(f"model_args is a {type(arguments).__name__}, expected a JSON object")
    parameters = inspect.signature(Subnet).parameters
    if unknown := sorted(set(arguments) - set(parameters)):
        raise CheckpointError(f"model_args has unknown keys {short(unknown)}; known are {sorted(parameters)}")
    if missing := sorted({"embed_dim", "num_heads", "mlp_ratio"} - set(arguments)):
        raise CheckpointError(f"model_args lacks {missing[0]!r}")
    values: dict[str, Any] = {name: entry.default for name, entry in parameters.items()} | dict(arguments)
    Architecture.from_dict(
        {key: values[key] for key in ("embed_dim", "num_heads", "mlp_ratio")} | {"image_size": values["searched_size"]}
    )
    if values["searched_size"] not in (None, values["img_size"]):
        given = str(values["img_size"])[:40]
        raise CheckpointError(f"searched_size {values['searched_size']} contradicts img_size {given}; they must be equal")
    for name, most in LARGEST_SIZES.items():
        if not is_whole(values[name], most, least=0 if name == "num_classes" else 1):
            raise CheckpointError(f"{name} must be a whole number up to {most}, got {str(values[name])[:40]}")
    sides = values["img_size"] if isinstance(values["img_size"], list | tuple) else [values["img_size"]] * 2
    if len(sides) != 2 or not all(is_whole(side, MAX_IMAGE_SIZE) and side % values["patch_size"] == 0 for side in sides):
        given = str(values["img_size"])[:40]
        raise CheckpointError(
            f"img_size must be a multiple of patch_size {values['patch_size']} up to {MAX_IMAGE_SIZE}, got {given}"
        )
    grids = values["trained_grid"] if isinstance(values["trained_grid"], list | tuple) else [values["trained_grid"]] * 2
    least = [side // values["patch_size"] for side in sides]
    if values["trained_grid"] is not None and not (
        len(grids) == 2 and all(is_whole(grid, MAX_IMAGE_SIZE, least=own) for grid, own in zip(grids, least, strict=True))
    ):
        raise CheckpointError(
            f"trained_grid must hold the {least[0]}×{least[1]} patches of its images, got {str(values['trained_grid'])[:40]}"
        )
    for name in ("relative_position", "absolute_position", "scale_by_width"):
        if not isinstance(values[name], bool):
            raise CheckpointError(f"{name} must be true or false, got {str(values[name])[:40]}")
    for name in ("norm_eps", "drop_rate", "drop_path_rate"):
        rate = values[name]
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1 or not math.isfinite(rate):
            raise CheckpointError(f"{name} must be from 0 to below 1, got {str(rate)[:40]}")
    if values["form"] not in get_args(Form):
        raise CheckpointError(f"form must be one of {', '.join(get_args(Form))}, got {str(values['form'])[:40]}")
    depth = len(values["num_heads"])
    if values["super_depth"] is not None and not is_whole(values["super_depth"], MAX_DEPTH, least=depth):
        raise CheckpointError(f"super_depth must be from {depth} to {MAX_DEPTH}, got {str(values['super_depth'])[:40]}")
    return dict(arguments)


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
