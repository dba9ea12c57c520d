"""What each block's attention and MLP are worth on the images, and a first generation that lacks what is worth least.

Of a space whose blocks may lack parts. The score of the largest network falls when one of its parts is taken away; that is
the part's benefit. It ignores what parts do together, so it only says where a search begins.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.metric import Metric, score
from autoformer.search.evaluations import Evaluate
from autoformer.space import SearchSpace

PARTS = {"attention": "num_heads", "mlp": "mlp_ratio"}  # the choice that is 0 in a block without it
LEAST = 1e-3  # of a score: differences below it order nothing


@dataclass(frozen=True, kw_only=True)
class BlockBenefits:
    """By how much the score falls when a block of the largest network lacks a part, per block; empty where none may lack it."""

    attention: tuple[float, ...] = ()
    mlp: tuple[float, ...] = ()

    @classmethod
    def measured(cls, space: SearchSpace, evaluate: Evaluate, labels: NDArray[np.int64], metric: Metric) -> BlockBenefits:
        """Evaluates the largest network of the space without each part that some network lacks, on the images of `labels` [n]."""
        largest, images = space.largest, slice(0, len(labels))
        whole = score(evaluate(largest, images), labels, metric).value
        found: dict[str, tuple[float, ...]] = {}
        for part, choice in PARTS.items():
            values = getattr(largest, choice)
            if space.may_lack(choice):
                without: list[dict[str, Any]] = [{choice: (*values[:i], 0, *values[i + 1 :])} for i in range(largest.depth)]
                lacking = [replace(largest, **change) for change in without]
                found[part] = tuple(whole - score(evaluate(network, images), labels, metric).value for network in lacking)
        return cls(**found)

    def leaning(self, architecture: Architecture, rng: random.Random) -> Architecture:
        """The architecture with as many blocks that lack each part, but rather those where it is worth least.

        What the other blocks have stays in its order.
        """
        changes: dict[str, Any] = {
            choice: tuple(_dealt(getattr(architecture, choice), benefits, rng))
            for part, choice in PARTS.items()
            if (benefits := getattr(self, part))
        }
        return replace(architecture, **changes)


def _dealt(values: Sequence[float], benefits: Sequence[float], rng: random.Random) -> list[float]:
    """The values of blocks, zeros at blocks that are drawn one after another with weights exp(-benefit / scale)."""
    own = benefits[: len(values)]
    scale = LEAST + sum(map(abs, own)) / len(own)
    keys = [-benefit / scale - math.log(-math.log(rng.random() or 0.5)) for benefit in own]  # Gumbel's numbers
    absent = set(sorted(range(len(own)), key=lambda block: -keys[block])[: sum(not value for value in values)])
    present = iter([value for value in values if value])
    return [0 if block in absent else next(present) for block in range(len(values))]
