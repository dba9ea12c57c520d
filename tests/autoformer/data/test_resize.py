"""The resize rule is that of torch, at whatever size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.data.preprocessing import resize_matrix


@pytest.mark.parametrize(("old", "new"), [(224, 160), (64, 48), (8, 4), (9, 5), (32, 32)])
def test_the_resize_rule_is_antialiased_linear_interpolation_as_torch_has_it(old: int, new: int) -> None:
    image = torch.rand(2, 3, old, old)
    matrix = torch.from_numpy(resize_matrix(old, new))
    expected = torch.nn.functional.interpolate(image, (new, new), mode="bilinear", antialias=True, align_corners=False)
    assert torch.allclose(matrix @ image @ matrix.T, expected, atol=1e-5)


def test_preprocessing_for_a_smaller_network_equals_resizing_the_larger_input() -> None:
    parts = load_parts(DataConfig())
    full, small = parts.preprocessing, replace(parts.preprocessing, network_size=6)
    image = parts.train[0][0]
    matrix = resize_matrix(8, 6)
    assert np.allclose(small(image), matrix @ full(image) @ matrix.T, atol=1e-6)
    assert small(image).shape == (1, 6, 6)
