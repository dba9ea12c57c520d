"""`Classifier`: any of timm's networks as something to train further, on the images and classes at hand.

    timm:NAME            its pretrained weights, which timm has or downloads
    timm:NAME@FILE       the weights of a file
    timm:NAME@scratch    fresh weights
    FOLDER               one that timm's `save_for_hf` or a finetune wrote

Weights are fitted to the channels and the size of the images as timm does it. Images are normalised as the weights know it; a
classifier of other classes becomes one of zeros, the same start whatever the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from autoformer.data.classes import are_the_same, write_class_map
from autoformer.data.parts import DataParts
from autoformer.data.preprocessing import Normalisation, Preprocessing
from autoformer.errors import CheckpointError
from autoformer.files import TIMM, write_json
from autoformer.networks.card import Card
from autoformer.networks.folders import told_to_timm
from autoformer.pretrained.named_network import NamedNetwork, open_network
from autoformer.pretrained.timm_models import name_and_file, open_timm
from autoformer.pretrained.weight_shapes import sketch
from autoformer.tensors import write_tensors

SCRATCH = "scratch"
# What of timm's description goes with the weights into a folder; where they were fetched from does not.
DESCRIBED = ("fixed_input_size", "pool_size", "first_conv", "classifier", "license")


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network of timm with what makes it again."""

    name: str  # timm's
    arguments: Mapping[str, Any]  # of `timm.create_model`; JSON
    network: nn.Module
    normalisation: Normalisation | None  # what its weights were trained with; None: nothing yet, or not known

    @property
    def has_drop_path(self) -> bool:
        """Whether timm gives this network stochastic depth."""
        try:
            sketch(self.name, {**self.arguments, "drop_path_rate": 0.1})
        except TypeError:
            return False
        return True

    def with_drop_path(self, rate: float) -> nn.Module:
        """Its network, with stochastic depth where timm has it for this one."""
        if not rate or not self.has_drop_path:
            return self.network
        network: nn.Module = timm.create_model(self.name, **self.arguments, drop_path_rate=rate)
        network.load_state_dict(self.network.state_dict())
        return network

    def preprocessing(self, parts: DataParts) -> Preprocessing:
        """What becomes of the images of `parts`: normalised as the weights know it, where that is known."""
        own = parts.preprocessing
        if self.normalisation is None or len(self.normalisation.mean) != own.in_chans:
            return own
        return replace(own, mean=self.normalisation.mean, std=self.normalisation.std)


def is_from_scratch(words: str) -> bool:
    """Whether `words` name a network of timm without weights."""
    return words.startswith(TIMM) and words.endswith(f"@{SCRATCH}")


def usual_size(words: str) -> int | None:
    """The image size that the weights were trained with, in pixels; None from scratch: that of the images."""
    if is_from_scratch(words):
        return None
    if words.startswith(TIMM) and name_and_file(words)[1] is None:
        return int(sketch(name_and_file(words)[0]).pretrained_cfg["input_size"][-1])
    return open_network(words).preprocessing.input_size


def classifier_from(words: str, parts: DataParts, seed: int = 0) -> tuple[Classifier, DataParts, bool]:
    """The network that `words` name for the images of `parts`, these with their classes in its order; whether its head is new.

    `seed` decides fresh weights. Raises `CheckpointError` when there is no such network, or it cannot take such images.
    """
    size, channels, count = parts.preprocessing.image_size, parts.preprocessing.in_chans, len(parts.classes)
    wanted = {"num_classes": count, "in_chans": channels}
    if is_from_scratch(words):
        name = name_and_file(words)[0]
        sketch(name)
        arguments = {**wanted, **_size_argument(name, wanted, size)}
        torch.manual_seed(seed)
        network: nn.Module = timm.create_model(name, **arguments)
        return _checked(Classifier(name=name, arguments=arguments, network=network, normalisation=None), words, size), parts, True
    if words.startswith(TIMM) and name_and_file(words)[1] is None:
        name = name_and_file(words)[0]
        arguments = {**wanted, **_size_argument(name, wanted, size)}
        network = open_timm(name, arguments=arguments)
        own: Any = network.pretrained_cfg
        known = Normalisation(tuple(own.get("mean") or ()), tuple(own.get("std") or ()))
        made = Classifier(name=name, arguments=arguments, network=network, normalisation=known)
        return _checked(without_classifier(made), words, size), parts, True
    named = open_network(words)
    assert named.name is not None, "a network of ours is finetuned as a Subnet"
    made = _fitted(named, words, wanted, size)
    if named.classes is not None and are_the_same(named.classes, parts.classes):
        return _checked(made, words, size), parts.in_order(named.classes), False
    return _checked(without_classifier(made), words, size), parts, True


def without_classifier(made: Classifier) -> Classifier:
    """The same with zeros for the weights of its last layers."""
    found: Any = made.network.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        for layer in found if isinstance(found, list | tuple) else [found]:
            for module in layer.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    for weight in module.parameters(recurse=False):
                        weight.zero_()
    return made


def _fitted(named: NamedNetwork, words: str, wanted: Mapping[str, int], size: int) -> Classifier:
    """The network with its weights, made again for other channels, classes and image sizes."""
    network: Any = named.network
    name = (named.name or "").removeprefix(TIMM)
    stored = {key: value for key, value in own_arguments(network).items() if key not in ("img_size", *wanted)}
    arguments = {**stored, **wanted, **_size_argument(name, {**stored, **wanted}, size)}
    described = {
        "state_dict": network.state_dict(),
        "num_classes": network.num_classes,
        "input_size": (named.preprocessing.in_chans, *network.pretrained_cfg["input_size"][1:]),
        "custom_load": False,
        "label_offset": 0,
    }
    try:
        fitted = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=described, **arguments)
    except Exception as error:  # whatever timm makes of weights that do not fit
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:160]
        raise CheckpointError(
            f"{words} is a network for {named.preprocessing.in_chans} channels at {named.preprocessing.input_size} px, which "
            f"cannot be fitted to {wanted['in_chans']} channels at {size} px ({reason}); give --image-size "
            f"{named.preprocessing.input_size}"
        ) from error
    fitted.pretrained_cfg = dict(network.pretrained_cfg)
    return Classifier(name=name, arguments=arguments, network=fitted, normalisation=named.preprocessing.normalisation)


def own_arguments(network: Any) -> dict[str, Any]:
    """The arguments that timm made a network with."""
    return dict(getattr(network, "_model_args", {}))


def _size_argument(name: str, arguments: Mapping[str, Any], size: int) -> dict[str, int]:
    """`img_size` where this network of timm has one: vision transformers and hybrids with positions. Most CNNs have none."""
    try:
        with torch.device("meta"):
            timm.create_model(name, **arguments, img_size=size)
    except TypeError:
        return {}
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"timm's {name} cannot be made for images of {size} px ({reason}); try another size") from error
    return {"img_size": size}


def _checked(made: Classifier, words: str, size: int) -> Classifier:
    """The same. Raises `CheckpointError` unless the network gives one logit per class and image of this size."""
    channels, classes = made.arguments["in_chans"], made.arguments["num_classes"]
    made.network.eval()
    try:
        with torch.inference_mode():
            logits = made.network(torch.zeros(1, channels, size, size))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"{words} cannot take images of {size} px ({reason}); give another --image-size") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, classes):
        raise CheckpointError(f"{words} does not give one logit per class; expected a classifier of timm")
    return made


def fill_classifier_folder(
    made: Classifier,
    network: nn.Module,
    folder: Path,
    *,
    preprocessing: Preprocessing,
    classes: tuple[str, ...],
    record: Mapping[str, Any],
) -> None:
    """Writes a folder as timm's `save_for_hf` does, with our preprocessing and, last, the record `network.json`."""
    told: Any = network.pretrained_cfg
    kept = {key: told[key] for key in DESCRIBED if told.get(key) is not None}
    config = {
        "architecture": made.name,
        "num_classes": len(classes),
        "num_features": int(network.num_features),  # type: ignore[arg-type]
        "label_names": list(classes),
        "model_args": dict(made.arguments),
        "pretrained_cfg": kept | told_to_timm(preprocessing, classes),
        "preprocessing": preprocessing.to_dict(),
    }
    write_tensors(network.state_dict(), folder / "model.safetensors")
    write_json(config, folder / "config.json")
    write_class_map(classes, folder)
    card = Card(
        name=made.name,
        kind=f"timm's {made.name}, finetuned",
        is_ours=False,
        params=sum(weight.numel() for weight in network.parameters()),
        image_size=preprocessing.input_size,
        classes=classes,
        licence=told.get("license"),
    )
    card.write(folder, record)
    write_json(record, folder / "network.json")
