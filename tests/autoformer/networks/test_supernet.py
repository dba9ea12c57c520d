"""The supernet: extraction, gradients, and that it can be copied, pickled, compiled and exported like any module."""

from __future__ import annotations

import copy
import io
import pickle
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.errors import ArchitectureError
from autoformer.networks.relative_position import Tables
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from tests.support.small_spaces import NAMES, shrunk
from tests.support.supernets import images_for, largest_difference, randomised


def compare_with_extracted(supernet: Supernet, count: int, seed: int) -> None:
    space, rng = supernet.space, random.Random(seed)
    double = copy.deepcopy(supernet).double()
    for _ in range(count):
        architecture = space.sample(rng)
        images = images_for(space, architecture)
        with torch.no_grad():
            extracted = Subnet.from_supernet(supernet, architecture)
            assert largest_difference(extracted(images), supernet(images, architecture)) < 1e-5
            extracted = Subnet.from_supernet(double, architecture)
            assert largest_difference(extracted(images.double()), double(images.double(), architecture)) < 1e-11


@pytest.mark.parametrize("name", NAMES)
def test_extracted_networks_give_the_supernets_logits(name: str) -> None:
    compare_with_extracted(randomised(shrunk(name)), 6, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_sixty_extracted_networks_give_the_supernets_logits(name: str) -> None:
    compare_with_extracted(randomised(shrunk(name)), 60, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"relative_position": False},
        {"absolute_position": False},
        {"pooling": "token"},
        {"in_chans": 1, "norm_eps": 1e-6},
        {"prefix_qkv_bias": True, "any_up_to_largest": True},
        {"scale_by_width": True, "num_heads": (4,)},
        {"sharing": "classical", "depths": (1, 2)},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_extraction_is_exact_in_every_variant_of_the_space(changes: dict[str, Any]) -> None:
    compare_with_extracted(randomised(replace(shrunk("tiny"), **changes)), 4, 2)


def test_the_variants_change_the_logits() -> None:
    space = shrunk("tiny")
    architecture = space.sample(random.Random(0))
    images = images_for(space, architecture)
    plain = randomised(space)
    with torch.no_grad():
        reference = plain(images, architecture)
        for changes in ({"prefix_qkv_bias": True}, {"pooling": "token"}, {"norm_eps": 0.1}):
            other = randomised(replace(space, **changes))
            other.load_state_dict(plain.state_dict())
            assert largest_difference(other(images, architecture), reference) > 1e-3


def test_a_supernet_follows_its_definition_written_with_plain_torch() -> None:
    """One block without relative position, computed from the state dict with torch's own layers."""
    space = replace(shrunk("tiny"), relative_position=False, depths=(1,))
    supernet = randomised(space)
    architecture = Architecture(embed_dim=24, num_heads=(3,), mlp_ratio=(3.5,))
    images = images_for(space, architecture)
    weights = supernet.state_dict()
    embed, channels, hidden = 24, 24, 84

    def linear(name: str, x: Tensor, inputs: int, outputs: int) -> Tensor:
        out: Tensor = x @ weights[f"{name}.weight"][:outputs, :inputs].T + weights[f"{name}.bias"][:outputs]
        return out

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        out: Tensor = unit * weights[f"{name}.weight"][:embed] + weights[f"{name}.bias"][:embed]
        return out

    patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(2, 4, -1)
    x = patches @ weights["patch_embed.proj.weight"][:embed].flatten(1).T + weights["patch_embed.proj.bias"][:embed]
    x = torch.cat([weights["cls_token"][..., :embed].expand(2, 1, embed), x], 1) + weights["pos_embed"][..., :embed]
    y = norm("blocks.0.norm1", x)
    parts = [
        (y @ weights["blocks.0.attn.qkv.weight"][part, :channels, :embed].T + weights["blocks.0.attn.qkv.bias"][part, :channels])
        .unflatten(-1, (3, 8)).transpose(1, 2)
        for part in range(3)
    ]  # fmt: skip
    attention = (parts[0] @ parts[1].transpose(-2, -1) / 8**0.5).softmax(-1) @ parts[2]
    x = x + linear("blocks.0.attn.proj", attention.transpose(1, 2).flatten(2), channels, embed)
    y = nn.functional.gelu(linear("blocks.0.fc1", norm("blocks.0.norm2", x), embed, hidden))
    x = x + linear("blocks.0.fc2", y, hidden, embed)
    expected = linear("head", norm("norm", x)[:, 1:].mean(1), embed, 5)
    torch.testing.assert_close(supernet(images, architecture), expected, rtol=1e-4, atol=1e-4)


# --- gradients ---------------------------------------------------------------------------------------------------


def test_gradients_reach_exactly_the_weights_a_subnet_uses() -> None:
    space = replace(shrunk("tiny"), image_sizes=(16,))
    supernet = randomised(space).double().train()
    architecture = Architecture(embed_dim=24, num_heads=(4,) + (3,) * 11, mlp_ratio=(3.0, 3.5) * 6)
    supernet(images_for(space, architecture).double(), architecture).square().sum().backward()
    width, channels, hidden = 24, [32] + [24] * 11, [72, 84] * 6

    def box(shape: torch.Size, *bounds: slice) -> Tensor:
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[bounds] = True
        return mask

    used, everything = slice(0, width), slice(None)
    distances = torch.tensor([0, *range(15 - 3, 15 + 4)])  # the class token, and -3 .. 3 on a 4 × 4 grid
    for name, weight in supernet.named_parameters():
        if name.startswith("blocks"):
            _, index, part = name.split(".", 2)
            block = int(index)
            if block >= 12:
                assert weight.grad is None, name
                continue
            queries, mlp = slice(0, channels[block]), slice(0, hidden[block])
            if part.removeprefix("attn.") in Tables._fields:
                expected = torch.isin(torch.arange(30), distances)[:, None].expand(weight.shape)
            else:
                bounds = {
                    "attn.qkv.weight": (everything, queries, used),
                    "attn.qkv.bias": (everything, queries),
                    "attn.proj.weight": (used, queries),
                    "fc1.weight": (mlp, used),
                    "fc1.bias": (mlp,),
                    "fc2.weight": (used, mlp),
                }
                expected = box(weight.shape, *bounds.get(part, (used,)))
            if part == "attn.qkv.bias":
                expected[1] = False  # softmax ignores what is added to all logits: the key bias has no gradient
        elif name == "head.weight":
            expected = box(weight.shape, everything, used)
        elif name == "head.bias":
            expected = box(weight.shape)
        elif name in ("cls_token", "pos_embed"):
            expected = box(weight.shape, everything, everything, used)
        else:
            expected = box(weight.shape, used)
        assert weight.grad is not None, name
        touched = weight.grad.abs() > 1e-9 * weight.grad.abs().max()
        if name.endswith("qkv.bias"):
            touched = weight.grad.abs() > 1e-9 * weight.grad[0].abs().max()
        assert torch.equal(touched, expected), name


def test_gradients_of_supernet_and_extracted_network_are_the_same_numbers() -> None:
    space = shrunk("edge")
    supernet = randomised(space).double()
    architecture = replace(space.sample(random.Random(3)), image_size=20)
    subnet = Subnet.from_supernet(supernet, architecture)
    images = images_for(space, architecture).double()
    for network, inputs in ((supernet, (images, architecture)), (subnet, (images,))):
        network(*inputs).square().sum().backward()
    found = {name: weight.grad for name, weight in supernet.named_parameters() if weight.grad is not None}
    for name, weight in subnet.named_parameters():
        assert weight.grad is not None, name
        super_name = name.replace("mlp.", "")
        gradient = found[super_name]
        if "attn.qkv" in name:
            heads = architecture.num_heads[int(name.split(".")[1])]
            gradient = gradient[:, : 8 * heads].flatten(0, 1)
        slices = tuple(slice(0, size) for size in weight.shape)
        torch.testing.assert_close(gradient[slices], weight.grad, rtol=1e-9, atol=1e-9, msg=name)


def test_classical_sharing_trains_only_the_chosen_blocks() -> None:
    space = replace(shrunk("tiny"), sharing="classical", depths=(2, 3))
    supernet = randomised(space).train()
    architecture = Architecture(embed_dim=24, num_heads=(3, 4), mlp_ratio=(3.0, 4.0))
    supernet(images_for(space, architecture), architecture).sum().backward()
    trained = {
        name.split(".")[1] + "." + name.split(".")[2]
        for name, weight in supernet.named_parameters()
        if name.startswith("blocks") and weight.grad is not None
    }
    assert trained == {"0.width24_heads3_hidden72", "1.width24_heads4_hidden96"}


# --- an ordinary module ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[Supernet, Tensor, Architecture]:
    """A supernet that was used in training: nothing of an architecture may have stayed in it."""
    space = replace(shrunk("tiny"), depths=(1, 2))
    supernet = randomised(space).train()
    rng = random.Random(0)
    for _ in range(2):
        architecture = space.sample(rng)
        supernet(images_for(space, architecture), architecture).sum().backward()
    supernet.zero_grad()
    architecture = space.largest
    return supernet.eval(), images_for(space, architecture), architecture


def test_copies_and_pickles_give_the_same_logits(trained: tuple[Supernet, Tensor, Architecture]) -> None:
    supernet, images, architecture = trained
    expected = supernet(images, architecture)
    file = io.BytesIO()
    torch.save(supernet, file)
    file.seek(0)
    for other in (
        copy.deepcopy(supernet),
        pickle.loads(pickle.dumps(supernet)),
        torch.load(file, weights_only=False),
    ):
        assert other.space == supernet.space
        assert torch.equal(other(images, architecture), expected)


def test_a_state_dict_makes_an_equal_supernet(trained: tuple[Supernet, Tensor, Architecture]) -> None:
    supernet, images, architecture = trained
    other = Supernet(supernet.space).eval()
    assert not torch.equal(other(images, architecture), supernet(images, architecture))
    other.load_state_dict(supernet.state_dict())
    assert torch.equal(other(images, architecture), supernet(images, architecture))


def test_logits_do_not_depend_on_what_ran_before(trained: tuple[Supernet, Tensor, Architecture]) -> None:
    supernet, images, architecture = trained
    first = supernet(images, architecture)
    supernet(images, supernet.space.smallest)
    assert torch.equal(supernet(images, architecture), first)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, from inside its compiler
def test_the_compiled_supernet_gives_the_same_logits_and_gradients(
    trained: tuple[Supernet, Tensor, Architecture], backend: str
) -> None:
    supernet, images, _ = trained
    torch.compiler.reset()
    compiled = torch.compile(supernet, backend=backend)
    for architecture in (supernet.space.largest, supernet.space.smallest):
        expected = supernet(images, architecture)
        found = compiled(images, architecture)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        gradients = [torch.autograd.grad(out.square().sum(), supernet.head.weight)[0] for out in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor")  # torch's own
def test_blocks_compile_once_per_shape_and_are_shared_by_all_depths() -> None:
    space = replace(shrunk("small"), depths=(2, 3))
    supernet = randomised(space, drop_path_rate=0.2)
    expected_from = copy.deepcopy(supernet)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    supernet.compile_blocks(backend=backend)
    rng = random.Random(0)
    shapes: set[tuple[int, int, int]] = set()
    while len(shapes) <= 8:  # torch's own limit, behind which it would stop compiling
        architecture = space.sample(rng)
        shapes |= {
            (architecture.embed_dim, *block) for block in zip(architecture.num_heads, architecture.hidden_dims, strict=True)
        }
        images = images_for(space, architecture)
        with torch.no_grad():
            expected = expected_from(images, architecture)
            assert largest_difference(supernet(images, architecture), expected) < 1e-5
    assert len(graphs) == len(shapes)

    graphs.clear()
    supernet.train()
    for _ in range(3):  # a rate per depth, a mask per step: still one graph per shape
        for size in (space.largest, space.smallest):
            supernet(images_for(space, size), size).sum().backward()
    assert len(graphs) <= 4  # two shapes, with and without a mask (the first block has rate 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_network_is_exported_with_the_architecture_as_an_argument(
    trained: tuple[Supernet, Tensor, Architecture],
) -> None:
    supernet, images, architecture = trained
    batch = torch.export.Dim("batch", min=1, max=64)  # an architecture is a constant and has no dimensions
    program = torch.export.export(supernet, (images, architecture), dynamic_shapes={"images": {0: batch}, "architecture": []})
    more = torch.cat([images, images.flip(0), images])
    torch.testing.assert_close(program.module()(more, architecture), supernet(more, architecture), rtol=1e-4, atol=1e-4)


def test_an_architecture_outside_the_space_is_refused(trained: tuple[Supernet, Tensor, Architecture]) -> None:
    supernet, images, architecture = trained
    with pytest.raises(ArchitectureError, match="embed_dim 8"):
        supernet(images, replace(architecture, embed_dim=8))
    with pytest.raises(ArchitectureError, match="depth 4"):
        supernet(images, Architecture(embed_dim=24, num_heads=(3,) * 4, mlp_ratio=(3.0,) * 4))
    with pytest.raises(ArchitectureError, match="embed_dim 8"):
        Subnet.from_supernet(supernet, replace(architecture, embed_dim=8))


@pytest.mark.parametrize("size", [(16, 16), (8, 12), (9, 9)])
def test_images_of_another_size_than_the_architectures_are_refused(
    trained: tuple[Supernet, Tensor, Architecture], size: tuple[int, int]
) -> None:
    supernet, _, architecture = trained
    with pytest.raises(ArchitectureError, match=f"images of {size[0]}×{size[1]} px for an architecture that takes 8×8 px"):
        supernet(torch.zeros(1, 3, *size), architecture)


def test_impossible_supernets_are_refused() -> None:
    space = shrunk("tiny")
    with pytest.raises(ArchitectureError, match="drop_path_rate must be from 0 to below 1, got 1"):
        Supernet(space, drop_path_rate=1.0)
    with pytest.raises(ArchitectureError, match="needs at least one class"):
        Supernet(replace(space, num_classes=0))


def test_an_empty_batch_gives_no_logits(trained: tuple[Supernet, Tensor, Architecture]) -> None:
    supernet, images, architecture = trained
    assert supernet(images[:0], architecture).shape == (0, 5)


def test_half_precision_takes_smaller_images_than_positions_are_stored_for() -> None:
    space = shrunk("edge")
    supernet = randomised(space)
    architecture = replace(space.smallest, image_size=12)
    images = images_for(space, architecture)
    with torch.no_grad():
        expected, half = supernet(images, architecture), supernet.bfloat16()(images.bfloat16(), architecture)
    assert half.dtype == torch.bfloat16
    assert largest_difference(half.float(), expected) < 0.1
