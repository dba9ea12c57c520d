"""The order of heads, hidden channels and residual channels, so that the prefixes that narrow networks keep are the good ones.

A supernet's networks are prefixes of its weights, but the weights of an ordinary network stand in no order. Permuting them leaves
the largest network as it was: heads may change places within a block, hidden channels within an MLP, and the channels of
the residual stream everywhere at once (LayerNorm takes mean and variance over all of them, in any order).

What a part weighs is the expected energy that goes through it, from second moments of activations:

* a head: the squared norm of what its output adds to the stream, tr(P C Pᵀ) with its projection P and second moment C;
* a hidden channel: the second moment of its activation times the squared norm of its column of `fc2`;
* a residual channel: its share of the energy of what every reader of the stream (attention, MLP, classifier) makes of its
  normalised input, summed over readers. There is one order for the whole network, as there is one width.

The moments are assumed from the weights alone (`assumed_moments` says how). Moments measured on images gave orders that were no
better beyond noise, in trials with small networks trained on 8 px digits.

What narrow networks start from: with fewer heads or hidden channels a block loses its weakest parts and is otherwise as
trained. With a smaller width every channel that remains still holds its own values, but each LayerNorm takes its statistics
over the prefix alone, and all that the other channels contributed to queries, keys, MLPs and logits is missing; so
narrow networks are a start and no finished networks. They need training. In the same trials the order of heads and hidden
channels kept most of the accuracy at half their number, while the order of residual channels helped some widths and hurt others.

Letters: E width, H heads, K channels per head, M hidden width of the MLP, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoformer.networks.super_layers import SuperBlock, SuperLinear
from autoformer.networks.supernet import Supernet

QUADRATURE_POINTS = 32  # of a Gaussian through an activation; more change nothing in single precision


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Second moments of the activations of a supernet's largest network, per block unless said otherwise."""

    heads: list[Tensor]  # [H, K, K] of each head's output, before the projection
    hidden: list[Tensor]  # [M] of the MLP's hidden channels, after the activation
    attention_inputs: list[Tensor]  # [E] of the normalised stream, before the norm's weight and bias
    mlp_inputs: list[Tensor]  # [E] likewise
    features: Tensor  # [E] likewise, of the last norm; one for the network


def assumed_moments(supernet: Supernet) -> Moments:
    """Moments without any image, block after block from the weights.

    Assumed are pixels of unit variance without correlation (of a convolutional stem the channels before its last layer),
    residual channels and neighbouring tokens without correlation, and attention that looks at one token. Then the energy of
    every channel of the stream, [E], is the sum of what patch embedding, positions and all earlier blocks write into it.
    """
    with torch.no_grad():
        stem = supernet.patch_embed.proj
        assert stem.bias is not None
        constant = stem.bias
        if supernet.space.absolute_position:
            constant = constant + supernet.pos_embed[0, supernet.prefix :]
        energy = stem.weight.square().sum((1, 2, 3)) + constant.square().reshape(-1, constant.shape[-1]).mean(0)
        if supernet.space.pre_norm:
            energy = supernet.norm_pre.weight.square() * energy / energy.mean() + supernet.norm_pre.bias.square()
        heads, hidden, attention_inputs, mlp_inputs = [], [], [], []
        for block in _blocks(supernet):
            attention_inputs.append(energy / energy.mean())
            heads.append(_assumed_heads(block, attention_inputs[-1]))
            projection = per_head(block)  # [E, H, K]
            energy = energy + torch.einsum("ehk,hkl,ehl->e", projection, heads[-1], projection) + block.attn.proj.bias.square()
            mlp_inputs.append(energy / energy.mean())
            hidden.append(_assumed_hidden(block, mlp_inputs[-1]))
            energy = energy + block.fc2.weight.square() @ hidden[-1] + block.fc2.bias.square()
        return Moments(
            heads=heads,
            hidden=hidden,
            attention_inputs=attention_inputs,
            mlp_inputs=mlp_inputs,
            features=energy / energy.mean(),
        )


def _assumed_heads(block: SuperBlock, inputs: Tensor) -> Tensor:
    weight = block.attn.qkv.weight[2].unflatten(0, (-1, block.attn.head_dim))  # values, [H, K, E]
    spread = weight * (block.norm1.weight * inputs.sqrt())
    mean = weight @ block.norm1.bias + block.attn.qkv.bias[2].unflatten(0, (-1, block.attn.head_dim))  # [H, K]
    second: Tensor = spread @ spread.transpose(1, 2) + mean.unsqueeze(2) * mean.unsqueeze(1)
    if block.attn.has_norm:
        own = block.attn.norm
        scale, shift = (numbers.unflatten(0, (-1, block.attn.head_dim)) for numbers in (own.weight, own.bias))  # [H, K]
        second = second * scale.unsqueeze(2) * scale.unsqueeze(1) / second.diagonal(dim1=1, dim2=2).mean()
        second = second + shift.unsqueeze(2) * shift.unsqueeze(1)
    return second


def _assumed_hidden(block: SuperBlock, inputs: Tensor) -> Tensor:
    mean, deviation = _gaussian(block, block.fc1, inputs)
    if isinstance(kernels := getattr(block, "kernels", None), Tensor):
        mean, deviation = mean * kernels.sum((1, 2, 3)), deviation * kernels.square().sum((1, 2, 3)).sqrt()
    if block.gated:  # gate and value without correlation
        energy = _activated(block, *_gaussian(block, block.fc1_g, inputs)) * (mean.square() + deviation.square())
    else:
        energy = _activated(block, mean, deviation)
    if block.has_norm:
        energy = block.norm.weight.square() * energy / energy.mean() + block.norm.bias.square()
    return energy


def _gaussian(block: SuperBlock, layer: SuperLinear, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Means and deviations [M] of what a layer makes of the MLP's normalised input."""
    variance = layer.weight.square() @ (block.norm2.weight.square() * inputs)
    return layer.weight @ block.norm2.bias + layer.bias, variance.sqrt()


def _activated(block: SuperBlock, mean: Tensor, deviation: Tensor) -> Tensor:
    """Second moments [M] of the activation of Gaussians."""
    positions, masses = np.polynomial.hermite_e.hermegauss(QUADRATURE_POINTS)
    points, shares = torch.from_numpy(positions).to(mean), torch.from_numpy(masses / masses.sum()).to(mean)
    activated: Tensor = block.act(mean.unsqueeze(1) + deviation.unsqueeze(1) * points)
    return activated.square() @ shares


def order_by_importance(supernet: Supernet, moments: Moments) -> None:
    """Puts the most important heads, hidden channels and residual channels first, in place.

    The logits of the largest network stay what they were, up to rounding. Meant for weights in no particular order: it would
    undo the order of a trained supernet.
    """
    space = supernet.space
    assert space.sharing == "entangled", "only entangled weights are prefixes"
    assert not space.prefix_qkv_bias, "a bias number that serves several heads cannot move with one of them"
    importance: Tensor = torch.zeros_like(moments.features)
    with torch.no_grad():
        for index, block in enumerate(_blocks(supernet)):
            readers = (
                (block.attn.qkv.weight.flatten(0, 1), block.norm1, moments.attention_inputs[index]),
                *((layer.weight, block.norm2, moments.mlp_inputs[index]) for layer in _first_layers(block)),
            )
            importance += sum(_shares(weight, norm.weight, inputs) for weight, norm, inputs in readers)
            projection = per_head(block)
            order_heads(block, descending(torch.einsum("ehk,hkl,ehl->h", projection, moments.heads[index], projection)))
            order_hidden(block, descending(moments.hidden[index] * block.fc2.weight.square().sum(0)))
        scale = supernet.norm.weight if supernet.space.final_norm else torch.ones_like(moments.features)
        importance += _shares(_per_token(supernet).flatten(0, 1), scale, moments.features)
        _order_channels(supernet, descending(importance))


def _blocks(supernet: Supernet) -> list[SuperBlock]:
    return [block for block in supernet.blocks if isinstance(block, SuperBlock)]


def _first_layers(block: SuperBlock) -> list[SuperLinear]:
    return [block.fc1, block.fc1_g] if block.gated else [block.fc1]


def per_head(block: SuperBlock) -> Tensor:
    """The projection after attention by head, [E, H, K]."""
    weight: Tensor = block.attn.proj.weight.unflatten(1, (-1, block.attn.head_dim))
    return weight


def _per_token(supernet: Supernet) -> Tensor:
    """The classifier by the tokens it reads, a view [C, T, E]."""
    weight: Tensor = supernet.head.weight.unflatten(1, (-1, supernet.space.stored_embed_dim))
    return weight


def _shares(weight: Tensor, scale: Tensor, inputs: Tensor) -> Tensor:
    """The share of each channel [E] in the energy of a layer's output; nothing for a layer of zeros (a fresh classifier)."""
    energy = weight.square().sum(0) * scale.square() * inputs
    shares: Tensor = energy / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
    return shares


def descending(importance: Tensor) -> Tensor:
    """The order that puts the most important first."""
    return torch.argsort(importance, descending=True, stable=True)


def order_heads(block: SuperBlock, order: Tensor) -> None:
    """Puts the heads of a block in this order."""
    channels = torch.arange(block.attn.qkv.weight.shape[1], device=order.device).unflatten(0, (len(order), -1))[order].flatten()
    block.attn.qkv.weight.copy_(block.attn.qkv.weight[:, channels])
    block.attn.qkv.bias.copy_(block.attn.qkv.bias[:, channels])
    block.attn.proj.weight.copy_(block.attn.proj.weight[:, channels])
    if block.attn.has_norm:
        block.attn.norm.weight.copy_(block.attn.norm.weight[channels])
        block.attn.norm.bias.copy_(block.attn.norm.bias[channels])


def order_hidden(block: SuperBlock, order: Tensor) -> None:
    """Puts the hidden channels of a block's MLP in this order."""
    tensors = [tensor for layer in _first_layers(block) for tensor in (layer.weight, layer.bias)]
    for tensor in (*tensors, *([block.norm.weight, block.norm.bias] if block.has_norm else [])):
        tensor.copy_(tensor[order])
    block.fc2.weight.copy_(block.fc2.weight[:, order])
    if isinstance(kernels := getattr(block, "kernels", None), Tensor):
        kernels.copy_(kernels[order])


def _order_channels(supernet: Supernet, order: Tensor) -> None:
    """One order of the residual channels for all that reads or writes them."""
    stem = supernet.patch_embed.proj
    assert stem.bias is not None
    first = [stem.weight, stem.bias]
    last = [_per_token(supernet), *(token for _, token in supernet.tokens())]
    for name in supernet.space.norms.values():
        first += [getattr(supernet, name).weight, getattr(supernet, name).bias]
    if supernet.space.absolute_position:
        last.append(supernet.pos_embed)
    for block in _blocks(supernet):
        first += [block.attn.proj.weight, block.attn.proj.bias, block.fc2.weight, block.fc2.bias]
        last += [block.norm1.weight, block.norm1.bias, block.norm2.weight, block.norm2.bias]
        last += [block.attn.qkv.weight, *(layer.weight for layer in _first_layers(block))]
    for tensor in first:  # [E, ...]
        tensor.copy_(tensor[order])
    for tensor in last:  # [..., E]
        tensor.copy_(tensor[..., order])
