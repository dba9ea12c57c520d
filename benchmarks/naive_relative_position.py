"""The yardstick of the speed benchmarks: 2-D relative position as the paper writes it, with every pair's embedding in memory.

Per layer and call: the index of every pair of tokens, an [N, N, K] embedding for the keys and one for the values gathered
from the tables, and two batched matrix products as large as attention itself. Square grids only.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from autoformer.networks.relative_position import Form, Geometry, Tables
from autoformer.networks.super_layers import SuperAttention, SuperBlock
from autoformer.networks.supernet import Supernet


def pair_embedding(vertical: Tensor, horizontal: Tensor, tokens: int) -> Tensor:
    """The embedding [N, N, K] of every pair (query, key); row 0 of both tables for pairs with the class token."""
    reach = vertical.shape[0] // 2 - 1
    side = int((tokens - 1) ** 0.5)
    position = torch.arange(tokens - 1, device=vertical.device)
    row, column = position // side, position % side
    down = (row[None, :] - row[:, None]).clamp(-reach, reach) + reach + 1
    right = (column[None, :] - column[:, None]).clamp(-reach, reach) + reach + 1
    return vertical[F.pad(down, (1, 0, 1, 0))] + horizontal[F.pad(right, (1, 0, 1, 0))]


def naive_attend(qkv: Tensor, tables: Tables | None, where: Geometry, scale: float, form: Form = "auto") -> Tensor:
    """What `relative_position.attend` gives for square grids with a class token, pair by pair: [B, N, 3, H, K] to [B, N, H·K]."""
    assert tables is not None
    batch, tokens, _, heads, _ = qkv.shape
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, N, K]
    key_pairs = pair_embedding(tables.key_rows, tables.key_columns, tokens)
    by_query = query.permute(2, 0, 1, 3).flatten(1, 2)  # [N, B·H, K]
    relative = (by_query @ key_pairs.transpose(1, 2)).transpose(0, 1).unflatten(0, (batch, heads))
    attention = ((query @ key.transpose(-2, -1) + relative) * scale).softmax(-1)

    value_pairs = pair_embedding(tables.value_rows, tables.value_columns, tokens)
    by_query = attention.permute(2, 0, 1, 3).flatten(1, 2)  # [N, B·H, N]
    relative = (by_query @ value_pairs).transpose(0, 1).unflatten(0, (batch, heads))
    return (attention @ value + relative).transpose(1, 2).flatten(2)


class NaiveAttention(SuperAttention):
    """`SuperAttention` with the same weights and the same result, computed pair by pair."""

    def forward(self, x: Tensor, heads: int, channels: int, where: Geometry, form: Form) -> Tensor:
        qkv = self.qkv(x, heads, channels).unflatten(-1, (3, heads, channels))  # [B, N, 3, H, K]
        tables = self.tables(channels)
        return cast(Tensor, self.proj(naive_attend(qkv, tables, where, channels**-0.5), x.shape[-1]))


def make_naive(supernet: Supernet) -> Supernet:
    """The same supernet, its attention layers computing pair by pair; changed in place and returned."""
    for block in supernet.blocks:
        assert isinstance(block, SuperBlock)
        block.attn.__class__ = NaiveAttention  # weights, names and sizes stay
    return supernet
