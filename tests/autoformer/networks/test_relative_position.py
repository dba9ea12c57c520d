"""Every form of relative position against the definition, pair by pair, in float64; gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autoformer.networks import tiled_attention
from autoformer.networks.relative_position import Form, Tables, attend, geometry, logit_scale

FORMS: tuple[Form, ...] = ("bias", "fused", "tiled", "auto")
SCALE = 0.3


def by_definition(qkv: Tensor, tables: Tables, grid: tuple[int, int], reach: int) -> Tensor:
    """softmax(scale · q·(k + Rk)) · (v + Rv) with an explicit loop over pairs; [B, N, 3, H, K] to [B, N, H·K]."""
    tokens = grid[0] * grid[1] + 1
    query, key, value = qkv.permute(2, 0, 3, 1, 4)

    def pair(rows: Tensor, columns: Tensor, i: int, j: int) -> Tensor:
        if i == 0 or j == 0:  # the class token
            return rows[0] + columns[0]
        (down_i, right_i), (down_j, right_j) = divmod(i - 1, grid[1]), divmod(j - 1, grid[1])
        down = max(-reach, min(reach, down_j - down_i))
        right = max(-reach, min(reach, right_j - right_i))
        return rows[down + reach + 1] + columns[right + reach + 1]

    results = []
    for i in range(tokens):
        keys = torch.stack([pair(tables.key_rows, tables.key_columns, i, j) for j in range(tokens)])  # [N, K]
        values = torch.stack([pair(tables.value_rows, tables.value_columns, i, j) for j in range(tokens)])
        logits = SCALE * ((key + keys) @ query[:, :, i, :, None]).squeeze(-1)  # [B, H, N]
        results.append((logits.softmax(-1).unsqueeze(-1) * (value + values)).sum(-2))  # [B, H, K]
    return torch.stack(results, 1).flatten(2)


def random_case(
    images: int, heads: int, channels: int, grid: tuple[int, int], reach: int, seed: int = 0
) -> tuple[Tensor, Tables]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    qkv = draw(images, grid[0] * grid[1] + 1, 3, heads, channels)
    return qkv, Tables(*(draw(2 * reach + 2, channels) for _ in Tables._fields))


def outcome(form: Form | None, qkv: Tensor, tables: Tables, grid: tuple[int, int], reach: int) -> list[Tensor]:
    """The output and every gradient; None is the definition."""
    if form is None:
        out = by_definition(qkv, tables, grid, reach)
    else:
        where = geometry(*grid, reach, qkv.device, qkv.dtype)
        out = attend(qkv, tables, where, SCALE, form)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)  # a gradient that differs everywhere
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [qkv, *tables])]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("grid", "reach"),
    [((3, 3), 4), ((2, 5), 5), ((5, 2), 5), ((1, 4), 2), ((4, 1), 2), ((1, 1), 3), ((4, 4), 2), ((3, 6), 1)],
    ids=["square", "wide", "tall", "one row", "one column", "one patch", "clamped", "wide and clamped"],
)
def test_outputs_and_gradients_are_those_of_the_definition(form: Form, grid: tuple[int, int], reach: int) -> None:
    case = random_case(2, 2, 3, grid, reach)
    for found, expected in zip(outcome(form, *case, grid, reach), outcome(None, *case, grid, reach), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("tile_numbers", [1, 2 * 2 * 10 * 10, 10**9], ids=["one image", "uneven", "all at once"])
def test_the_size_of_a_tile_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch, tile_numbers: int) -> None:
    monkeypatch.setattr(tiled_attention, "TILE_NUMBERS", tile_numbers)
    case = random_case(5, 2, 4, (3, 3), 2)
    for found, expected in zip(outcome("tiled", *case, (3, 3), 2), outcome("bias", *case, (3, 3), 2), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_distances_that_do_not_occur_get_no_gradient(form: Form) -> None:
    reach, grid = 6, (3, 5)
    _, _, *gradients = outcome(form, *random_case(1, 1, 4, grid, reach), grid, reach)
    for gradient, farthest in zip(gradients, (2, 4, 2, 4), strict=True):  # rows reach 2, columns 4
        class_token, distances = [True], [abs(distance) <= farthest for distance in range(-reach, reach + 1)]
        assert (gradient.abs().sum(1) > 0).tolist() == class_token + distances


@pytest.mark.parametrize("form", FORMS)
def test_float32_agrees_to_six_digits(form: Form) -> None:
    qkv, tables = random_case(2, 3, 8, (7, 7), 14)
    expected = attend(qkv, tables, geometry(7, 7, 14, qkv.device, qkv.dtype), SCALE, "bias")
    single = Tables(*(table.float() for table in tables))
    found = attend(qkv.float(), single, geometry(7, 7, 14, qkv.device, torch.float32), SCALE, form)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_without_tables_it_is_ordinary_attention(form: Form) -> None:
    qkv, _ = random_case(2, 2, 4, (3, 3), 1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    expected = torch.einsum("bhij,bhjk->bihk", torch.einsum("bhik,bhjk->bhij", query, key).mul(SCALE).softmax(-1), value)
    found = attend(qkv, None, geometry(3, 3, 1, qkv.device, qkv.dtype), SCALE, form)
    torch.testing.assert_close(found, expected.flatten(2))


def test_gradients_are_numerically_right() -> None:
    qkv, tables = random_case(2, 1, 2, (2, 3), 2)
    where = geometry(2, 3, 2, qkv.device, qkv.dtype)

    def function(qkv: Tensor, *rows: Tensor) -> Tensor:
        return attend(qkv, Tables(*rows), where, SCALE, "tiled")

    assert torch.autograd.gradcheck(function, (qkv, *tables))


def test_the_tiled_form_keeps_nothing_of_the_size_of_the_attention() -> None:
    heads, channels, grid = 2, 4, (10, 10)
    qkv, tables = random_case(3, heads, channels, grid, 9)
    largest = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    where = geometry(*grid, 9, qkv.device, qkv.dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend(qkv, tables, where, SCALE, "tiled")
    pairs = 3 * heads * 101 * 101
    assert largest <= 3 * heads * 101 * (grid[0] + grid[1]) < pairs


def test_the_form_is_chosen_for_the_situation() -> None:
    qkv, tables = random_case(1, 1, 4, (2, 2), 1)
    where = geometry(2, 2, 1, qkv.device, qkv.dtype)

    class Layer(torch.nn.Module):
        def forward(self, qkv: Tensor) -> Tensor:
            return attend(qkv, tables, where, SCALE)

    def softmaxes(operators: list[Any]) -> int:
        return sum("softmax" in str(operator) for operator in operators)

    assert type(attend(qkv, tables, where, SCALE).grad_fn.next_functions[0][0]).__name__ == "_TiledAttentionBackward"  # type: ignore[union-attr]
    exported = torch.export.export(Layer(), (qkv.detach(),))
    names = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert softmaxes(names) == 1
    assert not any("scaled_dot_product" in str(name) or "as_strided" in str(name) for name in names)
    single = Tables(*(table.float() for table in tables))
    with torch.autocast("cpu", torch.bfloat16):  # low precision on a CPU
        low = attend(qkv.bfloat16(), single, where, SCALE)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.double(), attend(qkv, tables, where, SCALE), rtol=0, atol=0.1)


def test_the_logit_scale_follows_the_head_width_or_the_sampled_width() -> None:
    assert logit_scale(112, 2, 64) == 0.125
    assert logit_scale(112, 2, 64, by_width=True) == pytest.approx(0.1336306209562122)  # official code, width 112


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_batch_gives_nothing_and_gradients_of_zero(form: Form) -> None:
    qkv, tables = random_case(0, 2, 4, (3, 2), 2)
    out, of_qkv, *of_tables = outcome(form, qkv, tables, (3, 2), 2)
    assert out.shape == (0, 7, 8)
    assert of_qkv.shape == qkv.shape
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in of_tables)


def test_the_bias_form_is_differentiable_twice_and_by_torch_func() -> None:
    qkv, tables = random_case(2, 2, 4, (2, 2), 2)
    where = geometry(2, 2, 2, qkv.device, qkv.dtype)

    def total(value: Tensor) -> Tensor:
        return attend(value, tables, where, SCALE, "bias").square().sum()

    assert torch.autograd.gradgradcheck(total, (qkv,), atol=1e-4)
    by_func = torch.func.grad(total)(qkv.detach())
    torch.testing.assert_close(by_func.detach(), torch.autograd.grad(total(qkv), qkv)[0])
