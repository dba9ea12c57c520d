"""Kernels, halving and relative position on a halved grid, against torch's own layers and attention written pair by pair."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoformer.architecture import SubnetGeometry
from autoformer.networks.block import DepthwiseKernels, LocalMlp
from autoformer.networks.grid import centre, convolve, halve, identity_kernels
from autoformer.networks.relative_position import Form, Geometry, Tables, attend, geometry, halved

FORMS: tuple[Form, ...] = ("bias", "fused", "tiled", "auto")
SCALE = 0.3
CPU = torch.device("cpu")


def where_of(grid: tuple[int, int], prefix: int, reach: int = 4) -> Geometry:
    return geometry(*grid, reach, CPU, torch.float64, prefix=prefix)


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def on_grid(x: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """Tokens [B, N, M] as images [B, M, R, C], patch by patch."""
    patches = [x[:, prefix + row * grid[1] + column] for row in range(grid[0]) for column in range(grid[1])]
    return torch.stack(patches, -1).view(len(x), -1, *grid)


# --- kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_kernels_convolve_the_patches_and_pass_the_class_token_by(prefix: int, side: int) -> None:
    grid = (3, 4)
    x, weight = drawn(2, 12 + prefix, 6), drawn(6, 1, side, side)
    layer = nn.Conv2d(6, 6, side, padding=side // 2, groups=6, bias=False).double()
    layer.weight = nn.Parameter(weight.detach())
    found = convolve(x, weight, where_of(grid, prefix))
    torch.testing.assert_close(on_grid(found, grid, prefix), layer(on_grid(x, grid, prefix)))
    assert torch.equal(found[:, :prefix], x[:, :prefix])


def test_a_kernel_is_written_out_patch_by_patch() -> None:
    grid, x, weight = (2, 3), drawn(1, 7, 2), drawn(2, 1, 3, 3)
    found = convolve(x, weight, where_of(grid, 1))
    for row in range(2):
        for column in range(3):
            expected = torch.zeros(2, dtype=torch.float64)
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= row + down < 2 and 0 <= column + right < 3:
                        expected = expected + x[0, 1 + (row + down) * 3 + column + right] * weight[:, 0, 1 + down, 1 + right]
            torch.testing.assert_close(found[0, 1 + row * 3 + column], expected)


def test_the_centre_of_a_kernel_is_its_middle() -> None:
    weight = torch.arange(25.0).view(1, 1, 5, 5)
    assert centre(weight, 3).flatten().tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert centre(weight, 5).flatten().tolist() == list(range(25))
    assert centre(weight, 1).flatten().tolist() == [12]


@pytest.mark.parametrize("side", [1, 3, 5])
def test_kernels_begin_as_ones_that_change_nothing(side: int) -> None:
    x = drawn(2, 13, 6)
    kernels = identity_kernels(6, side).double()
    assert torch.equal(convolve(x, kernels, where_of((3, 4), 1)), x)
    assert torch.equal(DepthwiseKernels(6, side).double()(x, where_of((3, 4), 1)), x)


def test_the_mlp_of_a_block_convolves_before_its_gelu() -> None:
    torch.manual_seed(0)
    mlp = LocalMlp(4, 6, 3, SubnetGeometry()).double()
    nn.init.normal_(mlp.conv.weight)
    x, grid = drawn(2, 7, 4), (2, 3)
    inner = x @ mlp.fc1.weight.T + mlp.fc1.bias
    patches = F.conv2d(on_grid(inner, grid, 1), mlp.conv.weight, padding=1, groups=6).flatten(2).transpose(1, 2)
    inner = F.gelu(torch.cat([inner[:, :1], patches], 1))
    torch.testing.assert_close(mlp(x, where_of(grid, 1)), inner @ mlp.fc2.weight.T + mlp.fc2.bias)


# --- halving -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("grid", [(4, 4), (2, 6), (2, 2)])
def test_halving_takes_the_means_of_four_patches(grid: tuple[int, int], prefix: int) -> None:
    x = drawn(2, grid[0] * grid[1] + prefix, 6)
    found = halve(x, where_of(grid, prefix))
    assert found.shape == (2, grid[0] * grid[1] // 4 + prefix, 6)
    half = (grid[0] // 2, grid[1] // 2)
    torch.testing.assert_close(on_grid(found, half, prefix), F.avg_pool2d(on_grid(x, grid, prefix), 2))
    assert torch.equal(found[:, :prefix], x[:, :prefix])


# --- relative position -------------------------------------------------------------------------------------------


def by_definition(qkv: Tensor, tables: Tables, grid: tuple[int, int], reach: int, prefix: int, step: int) -> Tensor:
    """softmax(scale · q·(k + Rk)) · (v + Rv) with every row of every pair written out; [B, N, 3, H, K] to [B, N, H·K]."""
    tokens = grid[0] * grid[1] + prefix
    places = [None] * prefix + [(row * step, column * step) for row in range(grid[0]) for column in range(grid[1])]

    def rows_of(first: Tensor, second: Tensor) -> Tensor:
        found = []
        for own in places:
            for other in places:
                if own is None or other is None:
                    found.append(first[0] + second[0])
                    continue
                down, right = (max(-reach, min(reach, there - here)) for here, there in zip(own, other, strict=True))
                found.append(first[reach + 1 + down] + second[reach + 1 + right])
        return torch.stack(found).view(tokens, tokens, -1)  # [N, N, K]

    query, key, value = qkv.unbind(2)
    of_keys, of_values = rows_of(tables.key_rows, tables.key_columns), rows_of(tables.value_rows, tables.value_columns)
    logits = torch.einsum("bihk,bjhk->bhij", query, key) + torch.einsum("bihk,ijk->bhij", query, of_keys)
    attention = (SCALE * logits).softmax(-1)
    out = torch.einsum("bhij,bjhk->bihk", attention, value) + torch.einsum("bhij,ijk->bihk", attention, of_values)
    return out.flatten(2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize(
    ("grid", "reach", "step"),
    [((3, 3), 4, 1), ((2, 5), 2, 1), ((3, 3), 6, 2), ((2, 4), 3, 2), ((4, 2), 2, 2), ((1, 1), 2, 2)],
    ids=["whole", "whole, clamped", "halved", "halved, wide, clamped", "halved, tall, clamped", "halved to one patch"],
)
def test_attention_is_that_of_the_definition(form: Form, prefix: int, grid: tuple[int, int], reach: int, step: int) -> None:
    """Outputs and every gradient; on a halved grid, neighbours are two rows of the tables apart."""
    qkv = drawn(2, grid[0] * grid[1] + prefix, 3, 2, 3)
    tables = Tables(*(drawn(2 * reach + 2, 3 + index).narrow(1, 0, 3) for index, _ in enumerate(Tables._fields)))
    where = where_of(grid, prefix, reach)
    if step == 2:
        where = halved(where_of((2 * grid[0], 2 * grid[1]), prefix, reach), reach, qkv)
    outcomes = []
    for out in (attend(qkv, tables, where, SCALE, form), by_definition(qkv, tables, grid, reach, prefix, step)):
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        outcomes.append([out, *torch.autograd.grad((out * weights).sum(), [qkv, *tables])])
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_without_a_class_token_its_rows_are_never_read(form: Form) -> None:
    qkv, where = drawn(2, 6, 3, 2, 4), where_of((2, 3), 0, 2)
    tables = Tables(*(drawn(6, 4) for _ in Tables._fields))
    other = Tables(*(torch.cat([table[:1] + 7, table[1:]]) for table in tables))
    assert torch.equal(attend(qkv, tables, where, SCALE, form), attend(qkv, other, where, SCALE, form))


def test_a_halved_grid_reads_every_second_row_of_the_tables() -> None:
    where = halved(where_of((6, 8), 1, 7), 7, drawn(1, 1, 1))
    assert (where.rows, where.columns, where.prefix) == (3, 4, 1)
    assert where.row_distances.tolist() == [4, 6, 8, 10, 12]  # row 8 is distance 0
    assert where.column_distances.tolist() == [2, 4, 6, 8, 10, 12, 14]
    assert where_of((3, 3), 1, 7).row_distances.tolist() == [6, 7, 8, 9, 10]
