"""timm's vision transformers as a `Subnet`: the same logits, from the same weights where both have them.

What a `Subnet` does not have and its weights can hold is folded into them, exactly: LayerScale into the projection before it,
query, key and value stored apart into one weight, absent biases as zeros, positions that tokens before the patches lack as zeros,
the two classifiers of a distilled DeiT, whose logits are averaged, into one that reads both tokens, and the pairs of channels
that rotary positions turn into one order, rows before columns, by moving channels of queries and keys alike.

Letters: E width, H heads, K channels per head, Q = H·K, C classes, M hidden width of the MLP.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GluMlp, SwiGLU
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.networks.ends import TOKENS
from autoformer.networks.subnet import Subnet
from autoformer.pretrained.vit_features import anatomy_of, check_plain, norms_of
from autoformer.space import SearchSpace


def plain_subnet(model: nn.Module, name: str) -> Subnet:
    """The `Subnet` that computes what timm's `model` computes, with a copy of its weights; the logits are equal.

    A model without a classifier gets one of a single class, all zeros. Raises `CheckpointError` for one that computes anything
    else.
    """
    check_plain(model, name)
    vit: Any = model
    block = vit.blocks[0]
    heads, depth, width, hidden = block.attn.num_heads, len(vit.blocks), vit.embed_dim, block.mlp.fc2.in_features
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
        norm_eps=_eps(vit),
        **asdict(anatomy_of(vit)),
    )
    subnet = Subnet.from_space(space, architecture)
    subnet.to(vit.patch_embed.proj.weight.dtype).load_state_dict(_weights(vit))
    return subnet.eval()


def _eps(vit: Any) -> float:
    return float(vit.blocks[-1].norm2.eps)


@torch.no_grad()
def _weights(vit: Any) -> dict[str, Tensor]:
    """All weights of the `Subnet`, by its names."""
    found = _layer("patch_embed.proj", vit.patch_embed.proj)
    tokens = vit.cls_token, getattr(vit, "dist_token", vit.reg_token)
    found |= {name: token for name, token in zip(TOKENS, tokens, strict=True) if token is not None}
    if vit.pos_embed is not None:
        lacking = vit.num_prefix_tokens if vit.no_embed_class else 0  # such a model adds nothing to the tokens before the patches
        found["pos_embed"] = F.pad(vit.pos_embed, (0, 0, lacking, 0))
    for name, norm in norms_of(vit).items():
        found |= _layer(name, norm)
    for index, block in enumerate(vit.blocks):
        order = _order_of_pairs(vit.rope, block.attn) if getattr(vit, "rope", None) is not None else None
        found |= {f"blocks.{index}.{name}": weight for name, weight in _weights_of_block(block, order).items()}
    heads = [head for name in ("head", "head_dist") if isinstance(head := getattr(vit, name, None), nn.Linear)]
    if heads:  # the mean of their logits
        found["head.weight"] = torch.cat([head.weight for head in heads], 1) / len(heads)
        found["head.bias"] = torch.stack([_bias(head) for head in heads]).mean(0)
    else:
        width = vit.embed_dim * (2 if hasattr(vit, "head_dist") else 1)
        found |= {"head.weight": torch.zeros(1, width), "head.bias": torch.zeros(1)}
    return found


def _weights_of_block(block: Any, order: Tensor | None) -> dict[str, Tensor]:
    attention, mlp = block.attn, block.mlp
    weight, bias = _query_key_value(attention)
    if order is not None:
        weight, bias = (_in_order(tensor, attention.num_heads, order) for tensor in (weight, bias))
    return {
        "attn.qkv.weight": weight,
        "attn.qkv.bias": bias,
        **_layer("attn.proj", attention.proj, _layer_scale(block, 1)),
        **_first_layers(mlp),
        **_layer("mlp.fc2", mlp.fc2, _layer_scale(block, 2)),
    }


def _query_key_value(attention: Any) -> tuple[Tensor, Tensor]:
    """Weight [3Q, E] and bias [3Q] of query, key and value."""
    if attention.qkv is None:
        layers = attention.q_proj, attention.k_proj, attention.v_proj
        return torch.cat([layer.weight for layer in layers]), torch.cat([_bias(layer) for layer in layers])
    if getattr(attention, "q_bias", None) is not None:  # keys have none
        return attention.qkv.weight, torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
    return attention.qkv.weight, _bias(attention.qkv)


def _first_layers(mlp: Any) -> dict[str, Tensor]:
    """The layer [M, E] before the activation, and the gate's where there is one."""
    if isinstance(mlp, SwiGLU):
        return {**_layer("mlp.fc1", mlp.fc1_x), **_layer("mlp.fc1_g", mlp.fc1_g)}
    if not isinstance(mlp, GluMlp):
        return _layer("mlp.fc1", mlp.fc1)
    found: dict[str, Tensor] = {}
    for part, tensor in _layer("", mlp.fc1).items():
        value, gate = tensor.chunk(2)[:: 1 if mlp.gate_last else -1]
        found |= {f"mlp.fc1{part}": value, f"mlp.fc1_g{part}": gate}
    return found


def _order_of_pairs(rope: Any, attention: Any) -> Tensor:
    """The channels [K] of a head, in the order of a `Subnet`: j and j + K/2 are a pair, those of rows come first."""
    channels = attention.head_dim
    pairs = torch.arange(channels).view(2, -1).t() if attention.rotate_half else torch.arange(channels).view(-1, 2)  # [K/2, 2]
    if rope.grid_indexing == "xy":  # columns first
        pairs = pairs.roll(channels // 4, 0)
    return pairs.t().flatten()


def _in_order(tensor: Tensor, heads: int, order: Tensor) -> Tensor:
    """Weight or bias [3Q, ...] with the channels of each head's queries and keys in this order."""
    parts = tensor.unflatten(0, (3, heads, -1))
    return torch.cat([parts[:2][:, :, order], parts[2:]]).flatten(0, 2)


def _layer_scale(block: Any, number: int) -> Tensor | None:
    """What a block multiplies the channels [E] of its attention (1) or MLP (2) with; None: nothing."""
    scale = getattr(block, f"ls{number}", None)
    found: Tensor | None = getattr(scale, "gamma", None) if scale is not None else getattr(block, f"gamma_{number}", None)
    return found


def _layer(name: str, layer: Any, scale: Tensor | None = None) -> dict[str, Tensor]:
    """Weight and bias of a layer under `name`, its outputs times `scale`."""
    weight, bias = layer.weight, _bias(layer)
    if scale is not None:
        weight, bias = weight * scale.unsqueeze(1), bias * scale
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def _bias(layer: Any) -> Tensor:
    bias: Tensor = torch.zeros_like(layer.weight.flatten(1)[:, 0] if layer.weight.ndim > 1 else layer.weight)
    return bias if layer.bias is None else layer.bias
