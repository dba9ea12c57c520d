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

Three exact forms:

* `bias` builds the logits from rows and columns by broadcasting: plain operators for compilers and counters;
* `fused` appends the rows and columns as features to query, key and value, so that one plain attention call
  (FlashAttention on a GPU) does everything and nothing of size N×N is in memory; what exporters write too;
* `tiled` (tiled_attention.py) does the same on a CPU a few images at a time, with its backward pass written out. It is
  differentiable once and not by `torch.func`; Hessians, `vmap`, `jvp` and the like take `form="bias"`.

Without a class token nothing is subtracted or added. Where the grid was halved, a patch is as far from the next as two were
before, so that its distances are every second row of the tables.

Letters: B images, H heads, N tokens (class token first, if any), K channels per head, R × C the grid of patches, P = R·C.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from autoformer.networks.tiled_attention import Operands, attend_in_tiles

Form = Literal["auto", "bias", "fused", "tiled"]


class Tables(NamedTuple):
    """The four tables of one layer, each [2M + 2, K]; row d + M + 1 is distance d = key − query, row 0 the class token."""

    key_rows: Tensor
    key_columns: Tensor
    value_rows: Tensor
    value_columns: Tensor


def spread_edge(table: Tensor, reach: int) -> None:
    """Copies the rows for distances ±`reach` of a table [2M + 2, K] to all greater distances, in place."""
    zero = table.shape[0] // 2  # row of distance 0; row 0 is the class token's
    if reach < zero - 1:
        table[zero + reach + 1 :] = table[zero + reach].clone()
        table[1 : zero - reach] = table[zero - reach].clone()


class Geometry(NamedTuple):
    """Where patches stand to each other; made once per forward and shared by all layers."""

    rows: int
    columns: int
    row_distances: Tensor  # [2R - 1] row of a table for distances -(R - 1) .. R - 1
    column_distances: Tensor  # [2C - 1] likewise for columns
    row_index: Tensor  # [R, R] row of a table for query row, key row
    column_index: Tensor  # [C, C] likewise for columns
    indicators: Tensor  # [N, R + C] one-hot row and column of each patch, zero for the class token
    rotation: Tensor | None = None  # [2, N, K] of rotary positions (rotary.py)

    @property
    def prefix(self) -> int:
        """Tokens before the patches: the class token, or none."""
        return self.indicators.shape[0] - self.rows * self.columns


def geometry(
    rows: int,
    columns: int,
    max_relative_position: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    prefix: int = 1,
    step: int = 1,
) -> Geometry:
    """The geometry of a grid of `rows` × `columns` patches, which need not be square.

    `prefix` tokens stand before them; neighbours are `step` rows of a table apart, 2 where the grid was halved.
    """

    def table_rows(distance: Tensor) -> Tensor:
        return (step * distance).clamp(-max_relative_position, max_relative_position) + max_relative_position + 1

    def pairs(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return table_rows(position[None, :] - position[:, None])

    row = torch.eye(rows, device=device, dtype=dtype).repeat_interleave(columns, 0)
    column = torch.eye(columns, device=device, dtype=dtype).repeat(rows, 1)
    return Geometry(
        rows,
        columns,
        table_rows(torch.arange(1 - rows, rows, device=device)),
        table_rows(torch.arange(1 - columns, columns, device=device)),
        pairs(rows),
        pairs(columns),
        F.pad(torch.cat([row, column], 1), (0, 0, prefix, 0)),
    )


def grid_geometry(grid: tuple[int, int], max_relative_position: int, x: Tensor, prefix: int) -> Geometry:
    """The geometry of a whole grid, rows and columns, for tokens like `x`."""
    return geometry(*grid, max_relative_position, x.device, x.dtype, prefix=prefix)


def halved(where: Geometry, max_relative_position: int, x: Tensor) -> Geometry:
    """The geometry of the same grid halved, for tokens like `x`."""
    sides = where.rows // 2, where.columns // 2
    return geometry(*sides, max_relative_position, x.device, x.dtype, prefix=where.prefix, step=2)


def class_rows(tables: Tables, where: Geometry) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """What the tables hold for the class token, of keys and of values, each [K]; None where there is none."""
    if not where.prefix:
        return None, None
    return tables.key_rows[0] + tables.key_columns[0], tables.value_rows[0] + tables.value_columns[0]


def logit_scale(embed_dim: int, heads: int, head_dim: int, *, by_width: bool = False) -> float:
    """What logits are multiplied with; `by_width` is the official code's rule for a fixed query, key and value width."""
    return float((embed_dim // heads if by_width else head_dim) ** -0.5)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Queries and keys [B, N, n, H, K] turned by `rotation` [2, N, K]: cosines, and sines with their signs (rotary.py)."""
    first, second = x.chunk(2, -1)
    cosines, sines = rotation[:, :, None, None].unbind()
    return x * cosines + torch.cat([second, first], -1) * sines


def attend(qkv: Tensor, tables: Tables | None, where: Geometry, scale: float, form: Form = "auto") -> Tensor:
    """Attention of one layer: query, key and value [B, N, 3, H, K] to [B, N, H·K].

    `scale` multiplies the logits, relative part included. Without `tables` there is no relative position. `auto` takes the
    form that suits the situation: `bias` while a graph is traced, or for low precision on a CPU; `fused` where a graph is
    exported (one plain attention per layer, which runtimes know) and on accelerators (compiled or not); `tiled` on CPUs.
    """
    if form == "auto":
        form = _form_for(qkv)
    turned = None if where.rotation is None else rotate(qkv[:, :, :2], where.rotation)  # [B, N, 2, H, K]
    if form == "tiled" and tables is not None:
        qkv = qkv if turned is None else torch.cat([turned, qkv[:, :, 2:]], 2)
        return _attend_tiled(qkv, tables, where, scale).flatten(2)
    if turned is None:
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, N, K]
    else:
        query, key, value = *turned.permute(2, 0, 3, 1, 4), qkv[:, :, 2].transpose(1, 2)
    if tables is not None:
        out = (_attend_fused if form == "fused" else _attend_biased)(query * scale, key, value, tables, where)
    elif form == "bias" or torch.compiler.is_exporting():  # spelled out, so that counters and exporters see plain operators
        out = ((query * scale) @ key.transpose(-2, -1)).softmax(-1) @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value, scale=scale)
    return out.transpose(1, 2).flatten(2)


def _form_for(qkv: Tensor) -> Form:
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return "bias"  # what counters see is the canonical form
    if torch.compiler.is_exporting() or qkv.device.type != "cpu":
        return "fused"
    plain = qkv.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return "tiled" if plain and not torch.compiler.is_compiling() else "bias"


def _attend_tiled(qkv: Tensor, tables: Tables, where: Geometry, scale: float) -> Tensor:
    class_key, class_value = class_rows(tables, where)
    key_rows = _less(F.embedding(where.row_distances, tables.key_rows), class_key)
    value_rows = _less(F.embedding(where.row_distances, tables.value_rows), class_value)
    operands = Operands(
        qkv,
        torch.cat([key_rows, F.embedding(where.column_distances, tables.key_columns)]),
        torch.cat([value_rows, F.embedding(where.column_distances, tables.value_columns)]),
        torch.zeros_like(value_rows[0]) if class_value is None else class_value,
        where.indicators,
        (where.rows, where.columns),
        scale,
    )
    return attend_in_tiles(operands)


def _less(rows: Tensor, row: Tensor | None) -> Tensor:
    return rows if row is None else rows - row


def _below(prefix: int, patches: Tensor) -> Tensor:
    """[..., P, K] as [..., N, K], with zeros for the tokens before the patches; itself where there are none."""
    return F.pad(patches, (0, 0, prefix, 0)) if prefix else patches


def _attend_biased(query: Tensor, key: Tensor, value: Tensor, tables: Tables, where: Geometry) -> Tensor:
    grid = (where.rows, where.columns)
    prefix = where.prefix
    class_key, class_value = class_rows(tables, where)

    # Logits: a row part [B, H, R, C, R] and a column part [B, H, R, C, C], relative to the class token's logit.
    key_rows = F.embedding(where.row_index, tables.key_rows)  # [R, R, K]
    key_columns = F.embedding(where.column_index, tables.key_columns)  # [C, C, K]
    patches = query[:, :, prefix:].unflatten(2, grid)  # [B, H, R, C, K]
    row_part = patches @ key_rows.transpose(-2, -1)
    if class_key is not None:
        row_part = row_part - (query @ class_key.unsqueeze(-1))[:, :, prefix:].unflatten(2, grid)  # [B, H, R, C, 1]
    column_part = (patches.transpose(2, 3) @ key_columns.transpose(-2, -1)).transpose(2, 3)
    bias = (row_part.unsqueeze(-1) + column_part.unsqueeze(-2)).flatten(4).flatten(2, 3)  # [B, H, P, P]
    logits = query @ key.transpose(-2, -1) + (F.pad(bias, (prefix, 0, prefix, 0)) if prefix else bias)
    attention = logits.softmax(-1)

    # Values: the attention mass per row and per column times that row's and column's table entry.
    out = attention @ (value if class_value is None else value + class_value)
    mass = attention[:, :, prefix:, prefix:].unflatten(-1, grid).unflatten(2, grid)  # [B, H, R, C, R', C']
    value_rows = _less(F.embedding(where.row_index, tables.value_rows), class_value)  # [R, R', K]
    value_columns = F.embedding(where.column_index, tables.value_columns)  # [C, C', K]
    row_value = mass.sum(-1) @ value_rows
    column_value = (mass.sum(-2).transpose(2, 3) @ value_columns).transpose(2, 3)
    return out + _below(prefix, (row_value + column_value).flatten(2, 3))


def _attend_fused(query: Tensor, key: Tensor, value: Tensor, tables: Tables, where: Geometry) -> Tensor:
    grid = (where.rows, where.columns)
    batch, heads, _, channels = query.shape
    dtype = query.dtype
    features = where.indicators.to(dtype)
    padding = -(channels + features.shape[1]) % 8  # kernels want a head width that is a multiple of 8
    prefix = where.prefix
    class_key, class_value = (None if row is None else row.to(dtype) for row in class_rows(tables, where))

    key_rows = _less(F.embedding(where.row_index, tables.key_rows).to(dtype), class_key)  # [R, R, K]
    key_columns = F.embedding(where.column_index, tables.key_columns).to(dtype)  # [C, C, K]
    patches = query[:, :, prefix:].unflatten(2, grid)
    row_part = patches @ key_rows.transpose(-2, -1)  # [B, H, R, C, R]
    column_part = (patches.transpose(2, 3) @ key_columns.transpose(-2, -1)).transpose(2, 3)
    logits = F.pad(torch.cat([row_part, column_part], -1).flatten(2, 3), (0, padding, prefix, 0))  # [B, H, N, R + C + pad]
    features = F.pad(features, (0, padding)).expand(batch, heads, -1, -1)

    value = value if class_value is None else value + class_value
    operands = torch.cat([query, logits], -1), torch.cat([key, features], -1), torch.cat([value, features], -1)
    if torch.compiler.is_exporting():  # spelled out: an exporter's own decomposition scales query and keys once more
        out = (operands[0] @ operands[1].transpose(-2, -1)).softmax(-1) @ operands[2]
    else:
        out = F.scaled_dot_product_attention(*operands, scale=1.0)
    row_mass = out[:, :, prefix:, channels : channels + where.rows].unflatten(2, grid)  # [B, H, R, C, R']
    column_mass = out[:, :, prefix:, channels + where.rows : channels + where.rows + where.columns].unflatten(2, grid)
    value_rows = _less(F.embedding(where.row_index, tables.value_rows).to(dtype), class_value)
    value_columns = F.embedding(where.column_index, tables.value_columns).to(dtype)
    row_value = row_mass @ value_rows
    column_value = (column_mass.transpose(2, 3) @ value_columns).transpose(2, 3)
    return out[..., :channels] + _below(prefix, (row_value + column_value).flatten(2, 3))
