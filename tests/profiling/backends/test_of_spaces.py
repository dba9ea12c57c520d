"""Networks of a space as they are timed: fresh weights, the same every time, however they were made."""

from __future__ import annotations

import pytest
import torch

from autoformer.networks.subnet import Subnet
from autoformer.networks.unfilled import Unfilled
from autoformer.profiling.backends.of_spaces import fresh_network
from autoformer.space import SearchSpace


def test_a_network_made_without_initial_weights_gets_the_ones_of_all_others() -> None:
    space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
    with torch.device("meta"), Unfilled():
        empty = Subnet.from_space(space, space.smallest)
    assert {weights.device.type for weights in empty.parameters()} == {"meta"}
    assert all(weights.requires_grad for weights in empty.parameters())
    one, other = fresh_network(space, space.smallest).state_dict(), fresh_network(space, space.smallest).state_dict()
    whole = Subnet.from_space(space, space.smallest).state_dict()
    assert {name: values.shape for name, values in one.items()} == {name: values.shape for name, values in whole.items()}
    assert all(torch.equal(values, other[name]) and values.isfinite().all() for name, values in one.items())
    assert one["head.weight"].std() == pytest.approx(0.02, rel=0.2)


def test_weights_elsewhere_are_filled_as_ever() -> None:
    with Unfilled():
        assert torch.empty(3).fill_(2.0).tolist() == [2.0, 2.0, 2.0]
        assert torch.nn.Linear(100, 100).weight.std() > 0
