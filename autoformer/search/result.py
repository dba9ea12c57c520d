"""What a search finds: the candidates, the choice among them, and the finalists' scores on held-out images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import LIMITS
from autoformer.metric import Metric, Score, score, tied
from autoformer.records import fields_to_json, from_json
from autoformer.search.baselines import is_homogeneous
from autoformer.search.candidate import Candidate, check_scores, known_best, packed, ranked, unpacked
from autoformer.search.pareto import nondominated_ranks

NOTHING = np.empty(0, np.int64)
BASELINES = {"dearest": "most expensive in the budget", "uniform": "homogeneous baseline"}  # keys of JSON, in words


@dataclass(frozen=True)
class Step:
    """How far a search had come: images evaluated, and the best score on all search images by then."""

    images: int
    best: float

    def __post_init__(self) -> None:
        if self.images < 1 or not 0 <= self.best <= 1:
            raise ValueError(f"a best score of {self.best} after {self.images} images")


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A result as JSON has it: candidates by number, classes as digits (`packed`). What has a default came later."""

    chosen: int
    best: int
    tied: tuple[int, ...]
    front: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    metric: Metric
    labels: str
    confirmation_labels: str
    confirmation_images: int
    searched: int | None = None
    baselines: Mapping[str, int] = field(default_factory=dict)
    fronts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found."""

    chosen: Candidate
    best: Candidate  # the highest score of those evaluated on all search images
    tied: tuple[Candidate, ...]  # not significantly different from the best, the best included, cheapest first
    front: tuple[Candidate, ...]  # nothing evaluated on all images is both cheaper in FLOPs and better
    candidates: tuple[Candidate, ...]
    labels: NDArray[np.int64]  # of the search images, [n]
    searched: int  # the first so many candidates are what the method proposed; the others are baselines
    baselines: Mapping[str, Candidate] = field(default_factory=dict)  # by the keys of BASELINES
    held_out_labels: NDArray[np.int64] = field(default_factory=lambda: NOTHING)  # of the held-out images
    history: tuple[Step, ...] = ()  # wherever the best score rose, and the end; none of an answer from stored evaluations

    @property
    def metric(self) -> Metric:
        """What every candidate was scored by."""
        return self.best.score.metric

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without the history."""
        return fields_to_json(
            _Stored(
                chosen=self.chosen.number,
                best=self.best.number,
                tied=_numbers(self.tied),
                front=_numbers(self.front),
                candidates=self.candidates,
                metric=self.metric,
                labels=packed(self.labels),
                confirmation_labels=packed(self.held_out_labels),
                confirmation_images=len(self.held_out_labels),
                searched=self.searched,
                baselines={name: candidate.number for name, candidate in self.baselines.items()},
                fronts={name: _numbers(members) for name, members in fronts(self.candidates).items()},
            )
        )

    @classmethod
    def from_dict(cls, values: object) -> SearchResult:
        """Reads the JSON form. Raises `CheckpointError` or `ValueError` for what is missing, impossible or contradicts."""
        stored = from_json(_Stored, values, "result")
        every = stored.candidates
        if not every:
            raise ValueError("it holds no candidate")
        labels = unpacked(stored.labels, max(len(candidate.predictions) for candidate in every))
        held_out = unpacked(stored.confirmation_labels, stored.confirmation_images)
        check_scores(every, labels, held_out, stored.metric)
        searched = len(every) if stored.searched is None else stored.searched
        if searched not in range(len(every) + 1):
            raise ValueError(f"{searched} of {len(every)} candidates were searched")
        for number in (stored.chosen, stored.best, *stored.tied, *stored.front, *stored.baselines.values()):
            if number not in range(len(every)):
                raise ValueError(f"it names candidate {number} of {len(every)}")
        return cls(
            chosen=every[stored.chosen],
            best=every[stored.best],
            tied=tuple(every[number] for number in stored.tied),
            front=tuple(every[number] for number in stored.front),
            candidates=every,
            labels=labels,
            searched=searched,
            baselines={name: every[number] for name, number in stored.baselines.items()},
            held_out_labels=held_out,
        )

    @property
    def held_out_scores(self) -> dict[int, Score]:
        """The scores of the finalists on images that took no part in any choice, by the candidate's number."""
        return {
            candidate.number: score(candidate.held_out, self.held_out_labels, self.metric)
            for candidate in self.candidates
            if candidate.held_out is not None
        }

    @property
    def images(self) -> dict[str, int]:
        """Images that may decide and held-out ones; predictions asked for in all of either, and of these found stored; and how
        many candidates were evaluated on all search images."""
        finalists = [candidate.held_out for candidate in self.candidates if candidate.held_out is not None]
        return {
            "search": len(self.labels),
            "confirmation": len(self.held_out_labels),
            "evaluated": sum(len(candidate.predictions) for candidate in self.candidates),
            "confirming": sum(map(len, finalists)),
            "reused": sum(candidate.reused for candidate in self.candidates),
            "full": sum(len(candidate.predictions) == len(self.labels) for candidate in self.candidates),
        }

    def on_par(self, candidate: Candidate) -> bool:
        """Whether the chosen network and `candidate` do not differ significantly on the search images."""
        return tied(self.chosen.predictions, candidate.predictions, self.labels, self.metric)


def objectives(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """What a Pareto search makes small, [n, objectives]: the score with its sign turned, params, FLOPs, latency if known."""
    known = [measure for measure in LIMITS if all(getattr(c.cost, measure) is not None for c in candidates)]
    rows = [(-c.score.value, *(float(getattr(c.cost, measure)) for measure in known)) for c in candidates]
    return np.asarray(rows, np.float64)


def fronts(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """What nothing evaluated beats: in the score and one cost, by the name of the cost, and in the score and "all" of them.

    The cheapest by that cost (by FLOPs) first; of candidates known from most images. A cost that was not measured for all
    has no front.
    """
    found = {}
    candidates = known_best(candidates)
    for measure in LIMITS:
        if all(getattr(candidate.cost, measure) is not None for candidate in candidates):
            found[measure] = _front(candidates, measure)
    nothing_better = nondominated_ranks(objectives(candidates)) == 0
    both = [candidate for candidate, best in zip(candidates, nothing_better, strict=True) if best]
    found["all"] = sorted(both, key=lambda c: (c.cost.flops, c.number))
    return found


def _numbers(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    return tuple(candidate.number for candidate in candidates)


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
    most_expensive: Architecture | None = None,
) -> SearchResult:
    """The choice among candidates that were evaluated on images with these `labels`, numbered from 0.

    Only those known from the most images can be chosen. The first `searched` are the method's (by default all), the others
    baselines; they can be chosen like any other. `most_expensive` is the most expensive network inside the budget.
    """
    best = ranked(candidates)[0]
    metric, comparable = best.score.metric, known_best(candidates)
    labels = labels[: len(best.predictions)]
    equals = [candidate for candidate in comparable if tied(best.predictions, candidate.predictions, labels, metric)]
    equals.sort(key=lambda c: (c.cost.flops, c.number))
    known = {
        "dearest": [c for c in comparable if c.architecture == most_expensive],
        "uniform": ranked([c for c in comparable if is_homogeneous(c.architecture)]),
    }
    return SearchResult(
        chosen=equals[0] if choose == "cheapest" else best,
        best=best,
        tied=tuple(equals),
        front=tuple(_front(comparable, "flops")),
        candidates=tuple(candidates),
        labels=labels,
        searched=len(candidates) if searched is None else searched,
        baselines={name: members[0] for name, members in known.items() if members},
    )
