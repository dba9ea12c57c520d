"""What flows through the blocks of a network on images at hand: means and second moments, no labels.

Letters: B images, N tokens, H heads, K channels per head, M hidden width of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoformer.errors import ArchitectureError
from autoformer.networks.subnet import Subnet


@dataclass(frozen=True, kw_only=True)
class BlockActivations:
    """Of one block, over images and tokens, in float64. A covariance is about the mean beside it, unless said otherwise."""

    head_mean: Tensor  # [H, K] of each head's output, before the projection
    head_covariance: Tensor  # [H, K, K]
    query_moment: Tensor  # [H, K, K] about zero
    key_covariance: Tensor  # [H, K, K] about the mean of each image's keys, which softmax does not notice
    hidden_mean: Tensor  # [M] of the MLP's hidden channels, after the GELU
    hidden_variance: Tensor  # [M]


class _Sums:
    """Running sums of what passes one block."""

    def __init__(self) -> None:
        self.count = 0
        self.of: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        self.of[name] = self.of[name] + value if name in self.of else value

    def take_qkv(self, module: nn.Module, inputs: tuple[Any, ...], qkv: Tensor) -> None:
        """Query, key and value [B, N, 3Q] of attention."""
        attention: Any = self.attention
        query, key, _ = qkv.double().unflatten(-1, (3, attention.num_heads, attention.head_dim)).unbind(2)  # [B, N, H, K]
        key = key - key.mean(1, keepdim=True)
        self.add("query", torch.einsum("bnhk,bnhl->hkl", query, query))
        self.add("key", torch.einsum("bnhk,bnhl->hkl", key, key))

    def take_heads(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        """The outputs of all heads [B, N, Q], on their way to the projection."""
        attention: Any = self.attention
        heads = inputs[0].double().unflatten(-1, (attention.num_heads, attention.head_dim))
        self.count += heads.shape[0] * heads.shape[1]
        self.add("head", heads.sum((0, 1)))
        self.add("head square", torch.einsum("bnhk,bnhl->hkl", heads, heads))

    def take_hidden(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        """The hidden channels [B, N, M] on their way to the second layer of the MLP."""
        hidden = inputs[0].double().flatten(0, -2)
        self.add("hidden", hidden.sum(0))
        self.add("hidden square", hidden.square().sum(0))

    def watch(self, block: Any, stack: ExitStack) -> None:
        """Takes what passes `block` until the stack is left."""
        self.attention = block.attn
        stack.enter_context(block.attn.qkv.register_forward_hook(self.take_qkv))
        stack.enter_context(block.attn.proj.register_forward_pre_hook(self.take_heads))
        stack.enter_context(block.mlp.fc2.register_forward_pre_hook(self.take_hidden))

    def activations(self) -> BlockActivations:
        head, hidden = self.of["head"] / self.count, self.of["hidden"] / self.count
        return BlockActivations(
            head_mean=head,
            head_covariance=self.of["head square"] / self.count - head.unsqueeze(2) * head.unsqueeze(1),
            query_moment=self.of["query"] / self.count,
            key_covariance=self.of["key"] / self.count,
            hidden_mean=hidden,
            hidden_variance=(self.of["hidden square"] / self.count - hidden.square()).clamp_min(0),
        )


def measured_activations(network: Subnet, batches: Iterable[Tensor]) -> list[BlockActivations]:
    """The activations of every block of `network`, which is put into evaluation mode, on batches of normalised images.

    Raises `ArchitectureError` when there is no image, or a block lacks its attention or MLP.
    """
    own = network.architecture
    if not all(own.num_heads) or not all(own.hidden_dims):
        raise ArchitectureError("activations are measured of networks whose every block has attention and an MLP")
    network.eval()
    sums = [_Sums() for _ in network.blocks]
    with torch.no_grad(), ExitStack() as stack:
        for of_block, block in zip(sums, network.blocks, strict=True):
            of_block.watch(block, stack)
        for images in batches:
            network(images)
    if not all(of_block.count for of_block in sums):
        raise ArchitectureError("activations are measured on images, got none")
    return [of_block.activations() for of_block in sums]
