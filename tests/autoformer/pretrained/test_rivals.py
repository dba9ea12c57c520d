"""Who races against a searched network, at which image sizes, and how few measurements the largest size takes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import pytest
import timm
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from autoformer.data.loading import split_dataset
from autoformer.data.parts import DataConfig, DataParts
from autoformer.pretrained.classifier import classifier_from
from autoformer.pretrained.rivals import default_rivals, largest_within, sizes_for, smaller_sibling

BANDS = (16, 128)  # the smallest images of each list
SIDES = range(1, 400)


def parts_of(size: int) -> DataParts:
    images = [(Image.new("RGB", (size, size), colour), label) for label, colour in enumerate(("red", "green"))] * 12
    return split_dataset(images, classes=("red", "green"), config=DataConfig(image_size=size))


def flops(words: str, size: int) -> int:
    """Counted by torch while the network runs on shapes alone."""
    with torch.device("meta"):
        try:
            network = timm.create_model(words.removeprefix("timm:").removesuffix("@scratch"), num_classes=10, img_size=size)
        except TypeError:
            network = timm.create_model(words.removeprefix("timm:").removesuffix("@scratch"), num_classes=10)
        with FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops())


@pytest.mark.parametrize("image_size", range(1, 16))
def test_tiny_images_have_no_rivals(image_size: int) -> None:
    assert default_rivals(image_size, pretrained=False) == default_rivals(image_size, pretrained=True) == ()


@pytest.mark.parametrize("image_size", [16, 28, 47, 48, 64, 127, 128, 224, 512])
def test_rivals_are_few_and_start_as_the_parent_did(image_size: int) -> None:
    fresh, trained = default_rivals(image_size, pretrained=False), default_rivals(image_size, pretrained=True)
    assert 4 <= len(set(fresh)) == len(fresh) <= 6
    assert all(words.startswith("timm:") and words.endswith("@scratch") for words in fresh)
    offered = timm.list_pretrained()
    assert all(words.removeprefix("timm:") in offered for words in trained), "a full name of weights that timm has"
    assert [words.partition("@")[0] for words in fresh] == [words.partition(".")[0] for words in trained]


@pytest.mark.slow
@pytest.mark.parametrize("image_size", BANDS)
def test_every_rival_can_be_trained_at_the_smallest_size_of_its_band(image_size: int) -> None:
    smallest = sizes_for(image_size)[0]
    for words in default_rivals(image_size, pretrained=False):
        made, _, new_head = classifier_from(words, parts_of(smallest))
        assert new_head
        made.network.train()(torch.zeros(2, 3, smallest, smallest)).sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("image_size", BANDS)
def test_rivals_reach_from_very_small_to_small(image_size: int) -> None:
    costs = [flops(words, sizes_for(image_size)[0]) for words in default_rivals(image_size, pretrained=False)]
    assert max(costs) > 8 * min(costs)


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [(28, (32, 64)), (32, (32, 64)), (33, (64, 96, 128)), (64, (64, 96, 128)), (96, (96, 128, 160, 192)),
     (160, (160, 192, 224)), (224, (224,)), (225, (256,)), (384, (384,))],
)  # fmt: skip
def test_sizes_go_from_that_of_the_data_to_its_double_up_to_224_px(image_size: int, expected: tuple[int, ...]) -> None:
    assert sizes_for(image_size) == expected


def test_no_size_loses_pixels_or_is_no_multiple_of_32() -> None:
    for side in SIDES:
        sizes = sizes_for(side)
        assert side <= sizes[0] < side + 32
        assert sizes == tuple(sorted(set(sizes)))
        assert all(size % 32 == 0 for size in sizes)
        assert len(sizes) == 1 or sizes[-1] <= 224


def race(limit_ms: float, truth: Mapping[int, float] | Callable[[int], float], sizes: tuple[int, ...]) -> tuple[int | None, int]:
    """Measures as the function asks, until it is done: its answer, and how many sizes were measured."""
    times: dict[int, float] = {}
    while (size := largest_within(limit_ms, times, sizes)) is not None and size not in times:
        assert size in sizes
        times[size] = truth(size) if callable(truth) else truth[size]
        assert len(times) <= 3, "at most three measurements"
    return size, len(times)


def test_a_time_that_is_a_line_in_the_pixels_gives_the_largest_size_that_keeps_the_limit() -> None:
    draw = random.Random(0)
    seen = set()
    for _ in range(3000):
        sizes = sizes_for(draw.choice(SIDES))
        base, slope, limit = draw.uniform(0, 2), draw.uniform(1e-6, 5e-4), draw.uniform(0.1, 6)
        truth = {size: base + slope * size**2 for size in sizes}
        answer, _ = race(limit, truth, sizes)
        assert answer == max((size for size in sizes if truth[size] <= limit), default=None)
        seen.add(None if answer is None else sizes.index(answer))
    assert seen == {None, 0, 1, 2, 3}, "every kind of answer was asked for"


def test_whatever_the_times_are_an_answer_keeps_the_limit_and_only_a_rival_too_slow_at_its_smallest_stays_out() -> None:
    draw = random.Random(1)
    for _ in range(3000):
        sizes = sizes_for(draw.choice(SIDES))
        truth = {size: draw.choice((draw.uniform(0.1, 4), math.inf)) for size in sizes}
        answer, _ = race(2.0, truth, sizes)
        assert (answer is None) == (truth[sizes[0]] > 2)
        assert answer is None or truth[answer] <= 2


def test_of_a_time_that_rises_faster_than_the_pixels_a_larger_limit_never_gives_a_smaller_size() -> None:
    draw = random.Random(2)
    for _ in range(300):
        base, slope, bend = draw.uniform(0, 1), draw.uniform(1e-6, 5e-5), draw.uniform(0, 3e-9)
        sizes = sizes_for(draw.choice(SIDES))
        truth = {size: base + slope * size**2 + bend * size**4 for size in sizes}
        limits = sorted([*truth.values(), *(draw.uniform(0, 2 * truth[sizes[-1]]) for _ in range(20))])
        answers = [race(limit, truth, sizes)[0] or 0 for limit in limits]
        assert answers == sorted(answers)
        assert answers[limits.index(truth[sizes[0]])] == sizes[0], "a time that is the limit keeps it"
        assert answers[-1] == race(truth[sizes[-1]], truth, sizes)[0] == sizes[-1]


def test_a_rival_that_is_too_slow_or_quick_enough_at_once_takes_one_or_two_measurements() -> None:
    sizes = (96, 128, 160, 192)
    assert race(1.0, lambda size: 1.01, sizes) == (None, 1)
    assert race(1.0, lambda size: 0.5, sizes) == (192, 2)
    assert race(1.0, lambda size: 0.5, (224,)) == (224, 1)
    assert race(1.0, {32: 0.9, 64: 1.1}, (32, 64)) == (32, 2)


def test_the_line_through_two_measured_sizes_is_followed_as_by_hand() -> None:
    # 0.5 + 0.5 * (pixels - 96²) / (192² - 96²): 128 px take 0.630 ms, 160 px 0.796 ms
    times = {96: 0.5, 192: 1.0}
    assert [largest_within(limit, times, (96, 128, 160, 192)) for limit in (0.62, 0.64, 0.79, 0.80)] == [96, 128, 128, 160]


@pytest.mark.parametrize(
    ("parent", "sibling"),
    [
        ("vit_small_patch16_224.augreg_in21k_ft_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
        ("vit_large_patch16_384.augreg_in21k_ft_in1k", "vit_base_patch16_384.augreg_in21k_ft_in1k"),
        ("deit_base_patch16_224.fb_in1k", "deit_small_patch16_224.fb_in1k"),
        ("deit_small_patch16_224.fb_in1k", "deit_tiny_patch16_224.fb_in1k"),
        ("deit_base_distilled_patch16_224.fb_in1k", "deit_small_distilled_patch16_224.fb_in1k"),
        ("deit3_base_patch16_224.fb_in22k_ft_in1k", "deit3_medium_patch16_224.fb_in22k_ft_in1k"),
        ("vit_base_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2.lvd142m"),
        ("vit_base_patch8_224.dino", "vit_small_patch8_224.dino"),
    ],
)
def test_a_sibling_is_the_next_smaller_network_with_the_same_tag(parent: str, sibling: str) -> None:
    assert smaller_sibling(parent) == sibling


@pytest.mark.parametrize(
    ("parent", "sibling"),
    [
        ("deit3_base_patch16_384.fb_in1k", "deit3_small_patch16_384.fb_in1k"),  # no medium one of 384 px
        ("vit_small_patch16_224.augreg_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),  # no tiny one of this tag
        ("vit_base_patch16_224.mae", "vit_small_patch16_224.augreg_in21k_ft_in1k"),
        ("convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384", "convnext_small.fb_in22k_ft_in1k_384"),  # the usual one: 224 px
        ("vit_small_patch16_224", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),  # timm's usual weights of either
    ],
)
def test_where_a_size_or_a_tag_is_missing_the_next_one_is_taken(parent: str, sibling: str) -> None:
    assert smaller_sibling(parent) == sibling


@pytest.mark.parametrize(
    "parent",
    [
        "vit_tiny_patch16_224.augreg_in21k", "deit3_small_patch16_224.fb_in1k", "vit_small_patch14_dinov2.lvd142m",
        "vit_base_patch16_siglip_224.webli",  # nothing smaller
        "resnet18.a1_in1k", "vit_base_patch16_224.no_such_tag", "vit_base_patch99_224", "vit_*_patch16_224", "", "runs/finetune",
        "timm:vit_small_patch16_224@scratch",
    ],
)  # fmt: skip
def test_what_has_no_smaller_pretrained_network_has_no_sibling(parent: str) -> None:
    assert smaller_sibling(parent) is None


def test_words_give_words_and_a_file_is_left_behind() -> None:
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert smaller_sibling("timm:vit_small_patch16_224.augreg_in21k_ft_in1k") == f"timm:{name}"
    assert smaller_sibling("timm:vit_small_patch16_224@weights/of.mine.safetensors") == f"timm:{name}"
    assert smaller_sibling("vit_small_patch16_224@weights.pth") == name


@pytest.mark.slow
def test_siblings_of_all_vision_transformers_of_timm_differ_in_the_word_for_their_size_alone_and_are_smaller() -> None:
    found = {name: other for name in timm.list_pretrained(["vit_*", "deit*"]) if (other := smaller_sibling(name))}
    assert len(found) > 50
    for name, other in found.items():
        own, smaller = name.partition(".")[0].split("_"), other.partition(".")[0].split("_")
        assert sum(a != b for a, b in zip(own, smaller, strict=True)) == 1
        assert timm.get_pretrained_cfg(name).input_size == timm.get_pretrained_cfg(other).input_size
    pairs = {(name.partition(".")[0], other.partition(".")[0]) for name, other in found.items()}
    quick = [pair for pair in pairs if pair[0].endswith("_patch16_224") and "large" not in pair[0]]
    assert len(quick) >= 5
    for pair in quick:
        with torch.device("meta"):
            more, fewer = (sum(p.numel() for p in timm.create_model(name).parameters()) for name in pair)
        assert fewer < more, pair
