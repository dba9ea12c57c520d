"""`Candidate`: an architecture with its guesses and scores.

Guesses are kept, not scores alone: two networks are compared image by image, and whatever is read back is scored again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture, is_whole
from autoformer.cost import Cost
from autoformer.errors import ArchitectureError, CheckpointError
from autoformer.metric import WORDS, Metric, Score, score


def packed(classes: NDArray[np.int64]) -> str:
    """Class numbers [n] as hexadecimal digits: little-endian, each in the fewest of 1, 2 or 4 bytes that hold the largest."""
    size = next(size for size in (1, 2, 4) if classes.max(initial=0) < 256**size)
    return classes.astype(f"<u{size}").tobytes().hex()


def unpacked(digits: str, count: int) -> NDArray[np.int64]:
    """The `count` class numbers that `packed` wrote. Raises `ValueError` for digits of another number of classes."""
    held = bytes.fromhex(digits)
    size = next((size for size in (1, 2, 4) if size * count == len(held)), None)
    if size is None:
        raise ValueError(f"{len(held)} bytes of guesses for {count} images")
    return np.frombuffer(held, f"<u{size}").astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One evaluated architecture."""

    number: int  # in order of proposal
    generation: int
    architecture: Architecture
    cost: Cost
    predictions: NDArray[np.int64]  # the class it gives each of the first n search images, [n]
    score: Score  # what these guesses amount to
    confirmation: NDArray[np.int64] | None = None  # the class it gives each image of the confirmation slice, of finalists
    reused: int = 0  # images of both whose guesses an earlier search had stored

    @property
    def known(self) -> int:
        """Images it was asked about, those that confirm counted."""
        return len(self.predictions) + (0 if self.confirmation is None else len(self.confirmation))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; guesses as hexadecimal digits (`packed`)."""
        values = {
            "number": self.number,
            "generation": self.generation,
            "architecture": self.architecture.to_dict(),
            "cost": {"params": self.cost.params, "flops": self.cost.flops, "latency_ms": self.cost.latency_ms},
            "score": self.score.to_dict(),
            "guesses": packed(self.predictions),
            "reused": self.reused,
        }
        if self.confirmation is None:
            return values
        return values | {"confirmation": {"images": len(self.confirmation), "guesses": packed(self.confirmation)}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Candidate:
        """Reads the JSON form. Raises `CheckpointError` naming what is missing or impossible."""
        try:
            scored = Score.from_dict(values["score"])
            cost = Cost(**values["cost"])
            times = () if cost.latency_ms is None else (cost.latency_ms,)
            for number in (values["number"], values["generation"], cost.params, cost.flops, values["reused"]):
                if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                    raise ValueError(f"{str(number)[:40]} is no count")
            if not all(isinstance(time, int | float) and 0 < time < math.inf for time in times):
                raise ValueError(f"latency_ms is {cost.latency_ms!r}")
            confirming = values.get("confirmation")
            if confirming is not None and not is_whole(confirming["images"], 10**9):
                raise ValueError(f"{str(confirming['images'])[:40]} images confirm it")
            return cls(
                number=values["number"],
                generation=values["generation"],
                architecture=Architecture.from_dict(values["architecture"]),
                cost=cost,
                predictions=unpacked(values["guesses"], scored.images),
                score=scored,
                confirmation=None if confirming is None else unpacked(confirming["guesses"], confirming["images"]),
                reused=values["reused"],
            )
        except KeyError as error:
            raise CheckpointError(f"a candidate lacks {error}; it was edited or damaged") from error
        except (ArchitectureError, AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"a candidate cannot be read: {error}; it was edited or damaged") from error


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The best first, those known from more images before the others; equal scores go to the cheaper, then to the earlier."""
    return sorted(candidates, key=lambda c: (-len(c.predictions), -c.score.value, c.cost.flops, c.number))


def known_best(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that were evaluated on the most images; only they can be compared with each other and chosen from."""
    most = max(len(candidate.predictions) for candidate in candidates)
    return [candidate for candidate in candidates if len(candidate.predictions) == most]


def check_scores(
    candidates: Sequence[Candidate], labels: NDArray[np.int64], confirmation: NDArray[np.int64], metric: Metric
) -> None:
    """Raises `CheckpointError` unless each candidate's score is what `metric` makes of its guesses of the first images.

    `labels` are the classes of the search images, `confirmation` those of the confirmation slice.
    """
    for candidate in candidates:
        kept, count = candidate.score, len(candidate.predictions)
        if kept.metric != metric:
            raise CheckpointError(f"evaluation {candidate.number} was scored by {kept.words}, expected {WORDS[metric]}")
        if count > len(labels):
            raise CheckpointError(f"evaluation {candidate.number} is of {count} images, expected {len(labels)} at most")
        confirming = len(confirmation if candidate.confirmation is None else candidate.confirmation)
        if confirming != len(confirmation):
            raise CheckpointError(
                f"evaluation {candidate.number} is confirmed by {confirming} images, expected {len(confirmation)}"
            )
        made = score(candidate.predictions, labels[:count], metric)
        figures = ((kept.value, made.value), (kept.low, made.low), (kept.high, made.high))
        if not all(math.isclose(*pair, abs_tol=1e-9) for pair in figures):
            raise CheckpointError(f"evaluation {candidate.number} scored {kept}, its guesses of these images give {made}")
