"""`SearchSpace`: membership, drawing and varying, the paper's presets."""

from __future__ import annotations

import collections
import itertools
import json
import random
from dataclasses import replace
from typing import Any

import pytest
import yaml

from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES, Architecture
from autoformer.cost import count_flops
from autoformer.errors import ArchitectureError
from autoformer.space import PRESETS, SearchSpace, patch_for

TOY = SearchSpace(
    name="toy", embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1, 2), head_dim=4, image_sizes=(8, 16),
    patch_size=4,
)  # fmt: skip


def members(space: SearchSpace) -> set[Architecture]:
    """Every architecture, by enumeration."""
    sizes = space.image_sizes if len(space.image_sizes) > 1 else (None,)
    return {
        Architecture(embed_dim=width, num_heads=heads, mlp_ratio=ratios, image_size=size)
        for width in space.embed_dims
        for depth in space.depths
        for heads in itertools.product(space.num_heads, repeat=depth)
        for ratios in itertools.product(space.mlp_ratios, repeat=depth)
        for size in sizes
    }


def test_the_size_is_the_number_of_members() -> None:
    everything = members(TOY)
    assert TOY.size == len(everything) == 80
    assert all(TOY.contains(architecture) for architecture in everything)


# The released YAML files: widths × Σ over depths of (heads × ratios)^depth.
@pytest.mark.parametrize(
    ("name", "changes", "size"),
    [
        ("tiny", {"mlp_ratios": (3.5, 4.0)}, 3 * (4**12 + 4**13 + 4**14)),
        ("small", {}, 77_103_263_459_313),
        ("base", {"num_heads": (9, 10)}, 10_108_977_168_384),
    ],
)
def test_the_released_spaces_have_as_many_networks_as_a_calculation_by_hand_gives(
    name: str, changes: dict[str, Any], size: int
) -> None:
    assert replace(SearchSpace.preset(name), **changes).size == size


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_are_members(name: str) -> None:
    assert SearchSpace.preset(PUBLISHED_SPACES[name]).contains(PUBLISHED[name])


def test_stored_widths_of_the_papers_spaces_are_those_of_the_released_weights() -> None:
    stored = {
        name: (space.stored_embed_dim, space.stored_qkv_dim, space.stored_hidden_dim, space.depths[-1])
        for name, space in PRESETS.items()
        if name in ("tiny", "small", "base")
    }
    assert stored == {"tiny": (256, 256, 1024, 14), "small": (448, 448, 1792, 14), "base": (640, 640, 2560, 16)}


def test_sampling_reaches_every_choice_about_equally_often() -> None:
    rng = random.Random(0)
    drawn = [TOY.sample(rng) for _ in range(4000)]
    assert set(drawn) == members(TOY)
    for name in ("embed_dim", "depth", "image_size"):
        counts = collections.Counter(getattr(architecture, name) for architecture in drawn)
        assert all(abs(count - 2000) < 150 for count in counts.values())  # 4.7 standard deviations


@pytest.mark.parametrize("name", PRESETS)
def test_sampled_mutated_and_crossed_architectures_are_members(name: str) -> None:
    space, rng = SearchSpace.preset(name), random.Random(1)
    for _ in range(200):
        first, second = space.sample(rng), space.sample(rng)
        space.check(first)
        space.check(space.mutate(first, rng))
        space.check(space.crossover(first, second, rng))
    for anchor in space.anchors.values():
        space.check(anchor)


def test_the_same_random_state_draws_the_same_architectures() -> None:
    draws = [[TOY.sample(rng) for _ in range(5)] for rng in (random.Random(3), random.Random(3))]
    assert draws[0] == draws[1]


def test_mutation_with_probability_zero_changes_nothing_and_with_one_everything_in_reach() -> None:
    rng, start = random.Random(0), TOY.smallest
    assert TOY.mutate(start, rng, shape_probability=0, block_probability=0) == start
    reached = {TOY.mutate(start, rng, shape_probability=1, block_probability=1) for _ in range(3000)}
    assert reached == members(TOY)


def test_crossover_takes_every_choice_from_a_parent() -> None:
    rng = random.Random(0)
    children = {TOY.crossover(TOY.smallest, TOY.largest, rng) for _ in range(500)}
    assert {child.depth for child in children} == {1, 2}
    for child in children:
        assert (child.num_heads[0], child.mlp_ratio[0]) in ((1, 1.0), (2, 2.0))  # a block stays together
        if child.depth == 2:
            assert (child.num_heads[1], child.mlp_ratio[1]) == (2, 2.0)  # only the deeper parent has it
    equal = TOY.smallest
    assert TOY.crossover(equal, equal, rng) == equal


def test_smallest_and_largest_bound_the_flops_of_every_member() -> None:
    flops = [count_flops(architecture, TOY) for architecture in members(TOY)]
    assert min(flops) == count_flops(TOY.smallest, TOY)
    assert max(flops) == count_flops(TOY.largest, TOY)


def test_edge_spans_at_least_six_times_in_flops() -> None:
    space = SearchSpace.preset("edge")
    assert count_flops(space.largest, space) >= 6 * count_flops(space.smallest, space)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (Architecture(embed_dim=12, num_heads=(1,), mlp_ratio=(1,), image_size=8), r"embed_dim 12, choices \(8, 16\)"),
        (Architecture(embed_dim=8, num_heads=(1,) * 3, mlp_ratio=(1,) * 3, image_size=8), "depth 3"),
        (Architecture(embed_dim=8, num_heads=(3,), mlp_ratio=(1,), image_size=8), "num_heads 3"),
        (Architecture(embed_dim=8, num_heads=(1,), mlp_ratio=(1.5,), image_size=8), r"mlp_ratio 1\.5"),
        (Architecture(embed_dim=8, num_heads=(1,), mlp_ratio=(1,), image_size=32), "image_size 32"),
        (Architecture(embed_dim=8, num_heads=(1,), mlp_ratio=(1,)), "image_size is missing"),
    ],
)
def test_the_objection_names_the_choice(architecture: Architecture, message: str) -> None:
    assert not TOY.contains(architecture)
    with pytest.raises(ArchitectureError, match=message):
        TOY.check(architecture)


def test_an_image_size_is_left_out_where_there_is_only_one() -> None:
    space = replace(TOY, image_sizes=(8,))
    with pytest.raises(ArchitectureError, match="only one: leave it out"):
        space.check(Architecture(embed_dim=8, num_heads=(1,), mlp_ratio=(1,), image_size=8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dims": ()}, "embed_dims needs at least one positive choice"),
        ({"num_heads": (0,)}, "num_heads needs at least one positive choice"),
        ({"mlp_ratios": (0,)}, "mlp_ratios needs at least one positive choice"),
        ({"num_heads": (-1, 1)}, "num_heads takes whole numbers from 0"),
        ({"embed_dims": (0, 16)}, "embed_dims needs at least one positive choice"),
        ({"head_dims": (2, 8)}, "head_dim 4, in which the weights are stored, is none of head_dims"),
        ({"head_dims": (4, 8)}, "head_dim 4, in which the weights are stored, is not the largest"),
        ({"head_dims": (2, 4), "sharing": "classical"}, "classical sharing knows no head_dim"),
        ({"num_heads": (0, 1), "sharing": "classical"}, "classical sharing knows no absent attention or MLP"),
        ({"mean_shift": True, "sharing": "classical"}, "classical sharing knows no mean_shift"),
        ({"mean_shift": 1}, "mean_shift must be true or false"),
        ({"head_dims": (2, 4), "prefix_qkv_bias": True}, "prefix_qkv_bias knows whole heads only"),
        ({"image_sizes": (10,)}, "image size 10 is not a multiple of patch size 4"),
        ({"super_embed_dim": 12}, "super_embed_dim 12 is below the widest choice 16"),
        ({"head_dim": 0}, "head_dim must be positive"),
        ({"pooling": "max"}, "expected 'mean' or 'token'"),
        ({"sharing": "none"}, "expected 'entangled' or 'classical'"),
        ({"sharing": "classical", "prefix_qkv_bias": True}, "belong to entangled weights"),
        ({"scale_by_width": True}, "give one choice"),
    ],
)
def test_impossible_spaces_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        replace(TOY, **changes)


def test_choices_are_sorted_and_repeated_ones_dropped() -> None:
    assert replace(TOY, embed_dims=(16, 8, 16)) == TOY


@pytest.mark.parametrize("space", [TOY, *PRESETS.values()])
def test_json_gives_the_same_space_back(space: SearchSpace) -> None:
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_foreign_json_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"unknown keys \['widths'\]"):
        SearchSpace.from_dict({**TOY.to_dict(), "widths": [8]})
    with pytest.raises(ArchitectureError, match=r"missing keys \['depths'\]"):
        SearchSpace.from_dict({key: value for key, value in TOY.to_dict().items() if key != "depths"})
    with pytest.raises(ArchitectureError, match="not a search space"):
        SearchSpace.from_dict({**TOY.to_dict(), "embed_dims": 8})


def test_unknown_presets_list_the_known_ones() -> None:
    with pytest.raises(ArchitectureError, match="known are micro, tiny, small, base, edge"):
        SearchSpace.preset("huge")


def test_presets_take_the_size_channels_and_classes_of_the_data() -> None:
    space = SearchSpace.preset("micro", image_size=28, in_chans=1, num_classes=26)
    assert (space.image_sizes, space.patch_size, space.in_chans, space.num_classes) == ((28,), 4, 1, 26)
    assert SearchSpace.preset("tiny", image_size=384).image_sizes == (384,)
    with pytest.raises(ArchitectureError, match="not a multiple of patch size 16"):
        SearchSpace.preset("tiny", image_size=225)


@pytest.mark.parametrize(("image", "patch"), [(8, 2), (28, 4), (32, 4), (20, 4), (64, 8), (49, 7)])
def test_small_images_are_cut_into_four_to_eight_patches_a_side(image: int, patch: int) -> None:
    assert patch_for(image) == patch


def test_an_image_size_that_no_grid_divides_is_refused_with_the_next_size() -> None:
    with pytest.raises(ArchitectureError, match=r"13 px; set data\.image_size to 8"):
        patch_for(13)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", None), ("name", 3), ("embed_dims", 32), ("embed_dims", "48"), ("depths", {2: 3}), ("num_heads", [[1], [2]]),
        ("mlp_ratios", [True]), ("mlp_ratios", ["2"]), ("image_sizes", None), ("relative_position", "no"),
        ("absolute_position", 0.0), ("scale_by_width", 0), ("prefix_qkv_bias", None), ("any_up_to_largest", "true"),
        ("norm_eps", True), ("norm_eps", "small"), ("norm_eps", None), ("norm_eps", [1e-6]), ("pooling", ["mean"]),
        ("sharing", 1), ("head_dim", 4.0), ("num_classes", True),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_names_its_field_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(ArchitectureError, match=name) as caught:
        SearchSpace.from_dict({**TOY.to_dict(), name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_an_epsilon_that_yaml_reads_as_a_text_is_a_number() -> None:
    assert yaml.safe_load("1e-6") == "1e-6"
    assert SearchSpace.from_dict({**TOY.to_dict(), "norm_eps": "1e-6"}).norm_eps == 1e-6


def test_a_preset_keeps_its_classes_and_channels_unless_others_are_given() -> None:
    assert SearchSpace.preset("micro", image_size=16).num_classes == PRESETS["micro"].num_classes == 10
    assert SearchSpace.preset("micro", num_classes=0).num_classes == 0


def test_choices_that_change_nothing_make_equal_spaces() -> None:
    plain = replace(TOY, patch_size=4, image_sizes=(16,))
    assert replace(plain, patch_sizes=(4,)) == plain
    assert replace(plain, stem_dim=64) == plain
    assert replace(plain, stem_dim=64).to_dict() == plain.to_dict()
    assert replace(plain, stem="conv", stem_dim=64) != replace(plain, stem="conv")


@pytest.mark.parametrize("kernel", [1, 2, 4, -1, 17])
def test_kernels_see_neighbours_and_keep_the_grid(kernel: int) -> None:
    with pytest.raises(ArchitectureError, match="mlp_kernels"):
        replace(TOY, mlp_kernels=(0, kernel))
    with pytest.raises(ArchitectureError, match="mlp_kernel must be 0, or odd from 3 to 15"):
        Architecture(embed_dim=8, num_heads=(1,), mlp_ratio=(1.0,), mlp_kernel=(kernel,))
