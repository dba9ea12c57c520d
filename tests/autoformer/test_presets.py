"""The presets for small images without pretrained weights: what they span, and the images they follow."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from autoformer.cost import count_flops, count_params, show
from autoformer.errors import ArchitectureError
from autoformer.networks.subnet import Subnet
from autoformer.space import PRESETS, SearchSpace

COMPACT = ("compact-32", "compact-64", "compact-96")


@pytest.mark.parametrize("name", COMPACT)
def test_compact_spaces_are_for_the_images_in_their_name_and_span_thirteen_times_the_flops(name: str) -> None:
    space = SearchSpace.preset(name)
    assert space.image_size == int(name.removeprefix("compact-"))
    costs = [count_flops(architecture, space) for architecture in (space.smallest, space.largest)]
    assert 5e6 < costs[0] < 15e6
    assert costs[1] > 13 * costs[0]
    assert costs[1] < (100e6 if space.image_size < 96 else 250e6)
    assert (space.stem, space.class_token, space.pooling, space.relative_position) == ("conv", False, "mean", True)


@pytest.mark.parametrize("name", COMPACT)
def test_every_network_of_a_compact_space_has_a_deep_stem_kernels_and_a_halved_grid(name: str) -> None:
    space, rng = SearchSpace.preset(name), random.Random(0)
    for architecture in (space.smallest, space.largest, *(space.sample(rng) for _ in range(20))):
        assert architecture.stem_depth == 1
        assert set(architecture.kernels) == {3}
        assert architecture.pool_after in (1, 2)


@pytest.mark.parametrize("name", COMPACT)
def test_grids_of_compact_spaces_are_even_and_their_distances_have_rows_of_their_own(name: str) -> None:
    space = SearchSpace.preset(name)
    grids = {size // patch for size in space.image_sizes for patch in space.patch_choices}
    assert all(grid % 2 == 0 for grid in grids)
    assert space.max_relative_position == max(grids) - 1
    assert 6 <= max(grids) <= 12


def test_a_compact_space_follows_the_image_size_where_its_patches_divide_it() -> None:
    assert SearchSpace.preset("compact-32", image_size=48, in_chans=1, num_classes=3).stored_grid == 12
    assert SearchSpace.preset("compact-96", image_size=128).image_sizes == (128,)
    with pytest.raises(ArchitectureError, match=r"28 in patches of 4 px gives 7 patches a side.*multiple of 8 px") as raised:
        SearchSpace.preset("compact-32", image_size=28)
    assert "\n" not in str(raised.value)
    with pytest.raises(ArchitectureError, match=r"72 in patches of 8 px gives 9 patches a side.*multiple of 16 px"):
        SearchSpace.preset("compact-96", image_size=72)


@pytest.mark.parametrize("name", COMPACT)
def test_networks_of_a_compact_space_compute_logits_with_the_counted_params(name: str) -> None:
    space = SearchSpace.preset(name)
    for architecture in (space.smallest, space.largest):
        subnet = Subnet.from_space(space, architecture).eval()
        assert sum(weight.numel() for weight in subnet.parameters()) == count_params(architecture, space)
        with torch.no_grad():
            assert subnet(torch.zeros(1, 3, space.image_size, space.image_size)).shape == (1, 10)


def test_the_table_of_presets_in_the_documentation_is_what_they_are() -> None:
    text = (Path(__file__).parents[2] / "docs" / "spaces.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")]
    told = {cells[0].strip("`"): cells[2:] for cells in rows if len(cells) == 6}
    assert told == {
        name: [
            ", ".join(map(str, space.image_sizes)),
            *(f"{values[0]} to {values[-1]}" for values in (space.embed_dims, space.depths)),
            ", ".join(show("flops", count_flops(network, space)) for network in (space.smallest, space.largest)),
        ]
        for name, space in PRESETS.items()
    }
