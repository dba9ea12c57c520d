"""How large images are: counted as numpy counts them, and at which size they would be trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoformer.data.check import check_data
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.data.sizes import BOUNDS, ImageSizes, TrainingSize, fitting_size
from tests.support.small_images import draw_images


def drawn(root: Path, sizes: dict[str, list[tuple[int, int]]]) -> Path:
    """A folder of classes whose images, all different, have these widths and heights."""
    rng = np.random.default_rng(0)
    for name, every in sizes.items():
        (root / name).mkdir(parents=True)
        for index, (width, height) in enumerate(every):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((width, height)).save(root / name / f"{index:02d}.jpg")
    return root


def test_shorter_sides_are_counted_in_classes_without_gaps() -> None:
    rng = np.random.default_rng(1)
    sizes = [(int(width), int(height)) for width, height in rng.integers(20, 3000, (500, 2))]
    found = ImageSizes.of(sizes)
    assert found is not None
    shorter = np.minimum(*np.array(sizes).T)
    expected, edges = np.histogram(shorter, BOUNDS)
    counted = {one.low: one.images for one in found.shorter_sides}
    assert {int(edge): int(count) for edge, count in zip(edges, expected, strict=False) if count} == {
        low: count for low, count in counted.items() if count
    }
    assert [one.high for one in found.shorter_sides[:-1]] == [one.low for one in found.shorter_sides[1:]]
    assert found.typical == int(np.sort(shorter)[250])
    assert ImageSizes.of([]) is None


def test_bounds_double_every_second_time() -> None:
    assert [bound for bound in BOUNDS if 60 < bound < 600] == [64, 96, 128, 192, 256, 384, 512]


@pytest.mark.parametrize(("typical", "most", "expected"), [(8, 64, 8), (28, 64, 24), (5, 64, 8), (500, 64, 64), (500, 224, 224)])
def test_a_size_is_a_multiple_of_8_up_to_the_largest_that_is_taken_unasked(typical: int, most: int, expected: int) -> None:
    assert fitting_size(typical, most) == expected


def test_a_check_counts_the_sizes_of_all_images_as_they_are_seen(tmp_path: Path) -> None:
    drawn(tmp_path, {"a": [(300, 200)] * 6, "b": [(90, 120)] * 5 + [(1000, 700)]})
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.new("RGB", (400, 250), (9, 200, 9)).save(tmp_path / "b" / "turned.jpg", exif=turned)
    sizes = check_data(DataConfig(source=str(tmp_path)), near=False).sizes
    assert sizes is not None
    assert {(one.low, one.high): one.images for one in sizes.shorter_sides if one.images} == {
        (64, 96): 5, (192, 256): 7, (512, 768): 1,
    }  # fmt: skip
    assert [(one.width, one.height, one.images) for one in sizes.most_common] == [(300, 200, 6), (90, 120, 5), (250, 400, 1)]


@pytest.mark.parametrize(
    ("changes", "pixels", "said"),
    [
        ({}, 64, "the shorter side of the train images is 200 px (median), and data.max_image_size=64"),
        ({"max_image_size": 512}, 200, "the shorter side of the train images is 200 px (median)"),
        ({"image_size": 96}, 96, "data.image_size=96 asks for it"),
    ],
)
def test_the_size_that_settings_lead_to_is_said_with_its_reason(
    tmp_path: Path, changes: dict[str, int], pixels: int, said: str
) -> None:
    drawn(tmp_path, {"a": [(300, 200)] * 6, "b": [(250, 200)] * 6})
    config = DataConfig(source=str(tmp_path), **changes)
    size = check_data(config, near=False).training_size
    assert size is not None
    assert size.pixels == pixels == load_parts(config).preprocessing.image_size
    assert said in size.reason


def test_photographs_shrunk_far_below_their_size_are_told_with_what_keeps_more(tmp_path: Path) -> None:
    drawn(tmp_path, {"a": [(700, 640)] * 6, "b": [(300, 256)] * 6})
    config = DataConfig(source=str(tmp_path))
    (found,) = [one for one in check_data(config, near=False).findings if one.kind == "shrunk"]
    assert found.count == 6  # 256 is four times 64, and no more
    assert found.consequence == (
        "shrunk to 1/10 of their side (median), and what is smaller than that is lost; --set data.image_size=128 keeps more of "
        "it, at about 4 times the time"
    )
    larger = check_data(config, near=False, choose_size=lambda parts: TrainingSize(pixels=224, reason="asked"))
    assert "shrunk" not in [one.kind for one in larger.findings]
    assert larger.training_size == TrainingSize(pixels=224, reason="asked")


def test_images_far_below_the_size_that_is_chosen_are_told_too(tmp_path: Path) -> None:
    draw_images(tmp_path, ("a", "b"), each=6, size=40)
    config = DataConfig(source=str(tmp_path))
    assert "small" not in [one.kind for one in check_data(config, near=False).findings]
    larger = check_data(config, near=False, choose_size=lambda parts: TrainingSize(pixels=224, reason="asked"))
    (found,) = [one for one in larger.findings if one.kind == "small"]
    assert (found.count, found.text) == (12, "shorter side below half of the 224 pixels that networks take")
