"""What a search finds: candidates with their guesses and scores, the choice among them, and the file that keeps both.

Guesses are kept, not scores alone: two networks are compared image by image, and whatever is read back is scored again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.baselines import is_uniform
from autoformer.checkpoint import read_json
from autoformer.cost import LIMITS, Cost
from autoformer.errors import ArchitectureError, CheckpointError
from autoformer.evaluate import WORDS, Metric, Score, metric_from, score, tied
from autoformer.pareto import nondominated_ranks

FORMAT = "autoformer/search/2"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One evaluated architecture."""

    number: int  # in order of evaluation
    generation: int
    architecture: Architecture
    cost: Cost
    guesses: NDArray[np.int64]  # the class it gives each search image, [n]
    score: Score  # what these guesses amount to

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `guesses` as hexadecimal digits (`packed`)."""
        return {
            "number": self.number,
            "generation": self.generation,
            "architecture": self.architecture.to_dict(),
            "cost": {"params": self.cost.params, "flops": self.cost.flops, "latency_ms": self.cost.latency_ms},
            "score": self.score.to_dict(),
            "guesses": packed(self.guesses),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Candidate:
        """Reads the JSON form. Raises `CheckpointError` naming what is missing or impossible."""
        try:
            scored = Score.from_dict(values["score"])
            cost = Cost(**values["cost"])
            times = () if cost.latency_ms is None else (cost.latency_ms,)
            for number in (values["number"], values["generation"], cost.params, cost.flops):
                if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                    raise ValueError(f"{str(number)[:40]} is no count")
            if not all(isinstance(time, int | float) and 0 < time < math.inf for time in times):
                raise ValueError(f"latency_ms is {cost.latency_ms!r}")
            return cls(
                number=values["number"],
                generation=values["generation"],
                architecture=Architecture.from_dict(values["architecture"]),
                cost=cost,
                guesses=unpacked(values["guesses"], scored.images),
                score=scored,
            )
        except KeyError as error:
            raise CheckpointError(f"a candidate lacks {error}; it was edited or damaged") from error
        except (ArchitectureError, AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"a candidate cannot be read: {error}; it was edited or damaged") from error


def packed(classes: NDArray[np.int64]) -> str:
    """Class numbers [n] as hexadecimal digits: little-endian, each in the fewest of 1, 2 or 4 bytes that hold the largest."""
    size = next(size for size in (1, 2, 4) if classes.max() < 256**size)
    return classes.astype(f"<u{size}").tobytes().hex()


def unpacked(digits: str, count: int) -> NDArray[np.int64]:
    """The `count` class numbers that `packed` wrote. Raises `ValueError` for digits of another number of classes."""
    held = bytes.fromhex(digits)
    size = next((size for size in (1, 2, 4) if size * count == len(held)), None)
    if size is None:
        raise ValueError(f"{len(held)} bytes of guesses for {count} images")
    return np.frombuffer(held, f"<u{size}").astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found."""

    chosen: Candidate
    best: Candidate  # the highest score on the search part
    tied: tuple[Candidate, ...]  # cannot be told from the best on these images, the best included, cheapest first
    front: tuple[Candidate, ...]  # nothing evaluated is both cheaper in FLOPs and better
    candidates: tuple[Candidate, ...]
    labels: NDArray[np.int64]  # of the search images, [n]
    searched: int  # the first so many candidates are what the method proposed; the others are baselines
    baselines: Mapping[str, Candidate] = field(default_factory=dict)  # "dearest", and the best "uniform" shape evaluated

    @property
    def metric(self) -> Metric:
        """What every candidate was scored by."""
        return self.best.score.metric

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; members are named by their number in `candidates`."""
        return {
            "chosen": self.chosen.number,
            "best": self.best.number,
            "tied": [candidate.number for candidate in self.tied],
            "front": [candidate.number for candidate in self.front],
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "metric": self.metric,
            "labels": packed(self.labels),
            "searched": self.searched,
            "baselines": {name: candidate.number for name, candidate in self.baselines.items()},
            "fronts": {name: [c.number for c in members] for name, members in fronts(self.candidates).items()},
        }

    @property
    def history(self) -> list[tuple[int, float]]:
        """Images evaluated by the method, and the best score by then: wherever it rose, and at the end."""
        found: list[tuple[int, float]] = []
        for number, candidate in enumerate(self.candidates[: self.searched], 1):
            best = max(candidate.score.value, found[-1][1] if found else 0.0)
            if not found or best > found[-1][1] or number == self.searched:
                found.append((number * len(self.labels), best))
        return found

    def on_par(self, candidate: Candidate) -> bool:
        """Whether the chosen network cannot be told from `candidate` on the search images."""
        return tied(self.chosen.guesses, candidate.guesses, self.labels, self.metric)


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The best first; equal scores go to the cheaper, then to the earlier."""
    return sorted(candidates, key=lambda c: (-c.score.value, c.cost.flops, c.number))


def objectives(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """What a Pareto search makes small, [n, objectives]: the score with its sign turned, params, FLOPs, latency if known."""
    known = [measure for measure in LIMITS if all(getattr(c.cost, measure) is not None for c in candidates)]
    rows = [(-c.score.value, *(float(getattr(c.cost, measure)) for measure in known)) for c in candidates]
    return np.asarray(rows, np.float64)


def fronts(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """What nothing evaluated beats: in the score and one cost, by the name of the cost, and in the score and "all" of them.

    The cheapest by that cost (by FLOPs) first. A cost that was not measured for all has no front.
    """
    found = {}
    for measure in LIMITS:
        if all(getattr(candidate.cost, measure) is not None for candidate in candidates):
            found[measure] = _front(candidates, measure)
    nothing_better = nondominated_ranks(objectives(candidates)) == 0
    both = [candidate for candidate, best in zip(candidates, nothing_better, strict=True) if best]
    found["all"] = sorted(both, key=lambda c: (c.cost.flops, c.number))
    return found


def _front(candidates: Sequence[Candidate], measure: str) -> list[Candidate]:
    found: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (getattr(c.cost, measure), -c.score.value, c.number)):
        if not found or candidate.score.value > found[-1].score.value:
            found.append(candidate)
    return found


def conclude(
    candidates: Sequence[Candidate],
    labels: NDArray[np.int64],
    choose: Literal["cheapest", "best"],
    *,
    searched: int | None = None,
    dearest: Architecture | None = None,
) -> SearchResult:
    """The choice among candidates that were evaluated on images with these `labels`, numbered from 0.

    The first `searched` are the method's (by default all), the others baselines; they can be chosen like any other.
    `dearest` is the dearest network inside the budget.
    """
    best = ranked(candidates)[0]
    metric = best.score.metric
    equals = [candidate for candidate in candidates if tied(best.guesses, candidate.guesses, labels, metric)]
    equals.sort(key=lambda c: (c.cost.flops, c.number))
    known = {
        "dearest": [c for c in candidates if c.architecture == dearest],
        "uniform": ranked([c for c in candidates if is_uniform(c.architecture)]),
    }
    return SearchResult(
        chosen=equals[0] if choose == "cheapest" else best,
        best=best,
        tied=tuple(equals),
        front=tuple(_front(candidates, "flops")),
        candidates=tuple(candidates),
        labels=labels,
        searched=len(candidates) if searched is None else searched,
        baselines={name: members[0] for name, members in known.items() if members},
    )


def check_comparable(candidates: Sequence[Candidate]) -> None:
    """Raises `CheckpointError` unless all were scored by one metric on equally many images."""
    if len(counts := {len(candidate.guesses) for candidate in candidates}) > 1:
        raise CheckpointError(f"candidates were scored on {sorted(counts)} images, expected the same for all")
    if len(metrics := {candidate.score.metric for candidate in candidates}) > 1:
        raise CheckpointError(f"candidates were scored by {' and '.join(sorted(metrics))}, expected one metric for all")


def check_scores(candidates: Sequence[Candidate], labels: NDArray[np.int64], metric: Metric) -> None:
    """Raises `CheckpointError` unless each candidate's score is what `metric` makes of its guesses of these images."""
    for candidate in candidates:
        kept = candidate.score
        if kept.metric != metric:
            raise CheckpointError(f"evaluation {candidate.number} was scored by {kept.words}, expected {WORDS[metric]}")
        if len(candidate.guesses) != len(labels):
            raise CheckpointError(f"evaluation {candidate.number} is of {len(candidate.guesses)} images, expected {len(labels)}")
        made = score(candidate.guesses, labels, metric)
        figures = ((kept.value, made.value), (kept.low, made.low), (kept.high, made.high))
        if not all(math.isclose(*pair, abs_tol=1e-9) for pair in figures):
            raise CheckpointError(f"evaluation {candidate.number} scored {kept}, its guesses of these images give {made}")


def load_search(folder: Path) -> tuple[SearchResult, dict[str, Any]]:
    """A finished search and its record. Raises `CheckpointError` when `folder` holds none, naming what is missing."""
    path = folder / "search.json"
    record = read_json(path, "format", "result", "config", "latency_qualification")
    if record["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {record['format']!r}, expected {FORMAT!r}; search again")
    try:
        values = record["result"]
        every = tuple(Candidate.from_dict(value) for value in values["candidates"])
        labels = unpacked(values["labels"], len(every[0].guesses) if every else 0)
        check_scores(every, labels, metric_from(values["metric"]))
        named = dict(values.get("baselines", {}))
        searched = values.get("searched", len(every))
        if searched not in range(len(every) + 1):
            raise ValueError(f"{str(searched)[:40]} of {len(every)} candidates were searched")
        for number in (values["chosen"], values["best"], *values["tied"], *values["front"], *named.values()):
            if number not in range(len(every)):
                raise ValueError(f"it names candidate {str(number)[:40]} of {len(every)}")
        return (
            SearchResult(
                chosen=every[values["chosen"]],
                best=every[values["best"]],
                tied=tuple(every[number] for number in values["tied"]),
                front=tuple(every[number] for number in values["front"]),
                candidates=every,
                labels=labels,
                searched=searched,
                baselines={name: every[number] for name, number in named.items()},
            ),
            record,
        )
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}; it was edited or damaged") from error
    except (CheckpointError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a search result: {error}") from error
