"""Weights turned and ordered by what they do on the images at hand, so that narrow networks keep the most of it.

The largest network computes what it did; only its parts stand in another order and another basis:

* hidden channels of an MLP by what their variance adds to the stream: variance times the squared norm of the column of `fc2`
  (variance-based pruning, arXiv 2507.12988); their means are no loss, they stay behind in the bias (`mean_shift`);
* channels inside a head: values and output are turned so that each channel adds an uncorrelated part to the stream, the largest
  first, and query and key so that each channel adds an uncorrelated part to the logits, the largest first: of all bases the
  one whose prefixes come nearest to the whole (Eckart and Young 1936, with the covariances of the activations for norms);
* heads by what they add to the stream beyond their mean.

With relative or rotary position, or a norm inside attention, only heads and hidden channels are ordered: these meet the
channels of heads one by one.
The residual stream keeps its order.

Letters: E width, H heads, K channels per head, M hidden width of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from autoformer.networks.subnet import Subnet
from autoformer.networks.super_layers import SuperBlock
from autoformer.networks.supernet import Supernet
from autoformer.pretrained.activations import BlockActivations, measured_activations
from autoformer.pretrained.importance import descending, order_heads, order_hidden, per_head

FLOOR = 1e-6  # of the mean variance: less is taken for this much, so that no basis becomes singular
LEAST = 1e-20  # a variance that is nothing but rounding


def cut_by_images(supernet: Supernet, images: Iterable[Tensor]) -> None:
    """Turns and orders the weights of `supernet` in place by what its largest network does on images.

    `images` are normalised batches [B, C, side, side] on the device of the weights; no labels are needed. Raises
    `ArchitectureError` when there is none.
    """
    order_by_activations(supernet, measured_activations(Subnet.from_supernet(supernet, supernet.space.largest), images))


def order_by_activations(supernet: Supernet, activations: Sequence[BlockActivations]) -> None:
    """Turns and orders the weights of `supernet` in place, and keeps the means where its space asks for them.

    `activations` are those of its largest network. The logits of the largest network stay what they were, up to rounding.
    """
    space = supernet.space
    assert space.sharing == "entangled", "only entangled weights are prefixes"
    assert not space.prefix_qkv_bias, "a bias number that serves several heads cannot move with one of them"
    with torch.no_grad():
        for block, own in zip(supernet.blocks, activations, strict=True):
            assert isinstance(block, SuperBlock)
            mean, added = own.head_mean, _added_by_heads(block, own)
            if not (space.relative_position or space.rope or space.scale_attn_norm):
                mean = _turn_values(block, own)
                _turn_queries(block, own)
            order = descending(added)
            order_heads(block, order)
            hidden = descending(own.hidden_variance * block.fc2.weight.double().square().sum(0))
            order_hidden(block, hidden)
            if space.mean_shift:
                block.attn.get_buffer("mean").copy_(mean[order].flatten())
                block.get_buffer("mean").copy_(own.hidden_mean[hidden])


def _added_by_heads(block: SuperBlock, own: BlockActivations) -> Tensor:
    """What each head adds to the stream beyond its mean, [H]: the variance of its projected output."""
    projection = per_head(block).double()
    added: Tensor = torch.einsum("ehk,hkl,ehl->h", projection, own.head_covariance, projection)
    return added


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of covariances [H, K, K] and its inverse; directions of next to no variance are given a little."""
    values, vectors = torch.linalg.eigh(covariance)
    least = FLOOR * values.mean(-1, keepdim=True)
    values = torch.where(least > LEAST, values.maximum(least), 1.0).sqrt()  # of a head that is constant any basis will do
    transposed = vectors.transpose(1, 2)
    return vectors * values.unsqueeze(1) @ transposed, vectors / values.unsqueeze(1) @ transposed


def _turn_values(block: SuperBlock, own: BlockActivations) -> Tensor:
    """Turns values and projection; gives the means of the heads' outputs in the new basis, [H, K]."""
    attention = block.attn
    projection = per_head(block).double().permute(1, 0, 2)  # [H, E, K]
    root, inverse = _roots(own.head_covariance)
    _, sizes, directions = torch.linalg.svd(projection @ root, full_matrices=False)  # the largest first
    share = _balance(sizes).unsqueeze(2)  # so that a value and what is made of it have one size
    turn = share * (directions @ inverse)  # [H, new, old]
    attention.proj.weight.copy_(
        (projection @ root @ directions.transpose(1, 2) / share.transpose(1, 2)).permute(1, 0, 2).flatten(1)
    )
    _turn(attention.qkv.weight[2], turn)
    _turn(attention.qkv.bias[2], turn)
    means: Tensor = (turn @ own.head_mean.unsqueeze(2)).squeeze(2)
    return means


def _turn_queries(block: SuperBlock, own: BlockActivations) -> None:
    """Turns query and key."""
    qkv = block.attn.qkv
    (query_root, query_inverse), (key_root, key_inverse) = _roots(own.query_moment), _roots(own.key_covariance)
    queries, sizes, keys = torch.linalg.svd(query_root @ key_root)
    share = _balance(sizes)
    of_query = share.unsqueeze(2) * (queries.transpose(1, 2) @ query_inverse)
    of_key = (sizes / share).unsqueeze(2) * (keys @ key_inverse)
    for index, turn in enumerate((of_query, of_key)):
        _turn(qkv.weight[index], turn)
        _turn(qkv.bias[index], turn)


def _balance(sizes: Tensor) -> Tensor:
    """The roots of sizes [H, K], none of them 0."""
    largest = sizes.amax(-1, keepdim=True)
    return torch.where(largest > LEAST, sizes.maximum(FLOOR * largest), 1.0).sqrt()


def _turn(weight: Tensor, turn: Tensor) -> None:
    """Multiplies the channels of each head of a weight [Q, E] or bias [Q] with a matrix [H, K, K], in place."""
    heads = weight.double().unflatten(0, (turn.shape[0], -1))
    weight.copy_(torch.einsum("hkl,hl...->hk...", turn, heads).flatten(0, 1))
