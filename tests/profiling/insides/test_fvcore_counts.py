"""fvcore's counts, against the closed forms and hand calculation."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoformer.cost import count_flops, count_params
from autoformer.networks.subnet import Attention, Subnet
from autoformer.profiling.insides.fvcore_counts import count_by_operator
from autoformer.space import SearchSpace

SPACES = {
    "micro": SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10),
    "tiny at 32 px": replace(SearchSpace.preset("tiny", image_size=32), patch_size=8),
}


def check(space: SearchSpace, count: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        architecture = space.sample(rng)
        counts = count_by_operator(Subnet.from_space(space, architecture), (space.in_chans, space.image_size, space.image_size))
        assert counts.params == count_params(architecture, space)
        assert counts.flops == count_flops(architecture, space)


@pytest.mark.parametrize(("name", "count"), [("micro", 6), ("tiny at 32 px", 1)])
def test_closed_forms_equal_fvcore(name: str, count: int) -> None:
    check(SPACES[name], count, seed=0)


@pytest.mark.parametrize("changes", [{"relative_position": False}, {"absolute_position": False}, {"pooling": "token"}])
def test_closed_forms_equal_fvcore_in_variants_of_the_space(changes: dict[str, object]) -> None:
    check(replace(SPACES["micro"], **changes), 3, seed=2)  # type: ignore[arg-type]


def test_the_network_is_left_as_it_was_and_counted_in_the_canonical_form() -> None:
    space = SPACES["micro"]
    network = Subnet.from_space(space, space.middle, form="fused").train()
    network.blocks[1].eval()
    counts = count_by_operator(network, (1, 8, 8))
    assert counts.flops == count_flops(space.middle, space)
    assert network.training
    assert not network.blocks[1].training
    assert {module.form for module in network.modules() if isinstance(module, Attention)} == {"fused"}


def test_counts_are_split_by_operator_and_module_and_say_what_they_leave_out() -> None:
    space = SPACES["micro"]
    counts = count_by_operator(Subnet.from_space(space, space.middle), (1, 8, 8))
    assert sum(counts.flops_by_operator.values()) == counts.flops == counts.flops_by_module[""]
    assert counts.flops_by_module["head"] == 64 * 10
    assert counts.params_by_module["head"] == 64 * 10 + 10
    assert counts.flops_by_module["patch_embed"] == 64 * 1 * 1 * 64  # patches, channels, pixels, width
    assert counts.uncounted["aten::softmax"] == counts.uncounted["aten::gelu"] == 4  # one a block
    assert "aten::unflatten" not in counts.uncounted
    assert counts.to_dict()["flops"] == counts.flops


class FusedAttention(nn.Module):
    """Query of 5 tokens on 7 keys; 3 channels for keys, 2 for values."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.zeros(1, 2, 7, 3))
        self.value = nn.Parameter(torch.zeros(1, 2, 7, 2))

    def forward(self, query: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, self.key, self.value)


def test_fused_attention_is_counted() -> None:
    counts = count_by_operator(FusedAttention(), (2, 5, 3))
    assert counts.flops == 2 * 5 * 7 * 3 + 2 * 5 * 7 * 2
    assert counts.uncounted == {}


class WithVectors(nn.Module):
    """A matrix times a vector and a vector times a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.right = nn.Parameter(torch.zeros(5))
        self.left = nn.Parameter(torch.zeros(4))

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        return matrix @ self.right, self.left @ matrix


def test_products_with_vectors_are_counted() -> None:
    counts = count_by_operator(WithVectors(), (4, 5))
    assert counts.flops_by_operator == {"matmul": 2 * 4 * 5}


def test_timm_models_are_counted_without_a_word(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32)
    counts = count_by_operator(model, (3, 32, 32))
    tokens, width = 5, 192
    block = 12 * tokens * width**2 + 2 * tokens**2 * width + 2 * 5 * tokens * width  # linear layers, attention, LayerNorms
    assert counts.flops == 4 * 3 * 256 * width + 12 * block + 5 * tokens * width + width * 1000
    assert counts.params == sum(parameter.numel() for parameter in model.parameters())
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


class Unusual(nn.Module):
    """Operators that multiply and that fvcore has no rule for, beside one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.dot(self.own, self.own) + torch.cross(x, x, dim=-1).tanh()


def test_an_operator_that_may_multiply_and_is_not_counted_causes_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"leaves out operators that may multiply") as caught:
        counts = count_by_operator(Unusual(), (4, 3))
    (warning,) = caught
    assert "aten::dot (1 times)" in str(warning.message)
    assert "tanh" not in str(warning.message)
    assert {"aten::dot", "aten::tanh", "aten::add"} <= set(counts.uncounted)


def test_a_compiled_network_is_counted_and_stays_compiled() -> None:
    space = SPACES["micro"]
    network = Subnet.from_space(space, space.middle)
    network.compile_blocks(backend="eager")
    assert count_by_operator(network, (1, 8, 8)).flops == count_flops(space.middle, space)
    assert all(block._compiled_call_impl is not None for block in network.blocks)
