"""What a search looks for (`Goal`) and how it goes (`SearchConfig`, the part of a recipe that `autoformer search` reads).

Of the search part some images are held out: no choice looks at them, so the score they give the finalists is not flattered by
having been picked. The recipe calls their share `confirmation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from autoformer.cost import Budget, CostModel
from autoformer.metric import Metric
from autoformer.settings import Settings, first_problem

# Probability that mutation draws depth and width anew, and a block's choices; see `SearchSpace.mutate`.
MUTATIONS = {"paper": (0.2, 0.4), "official": (0.4, 0.2)}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The best `metric` inside `budget`. The same seed finds the same network."""

    costs: CostModel  # prices architectures
    budget: Budget
    metric: Metric = "top1"
    seed: int = 0
    latency_margin: float = 0.0  # by how much the limit on latency was tightened before, relative; for later answers


class SearchConfig(Settings):
    """How the search goes. The defaults are the paper's (arXiv 2107.00651, section 4.1), but for its size (`sizing`)."""

    method: Literal["evolution", "random", "pareto", "predictor"] = Field(
        "evolution",
        description="evolution: the paper's; random: every generation drawn anew; pareto: NSGA-II over the score and all costs; "
        "predictor: a ridge regression over the choices, fitted anew each generation, picks from many",
    )
    population: int = Field(50, gt=1, description="architectures in a generation")
    generations: int | None = Field(
        None, gt=0, description="the first is random; empty: as many as the images can tell apart (`sizing`)"
    )
    parents: int = Field(10, gt=0, description="the best of all so far that mutate and cross (evolution, predictor)")
    mutated: int = Field(25, ge=0, description="architectures of a generation made by mutation (evolution, pareto)")
    crossed: int = Field(25, ge=0, description="architectures of a generation made by crossover (evolution, pareto)")
    mutation: Literal["paper", "official"] = Field(
        "paper",
        description="paper: depth, width and image size change with 0.2 each, a block's heads and MLP ratio with 0.4; "
        "official: the numbers of the published code, which has them the other way round",
    )
    shape_probability: float | None = Field(None, ge=0, le=1, description="of depth, width, image size; empty: as `mutation`")
    block_probability: float | None = Field(None, ge=0, le=1, description="of a block's choices; empty: as `mutation`")
    pool: int = Field(1000, gt=1, description="architectures that the predictor picks a generation from")
    explored: float = Field(0.2, ge=0, le=1, description="share of a generation drawn at random beside the predictor's picks")
    uniform_shapes: int = Field(
        4, ge=0, description="baseline: the largest networks inside the budget with the same block throughout; evaluated as well"
    )
    rungs: tuple[float, ...] | None = Field(
        None,
        description="shares of the search images, rising to 1, on which ever fewer candidates are compared (successive halving); "
        "empty: 1/16, 1/4 and 1, without rungs of fewer than 500 images; [1]: every candidate on all of them",
    )
    confirmation: float = Field(
        0.2,
        ge=0,
        le=0.9,
        description="share of the search part that is held out: it decides nothing and gives the finalists' reported score",
    )
    finalists: int = Field(10, gt=0, description="of those tied with the best, how many are scored on the held-out images")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="of the supernet while it is searched; auto: bf16 (else fp16) on a GPU, fp32 on the CPU"
    )
    choose: Literal["cheapest", "best"] = Field(
        "best",
        description="best: the highest score; cheapest: the fewest FLOPs among those that are not significantly worse, which "
        "costs 0.6 to 1.3 points of accuracy and uses 41 to 62 % of the limit",
    )

    @field_validator("rungs")
    @classmethod
    def _rungs_rise_to_one(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not (value and value[0] > 0 and value[-1] == 1 and list(value) == sorted(set(value))):
            raise ValueError("shares must rise from above 0 to 1, like [0.0625, 0.25, 1]")
        return value

    @property
    def mutation_probabilities(self) -> tuple[float, float]:
        """Of depth, width and image size; of each block's choices."""
        shape, block = MUTATIONS[self.mutation]
        return (
            shape if self.shape_probability is None else self.shape_probability,
            block if self.block_probability is None else self.block_probability,
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, every setting."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchConfig:
        """Reads the JSON form. Raises `ValueError` for what is unknown or impossible."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
