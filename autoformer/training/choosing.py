"""Which networks of a supernet a step trains, and what becomes of the weights outside them.

Every choice is a function of (seed, step): the same in every process without a word between them, the same after a resume,
and untouched by the loader's random numbers.

* uniform: one network, every choice drawn alone (AutoFormer, section 3.2);
* sandwich: the largest, the smallest and a few between (BigNAS, arXiv 2003.11142, section 3.1), so that the edges of the space
  are trained in every step;
* stratified: one network, its range of parameters drawn first and the network within it second. Uniform choices pile up in
  the middle of the space; here the small and the large get their share;
* preferred: one of a given list.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from autoformer.architecture import Architecture
from autoformer.cost import Budget, ExactCosts
from autoformer.drawing.budgeted import Candidates
from autoformer.errors import ArchitectureError, BudgetError
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace
from autoformer.training.config import SubnetsConfig, read_preferred

Choose = Callable[[int], tuple[Architecture | None, ...]]  # step to the networks it trains; None: the only one there is


def only_one(step: int) -> tuple[None]:
    """The choice where there is none: a network that is not a supernet."""
    return (None,)


def chooser(config: SubnetsConfig, space: SearchSpace, seed: int) -> Choose:
    """What each step trains. Raises `ArchitectureError` when a preferred network is not in the space."""

    def rng(step: int) -> random.Random:
        return random.Random(f"{seed}/architecture/{step}")

    if config.strategy == "sandwich":
        edges = (space.largest, space.narrowest) if space.narrowest != space.largest else (space.largest,)

        def sandwich(step: int) -> tuple[Architecture, ...]:
            own = rng(step)
            return (*edges, *(space.sample(own) for _ in range(config.between)))

        return sandwich
    if config.strategy == "stratified":
        strata = [Candidates(space, ExactCosts(space), budget) for budget in parameter_strata(space, config.strata)]

        def stratified(step: int) -> tuple[Architecture, ...]:
            own = rng(step)
            return (own.choice(strata).draw(own)[0],)

        return stratified
    if config.strategy == "preferred":
        preferred = [read_preferred(architecture) for architecture in config.preferred]
        for architecture in preferred:
            space.check(architecture)
        return lambda step: (rng(step).choice(preferred),)
    return lambda step: (space.sample(rng(step)),)


def parameter_strata(space: SearchSpace, count: int) -> list[Budget]:
    """`count` equally wide ranges of parameters from the smallest network to the largest, less those that hold none.

    Raises `ArchitectureError` when fewer than two are left: all networks are alike.
    """
    costs = ExactCosts(space)
    low, high = costs(space.smallest).params, costs(space.largest).params
    if low == high:
        raise ArchitectureError(f"the networks of space {space.name!r} are too alike for {count} ranges of parameters")
    limits = [low + (high - low) * index // count for index in range(count + 1)]
    found = []
    for least, most in pairwise(limits):
        budget = Budget(min_params=least, max_params=most)
        try:
            Candidates(space, costs, budget).draw(random.Random(0))
        except BudgetError:
            continue
        found.append(budget)
    if len(found) < 2:
        raise ArchitectureError(f"the networks of space {space.name!r} are too alike for {count} ranges of parameters")
    return found


def used_weights(supernet: Supernet, architectures: Sequence[Architecture]) -> dict[nn.Parameter, Tensor]:
    """Which numbers of each weight some of these networks use, as boolean masks; weights that none uses are left out."""
    weights = list(supernet.parameters())
    used: dict[nn.Parameter, Tensor] = {}
    for architecture in architectures:
        # The gradient of a weighted sum of all slices differs from zero exactly where they lie: slicing itself draws the masks.
        # The weights are such that no two cancel, also where a slice is made from several numbers.
        with torch.enable_grad():
            total = torch.stack([(part * unequal(part)).sum() for _, part in supernet.slices(architecture)]).sum()
        for weight, gradient in zip(weights, torch.autograd.grad(total, weights, allow_unused=True), strict=True):
            if gradient is not None:
                used[weight] = (gradient != 0) | used.get(weight, torch.zeros_like(gradient, dtype=torch.bool))
    return used


def unequal(like: Tensor) -> Tensor:
    """Numbers of the same shape of which none is zero, and no few add up to zero."""
    return torch.arange(1, like.numel() + 1, device=like.device).sin().view(like.shape).to(like.dtype)


@contextmanager
def frozen_outside(used: Mapping[nn.Parameter, Tensor], optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Whatever the optimiser does in the block, numbers outside `used` and their moments stay as they were.

    Without this a weight that any network of a step uses moves as a whole: its unused part by momentum and weight decay.
    """
    before = []
    for weight, mask in used.items():
        moments = [value for value in optimizer.state[weight].values() if value.shape == weight.shape]
        before += [(tensor, tensor.detach().clone(), mask) for tensor in (weight.data, *moments)]
    yield
    for tensor, kept, mask in before:
        torch.where(mask, tensor, kept, out=tensor)
