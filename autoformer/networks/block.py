"""One transformer block of a `Subnet`, of just its sizes; weights have timm's names."""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn

from autoformer.errors import ArchitectureError
from autoformer.networks.relative_position import Form, Geometry, Tables, attend

INIT_STD = 0.02  # truncated normal, official code


def check_drop_path(rate: float) -> None:
    """Raises `ArchitectureError` for a rate of stochastic depth that is not from 0 to below 1."""
    if not 0 <= rate < 1:
        raise ArchitectureError(f"drop_path_rate must be from 0 to below 1, got {rate}")


class Attention(nn.Module):
    """Multi-head attention with relative position on keys and values; [B, N, E] in and out."""

    def __init__(self, dim: int, heads: int, head_dim: int, max_relative_position: int | None, scale: float, form: Form) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale, self.form = heads, head_dim, scale, form
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, dim)
        self.relative_position = max_relative_position is not None
        if max_relative_position is not None:
            for name in Tables._fields:
                table = nn.Parameter(torch.empty(2 * max_relative_position + 2, head_dim))
                self.register_parameter(name, trunc_normal_(table, std=INIT_STD))

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))  # [B, N, 3, H, K]
        tables = Tables(*(getattr(self, name) for name in Tables._fields)) if self.relative_position else None
        return cast(Tensor, self.proj(attend(qkv, tables, where, self.scale, self.form)))


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(
        self, dim: int, heads: int, hidden: int, head_dim: int, max_relative_position: int | None, eps: float,
        drop_path: float, scale: float, form: Form,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, head_dim, max_relative_position, scale, form)
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, hidden_features=hidden)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, where: Geometry) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x), where))
        return x + cast(Tensor, self.drop_path2(self.mlp(self.norm2(x))))
