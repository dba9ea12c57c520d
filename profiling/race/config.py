"""`RaceConfig`: the section `race` of a recipe. It knows nothing of networks."""

from __future__ import annotations

from pydantic import Field, field_validator

from autoformer.settings import Settings


class RaceConfig(Settings):
    """Who takes part in a race, and what it may cost. Every entrant is trained as the section `finetune` says."""

    finalists: int = Field(4, gt=0, description="networks of the search: the best by score that differ, its own choice first")
    homogeneous: int = Field(2, ge=0, description="of the largest networks inside the limits with the same block throughout")
    rivals: tuple[str, ...] | None = Field(
        None,
        description="networks out of timm: timm:NAME, timm:NAME@FILE or timm:NAME@scratch; empty: a short list by the size "
        "of the images, pretrained where the search's own networks are; []: none",
    )
    learning_rates: tuple[float, ...] = Field(
        (1.0, 4.0), min_length=1, description="factors of finetune.learning_rate; tried in the first rung, the better one stays"
    )
    cost: float = Field(
        1.5,
        ge=1,
        description="what may be trained beyond the delivered network's own finetune, in whole finetunes (the runner-up's is "
        "one); decides how many start and how far they are trained",
    )

    @field_validator("learning_rates")
    @classmethod
    def _factors_differ(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0 or len(set(value)) < len(value):
            raise ValueError("factors of the learning rate must be positive and differ, like [1, 4]")
        return value
