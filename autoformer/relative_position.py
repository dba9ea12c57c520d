"""Attention with AutoFormer's 2-D relative position on keys and values, without the N×N×K embedding.

The paper (section 3.2; official code `RelativePosition2D_super`) adds to every key and value, per pair of tokens, a row of a
table for their vertical and one for their horizontal distance, clamped to ±M. Row 0 of each table serves every pair that
involves the class token. Because the embedding is a sum of a row part and a column part, it factorises exactly:

* keys: the logit of patches (r, c) and (r', c') gains `q·Kv[r'−r] + q·Kh[c'−c]`: one number per row of the grid and one per
  column, for each query, instead of one per pair;
* values: `Σ p·(Vv[r'−r] + Vh[c'−c])` needs only the attention mass per row and per column;
* class token: softmax ignores what is added to all logits of a query, and the probabilities of a query sum to one. So the
  class token's rows are subtracted from the vertical tables and need no logits of their own, and `Vv[0] + Vh[0]` is added
  to every value.

Two exact forms: `bias` builds the logits from rows and columns by broadcasting, `fused` appends the rows and columns as
features to query, key and value, so that one plain attention call (FlashAttention on a GPU) does everything.

Letters: B images, H heads, N tokens (class token first), K channels per head, R × C the grid of patches, P = R·C.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["auto", "bias", "fused"]


class Tables(NamedTuple):
    """The four tables of one layer, each [2M + 2, K]; row d + M + 1 is distance d = key − query, row 0 the class token."""

    key_rows: Tensor
    key_columns: Tensor
    value_rows: Tensor
    value_columns: Tensor


class Geometry(NamedTuple):
    """Where patches stand to each other; made once per forward and shared by all layers."""

    rows: int
    columns: int
    row_index: Tensor  # [R, R] row of a table for query row, key row
    column_index: Tensor  # [C, C] likewise for columns
    indicators: Tensor  # [N, R + C] one-hot row and column of each patch, zero for the class token


def geometry(rows: int, columns: int, max_relative_position: int, device: torch.device, dtype: torch.dtype) -> Geometry:
    """The geometry of a grid of `rows` × `columns` patches, which need not be square."""

    def index(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        distance = position[None, :] - position[:, None]
        return distance.clamp(-max_relative_position, max_relative_position) + max_relative_position + 1

    row = torch.eye(rows, device=device, dtype=dtype).repeat_interleave(columns, 0)
    column = torch.eye(columns, device=device, dtype=dtype).repeat(rows, 1)
    return Geometry(rows, columns, index(rows), index(columns), F.pad(torch.cat([row, column], 1), (0, 0, 1, 0)))


def attend(
    query: Tensor, key: Tensor, value: Tensor, tables: Tables, where: Geometry, scale: float, form: Form = "auto"
) -> Tensor:
    """Attention of one layer, [B, H, N, K] in and out; `scale` multiplies the logits, relative part included.

    `auto` takes the bias form on CPUs and while a graph is exported, the fused form on GPUs.
    """
    if form == "auto":
        form = "fused" if query.is_cuda and not torch.compiler.is_exporting() else "bias"
    return (_attend_fused if form == "fused" else _attend_biased)(query * scale, key, value, tables, where)


def _attend_biased(query: Tensor, key: Tensor, value: Tensor, tables: Tables, where: Geometry) -> Tensor:
    grid = (where.rows, where.columns)
    class_key = (tables.key_rows[0] + tables.key_columns[0]).unsqueeze(-1)  # [K, 1]
    class_value = tables.value_rows[0] + tables.value_columns[0]  # [K]

    # Logits: a row part [B, H, R, C, R] and a column part [B, H, R, C, C], relative to the class token's logit.
    key_rows = F.embedding(where.row_index, tables.key_rows)  # [R, R, K]
    key_columns = F.embedding(where.column_index, tables.key_columns)  # [C, C, K]
    patches = query[:, :, 1:].unflatten(2, grid)  # [B, H, R, C, K]
    class_logit = (query @ class_key)[:, :, 1:].unflatten(2, grid)  # [B, H, R, C, 1]
    row_part = patches @ key_rows.transpose(-2, -1) - class_logit
    column_part = (patches.transpose(2, 3) @ key_columns.transpose(-2, -1)).transpose(2, 3)
    bias = (row_part.unsqueeze(-1) + column_part.unsqueeze(-2)).flatten(4).flatten(2, 3)  # [B, H, P, P]
    logits = query @ key.transpose(-2, -1) + F.pad(bias, (1, 0, 1, 0))
    attention = logits.softmax(-1)

    # Values: the attention mass per row and per column times that row's and column's table entry.
    out = attention @ (value + class_value)
    mass = attention[:, :, 1:, 1:].unflatten(-1, grid).unflatten(2, grid)  # [B, H, R, C, R', C']
    value_rows = F.embedding(where.row_index, tables.value_rows) - class_value  # [R, R', K]
    value_columns = F.embedding(where.column_index, tables.value_columns)  # [C, C', K]
    row_value = mass.sum(-1) @ value_rows
    column_value = (mass.sum(-2).transpose(2, 3) @ value_columns).transpose(2, 3)
    return out + F.pad((row_value + column_value).flatten(2, 3), (0, 0, 1, 0))


def _attend_fused(query: Tensor, key: Tensor, value: Tensor, tables: Tables, where: Geometry) -> Tensor:
    grid = (where.rows, where.columns)
    batch, heads, _, channels = query.shape
    dtype = query.dtype
    features = where.indicators.to(dtype)
    padding = -(channels + features.shape[1]) % 8  # kernels want a head width that is a multiple of 8
    class_key = (tables.key_rows[0] + tables.key_columns[0]).to(dtype)
    class_value = (tables.value_rows[0] + tables.value_columns[0]).to(dtype)

    key_rows = F.embedding(where.row_index, tables.key_rows).to(dtype) - class_key  # [R, R, K]
    key_columns = F.embedding(where.column_index, tables.key_columns).to(dtype)  # [C, C, K]
    patches = query[:, :, 1:].unflatten(2, grid)
    row_part = patches @ key_rows.transpose(-2, -1)  # [B, H, R, C, R]
    column_part = (patches.transpose(2, 3) @ key_columns.transpose(-2, -1)).transpose(2, 3)
    logits = F.pad(torch.cat([row_part, column_part], -1).flatten(2, 3), (0, padding, 1, 0))  # [B, H, N, R + C + pad]
    features = F.pad(features, (0, padding)).expand(batch, heads, -1, -1)

    out = F.scaled_dot_product_attention(
        torch.cat([query, logits], -1),
        torch.cat([key, features], -1),
        torch.cat([value + class_value, features], -1),
        scale=1.0,
    )
    row_mass = out[:, :, 1:, channels : channels + where.rows].unflatten(2, grid)  # [B, H, R, C, R']
    column_mass = out[:, :, 1:, channels + where.rows : channels + where.rows + where.columns].unflatten(2, grid)
    value_rows = F.embedding(where.row_index, tables.value_rows).to(dtype) - class_value
    value_columns = F.embedding(where.column_index, tables.value_columns).to(dtype)
    row_value = row_mass @ value_rows
    column_value = (column_mass.transpose(2, 3) @ value_columns).transpose(2, 3)
    return out[..., :channels] + F.pad((row_value + column_value).flatten(2, 3), (0, 0, 1, 0))
