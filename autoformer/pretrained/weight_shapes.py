"""What the shapes of stored weights say about one of timm's networks: its classes, input channels and image size.

timm names the classifier and the first convolution of a network, several of each where it has them. The image size shows where
positions are learned, one per patch or per offset between patches: the number of those stored, against the number at timm's own
size, gives sizes to try, and a size counts when every shape then fits. Networks are made on the device "meta", of shapes alone.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
import torch
from torch import Tensor

from autoformer.errors import CheckpointError
from autoformer.tensors import check_weights

MOST_TOKENS_BESIDE = 8  # class, distillation and register tokens, which have positions but no place in the grid
LARGEST_SIDE = 1024  # pixels; of sizes that are tried
USUAL_PATCH = 16  # pixels; of networks that do not say
LARGEST_STEP = 32  # pixels; between sizes that halve five times without a rest
REMEDY = "give a folder whose config.json holds its model_args (timm's save_for_hf)"


def sizes_of(name: str, tensors: Mapping[str, Tensor], source: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which timm makes a network `name` that `tensors` fit; `arguments` are given and stay.

    Raises `CheckpointError`, saying what to give instead, when there is none, or more than one image size.
    """
    options = {**arguments, **_heads_and_stems(tensors, sketch(name, arguments).pretrained_cfg)}
    shape = sketch(name, options)
    stored = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    expected = _shapes(shape)
    if stored == expected or stored.keys() != expected.keys() or "img_size" in arguments:
        check_weights(shape, tensors, source)
        return options
    fits = _image_sizes(name, options, stored, shape)
    if len(fits) > 1:
        raise CheckpointError(
            f"{source} fits timm's {name} of images of {', '.join(map(str, fits[:-1]))} and {fits[-1]} px; which it was "
            f"trained on its weights do not tell; {REMEDY}"
        )
    if not fits:
        try:
            check_weights(shape, tensors, source)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; if it was made with other arguments than timm's {name}, {REMEDY}") from None
    return {**options, "img_size": fits[0]}


def sketch(name: str, arguments: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """timm's network `name` without memory: shapes alone. Raises `CheckpointError` when timm has none of this name."""
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=3)
        advice = f"did you mean {' or '.join(similar)}" if similar else "timm.list_models() names them all"
        raise CheckpointError(f"timm has no model {name!r}; {advice}")
    with torch.device("meta"):
        return timm.create_model(name, **arguments)


def _shapes(network: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _heads_and_stems(tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> dict[str, int]:
    """Classes and input channels; without a stored classifier no classes, where timm names none or no tensor tells nothing."""
    sizes = {}
    if classifiers := _names(described.get("classifier")):
        heads = [tensors[key] for name in classifiers if (key := f"{name}.weight") in tensors and tensors[key].ndim]
        sizes["num_classes"] = heads[0].shape[0] if heads else 0
    stems = [tensors[key] for name in _names(described.get("first_conv")) if (key := f"{name}.weight") in tensors]
    if stems and stems[0].ndim == 4:
        sizes["in_chans"] = stems[0].shape[1]
    return sizes


def _names(value: object) -> tuple[str, ...]:
    """One name or several, as timm writes them."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()


def _image_sizes(name: str, options: Mapping[str, Any], stored: Mapping[str, tuple[int, ...]], network: Any) -> list[int]:
    """The image sizes at which every shape fits, in whole patches; empty where none does or the network takes no size."""
    embed: Any = getattr(network, "patch_embed", None)
    usual = (getattr(embed, "img_size", None) or network.pretrained_cfg["input_size"])[-1]
    ratios = {
        ratio
        for key, shape in _shapes(network).items()
        if len(shape) == len(stored[key])
        for own, given in zip(shape, stored[key], strict=True)
        if own != given
        for ratio in _ratios(given, own)
    }
    sizes = sorted({int(usual * ratio) for ratio in ratios if usual * ratio <= LARGEST_SIDE and usual * ratio % 1 == 0})
    step = embed.feat_ratio(as_scalar=True) if hasattr(embed, "feat_ratio") else USUAL_PATCH
    found = {size for size in sizes if _fits(name, options, size, stored)}
    found = {size for size in found if size % step == 0} or found  # a size with a rest may fit as the one below it
    for size in sorted(found):  # networks that pad or clip their windows take sizes beside it with the same weights
        for further in range(step, LARGEST_STEP, step):
            found |= {other for other in (size - further, size + further) if _fits(name, options, other, stored)}
    return sorted(found)


def _ratios(given: int, own: int) -> Iterator[Fraction]:
    """How many times as long a side may be, if `given` against `own` counts patches, offsets, or either along one side."""
    for beside in range(MOST_TOKENS_BESIDE + 1):
        sides = [math.isqrt(max(count - beside, 0)) for count in (given, own)]
        if [side * side + beside for side in sides] == [given, own] and all(sides):
            yield Fraction(*sides)
            yield Fraction(sides[0] + 1, sides[1] + 1)  # 2 n - 1 offsets of n places
    if given and own:
        yield Fraction(given, own)
        yield Fraction(given + 1, own + 1)


def _fits(name: str, options: Mapping[str, Any], size: int, stored: Mapping[str, tuple[int, ...]]) -> bool:
    try:
        return _shapes(sketch(name, {**options, "img_size": size})) == stored
    except Exception:  # whatever timm's constructors make of a size that does not go, or of the argument itself
        return False
