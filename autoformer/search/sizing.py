"""`SearchPlan`: how many candidates a search takes, and why.

A search that is not told takes as many as its images can tell apart. Two networks with the same true accuracy that disagree on a
share q of n images differ there by chance, with a standard deviation of √(q/n); the more candidates, the more of them lie within
that of the best, and the best of them is the luckiest. So the number of candidates grows with the images that decide: one for
every four, at least a hundred (below, a good region of the space can be missed) and at most the paper's thousand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoformer.search.config import SearchConfig
from autoformer.search.rungs import Portions

IMAGES_PER_CANDIDATE = 4
FEWEST, MOST = 100, 1000  # candidates; the most are the paper's 20 generations of 50
FEWEST_GENERATIONS = 2  # the first is random
DISAGREEMENT = 0.15  # of images on which two networks of a search typically give different answers, one of them right


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """The size of a search, fixed before it begins; its words give the reason."""

    config: SearchConfig  # with a number of generations
    images: int  # that decide
    asked: bool  # whether the number of generations was given

    @classmethod
    def of(cls, images: int, config: SearchConfig) -> SearchPlan:
        """For a search part of so many images; some of them are held out and decide nothing."""
        deciding = Portions.of(images, config).search
        if config.generations is not None:
            return cls(config=config, images=deciding, asked=True)
        generations = max(FEWEST_GENERATIONS, math.ceil(wanted(deciding) / config.population))
        return cls(config=config.model_copy(update={"generations": generations}), images=deciding, asked=False)

    @property
    def generations(self) -> int:
        """As given, or as the images call for."""
        assert self.config.generations is not None, "a plan fixes it"
        return self.config.generations

    @property
    def candidates(self) -> int:
        """That the method proposes; baselines come on top."""
        return self.generations * self.config.population

    @property
    def chance(self) -> float:
        """The difference in accuracy that two equally good networks stay within in 95 of 100 cases."""
        return 1.96 * math.sqrt(DISAGREEMENT / self.images)

    def __str__(self) -> str:
        size = f"{self.config.population} × {self.generations} = {self.candidates:,} candidates"
        told = "as set" if self.asked else f"one for every {IMAGES_PER_CANDIDATE} images, from {FEWEST} to {MOST:,}"
        usual = f"; usual for so many: {wanted(self.images):,} candidates" if self.asked else ""
        return (
            f"{size} ({told}) beside the baselines, decided by {self.images:,} images, on which equally good networks may be "
            f"{100 * self.chance:.1f} points apart by chance{usual}"
        )


def wanted(images: int) -> int:
    """How many candidates so many deciding images call for."""
    return min(MOST, max(FEWEST, math.ceil(images / IMAGES_PER_CANDIDATE)))
