"""timm's vision transformers as a `Subnet`: the same weights under the same names, and the same logits.

A plain vision transformer is a `Subnet` without relative position: learned absolute positions, one class token, pre-norm
blocks of attention and a two-layer MLP with exact GELU, a final norm, and the class token or the mean over patches as the
feature. A model that computes anything else is refused, naming what it computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
import torch
from timm.layers import GELU, Attention, Mlp, PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from autoformer.architecture import Architecture
from autoformer.errors import CheckpointError
from autoformer.files import TIMM
from autoformer.networks.subnet import Subnet
from autoformer.pretrained.foreign_weights import read_foreign_weights
from autoformer.pretrained.weight_shapes import sizes_of, sketch
from autoformer.space import SearchSpace


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


def open_timm(
    name: str, checkpoint: Path | None = None, *, plain: bool = False, arguments: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """timm's network `name` with the weights of the file `checkpoint`, or else the pretrained ones that timm downloads.

    A file without a classifier gives a network without one. With `plain`, one that is not a plain vision transformer is refused
    before anything is fetched. `arguments` are further ones of the network, which must be checked. Raises `CheckpointError`
    when the name is unknown, the download fails or the file does not fit.
    """
    shape = sketch(name, arguments)  # whether the model is usable is known before anything is downloaded
    if plain:
        check_plain(shape, name)
    if checkpoint is None:
        try:
            return timm.create_model(name, pretrained=True, **arguments)
        except Exception as error:  # no network, no such file on the hub, no weights for this name: whatever timm raises
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


def plain_subnet(model: nn.Module, name: str) -> Subnet:
    """The `Subnet` that computes what timm's `model` computes, with a copy of its weights; the logits are equal.

    A model without a classifier gets one of a single class, all zeros. Raises `CheckpointError` when it is not a plain vision
    transformer.
    """
    check_plain(model, name)
    vit: Any = model
    block = vit.blocks[0]
    heads, depth, width, hidden = block.attn.num_heads, len(vit.blocks), vit.embed_dim, block.mlp.fc1.out_features
    ratio = hidden / width
    while int(width * ratio) < hidden:  # the quotient was rounded down
        ratio = math.nextafter(ratio, math.inf)
    architecture = Architecture(embed_dim=width, num_heads=(heads,) * depth, mlp_ratio=(ratio,) * depth)
    space = SearchSpace(
        name=name,
        embed_dims=(width,),
        depths=(depth,),
        num_heads=(heads,),
        mlp_ratios=(ratio,),
        image_sizes=vit.patch_embed.img_size[:1],
        head_dim=block.attn.head_dim,
        patch_size=vit.patch_embed.patch_size[0],
        in_chans=vit.patch_embed.proj.in_channels,
        num_classes=vit.head.out_features if isinstance(vit.head, nn.Linear) else 1,
        relative_position=False,
        absolute_position=vit.pos_embed is not None,
        pooling="token" if vit.global_pool == "token" else "mean",
        norm_eps=vit.norm.eps,
    )
    subnet = Subnet.from_space(space, architecture)
    state = dict(vit.state_dict())
    if not isinstance(vit.head, nn.Linear):
        state |= {"head.weight": torch.zeros(1, width), "head.bias": torch.zeros(1)}
    if vit.no_embed_class and vit.pos_embed is not None:  # such a model adds nothing to its class token
        state["pos_embed"] = torch.cat([torch.zeros_like(state["pos_embed"][:, :1]), state["pos_embed"]], 1)
    subnet.to(vit.cls_token.dtype).load_state_dict(state)
    return subnet.eval()


# --- what is refused ---------------------------------------------------------------------------------------------


def is_plain(name: str) -> bool:
    """Whether timm's network `name` is a plain vision transformer. Raises `CheckpointError` when timm has none of this name."""
    return next(_oddities(sketch(name)), None) is None


def check_plain(model: nn.Module, name: str) -> None:
    """Raises `CheckpointError` naming the first thing that a `Subnet` does not compute."""
    if odd := next(_oddities(model), None):
        raise CheckpointError(
            f"timm's {name} has {odd}, which this tool's networks lack; choose a plain ViT or DeiT, like deit_small_patch16_224"
        )


def _oddities(model: Any) -> Iterator[str]:
    if isinstance(model, VisionTransformerDistilled):
        yield "a distillation token"
    if type(model) is not VisionTransformer:
        yield f"an architecture of its own ({type(model).__name__})"
        return  # nothing is known about its parts
    if model.cls_token is None:
        yield "no class token"
    if model.num_reg_tokens:
        yield "register tokens"
    yield from _stem_oddities(model)
    for block in model.blocks:
        yield from _block_oddities(block)
    if model.attn_pool is not None or model.global_pool not in ("token", "avg"):
        yield f"pooling {model.global_pool!r}"
    if model.global_pool == "avg" and model.pool_include_prefix:
        yield "pooling over the class token too"
    if not isinstance(model.fc_norm, nn.Identity):
        yield "a norm after pooling (fc_norm)"
    norms = [model.norm, *(norm for block in model.blocks for norm in (block.norm1, block.norm2))]
    for norm in norms:
        if not isinstance(norm, nn.LayerNorm):
            yield "no final norm" if isinstance(norm, nn.Identity) else f"{type(norm).__name__} for a norm"
        elif len(list(norm.parameters())) < 2:
            yield "norms without weight or bias"
        elif norm.eps != model.norm.eps:
            yield f"norms of different eps ({norm.eps:g}, {model.norm.eps:g})"
    if not isinstance(model.head, nn.Linear | nn.Identity):
        yield f"a {type(model.head).__name__} for a classifier"
    elif isinstance(model.head, nn.Linear) and len(list(model.head.parameters())) < 2:
        yield "no classifier bias"


def _stem_oddities(model: Any) -> Iterator[str]:
    stem = model.patch_embed
    if type(stem) is not PatchEmbed:
        yield f"a {type(stem).__name__} before the blocks"
        return
    if not isinstance(model.norm_pre, nn.Identity):
        yield "a norm before the blocks (pre_norm)"
    if not isinstance(stem.norm, nn.Identity):
        yield "a norm in its patch embedding"
    if stem.proj.bias is None:
        yield "no patch embedding bias"
    if stem.patch_size[0] != stem.patch_size[1] or stem.img_size[0] != stem.img_size[1]:
        yield "patches or images that are not square"
    elif stem.img_size[0] % stem.patch_size[0]:
        yield "an image size that its patches do not divide"


def _block_oddities(block: Any) -> Iterator[str]:
    if type(block) is not Block:
        yield f"blocks of type {type(block).__name__}"
        return
    if not isinstance(block.ls1, nn.Identity) or not isinstance(block.ls2, nn.Identity):
        yield "layer scale"
    attention, mlp = block.attn, block.mlp
    if type(attention) is not Attention:
        yield f"{type(attention).__name__} for attention"
        return
    if not isinstance(attention.q_norm, nn.Identity) or not isinstance(attention.k_norm, nn.Identity):
        yield "norms of query and key (qk_norm)"
    if not isinstance(attention.norm, nn.Identity):
        yield "a norm inside attention (scale_attn_norm)"
    if getattr(attention, "gate", None) is not None:
        yield "gated attention"
    if attention.qkv.bias is None:
        yield "no bias of query, key and value (qkv_bias)"
    if attention.proj.bias is None:
        yield "no bias after attention (proj_bias)"
    if type(mlp) is not Mlp:
        yield f"{type(mlp).__name__} for an MLP"
        return
    if not isinstance(mlp.norm, nn.Identity):
        yield "a norm inside its MLP (scale_mlp_norm)"
    if type(mlp.act) not in (nn.GELU, GELU) or getattr(mlp.act, "approximate", "none") != "none":
        yield f"activation {mlp.act}, not the exact GELU"
