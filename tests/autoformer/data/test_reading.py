"""What a network's preprocessing takes from many images."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from autoformer.data.reading import sampled_preprocessing
from autoformer.errors import DataError

COUNT = 40


@dataclass
class Watched:
    """Images of one colour each, 24 × 30 px, that know how many of them are held at a time; some cannot be read."""

    broken: tuple[int, ...] = ()
    held: int = 0
    most: int = 0
    labels = (0, 1) * (COUNT // 2)

    def open(self, index: int) -> Image.Image:
        if index in self.broken:
            raise DataError(f"image {index} cannot be read")
        image = Image.new("RGB", (24, 30), (index, 2 * index, 255 - index))
        self.held += 1
        self.most = max(self.most, self.held)
        weakref.finalize(image, self._let_go)
        return image

    def _let_go(self) -> None:
        self.held -= 1

    def identity(self, index: int) -> str:
        return str(index)

    def name(self, index: int) -> None:
        return None


def test_images_are_held_one_at_a_time_and_measured_all_together() -> None:
    """512 photographs of a telephone are 18 GB."""
    images, indices = Watched(broken=(3, 4)), range(COUNT)
    found, typical = sampled_preprocessing(
        images, indices, image_size=None, max_image_size=224, crop_pct=1.0, skip_unreadable=True, most=COUNT
    )
    assert images.most <= 2
    assert (found.image_size, found.in_chans, typical) == (24, 3, 24)
    colours = np.array([(index, 2 * index, 255 - index) for index in indices if index not in images.broken]) / 255
    np.testing.assert_allclose(found.mean, colours.mean(0), atol=1e-4)
    np.testing.assert_allclose(found.std, colours.std(0), atol=1e-4)


def test_the_first_image_that_cannot_be_read_is_named_with_the_way_to_leave_it_out() -> None:
    def sampled(*broken: int, skip: bool) -> None:
        sampled_preprocessing(
            Watched(broken), range(COUNT), image_size=24, max_image_size=224, crop_pct=1.0, skip_unreadable=skip
        )

    with pytest.raises(DataError, match=r"^image 3 cannot be read, or leave out .*: --set data.unreadable=skip$"):
        sampled(3, 4, skip=False)
    with pytest.raises(DataError, match=r"^image 39 cannot be read$"):
        sampled(*range(COUNT), skip=True)
