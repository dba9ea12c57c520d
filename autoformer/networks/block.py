"""One transformer block of a `Subnet`, of just its sizes; weights have timm's names."""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn

from autoformer.architecture import SubnetGeometry
from autoformer.errors import ArchitectureError
from autoformer.networks.ends import ACTIVATIONS
from autoformer.networks.grid import convolve, identity_kernels
from autoformer.networks.relative_position import Form, Geometry, Tables, attend, logit_scale

INIT_STD = 0.02  # truncated normal, official code


def check_rate(name: str, rate: float) -> None:
    """Raises `ArchitectureError` for a rate of dropout or stochastic depth that is not from 0 to below 1."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ArchitectureError(f"{name} must be from 0 to below 1, got {str(rate)[:40]}")


class Attention(nn.Module):
    """Multi-head attention with relative position on keys and values; [B, N, E] in and out."""

    def __init__(self, dim: int, heads: int, geometry: SubnetGeometry, form: Form) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.form = heads, geometry.head_dim, form
        self.scale = logit_scale(dim, heads, self.head_dim, by_width=geometry.scale_by_width)
        self.qkv = nn.Linear(dim, 3 * heads * self.head_dim)
        self.proj = nn.Linear(heads * self.head_dim, dim)
        self.relative_position = geometry.relative_position
        if self.relative_position:
            for name in Tables._fields:
                table = nn.Parameter(torch.empty(2 * geometry.max_relative_position + 2, self.head_dim))
                self.register_parameter(name, trunc_normal_(table, std=INIT_STD))

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))  # [B, N, 3, H, K]
        tables = Tables(*(getattr(self, name) for name in Tables._fields)) if self.relative_position else None
        return cast(Tensor, self.proj(attend(qkv, tables, where, self.scale, self.form)))


class DepthwiseKernels(nn.Module):
    """The weight of a depthwise convolution over the patches, [M, 1, k, k]; it begins as one that changes nothing."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(identity_kernels(channels, side))

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        return convolve(x, self.weight, where)


class LocalMlp(Mlp):  # type: ignore[misc]
    """timm's MLP with a depthwise convolution before its activation (as in PVTv2, arXiv 2106.13797, section 3.3)."""

    def __init__(self, dim: int, hidden: int, kernel: int, act_layer: type[nn.Module] = nn.GELU) -> None:
        super().__init__(dim, hidden_features=hidden, act_layer=act_layer)
        self.conv = DepthwiseKernels(hidden, kernel)

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        return cast(Tensor, self.fc2(self.act(self.conv(self.fc1(x), where))))


class Block(nn.Module):
    """One pre-norm transformer block; with a `kernel` its MLP convolves the grid."""

    def __init__(self, dim: int, heads: int, hidden: int, geometry: SubnetGeometry, form: Form, kernel: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=geometry.norm_eps)
        self.attn = Attention(dim, heads, geometry, form)
        self.drop_path1: nn.Module = nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=geometry.norm_eps)
        self.convolves = bool(kernel)  # asked of the block: its MLP may be wrapped, as one in another precision is
        act = ACTIVATIONS[geometry.act_layer]
        self.mlp = LocalMlp(dim, hidden, kernel, act) if kernel else Mlp(dim, hidden_features=hidden, act_layer=act)
        self.drop_path2: nn.Module = nn.Identity()

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth of this rate from now on."""
        self.drop_path1 = DropPath(rate) if rate else nn.Identity()
        self.drop_path2 = DropPath(rate) if rate else nn.Identity()

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x), where))
        normalised = self.norm2(x)
        mlp = self.mlp(normalised, where) if self.convolves else self.mlp(normalised)
        return x + cast(Tensor, self.drop_path2(mlp))
