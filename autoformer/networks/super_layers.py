"""The layers and blocks of a supernet: the leading rows, columns and channels of their weights serve smaller networks.

Layout: query, key and value weights are stored apart, [3, Q, E], heads in order, so a prefix of Q channels is a prefix
of heads, and weights and biases are sliced alike. (The official code interleaves the rows of the weight but not the bias, so
that a bias serves the query in one network and the key in another; `prefix_qkv_bias` repeats that for its checkpoints.) Of
narrower heads each is a prefix of its own head; their queries are scaled so that logits keep the scale of the whole head.

A block may lack its attention or its MLP. Where the space has `mean_shift`, what a network lacks (heads, channels of heads,
channels of an MLP, or all of them) leaves its mean in the bias behind it, so that the stream keeps its level.

Letters: B images, N tokens, E width, H heads, K channels per head, Q = H·K, M hidden width of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoformer.architecture import INIT_STD, Architecture
from autoformer.cost import features_of
from autoformer.networks.ends import ACTIVATIONS
from autoformer.networks.grid import centre, convolve, identity_kernels
from autoformer.networks.relative_position import Form, Geometry, Tables, attend, logit_scale
from autoformer.space import SearchSpace


class SuperLinear(nn.Module):
    """A linear layer whose leading rows and columns serve narrower networks."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.trunc_normal_(self.weight, std=INIT_STD)

    def slice(self, in_features: int, out_features: int) -> tuple[Tensor, Tensor]:
        return self.weight[:out_features, :in_features], self.bias[:out_features]

    def forward(self, x: Tensor, out_features: int) -> Tensor:
        return F.linear(x, *self.slice(x.shape[-1], out_features))


class SuperHead(SuperLinear):
    """The classifier of several tokens in a row, [C, T·E]; narrower networks have the leading columns of each."""

    def __init__(self, embed_dim: int, num_classes: int, tokens: int) -> None:
        super().__init__(tokens * embed_dim, num_classes)
        self.tokens = tokens

    def slice(self, in_features: int, out_features: int) -> tuple[Tensor, Tensor]:
        weight = self.weight[:out_features].unflatten(1, (self.tokens, -1))[..., : in_features // self.tokens]
        return weight.flatten(1), self.bias[:out_features]


def super_head(space: SearchSpace) -> SuperLinear:
    """A fresh classifier for the networks of `space`."""
    width, tokens = space.stored_embed_dim, features_of(space)
    return SuperLinear(width, space.num_classes) if tokens == 1 else SuperHead(width, space.num_classes, tokens)


class SuperQKV(nn.Module):
    """Query, key and value projections; a prefix of heads serves networks with fewer.

    With `prefix_bias` the bias of a network with Q channels is the first 3Q of all bias numbers in a row (official code).
    """

    def __init__(self, embed_dim: int, qkv_dim: int, head_dim: int, *, prefix_bias: bool) -> None:
        super().__init__()
        self.prefix_bias, self.head_dim = prefix_bias, head_dim
        self.weight = nn.Parameter(torch.empty(3, qkv_dim, embed_dim))
        self.bias = nn.Parameter(torch.zeros(3, qkv_dim))
        nn.init.trunc_normal_(self.weight, std=INIT_STD)

    def slice(self, embed_dim: int, heads: int, channels: int) -> tuple[Tensor, Tensor]:
        """Weight [3Q, E] and bias [3Q], ordered query, key, value, of so many heads with so many channels each."""
        if channels == self.head_dim:
            qkv_dim = heads * channels
            bias = self.bias.flatten()[: 3 * qkv_dim] if self.prefix_bias else self.bias[:, :qkv_dim].flatten()
            return self.weight[:, :qkv_dim, :embed_dim].flatten(0, 1), bias
        scale = self.bias.new_ones(3)
        scale[0] = (channels / self.head_dim) ** 0.5  # what attention divides logits by is of its own channels
        weight = self.weight.unflatten(1, (-1, self.head_dim))[:, :heads, :channels, :embed_dim] * scale.view(3, 1, 1, 1)
        bias = self.bias.unflatten(1, (-1, self.head_dim))[:, :heads, :channels] * scale.view(3, 1, 1)
        return weight.flatten(0, 2), bias.flatten()

    def forward(self, x: Tensor, heads: int, channels: int) -> Tensor:
        return F.linear(x, *self.slice(x.shape[-1], heads, channels))


class SuperLayerNorm(nn.Module):
    """A LayerNorm whose leading channels serve narrower networks."""

    def __init__(self, embed_dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(embed_dim))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        self.eps = eps

    def slice(self, width: int) -> tuple[Tensor, Tensor]:
        return self.weight[:width], self.bias[:width]

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        return F.layer_norm(x, (width,), *self.slice(width), self.eps)


class SuperAttention(nn.Module):
    """Multi-head attention with relative position; all heads of a layer share its tables."""

    def __init__(self, space: SearchSpace, embed_dim: int, qkv_dim: int) -> None:
        super().__init__()
        self.head_dim = space.head_dim
        self.scale_by_width = space.scale_by_width
        self.relative_position = space.relative_position
        self.qkv = SuperQKV(embed_dim, qkv_dim, space.head_dim, prefix_bias=space.prefix_qkv_bias)
        self.has_norm = space.scale_attn_norm
        if self.has_norm:  # of what all heads gathered
            self.norm = SuperLayerNorm(qkv_dim, space.norm_eps)
        self.proj = SuperLinear(qkv_dim, embed_dim)
        if space.relative_position:
            for name in Tables._fields:
                table = nn.Parameter(torch.empty(2 * space.max_relative_position + 2, space.head_dim))
                nn.init.trunc_normal_(table, std=INIT_STD)
                self.register_parameter(name, table)

        if space.mean_shift:
            self.register_buffer("mean", torch.zeros(qkv_dim))  # of what the projection takes, in the largest network

    def tables(self, channels: int) -> Tables | None:
        return Tables(*(getattr(self, name)[:, :channels] for name in Tables._fields)) if self.relative_position else None

    def projection(self, embed_dim: int, heads: int, channels: int) -> tuple[Tensor, Tensor]:
        """Weight [E, Q] and bias [E] of the layer after attention, of so many heads with so many channels each."""
        if channels == self.head_dim:
            weight, bias = self.proj.slice(heads * channels, embed_dim)
        else:
            weight = self.proj.weight[:embed_dim].unflatten(1, (-1, self.head_dim))[:, :heads, :channels].flatten(1)
            bias = self.proj.bias[:embed_dim]
        if isinstance(mean := getattr(self, "mean", None), Tensor) and weight.shape[1] < len(mean):
            lost = mean.clone().unflatten(0, (-1, self.head_dim))
            lost[:heads, :channels] = 0
            bias = F.linear(lost.flatten(), self.proj.weight[:embed_dim], bias)
        return weight, bias

    def forward(self, x: Tensor, heads: int, channels: int, where: Geometry, form: Form) -> Tensor:
        width = x.shape[-1]
        qkv = self.qkv(x, heads, channels).unflatten(-1, (3, heads, channels))  # [B, N, 3, H, K]
        scale = logit_scale(width, heads, channels, by_width=self.scale_by_width)
        out = attend(qkv, self.tables(channels), where, scale, form)
        return F.linear(self.norm(out) if self.has_norm else out, *self.projection(width, heads, channels))


class BlockChoice(NamedTuple):
    """What one network chose for one block."""

    heads: int  # 0: no attention
    channels: int  # of each head
    hidden: int  # channels of the MLP; 0: no MLP
    kernel: int  # side of its depthwise convolution; 0: none


def block_choices(architecture: Architecture, space: SearchSpace) -> list[BlockChoice]:
    """The choices of every block, in order."""
    channels = [space.head_dim_of(architecture)] * architecture.depth
    return list(map(BlockChoice, architecture.num_heads, channels, architecture.hidden_dims, architecture.kernels))


class SuperBlock(nn.Module):
    """One pre-norm transformer block of up to these sizes."""

    def __init__(self, space: SearchSpace, embed_dim: int, qkv_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm1 = SuperLayerNorm(embed_dim, space.norm_eps)
        self.attn = SuperAttention(space, embed_dim, qkv_dim)
        self.norm2 = SuperLayerNorm(embed_dim, space.norm_eps)
        self.fc1 = SuperLinear(embed_dim, hidden_dim)
        if largest := space.mlp_kernels[-1]:
            self.kernels = nn.Parameter(identity_kernels(hidden_dim, largest))
        self.act = ACTIVATIONS[space.act_layer]()
        self.gated, self.has_norm = space.gated_mlp, space.scale_mlp_norm
        if self.gated:
            self.fc1_g = SuperLinear(embed_dim, hidden_dim)
        if self.has_norm:  # of the MLP's hidden channels
            self.norm = SuperLayerNorm(hidden_dim, space.norm_eps)
        self.fc2 = SuperLinear(hidden_dim, embed_dim)
        if space.mean_shift:
            self.register_buffer("mean", torch.zeros(hidden_dim))  # of what `fc2` takes, in the largest network

    def forward(self, x: Tensor, choice: BlockChoice, where: Geometry, form: Form, factors: Tensor | None) -> Tensor:
        of_attention, of_mlp = (None, None) if factors is None else factors
        x = x + self._attention(x, choice, where, form, of_attention)
        return x + self._mlp(x, choice, where, of_mlp)

    def _attention(self, x: Tensor, choice: BlockChoice, where: Geometry, form: Form, factors: Tensor | None) -> Tensor | float:
        """What attention adds to the stream; nothing, or its mean, where there is none."""
        if not choice.heads:
            return self.mean_of_attention(x.shape[-1])
        attention: Tensor = self.attn(self.norm1(x), choice.heads, choice.channels, where, form)
        return attention if factors is None else attention * factors

    def _mlp(self, x: Tensor, choice: BlockChoice, where: Geometry, factors: Tensor | None) -> Tensor | float:
        """What the MLP adds to the stream; nothing, or its mean, where there is none."""
        if not choice.hidden:
            return self.mean_of_mlp(x.shape[-1])
        normalised = self.norm2(x)
        inner = self.fc1(normalised, choice.hidden)
        if choice.kernel:
            inner = convolve(inner, self.kernels_of(choice), where)
        inner = self.act(self.fc1_g(normalised, choice.hidden)) * inner if self.gated else self.act(inner)
        mlp = F.linear(self.norm(inner) if self.has_norm else inner, *self.output_layer(x.shape[-1], choice.hidden))
        return mlp if factors is None else mlp * factors

    def output_layer(self, embed_dim: int, hidden: int) -> tuple[Tensor, Tensor]:
        """Weight [E, M] and bias [E] of the MLP's second layer."""
        weight, bias = self.fc2.slice(hidden, embed_dim)
        if isinstance(mean := getattr(self, "mean", None), Tensor) and hidden < len(mean):
            bias = F.linear(mean[hidden:], self.fc2.weight[:embed_dim, hidden:], bias)
        return weight, bias

    def mean_of_attention(self, embed_dim: int) -> Tensor | float:
        """What attention adds to the stream on average, [E]; 0 where the space leaves no means."""
        return self.attn.projection(embed_dim, 0, self.attn.head_dim)[1] if hasattr(self.attn, "mean") else 0.0

    def mean_of_mlp(self, embed_dim: int) -> Tensor | float:
        """What the MLP adds to the stream on average, [E]; 0 where the space leaves no means."""
        return self.output_layer(embed_dim, 0)[1] if hasattr(self, "mean") else 0.0

    def slices(self, embed_dim: int, choice: BlockChoice) -> Iterator[tuple[str, Tensor]]:
        """The weights of one network's block under the names of `Block`."""
        heads, channels, hidden, kernel = choice
        layers: dict[str, tuple[Tensor, Tensor]] = {}
        if heads:
            layers["attn.qkv"] = self.attn.qkv.slice(embed_dim, heads, channels)
            layers["attn.proj"] = self.attn.projection(embed_dim, heads, channels)
            layers["norm1"] = self.norm1.slice(embed_dim)
            if self.attn.has_norm:
                layers["attn.norm"] = self.attn.norm.slice(heads * channels)
        if hidden:
            layers["mlp.fc1"], layers["mlp.fc2"] = self.fc1.slice(embed_dim, hidden), self.output_layer(embed_dim, hidden)
            layers["norm2"] = self.norm2.slice(embed_dim)
            if self.gated:
                layers["mlp.fc1_g"] = self.fc1_g.slice(embed_dim, hidden)
            if self.has_norm:
                layers["mlp.norm"] = self.norm.slice(hidden)
        for layer, (weight, bias) in layers.items():
            yield f"{layer}.weight", weight
            yield f"{layer}.bias", bias
        if kernel and hidden:
            yield "mlp.conv.weight", self.kernels_of(choice)
        if heads and (tables := self.attn.tables(channels)) is not None:
            for name, table in tables._asdict().items():
                yield f"attn.{name}", table

    def kernels_of(self, choice: BlockChoice) -> Tensor:
        """The kernels [M, 1, k, k] of a network's MLP."""
        return centre(self.kernels[: choice.hidden], choice.kernel)
