"""Relative position attention for CPUs: a few images at a time, so that what is N×N stays in the cache, in both directions.

One matrix product gives logits and relative position together, and another gives values and attention masses together
(relative_position.py has the algebra): query, key and value are extended by R + C features,

    query: its logits against every row and every column of the grid;  key, value: one-hot row and column of the patch.

The features of a query at (r, c) are a window into its products with the tables of *all* distances, -(R-1) to R-1 and
-(C-1) to C-1, that starts at R-1-r and C-1-c: a strided view of one plain matrix product. The way back, from attention mass
per row and column to mass per distance, writes to the same view. Nothing of size N×N is kept for the backward pass; it is
computed again from query and key, tile by tile, which costs a CPU less than fetching it from memory.

Letters: B images, H heads, N tokens (class token first, if any), K channels per head, R × C the grid, F = R + C features,
D = 2R − 1 + 2C − 1 distances, T images in a tile, G = T·H.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE_NUMBERS = 2**19  # logits of one tile and thread: 2 MiB in float32, about one core's second-level cache


class Operands(NamedTuple):
    """What one layer's attention is computed from."""

    qkv: Tensor  # [B, N, 3, H, K]
    key_table: Tensor  # [D, K] by distance, rows then columns, relative to the class token's
    value_table: Tensor  # [D, K] likewise
    class_value: Tensor  # [K] added to every value
    indicators: Tensor  # [N, F] one-hot row and column of each patch, zero for tokens before the patches
    grid: tuple[int, int]  # R, C
    scale: float  # of the logits

    @property
    def prefix(self) -> int:
        """Tokens before the patches: the class token, or none."""
        return self.qkv.shape[1] - self.grid[0] * self.grid[1]

    def tiles(self) -> list[slice]:
        """Slices of the images that make up one tile each."""
        images, tokens, _, heads, _ = self.qkv.shape
        size = max(1, min(images, TILE_NUMBERS * torch.get_num_threads() // (heads * tokens * tokens)))
        return [slice(start, min(start + size, images)) for start in range(0, images, size)]


class Tile:
    """The operands of T images in the extended layout, [G, N, K + F]; reused from tile to tile."""

    def __init__(self, operands: Operands, images: int) -> None:
        _, tokens, _, heads, channels = operands.qkv.shape
        self.operands, self.channels = operands, channels
        rows, columns = operands.grid
        new, groups = operands.qkv.new_empty, images * heads
        width = channels + rows + columns
        self.query, self.key, self.value = (new(images, heads, tokens, width) for _ in range(3))
        self.query[..., : operands.prefix, channels:] = (
            0  # the class token as a query: its logits all have the same relative part
        )
        self.key[..., channels:] = operands.indicators
        self.value[..., channels:] = operands.indicators
        self.logits, self.attention = new(groups, tokens, tokens), new(groups, tokens, tokens)
        self.distances = new(groups, tokens, operands.key_table.shape[0])
        self.masses = torch.zeros_like(self.distances)  # stays zero where no key has that distance

    def narrow(self, images: int) -> None:
        """Keeps room for the first `images` images only (the last tile may be smaller)."""
        groups = images * self.query.shape[1]
        self.query, self.key, self.value = self.query[:images], self.key[:images], self.value[:images]
        self.logits, self.attention = self.logits[:groups], self.attention[:groups]
        self.distances, self.masses = self.distances[:groups], self.masses[:groups]

    def attend(self, images: slice) -> None:
        """Fills query, key, value of these images, and their attention [G, N, N]."""
        operands = self.operands
        query, key, value = operands.qkv[images].permute(2, 0, 3, 1, 4)  # each [T, H, N, K]
        torch.mul(query, operands.scale, out=self.query[..., : self.channels])
        self.key[..., : self.channels] = key
        torch.add(value, operands.class_value, out=self.value[..., : self.channels])
        query = self.query.flatten(0, 1)
        self.features_of(query[..., : self.channels], operands.key_table, query[..., self.channels :])
        torch.bmm(query, self.key.flatten(0, 1).transpose(1, 2), out=self.logits)
        torch.softmax(self.logits, -1, out=self.attention)

    def features_of(self, vectors: Tensor, table: Tensor, features: Tensor) -> None:
        """Writes into `features` [G, N, F] the products of `vectors` [G, N, K] with the table rows of each row and column."""
        torch.mm(flat(vectors), table.t(), out=flat(self.distances))
        for window, part in self._windows(self.distances, features):
            part.copy_(window)

    def masses_of(self, features: Tensor) -> Tensor:
        """The features [G, N, F] by distance, [G·N, D]."""
        for window, part in self._windows(self.masses, features):
            window.copy_(part)
        return flat(self.masses)

    def _windows(self, distances: Tensor, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For rows and for columns: the entries of `distances` that each patch sees, and their place in `features`."""
        (rows, columns), prefix = self.operands.grid, self.operands.prefix
        groups, tokens, width = distances.shape
        patches = features[:, prefix:]
        row_start = distances.storage_offset() + prefix * width + rows - 1  # patch (0, 0), distance 0
        column_start = row_start + rows + columns - 1
        return [
            (  # one row further down, the window starts one distance earlier
                distances.as_strided((groups, rows, columns, rows), (tokens * width, columns * width - 1, width, 1), row_start),
                patches[..., :rows].unflatten(1, (rows, columns)),
            ),
            (
                distances.as_strided(
                    (groups, rows, columns, columns), (tokens * width, columns * width, width - 1, 1), column_start
                ),
                patches[..., rows:].unflatten(1, (rows, columns)),
            ),
        ]


def flat(x: Tensor) -> Tensor:
    """[G, N, K] as [G·N, K], without a copy."""
    return x.view(-1, x.shape[-1])


def attend_in_tiles(operands: Operands) -> Tensor:
    """Attention of one layer, [B, N, H, K]. CPU, float32 or float64; differentiable once, by autograd and not `torch.func`."""
    inputs = operands[:4]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return cast(Tensor, _TiledAttention.apply(*operands))
    return _forward(operands, None)


def _forward(operands: Operands, kept_masses: Tensor | None) -> Tensor:
    """The attention; what each query gives to every row and column is kept in `kept_masses` [B, H, N, F]."""
    images, tokens, _, heads, channels = operands.qkv.shape
    out = operands.qkv.new_empty(images, tokens, heads, channels)
    tiles = operands.tiles()
    tile = Tile(operands, tiles[0].stop if tiles else 0)  # a batch may be empty
    result = torch.empty_like(tile.query)  # [T, H, N, K + F]
    for images_of_tile in tiles:
        count = images_of_tile.stop - images_of_tile.start
        if count < len(result):
            tile.narrow(count)
            result = result[:count]
        tile.attend(images_of_tile)
        extended = result.flatten(0, 1)
        torch.bmm(tile.attention, tile.value.flatten(0, 1), out=extended)
        if kept_masses is not None:
            kept_masses[images_of_tile] = result[..., channels:]
        flat(extended)[:, :channels].addmm_(tile.masses_of(extended[..., channels:]), operands.value_table)
        out[images_of_tile] = result[..., :channels].transpose(1, 2)
    return out


class _TiledAttention(torch.autograd.Function):
    """Keeps query, key, value and the masses per row and column; computes the attention again for the gradients."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:
        given = Operands(*operands)
        images, tokens, _, heads, _ = given.qkv.shape
        masses = given.qkv.new_empty(images, heads, tokens, given.indicators.shape[1])
        out = _forward(given, masses)
        ctx.save_for_backward(*given[:5], masses)
        ctx.others = given[5:]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, kept_masses = ctx.saved_tensors
        operands = Operands(*tensors, *ctx.others)
        channels = operands.qkv.shape[-1]
        qkv = torch.empty_like(operands.qkv)  # from here on, these four names are gradients
        key_table, value_table, class_value = (torch.zeros_like(tensor) for tensor in operands[1:4])
        tiles = operands.tiles()
        tile = Tile(operands, tiles[0].stop if tiles else 0)
        gradient = torch.zeros_like(tile.query)  # of the extended result, then of the extended query
        for images in tiles:
            count = images.stop - images.start
            if count < len(gradient):
                tile.narrow(count)
                gradient = gradient[:count]
            tile.attend(images)
            query, key, value, extended = (x.flatten(0, 1) for x in (tile.query, tile.key, tile.value, gradient))
            by_image = (count, -1, query.shape[1], channels)  # [T, H, N, K]
            gradient[..., :channels] = out_gradient[images].transpose(1, 2)
            gradient[..., : operands.prefix, channels:] = 0
            of_out = extended[..., :channels]

            # Values: through the masses to the table, through the attention to the values.
            value_table.addmm_(tile.masses_of(kept_masses[images].flatten(0, 1)).t(), flat(of_out))
            tile.features_of(of_out, operands.value_table, extended[..., channels:])
            of_value = tile.attention.transpose(1, 2) @ of_out
            class_value += of_value.sum((0, 1))
            qkv[images, :, 2] = of_value.view(by_image).transpose(1, 2)

            # Logits, keys and queries.
            torch.bmm(extended, value.transpose(1, 2), out=tile.logits)
            of_logits = tile.logits
            torch.ops.aten._softmax_backward_data.out(of_logits, tile.attention, -1, of_logits.dtype, grad_input=of_logits)
            of_key = of_logits.transpose(1, 2) @ query[..., :channels]
            qkv[images, :, 1] = of_key.view(by_image).transpose(1, 2)
            torch.bmm(of_logits, key, out=extended)
            masses = tile.masses_of(extended[..., channels:])
            key_table.addmm_(masses.t(), flat(query[..., :channels]))
            flat(extended)[:, :channels].addmm_(masses, operands.key_table)
            torch.mul(gradient[..., :channels].transpose(1, 2), operands.scale, out=qkv[images, :, 0])
        return qkv, key_table, value_table, class_value, None, None, None
