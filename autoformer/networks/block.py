"""One transformer block of a `Subnet`, of just its sizes; weights have timm's names."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn

from autoformer.architecture import INIT_STD, SubnetGeometry
from autoformer.errors import ArchitectureError
from autoformer.networks.ends import ACTIVATIONS
from autoformer.networks.grid import convolve, identity_kernels
from autoformer.networks.relative_position import Form, Geometry, Tables, attend, logit_scale


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
        inner = heads * self.head_dim
        self.norm = nn.LayerNorm(inner, eps=geometry.norm_eps) if geometry.scale_attn_norm else nn.Identity()
        self.proj = nn.Linear(inner, dim)
        self.relative_position = geometry.relative_position
        if self.relative_position:
            for name in Tables._fields:
                table = nn.Parameter(torch.empty(2 * geometry.max_relative_position + 2, self.head_dim))
                self.register_parameter(name, trunc_normal_(table, std=INIT_STD))

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))  # [B, N, 3, H, K]
        tables = Tables(*(getattr(self, name) for name in Tables._fields)) if self.relative_position else None
        return cast(Tensor, self.proj(self.norm(attend(qkv, tables, where, self.scale, self.form))))


class DepthwiseKernels(nn.Module):
    """The weight of a depthwise convolution over the patches, [M, 1, k, k]; it begins as one that changes nothing."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(identity_kernels(channels, side))

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        return convolve(x, self.weight, where)


class LocalMlp(Mlp):  # type: ignore[misc]
    """timm's MLP with a depthwise convolution before its activation (PVTv2, arXiv 2106.13797, section 3.3), a gate, or both.

    A gate is a second layer like `fc1`, `fc1_g`, which is activated in its place and multiplies it (SwiGLU, arXiv 2002.05202).
    """

    def __init__(self, dim: int, hidden: int, kernel: int, geometry: SubnetGeometry) -> None:
        super().__init__(dim, hidden_features=hidden, **_mlp_options(geometry))
        self.conv = DepthwiseKernels(hidden, kernel) if kernel else None
        self.fc1_g = nn.Linear(dim, hidden) if geometry.gated_mlp else None

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        inner = self.fc1(x)
        if self.conv is not None:
            inner = self.conv(inner, where)
        inner = self.act(inner) if self.fc1_g is None else self.act(self.fc1_g(x)) * inner
        return cast(Tensor, self.fc2(self.norm(inner)))


def _mlp_options(geometry: SubnetGeometry) -> dict[str, Any]:
    norm = partial(nn.LayerNorm, eps=geometry.norm_eps) if geometry.scale_mlp_norm else None
    return {"act_layer": ACTIVATIONS[geometry.act_layer], "norm_layer": norm}


class Block(nn.Module):
    """One pre-norm transformer block; with a `kernel` its MLP convolves the grid. Without heads it has no attention, without
    hidden channels no MLP, and no norm before what it lacks."""

    def __init__(self, dim: int, heads: int, hidden: int, geometry: SubnetGeometry, form: Form, kernel: int = 0) -> None:
        super().__init__()
        self.has_attention, self.has_mlp = bool(heads), bool(hidden)
        if heads:
            self.norm1 = nn.LayerNorm(dim, eps=geometry.norm_eps)
            self.attn = Attention(dim, heads, geometry, form)
        self.drop_path1: nn.Module = nn.Identity()
        self.sees_grid = bool(kernel or geometry.gated_mlp)  # asked of the block: its MLP may be wrapped, as in another precision
        if hidden:
            self.norm2 = nn.LayerNorm(dim, eps=geometry.norm_eps)
            self.mlp = (
                LocalMlp(dim, hidden, kernel, geometry)
                if self.sees_grid
                else Mlp(dim, hidden_features=hidden, **_mlp_options(geometry))
            )
        self.drop_path2: nn.Module = nn.Identity()

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth of this rate from now on."""
        self.drop_path1 = DropPath(rate) if rate else nn.Identity()
        self.drop_path2 = DropPath(rate) if rate else nn.Identity()

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        if self.has_attention:
            x = x + self.drop_path1(self.attn(self.norm1(x), where))
        if not self.has_mlp:
            return x
        normalised = self.norm2(x)
        mlp = self.mlp(normalised, where) if self.sees_grid else self.mlp(normalised)
        return x + cast(Tensor, self.drop_path2(mlp))
