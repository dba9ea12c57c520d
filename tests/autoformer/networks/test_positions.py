"""Positions at other sizes, stochastic depth, and gradients of several processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.networks.positions import resample_positions
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet, branch_factors
from tests.support.forked import forked
from tests.support.small_spaces import shrunk
from tests.support.supernets import images_for, largest_difference, randomised

# --- positions, depth --------------------------------------------------------------------------------------------


def test_positions_of_the_same_grid_are_left_alone_and_constant_ones_stay_constant() -> None:
    positions = torch.randn(1, 17, 3)
    assert resample_positions(positions, (4, 4), (4, 4)) is positions
    constant = torch.full((1, 17, 3), 0.7)
    constant[:, 0] = -2.0  # the class token's
    for grid in ((2, 2), (7, 7), (3, 5)):
        out = resample_positions(constant, (4, 4), grid)
        assert out.shape == (1, 1 + grid[0] * grid[1], 3)
        torch.testing.assert_close(out[:, 1:], torch.full_like(out[:, 1:], 0.7))
        assert (out[:, 0] == -2.0).all()


def test_resampling_keeps_rows_and_columns_apart() -> None:
    rows = torch.arange(4.0).repeat_interleave(4)
    positions = torch.stack([rows, torch.arange(4.0).repeat(4)], -1)
    out = resample_positions(torch.cat([torch.zeros(1, 1, 2), positions[None]], 1), (4, 4), (2, 4))[0, 1:].view(2, 4, 2)
    torch.testing.assert_close(out[..., 1], torch.arange(4.0).expand(2, 4), rtol=0, atol=0.2)
    assert (out[0, :, 0] < out[1, :, 0]).all()
    torch.testing.assert_close(out[:, :1, 0].expand(2, 4), out[..., 0])


def test_images_that_are_not_square_are_told_apart_from_their_transpose() -> None:
    space = replace(shrunk("tiny"), image_sizes=(16,), depths=(2,))
    wide = torch.randn(1, 3, 8, 16)
    logits = []
    for images in (wide, wide.transpose(2, 3)):
        subnet = Subnet.from_supernet(randomised(space), space.largest)
        subnet.set_input_size((images.shape[-2], images.shape[-1]))
        with torch.no_grad():
            logits.append(subnet(images))
    assert largest_difference(*logits) > 1e-3


def test_drop_path_drops_whole_branches_of_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    factors = branch_factors(torch.zeros(4000, 3, 2), 0.25)
    assert factors is not None
    assert factors.shape == (2, 4000, 1, 1)  # attention and MLP of each image
    assert ((factors == 0) | torch.isclose(factors, torch.tensor(4 / 3))).all()
    assert factors.mean((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=0.04)
    assert not torch.equal(factors[0], factors[1])
    assert branch_factors(torch.zeros(4, 3, 2), 0.0) is None


def test_a_block_keeps_its_drop_path_rate_in_shallower_networks_and_evaluation_drops_nothing() -> None:
    space = shrunk("tiny")
    supernet = randomised(space, drop_path_rate=0.26)
    assert supernet.drop_path_rates[-1] == pytest.approx(0.26)
    assert supernet.drop_path_rates[11] == pytest.approx(0.26 * 11 / 13)
    assert len(supernet.drop_path_rates) == 14
    images, architecture = images_for(space, space.smallest), space.smallest
    assert torch.equal(supernet(images, architecture), supernet(images, architecture))
    supernet.train()
    assert not torch.equal(supernet(images, architecture), supernet(images, architecture))


# --- several processes -------------------------------------------------------------------------------------------


def gradients_in_parallel(rank: int, world: int, meeting: str, result: str) -> None:
    """One of `world` processes: its share of six images through DistributedDataParallel; rank 0 stores the gradients."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    supernet, architecture, batch = parallel_case()
    parallel = nn.parallel.DistributedDataParallel(supernet, find_unused_parameters=True)
    for chosen in (supernet.space.largest, architecture):  # another set of unused weights in each step
        parallel.zero_grad()
        parallel(batch[rank::world], chosen).square().sum().div(len(batch[rank::world])).backward()
    if rank == 0:
        torch.save({name: weight.grad for name, weight in supernet.named_parameters()}, result)
    torch.distributed.destroy_process_group()


def parallel_case() -> tuple[Supernet, Architecture, Tensor]:
    space = replace(shrunk("tiny"), depths=(2, 3))
    architecture = space.smallest
    return randomised(space).double().train(), architecture, images_for(space, architecture, 6).double()


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_distributed_training_gives_the_gradients_of_one_process(tmp_path: Path, world: int) -> None:
    files = (str(tmp_path / "meeting"), str(tmp_path / "gradients.pt"))
    processes = [forked(gradients_in_parallel, rank, world, *files) for rank in range(world)]
    answers = [process.finish(120) for process in processes]
    assert [code for code, _ in answers] == [0] * world, answers
    supernet, architecture, batch = parallel_case()
    supernet(batch, architecture).square().sum().div(len(batch)).backward()
    found = torch.load(tmp_path / "gradients.pt")
    for name, weight in supernet.named_parameters():
        expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
        gradient = torch.zeros_like(weight) if found[name] is None else found[name]
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10, msg=name)
