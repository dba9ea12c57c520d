"""Starting from what exists: timm's networks, the released supernets, and supernets trained here, for the user's images.

A vision transformer becomes the largest network of a supernet: its weights as they are, ordered by importance (`importance.py`
says what narrow networks start from). Relative position is left out unless it is asked for; then its tables are zeros, which
change nothing until they are trained. A space may ask for patch sizes, kernels in the MLPs and a place of halving: kernels begin
as ones that change nothing, so that the largest network that is not halved computes what the parent computes, in the parent's
patches. A convolutional stem is refused: no such parent has one. Every start is then adapted to the classes, image size,
channels and normalisation at hand (`adapt.py`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from autoformer.architecture import ANATOMY
from autoformer.data.preprocessing import Normalisation
from autoformer.errors import ArchitectureError, CheckpointError
from autoformer.files import TIMM
from autoformer.networks.folders import images_of_supernet, load_subnet, load_supernet
from autoformer.networks.relative_position import Tables
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.adapt import Wanted, adapt_subnet, adapt_supernet
from autoformer.pretrained.foreign_weights import read_foreign_weights
from autoformer.pretrained.importance import assumed_moments, order_by_importance
from autoformer.pretrained.official import import_official
from autoformer.pretrained.refit import refit
from autoformer.pretrained.timm_models import name_and_file, open_timm
from autoformer.pretrained.vit_weights import plain_subnet
from autoformer.space import PRESETS, SearchSpace

OFFICIAL = "official:"
FORMS = "timm:NAME, timm:NAME@FILE, official:FILE, or the folder of a supernet, run or plain network"
AS_IT_IS = Wanted()

# What of a space belongs to the weights; the rest are choices among them, and sizes that adapt.
FIXED = (
    "stored_embed_dim", "stored_qkv_dim", "stored_hidden_dim", "head_dim", "patch_size", "relative_position",
    "max_relative_position", "absolute_position", "pooling", "norm_eps", "sharing", "scale_by_width", "stem", "mean_shift",
    *ANATOMY,
)  # fmt: skip

# A space of plain vision transformers, without what these weights know nothing of.
PLAIN: dict[str, Any] = {
    "patch_sizes": (), "stem": "patch", "stem_depths": (0,), "mlp_kernels": (0,), "pool_after": (0,), **ANATOMY,
    "head_dims": (), "mean_shift": False,
}  # fmt: skip


def start_from(
    words: str,
    wanted: Wanted = AS_IT_IS,
    *,
    space: SearchSpace | None = None,
    relative_position: bool = False,
    to_cut: bool = False,
) -> Supernet:
    """The supernet that `words` name, in evaluation mode, for the images and classes that are wanted.

    Words are `timm:NAME` (downloaded), `timm:NAME@FILE` (local weights), `official:FILE` or a path ending in .pth or .pt (a
    released supernet), a folder that `autoformer train`, `import-official` or `run` wrote, or that of one plain network which
    `finetune` wrote. `space` restricts or names the choices, which must fit the weights; without it they follow from the model
    (`space_around`, `space_to_cut`), the released supernet (the preset of its width) or are those of the folder.
    `relative_position` and `to_cut` are of single networks without a `space` (`supernet_from_timm`). Raises `CheckpointError`
    when nothing can be read there, `ArchitectureError` when the space or the image size does not fit.
    """
    if words.startswith(TIMM):
        return supernet_from_timm(words, wanted, space=space, relative_position=relative_position, to_cut=to_cut)
    path = Path(words.removeprefix(OFFICIAL)).expanduser()
    if words.startswith(OFFICIAL) or path.suffix in (".pth", ".pt"):
        supernet, trained_with = _official(path, space), Normalisation(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    elif not path.is_dir():
        raise CheckpointError(f"cannot start from {words!r}: it is not a folder; expected {FORMS}")
    elif is_folder_of_network(path):
        return _grown(_plain_of_folder(path), wanted, space, relative_position, to_cut)
    else:
        run = path / "supernet"
        folder = run if run.is_dir() and not (path / "supernet.json").exists() else path
        supernet, trained_with = load_supernet(folder), images_of_supernet(folder)[0].normalisation
    if space is not None:
        supernet = _within(supernet, space, words)
    return adapt_supernet(supernet.eval(), wanted, trained_with)


def _official(path: Path, space: SearchSpace | None) -> Supernet:
    """The released supernet of a file, for the image size that its positions were trained with."""
    weights = read_foreign_weights(path)
    stem = weights.get("patch_embed_super.proj.weight")
    width = None if stem is None or stem.ndim != 4 else stem.shape[0]
    if "patch_embed.proj.weight" in weights:
        raise CheckpointError(f"{path} holds no released supernet but a network named as in timm; give timm:NAME@{path}")
    if space is None:
        names = ("tiny", "small", "base")
        space = next((PRESETS[name] for name in names if PRESETS[name].stored_embed_dim == width), None)
        if space is None:
            found = "no patch embedding" if width is None else f"width {width}"
            raise CheckpointError(f"{path} has {found}, unlike the released supernets {', '.join(names)}; give the space it has")
    space = replace(space, **PLAIN)  # what it asks for beyond that is of `_within`
    positions = weights.get("pos_embed")
    if space.absolute_position and positions is not None and positions.ndim == 3 and positions.shape[1] > 1:
        grid = math.isqrt(positions.shape[1] - 1)
        space = replace(space, image_sizes=(grid * space.patch_size,))
    return import_official(path, space)


# --- timm --------------------------------------------------------------------------------------------------------


def supernet_from_timm(
    model_or_words: nn.Module | str,
    wanted: Wanted = AS_IT_IS,
    *,
    space: SearchSpace | None = None,
    relative_position: bool = False,
    to_cut: bool = False,
) -> Supernet:
    """A supernet, in evaluation mode, whose largest network computes what timm's vision transformer computes.

    Words are `timm:NAME` (downloaded) or `timm:NAME@FILE`. Without `space` the choices are those of `space_around`, or with
    `to_cut` those of `space_to_cut`, for weights that `cut_by_images` turns; `relative_position` then gives it tables of zeros.
    A given space must have the model's sizes, pooling and `norm_eps`, and its image sizes hold; its anatomy too, unless it is the
    usual one, which stands for the model's. Classes and channels stay the model's, and image sizes too without a space, unless
    others are wanted; the patch embedding makes up for the difference between the normalisation of the wanted images and what
    timm says of the model. Weights are ordered by their own importance. Raises `CheckpointError` when the model cannot be read or
    computes something else, `ArchitectureError` when the space or the image size does not fit.
    """
    return _grown(_opened(model_or_words), wanted, space, relative_position, to_cut)


def _grown(
    opened: tuple[Subnet, str, Normalisation | None],
    wanted: Wanted,
    space: SearchSpace | None,
    relative_position: bool,
    to_cut: bool,
) -> Supernet:
    """The supernet whose largest network is the opened one; see `supernet_from_timm`."""
    plain, name, trained_with = opened
    choices = space_to_cut(plain.space, name) if to_cut else space_around(plain.space, name)
    around = replace(choices, relative_position=relative_position, head_dims=() if relative_position else choices.head_dims)
    if space is not None:  # tables of zeros can have any size
        if space.pooling == around.pooling and all(getattr(space, key) == usual for key, usual in ANATOMY.items()):
            space = replace(space, **{key: getattr(around, key) for key in ANATOMY})
        fixed: dict[str, Any] = {key: getattr(space, key) for key in ("relative_position", "max_relative_position", "mean_shift")}
        around = replace(around, **fixed, head_dims=())  # widths of heads are choices of `space`
    supernet = Supernet(around)
    supernet.to(next(plain.parameters()).dtype).load_state_dict(_super_weights(plain, supernet))
    order_by_importance(supernet, assumed_moments(supernet))
    if space is not None:
        supernet = _within(supernet, space, name)
    return adapt_supernet(supernet.eval(), wanted, trained_with)


def is_folder_of_network(path: Path) -> bool:
    """Whether a folder holds one network rather than a supernet or a run."""
    return (path / "config.json").is_file() and not (path / "supernet.json").exists()


def _plain_of_folder(folder: Path) -> tuple[Subnet, str, Normalisation]:
    """The vision transformer of a folder, its words, and what its images were normalised with.

    Raises `ArchitectureError` where its blocks differ, or where it has what no such parent of timm has.
    """
    subnet, preprocessing, _ = load_subnet(folder)
    own = subnet.space
    if own.largest != subnet.architecture or own.relative_position or own.mean_shift or not own.is_plain:
        raise ArchitectureError(
            f"the network in {folder} cannot be the largest of a supernet: its blocks differ, or it has relative positions or "
            "other parts that timm's vision transformers lack; start from such a one, or from a supernet"
        )
    return subnet, str(folder), preprocessing.normalisation


def subnet_from_timm(model_or_words: nn.Module | str, wanted: Wanted = AS_IT_IS) -> Subnet:
    """timm's vision transformer as one network, in evaluation mode, for the images and classes that are wanted.

    Without adaptation its logits are timm's. Words and errors are those of `supernet_from_timm`.
    """
    subnet, _, trained_with = _opened(model_or_words)
    return adapt_subnet(subnet, wanted, trained_with)


def space_around(one: SearchSpace, name: str) -> SearchSpace:
    """Choices up to the one network of the space `one`, for a supernet whose largest network it is.

    Widths are 5/8, 3/4, 7/8 of its width, rounded to multiples of 32 (of 8 below 128), and the width itself. Heads
    go from half to all, MLP ratios in eighths from half to the whole, depths from two thirds to the whole. There is no relative
    position unless `one` has it: it costs time, and no gain is known of weights that were trained without.
    """
    width, depth, heads, ratio = one.embed_dims[-1], one.depths[-1], one.num_heads[-1], one.mlp_ratios[-1]
    step = 32 if width >= 128 else 8
    widths = (max(step, int(width * eighths / 8 / step + 0.5) * step) for eighths in (5, 6, 7))
    return replace(
        one,
        name=name,
        embed_dims=(*(narrow for narrow in widths if narrow < width), width),
        depths=tuple(range(math.ceil(2 * depth / 3), depth + 1)),
        num_heads=tuple(range(math.ceil(heads / 2), heads + 1)),
        mlp_ratios=tuple(ratio * eighths / 8 for eighths in (4, 5, 6, 7, 8)),
    )


def space_to_cut(one: SearchSpace, name: str) -> SearchSpace:
    """Choices up to the one network of the space `one`, for a supernet whose weights `cut_by_images` turns and orders.

    The width of the stream and the depth stay whole, but any block may lack its attention or its MLP; heads go from half to all,
    MLP ratios in quarters, the width of heads from half to whole in multiples of 8 (not where positions are relative or rotary,
    or a norm lies inside attention). What a network lacks leaves its mean behind.
    """
    heads, ratio, channels = one.num_heads[-1], one.mlp_ratios[-1], one.head_dim
    narrow = {int(channels * quarters / 32 + 0.5) * 8 for quarters in (2, 3)} - {0}
    whole = one.relative_position or one.rope or one.scale_attn_norm
    return replace(
        one,
        name=name,
        num_heads=(0, math.ceil(heads / 2), math.ceil(3 * heads / 4), heads),
        mlp_ratios=tuple(ratio * quarters / 4 for quarters in range(5)),
        head_dims=() if whole else tuple(sorted({*(few for few in narrow if few < channels), channels})),
        mean_shift=True,
    )


def _opened(model_or_words: nn.Module | str) -> tuple[Subnet, str, Normalisation | None]:
    """The network, its words, and what timm says its images were normalised with."""
    if isinstance(model_or_words, str):
        name, checkpoint = name_and_file(model_or_words)
        model: nn.Module = open_timm(name, checkpoint, plain=True)
    else:
        model, name = model_or_words, ""
    told: Any = getattr(model, "pretrained_cfg", None)
    described = told if isinstance(told, dict) else {}
    name = name or described.get("architecture") or type(model).__name__
    subnet = plain_subnet(model, name)
    mean, std = described.get("mean") or (), described.get("std") or ()
    known = len(mean) == len(std) == subnet.in_chans  # else the description is of other weights
    return subnet, TIMM + name, Normalisation(tuple(mean), tuple(std)) if known else None


def _super_weights(plain: Subnet, supernet: Supernet) -> dict[str, Tensor]:
    """The weights of the supernet whose largest network is `plain`, with relative tables of zeros."""
    stored = {name.replace(".mlp.", ".").replace("fc_norm", "norm"): tensor for name, tensor in plain.state_dict().items()}
    weights = {}
    for name, own in supernet.state_dict().items():
        is_new = name.rpartition(".")[2] in (*Tables._fields, "mean")
        # Query, key and value, [3Q, ...], are stored apart, [3, Q, ...].
        weights[name] = torch.zeros_like(own) if is_new else stored[name].reshape(own.shape)
    return weights


# --- spaces ------------------------------------------------------------------------------------------------------


def _within(supernet: Supernet, space: SearchSpace, source: str) -> Supernet:
    """The supernet with the choices and image sizes of `space`. Raises `ArchitectureError` naming all that does not fit."""
    own = supernet.space
    differences = [
        f"{name.removeprefix('stored_')} {_value(own, name)} (the space has {_value(space, name)})"
        for name in FIXED
        if getattr(own, name) != getattr(space, name)
    ]
    if own.sharing == "classical" and (own.embed_dims, own.num_heads, own.mlp_ratios) != (
        space.embed_dims, space.num_heads, space.mlp_ratios,
    ):  # fmt: skip
        differences.append("a block for each of their own choices of width, heads and MLP ratio (the space has others)")
    if own.depths[-1] != space.depths[-1]:
        differences.append(f"depth {own.depths[-1]} (the space has {space.depths[-1]})")
    if own.stem == space.stem == "conv":
        differences += _differences_of_stems(own, space)
    if differences:
        raise ArchitectureError(f"space {space.name!r} does not fit the weights of {source}: they have {', '.join(differences)}")
    adapted = copy.deepcopy(supernet)
    refit(adapted, replace(space, num_classes=own.num_classes, in_chans=own.in_chans, prefix_qkv_bias=own.prefix_qkv_bias))
    return adapted


def _differences_of_stems(own: SearchSpace, space: SearchSpace) -> list[str]:
    """What the convolutional stem of `space` has and the weights have not, or otherwise."""
    found = []
    if own.stem_dim != space.stem_dim:
        found.append(f"stem_dim {own.stem_dim} (the space has {space.stem_dim})")
    if own.stem_depths[-1] < space.stem_depths[-1]:
        found.append(f"stem_depths up to {own.stem_depths[-1]} (the space has {space.stem_depths[-1]})")
    if not set(space.patch_choices) <= set(own.patch_choices):
        sizes, wanted = (", ".join(map(str, one.patch_choices)) for one in (own, space))
        found.append(f"convolutions for patches of {sizes} px (the space has {wanted})")
    return found


def _value(space: SearchSpace, name: str) -> str:
    value = getattr(space, name)
    return f"{value:g}" if isinstance(value, float) else str(value)
