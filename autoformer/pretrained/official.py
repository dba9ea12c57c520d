"""The checkpoints of the official code (github.com/microsoft/Cream, AutoFormer): read safely, loaded exactly.

Two things in them differ from ours and are kept, because the weights were trained that way:

* the rows of the query, key and value weight are interleaved (row 3j + i is channel j of query, key or value), and a network with
  Q channels takes the first 3Q rows apart; but of the bias it takes the first 3Q numbers in plain order. So a bias number serves
  the query in one network and the key in another. The weight is stored our way, and `SearchSpace.prefix_qkv_bias` repeats
  the slicing of the bias, here and in every extracted network;
* with `change_qkv=False` query, key and value keep all channels in every network, in plain order, and logits are scaled by
  the sampled width, (embed_dim // heads)^-0.5 (`SearchSpace.scale_by_width`).

The official code hard-codes a head width of 64 where heads are sampled (`change_qkv`). With weights of another head width it
stops or gives other logits than ours, which are what its definition says for the real head width.

Letters: S super width, p patch size, P patches, M hidden width of the MLP, K channels per head, R reach of the tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from autoformer.architecture import ANATOMY, MAX_DEPTH, MAX_HEADS, is_whole
from autoformer.errors import ArchitectureError, CheckpointError
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.foreign_weights import read_foreign_weights
from autoformer.space import PRESETS, SearchSpace

BLOCK = re.compile(r"blocks\.([0-9]{1,4})\.(.+)", re.DOTALL)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAMES_SHOWN = 20  # in an error
NAMES_OF_OTHERS = 6  # in an error about a file of something else
STEM = "patch_embed_super.proj.weight"  # [S, channels, p, p]

# What no official training has in another way.
KNOWN_TO_NONE: dict[str, object] = {
    "norm_eps": 1e-5, "sharing": "entangled", "any_up_to_largest": False, "patch_sizes": (), "stem": "patch", "mlp_kernels": (0,),
    "pool_after": (0,), **ANATOMY,
}  # fmt: skip

# Per block: our name, the official name.
BLOCK_NAMES = {
    "attn.proj": "attn.proj",
    "norm1": "attn_layer_norm",
    "norm2": "ffn_layer_norm",
    "fc1": "fc1",
    "fc2": "fc2",
}
TABLE_NAMES = {
    "key_rows": "rel_pos_embed_k.embeddings_table_v",
    "key_columns": "rel_pos_embed_k.embeddings_table_h",
    "value_rows": "rel_pos_embed_v.embeddings_table_v",
    "value_columns": "rel_pos_embed_v.embeddings_table_h",
}


@dataclass(frozen=True, kw_only=True)
class OfficialForm:
    """The settings of an official training that no tensor shows, under the names of the official code."""

    image_size: int  # pixels
    patch_size: int  # pixels
    num_heads: int  # the supernet's
    max_relative_position: int = 14
    global_pool: bool = True
    relative_position: bool = True
    absolute_position: bool = True
    change_qkv: bool = True

    @classmethod
    def of(cls, space: SearchSpace) -> OfficialForm:
        """The settings that weights of `space` were trained with."""
        return cls(
            image_size=space.image_size,
            patch_size=space.patch_size,
            num_heads=space.num_heads[-1],
            max_relative_position=space.max_relative_position,
            global_pool=space.pooling == "mean",
            relative_position=space.relative_position,
            absolute_position=space.absolute_position,
            change_qkv=not space.scale_by_width,
        )


def load_official(state_dict: Mapping[str, Tensor], form: OfficialForm) -> Supernet:
    """A supernet with these official weights; it computes what the official code does, for every subnet.

    Width, depth, MLP ratio, input channels and classes are read off the tensors; the head width is width / `num_heads`, and with
    `change_qkv` the logits are those of the official code for a head width of 64 alone, which it hard-codes. The space of the
    supernet contains every architecture the weights hold, whatever the released search space was.
    Raises `CheckpointError`, in one line, naming the missing, unexpected and misshapen tensors, those that are not dense finite
    floating numbers, and sizes that no network has.
    """
    space = _space_of(state_dict, form)
    _check_shapes(state_dict, _official_shapes(space))
    if infinite := [name for name, tensor in state_dict.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"the weights hold numbers that are not finite: {_listed(infinite)}")
    supernet = Supernet(space)  # no larger than the tensors, whose shapes it was compared with
    supernet.load_state_dict(_translated(state_dict, space))
    return supernet


def import_official(path: Path, space: SearchSpace) -> Supernet:
    """The supernet of an official checkpoint file, restricted to the choices of `space` (a preset: `tiny`, `small`, `base`).

    A space with `scale_by_width` stands for weights that were trained with `change_qkv=False`; no name or shape tells. Channels
    and classes are the file's. Raises `CheckpointError` when the file cannot be read, or its weights are not those of such a
    space.
    """
    state_dict = read_foreign_weights(path)
    for name, official in KNOWN_TO_NONE.items():
        if (wanted := getattr(space, name)) != official:
            raise CheckpointError(
                f"{path} does not fit space {space.name!r}: {name} is {wanted!r} in the space, and {official!r} for what the "
                "official code trains; leave it out"
            )
    try:
        _check_kinds(state_dict)
        _check_width(state_dict, space)
        form = OfficialForm.of(space)
        found = _space_of(state_dict, form)
        for name, in_file, in_space in (
            ("query width", found.stored_qkv_dim, space.stored_qkv_dim),
            ("MLP width", found.stored_hidden_dim, space.stored_hidden_dim),
            ("depth", found.depths[-1], space.depths[-1]),
        ):
            if in_file != in_space:
                raise CheckpointError(
                    f"{name} is {in_file} in the file and {in_space} in the space; choose the space it was trained in"
                )
        supernet = load_official(state_dict, form)
    except CheckpointError as error:
        raise CheckpointError(f"{path} does not fit space {space.name!r}: {error}") from error
    supernet.space = replace(space, prefix_qkv_bias=found.prefix_qkv_bias, in_chans=found.in_chans, num_classes=found.num_classes)
    return supernet


# --- what a file may hold ----------------------------------------------------------------------------------------


def _check_kinds(state_dict: Mapping[str, Tensor]) -> None:
    """Raises `CheckpointError` naming the tensors that are not plain floating numbers, each with memory of its own."""
    odd: dict[str, list[str]] = {}
    needed, memory = 0, {}
    for name, tensor in state_dict.items():
        if tensor.layout is not torch.strided or tensor.is_nested or tensor.device.type == "meta":
            odd.setdefault("are not dense", []).append(name)
        elif tensor.dtype not in FLOATS:
            odd.setdefault("hold no floating numbers", []).append(name)
        else:
            storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
            if storage.nbytes() < size:
                odd.setdefault("repeat fewer numbers than their shape has", []).append(name)
            memory[storage.data_ptr()] = storage.nbytes()
            needed += size
    if odd:
        raise CheckpointError(f"the weights {'. They '.join(f'{kind}: {_listed(names)}' for kind, names in odd.items())}")
    if needed > (held := sum(memory.values())):
        raise CheckpointError(f"the weights share their memory: {held:,} bytes for tensors of {needed:,}")


def _check_width(state_dict: Mapping[str, Tensor], space: SearchSpace) -> None:
    """Raises `CheckpointError` for weights of another width than the space has, naming the preset that has it."""
    stem = state_dict.get(STEM)
    if stem is None or stem.ndim != 4 or stem.shape[0] == space.stored_embed_dim:
        return
    named = [name for name, preset in PRESETS.items() if preset.stored_embed_dim == stem.shape[0]]
    raise CheckpointError(
        f"width is {stem.shape[0]} in the file and {space.stored_embed_dim} in the space; choose the space it was trained in"
        + (f": that of {' and '.join(named)}" if named else "")
    )


# --- sizes -------------------------------------------------------------------------------------------------------


def _space_of(state_dict: Mapping[str, Tensor], form: OfficialForm) -> SearchSpace:
    """The space of all that the tensors hold, by their sizes and these settings; no number of them is read."""
    num_heads = form.num_heads
    _check_kinds(state_dict)
    if not is_whole(num_heads, MAX_HEADS):
        raise CheckpointError(f"num_heads must be a whole number from 1 to {MAX_HEADS}, got {str(num_heads)[:40]}")
    for name, dimensions in (
        (STEM, 4), ("head.weight", 2), ("blocks.0.fc1.weight", 2),
    ):  # fmt: skip
        tensor = state_dict.get(name)
        if tensor is None or tensor.ndim != dimensions or tensor.numel() == 0:
            found = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
            raise CheckpointError(
                f"not an official AutoFormer checkpoint: {name} is {found}, expected a tensor of {dimensions} dimensions; "
                f"the file's tensors are {_listed(state_dict, NAMES_OF_OTHERS)}"
            )
    embed_dim, in_chans = state_dict[STEM].shape[:2]
    hidden = state_dict["blocks.0.fc1.weight"].shape[0]
    numbers = (int(block[1]) for name in state_dict if (block := BLOCK.fullmatch(name)))
    depth = 1 + max(number for number in numbers if number < MAX_DEPTH)  # beyond it, a name is an unexpected one
    if embed_dim % num_heads:
        raise CheckpointError(
            f"the weights are {embed_dim} wide, which {num_heads} heads do not divide; give the supernet's num_heads"
        )
    ratio = hidden / embed_dim
    while int(embed_dim * ratio) < hidden:  # the quotient was rounded down
        ratio = math.nextafter(ratio, math.inf)
    try:
        return SearchSpace(
            name="official",
            embed_dims=(embed_dim,),
            depths=tuple(range(1, depth + 1)),
            num_heads=tuple(range(1, num_heads + 1)) if form.change_qkv else (num_heads,),
            mlp_ratios=(ratio,),
            image_sizes=(form.image_size,),
            head_dim=embed_dim // num_heads,
            patch_size=form.patch_size,
            in_chans=in_chans,
            num_classes=state_dict["head.weight"].shape[0],
            max_relative_position=form.max_relative_position,
            relative_position=form.relative_position,
            absolute_position=form.absolute_position,
            pooling="mean" if form.global_pool else "token",
            any_up_to_largest=True,
            prefix_qkv_bias=form.change_qkv,
            scale_by_width=not form.change_qkv,
        )
    except ArchitectureError as error:
        raise CheckpointError(str(error)) from error


def _official_shapes(space: SearchSpace) -> dict[str, tuple[int, ...]]:
    """Every tensor of an official checkpoint of this space."""
    width, hidden, patch = space.stored_embed_dim, space.stored_hidden_dim, space.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "patch_embed_super.proj.weight": (width, space.in_chans, patch, patch),
        "patch_embed_super.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (space.num_classes, width),
        "head.bias": (space.num_classes,),
    }
    if space.absolute_position:
        shapes["pos_embed"] = (1, (space.image_size // patch) ** 2 + 1, width)
    layers = {
        "attn.qkv": (3 * width, width), "attn.proj": (width, width), "fc1": (hidden, width), "fc2": (width, hidden),
        "attn_layer_norm": (width,), "ffn_layer_norm": (width,),
    }  # fmt: skip
    for index in range(space.depths[-1]):
        for layer, shape in layers.items():
            shapes[f"blocks.{index}.{layer}.weight"] = shape
            shapes[f"blocks.{index}.{layer}.bias"] = shape[:1]
        if space.relative_position:
            for table in TABLE_NAMES.values():
                shapes[f"blocks.{index}.attn.{table}"] = (2 * space.max_relative_position + 2, space.head_dim)
    return shapes


def _check_shapes(state_dict: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [name for name in expected if name in state_dict and tuple(state_dict[name].shape) != expected[name]]
    shapes = {name: f"{list(state_dict[name].shape)}, expected {list(expected[name])}" for name in wrong}
    kinds = list(dict.fromkeys(shapes.values()))[:NAMES_SHOWN]
    problems = {
        "missing": _listed(set(expected) - set(state_dict)),
        "unexpected": _listed(set(state_dict) - set(expected)),
        "misshapen": "; ".join(f"{_listed(name for name in wrong if shapes[name] == shape)} {shape}" for shape in kinds),
    }
    if found := [f"{kind} {names}" for kind, names in problems.items() if names]:
        raise CheckpointError(f"the weights are not those of an official supernet of this form: {'. '.join(found)}")


def _listed(names: Iterable[str], most: int = NAMES_SHOWN) -> str:
    """The names, those that differ only in the block written once: blocks.{0,1,2}.fc1.bias. One line of bearable length."""
    blocks: dict[tuple[str, bool], list[int]] = {}
    for name in sorted(names):
        found = BLOCK.fullmatch(name)
        blocks.setdefault((found[2] if found else name, bool(found)), []).extend([int(found[1])] if found else [])
    shown = [
        f"blocks.{_numbers(sorted(indices))}.{_plain(name)}" if of_block else _plain(name)
        for (name, of_block), indices in blocks.items()
    ]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def _numbers(indices: list[int]) -> str:
    if len(indices) == 1:
        return str(indices[0])
    return "{" + (",".join(map(str, indices)) if len(indices) <= 32 else f"{indices[0]},...,{indices[-1]}") + "}"


def _plain(name: str) -> str:
    """A name from a file, without what would break a line or a terminal."""
    return name if name.isprintable() and len(name) <= 100 else repr(name[:100])


# --- names and order ---------------------------------------------------------------------------------------------


def _translated(state_dict: Mapping[str, Tensor], space: SearchSpace) -> dict[str, Tensor]:
    """The weights under our names and in our order; shapes were checked."""
    ours = {name: state_dict[name] for name in ("cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias")}
    if space.absolute_position:
        ours["pos_embed"] = state_dict["pos_embed"]
    for kind in ("weight", "bias"):
        ours[f"patch_embed.proj.{kind}"] = state_dict[f"patch_embed_super.proj.{kind}"]
    for index in range(space.depths[-1]):
        block = f"blocks.{index}"
        for our, official in BLOCK_NAMES.items():
            for kind in ("weight", "bias"):
                ours[f"{block}.{our}.{kind}"] = state_dict[f"{block}.{official}.{kind}"]
        weight = state_dict[f"{block}.attn.qkv.weight"]  # [3S, S]
        interleaved = space.prefix_qkv_bias
        ours[f"{block}.attn.qkv.weight"] = (
            weight.unflatten(0, (-1, 3)).transpose(0, 1) if interleaved else weight.unflatten(0, (3, -1))
        )
        ours[f"{block}.attn.qkv.bias"] = state_dict[f"{block}.attn.qkv.bias"].unflatten(0, (3, -1))
        if space.relative_position:
            for our, official in TABLE_NAMES.items():
                ours[f"{block}.attn.{our}"] = state_dict[f"{block}.attn.{official}"]
    return ours
