"""The checkpoints of the official code (github.com/microsoft/Cream, AutoFormer): read safely, loaded exactly.

Two things in them differ from ours and are kept, because the weights were trained that way:

* the rows of the query, key and value weight are interleaved (row 3j + i is channel j of query, key or value), and a network with
  Q channels takes the first 3Q rows apart; but of the bias it takes the first 3Q numbers in plain order. So a bias number serves
  the query in one network and the key in another. The weight is stored our way, and `SearchSpace.prefix_qkv_bias` repeats
  the slicing of the bias, here and in every extracted network;
* with `change_qkv=False` query, key and value keep all channels in every network, in plain order, and logits are scaled by
  the sampled width, (embed_dim // heads)^-0.5 (`SearchSpace.scale_by_width`).

Letters: S super width, p patch size, P patches, M hidden width of the MLP, K channels per head, R reach of the tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from autoformer.errors import CheckpointError
from autoformer.foreign_weights import read_foreign_weights
from autoformer.space import SearchSpace
from autoformer.supernet import Supernet

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


def load_official(
    state_dict: Mapping[str, Tensor],
    *,
    image_size: int,
    patch_size: int,
    num_heads: int,
    max_relative_position: int = 14,
    global_pool: bool = True,
    relative_position: bool = True,
    absolute_position: bool = True,
    change_qkv: bool = True,
) -> Supernet:
    """A supernet with these official weights; it computes what the official code does, for every subnet.

    Width, depth, MLP ratio, input channels and classes are read off the tensors; the head width is width / `num_heads`. The
    space of the supernet contains every architecture the weights hold, whatever the released search space was.
    Raises `CheckpointError`, in one line, naming every missing, unexpected or misshapen tensor.
    """
    space = _space_of(
        state_dict,
        SearchSpace(
            name="official",
            embed_dims=(1,), depths=(1,), mlp_ratios=(1.0,),  # read off the tensors
            num_heads=tuple(range(1, num_heads + 1)) if change_qkv else (num_heads,),
            image_sizes=(image_size,),
            patch_size=patch_size,
            max_relative_position=max_relative_position,
            relative_position=relative_position,
            absolute_position=absolute_position,
            pooling="mean" if global_pool else "token",
            any_up_to_largest=True,
            prefix_qkv_bias=change_qkv,
            scale_by_width=not change_qkv,
        ),
    )  # fmt: skip
    _check_shapes(state_dict, _official_shapes(space))
    supernet = Supernet(space)
    supernet.load_state_dict(_translated(state_dict, space))
    return supernet


def import_official(path: Path, space: SearchSpace) -> Supernet:
    """The supernet of an official checkpoint file, restricted to the choices of `space` (a preset: `tiny`, `small`, `base`).

    Raises `CheckpointError` when the file cannot be read or its weights are not those of such a space.
    """
    state_dict = read_foreign_weights(path)
    try:
        supernet = load_official(
            state_dict,
            image_size=space.image_size,
            patch_size=space.patch_size,
            num_heads=space.num_heads[-1],
            max_relative_position=space.max_relative_position,
            global_pool=space.pooling == "mean",
            relative_position=space.relative_position,
            absolute_position=space.absolute_position,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path} does not fit space {space.name!r}: {error}") from error
    found = supernet.space
    wanted = replace(space, prefix_qkv_bias=True, in_chans=found.in_chans, num_classes=found.num_classes)
    for name, in_file, in_space in (
        ("width", found.stored_embed_dim, wanted.stored_embed_dim),
        ("query width", found.stored_qkv_dim, wanted.stored_qkv_dim),
        ("MLP width", found.stored_hidden_dim, wanted.stored_hidden_dim),
        ("depth", found.depths[-1], wanted.depths[-1]),
    ):
        if in_file != in_space:
            raise CheckpointError(
                f"{path} does not fit space {space.name!r}: {name} is {in_file} in the file and {in_space} in the space; "
                "choose the space it was trained in"
            )
    supernet.space = wanted
    return supernet


# --- sizes -------------------------------------------------------------------------------------------------------


def _space_of(state_dict: Mapping[str, Tensor], given: SearchSpace) -> SearchSpace:
    """`given` with what the tensors tell about sizes."""
    for name, dimensions in (
        ("patch_embed_super.proj.weight", 4), ("head.weight", 2), ("blocks.0.fc1.weight", 2),
    ):  # fmt: skip
        tensor = state_dict.get(name)
        if tensor is None or tensor.ndim != dimensions or tensor.numel() == 0:
            found = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
            raise CheckpointError(
                f"not an official AutoFormer checkpoint: {name} is {found}, expected a tensor of {dimensions} dimensions"
            )
    embed_dim, in_chans = state_dict["patch_embed_super.proj.weight"].shape[:2]
    hidden = state_dict["blocks.0.fc1.weight"].shape[0]
    depth = 1 + max(int(block[1]) for name in state_dict if (block := re.match(r"blocks\.(\d+)\.", name)))
    if embed_dim % given.num_heads[-1]:
        raise CheckpointError(
            f"the weights are {embed_dim} wide, which {given.num_heads[-1]} heads do not divide; give the supernet's num_heads"
        )
    ratio = hidden / embed_dim
    while int(embed_dim * ratio) < hidden:  # the quotient was rounded down
        ratio = math.nextafter(ratio, math.inf)
    return replace(
        given,
        embed_dims=(embed_dim,),
        depths=tuple(range(1, depth + 1)),
        mlp_ratios=(ratio,),
        head_dim=embed_dim // given.num_heads[-1],
        in_chans=in_chans,
        num_classes=state_dict["head.weight"].shape[0],
    )


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
    problems = {
        "missing": _listed(set(expected) - set(state_dict)),
        "unexpected": _listed(set(state_dict) - set(expected)),
        "misshapen": "; ".join(
            f"{_listed(name for name in wrong if shapes[name] == shape)} {shape}" for shape in dict.fromkeys(shapes.values())
        ),
    }
    if found := [f"{kind} {names}" for kind, names in problems.items() if names]:
        raise CheckpointError(f"the weights are not those of an official supernet of this form: {'. '.join(found)}")


def _listed(names: Iterable[str]) -> str:
    """All names, those that differ only in the block written once: blocks.{0,1,2}.fc1.bias."""
    blocks: dict[str, list[int]] = {}
    for name in sorted(names):
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        blocks.setdefault(f"blocks.*.{found[2]}" if found else name, []).extend([int(found[1])] if found else [])
    return ", ".join(
        name.replace("*", str(indices[0]) if len(indices) == 1 else "{" + ",".join(map(str, sorted(indices))) + "}", 1)
        for name, indices in blocks.items()
    )


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
