"""`Candidate`: an architecture with its predictions and scores.

Predictions are kept, not scores alone: two networks are compared image by image, and what is read back is scored again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import Cost
from autoformer.errors import CheckpointError
from autoformer.files import believing
from autoformer.metric import WORDS, Metric, Score, score
from autoformer.records import fields_to_json, from_json, stored_as


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One evaluated architecture."""

    number: int  # in order of proposal
    generation: int
    architecture: Architecture
    cost: Cost
    predictions: NDArray[np.int64]  # the class it gives each of the first n search images, [n]
    score: Score  # of these predictions
    held_out: NDArray[np.int64] | None = field(default=None, metadata=stored_as("confirmation"))  # as `predictions`, of finalists
    reused: int = 0  # images of both whose predictions an earlier search had stored

    def __post_init__(self) -> None:
        cost = self.cost
        if min(self.number, self.generation, cost.params, cost.flops, self.reused) < 0 or (cost.latency_ms or 1) <= 0:
            raise ValueError(f"number {self.number} of generation {self.generation}, {cost}, {self.reused} images reused")

    @property
    def known(self) -> int:
        """Images it was asked about, held-out ones included."""
        return len(self.predictions) + (0 if self.held_out is None else len(self.held_out))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; predictions as hexadecimal digits (`packed`)."""
        values = fields_to_json(self)
        values["guesses"], held = packed(values.pop("predictions")), values.pop("confirmation")
        return values if held is None else values | {"confirmation": {"images": len(held), "guesses": packed(held)}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        """Reads the JSON form. Raises `CheckpointError` naming what is missing or impossible."""
        with believing("a candidate", "it was edited or damaged", fault="cannot be read"):
            given = dict(values)
            given["predictions"] = unpacked(given.pop("guesses"), Score.from_dict(given["score"]).images)
            if (held := given.get("confirmation")) is not None:
                given["confirmation"] = unpacked(held["guesses"], held["images"])
            candidate = from_json(cls, given, "candidate")
        return candidate


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The best first, those known from more images before the others; equal scores go to the cheaper, then to the earlier."""
    return sorted(candidates, key=lambda c: (-len(c.predictions), -c.score.value, c.cost.flops, c.number))


def known_best(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that were evaluated on the most images; only they can be compared with each other and chosen from."""
    most = max(len(candidate.predictions) for candidate in candidates)
    return [candidate for candidate in candidates if len(candidate.predictions) == most]


def check_scores(candidates: Sequence[Candidate], labels: NDArray[np.int64], held_out: NDArray[np.int64], metric: Metric) -> None:
    """Raises `CheckpointError` unless each candidate's score is what `metric` makes of its predictions for the first images.

    `labels` are the classes of the search images, `held_out` those of the held-out images.
    """
    for candidate in candidates:
        kept, count = candidate.score, len(candidate.predictions)
        if kept.metric != metric:
            raise CheckpointError(f"evaluation {candidate.number} was scored by {kept.words}, expected {WORDS[metric]}")
        if count > len(labels):
            raise CheckpointError(f"evaluation {candidate.number} is of {count} images, expected {len(labels)} at most")
        asked = len(held_out if candidate.held_out is None else candidate.held_out)
        if asked != len(held_out):
            raise CheckpointError(f"evaluation {candidate.number} is of {asked} held-out images, expected {len(held_out)}")
        made = score(candidate.predictions, labels[:count], metric)
        if not kept.is_close_to(made):
            raise CheckpointError(f"evaluation {candidate.number} scored {kept}, its predictions for these images give {made}")


def packed(classes: NDArray[np.int64]) -> str:
    """Class numbers [n] as hexadecimal digits: little-endian, each in the fewest of 1, 2 or 4 bytes that hold the largest."""
    size = next(size for size in (1, 2, 4) if classes.max(initial=0) < 256**size)
    return classes.astype(f"<u{size}").tobytes().hex()


def unpacked(digits: str, count: int) -> NDArray[np.int64]:
    """The `count` class numbers that `packed` wrote. Raises `ValueError` for digits of another number of classes."""
    held = bytes.fromhex(digits)
    size = next((size for size in (1, 2, 4) if size * count == len(held)), None)
    if size is None:
        raise ValueError(f"{len(held)} bytes of predictions for {count} images")
    return np.frombuffer(held, f"<u{size}").astype(np.int64)
