"""timm's networks by their names: with the weights that timm downloads, or those of a local file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm

from autoformer.errors import CheckpointError
from autoformer.files import TIMM
from autoformer.pretrained.foreign_weights import read_foreign_weights
from autoformer.pretrained.hub import NOT_STORED, hub_host, is_stored, silence_of_hub, without_hub
from autoformer.pretrained.vit_features import check_plain
from autoformer.pretrained.weight_shapes import sizes_of, sketch


def name_and_file(words: str) -> tuple[str, Path | None]:
    """What `timm:NAME` and `timm:NAME@FILE` say: timm's name of the network, and the file with its weights, if one is named."""
    name, _, file = words.removeprefix(TIMM).partition("@")
    return name, Path(file).expanduser() if file else None


def timm_network(words: str, *, num_classes: int | None = None) -> Any:
    """Any of timm's networks, pretrained: `timm:NAME` is downloaded, `timm:NAME@FILE` takes its weights from a local file.

    With a file, classes, input channels and the image size are those of its tensors, where these tell; the network's
    `pretrained_cfg` says so. Raises `CheckpointError` when it cannot be had, or does not know `num_classes` classes.
    """
    network = open_timm(*name_and_file(words))
    if num_classes is not None and network.num_classes != num_classes:
        raise CheckpointError(
            f"{words} knows {network.num_classes} classes, expected {num_classes}; give weights trained for them"
        )
    return network


def check_obtainable(name: str) -> None:
    """Raises `CheckpointError` where timm's weights of this name are neither stored here nor to be had from the Hub."""
    place = sketch(name).pretrained_cfg.get("hf_hub_id")
    if not place or is_stored(place):
        return
    if (silence := silence_of_hub()) is not None:
        raise _out_of_reach(name, silence)


def _out_of_reach(name: str, silence: str) -> CheckpointError:
    return CheckpointError(
        f"the weights of timm's {name} are not stored here, and {hub_host()} cannot be asked ({silence}); connect and run the "
        f"same command again, or give a local file: timm:{name}@FILE"
    )


def open_timm(
    name: str, checkpoint: Path | None = None, *, plain: bool = False, arguments: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """timm's network `name` with the weights of the file `checkpoint`, or else the pretrained ones that timm downloads.

    What was downloaded once needs no connection. A file without a classifier gives a network without one. With `plain`, one
    that a `Subnet` does not compute is refused before anything is fetched. `arguments` are further ones of the network, which
    must be checked. Raises `CheckpointError` when the name is unknown, the download fails or the file does not fit.
    """
    shape = sketch(name, arguments)  # whether the model is usable is known before anything is downloaded
    if plain:
        check_plain(shape, name)
    if checkpoint is None:
        silence = silence_of_hub() if shape.pretrained_cfg.get("hf_hub_id") else None
        try:
            with without_hub(silence is not None):
                return timm.create_model(name, pretrained=True, **arguments)
        except Exception as error:  # no network, no such file on the hub, no weights for this name: whatever timm raises
            if silence is not None and isinstance(error, NOT_STORED):
                raise _out_of_reach(name, silence) from error
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise CheckpointError(
                f"the weights of timm's {name} could not be fetched ({reason}); give a local file: timm:{name}@FILE"
            ) from error
    tensors = read_foreign_weights(checkpoint)
    options = sizes_of(name, tensors, checkpoint, arguments)
    network = timm.create_model(name, **options)
    network.load_state_dict(tensors)
    channels, *sides = network.pretrained_cfg["input_size"]
    if (size := options.get("img_size")) is not None:
        sides = [size, size] if isinstance(size, int) else list(size)
    network.pretrained_cfg = {**network.pretrained_cfg, "input_size": (options.get("in_chans", channels), *sides)}
    return network
